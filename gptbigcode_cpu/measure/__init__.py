"""Measure how well a model predicts and how fast it runs."""
