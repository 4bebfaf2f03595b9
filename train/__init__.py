"""How a GAN is trained: data, loop, run folders, previews. Knows no variant by name."""
