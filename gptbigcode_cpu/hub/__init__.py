"""From the name of a model to its files: directories, GGUF files, and repositories of the Hugging Face Hub."""
