"""What the commands share: start, terminal, progress bars and options from dataclasses."""
