"""Reading of checkpoints in every format."""
