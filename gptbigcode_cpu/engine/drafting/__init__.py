"""Drafters: they guess tokens, for speculative decoding."""
