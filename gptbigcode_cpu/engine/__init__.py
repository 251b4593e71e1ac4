"""Decoding: requests go in, steps of new tokens come out."""
