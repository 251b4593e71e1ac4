"""The tensors of a model on disk and in memory."""
