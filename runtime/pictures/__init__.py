"""Pictures in and out: files, colour, size, tiles, folders and video."""
