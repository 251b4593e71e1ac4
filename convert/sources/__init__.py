"""Reading checkpoints: every format, and what is derived from it."""
