"""Reference answers from transformers, and the random models they were computed on."""
