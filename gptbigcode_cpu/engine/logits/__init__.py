"""Logits processors: they change the logits before a token is chosen."""
