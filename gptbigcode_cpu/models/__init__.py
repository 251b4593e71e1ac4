"""The model classes, used like those of transformers."""
