"""How a generator becomes an artifact, and the proof that it is still the same generator."""
