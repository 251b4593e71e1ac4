"""The names of the files of a model, as transformers and the Hub have them."""

from __future__ import annotations

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PYTORCH, PYTORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
CHAT_TEMPLATE, OLD_CHAT_TEMPLATE = "chat_template.jinja", "chat_template.json"
CHAT_TEMPLATES = "additional_chat_templates"
CHAT_TEMPLATE_PATTERN = f"{CHAT_TEMPLATES}/*.jinja"

TOKENIZER_FILES = (
    *(TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, VOCABULARY, MERGES),
    *(CHAT_TEMPLATE, OLD_CHAT_TEMPLATE),
)
"""All that a tokenizer may have, besides the directory `CHAT_TEMPLATES`."""
