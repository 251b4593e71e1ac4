"""Helpers for every other folder: arrays, error texts, progress, locks, and careful reading of files."""
