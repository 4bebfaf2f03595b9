"""What a generator costs, beside eager PyTorch and the other engines. Reads every station; nobody reads it."""
