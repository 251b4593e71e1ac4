"""Tokenizers of transformers where one of this package is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.tokenizer.tokenizer import GPTBigCodeTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Attributes of a tokenizer of transformers, which are keys of a tokenizer_config.json as well.
_SETTINGS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "extra_special_tokens",
    "additional_special_tokens", "chat_template", "model_input_names", "model_max_length", "padding_side",
    "split_special_tokens", "truncation_side",
)  # fmt: skip


def own_tokenizer(tokenizer: Any) -> GPTBigCodeTokenizer:
    """The tokenizer, or for a fast one of transformers one of this package that does the same.

    That is a copy: what is set on the original later does not reach it.

    Raises:
        InputError: It is neither.
    """
    if isinstance(tokenizer, GPTBigCodeTokenizer):
        return tokenizer
    backend = backend_of(tokenizer)
    settings = {name: value for name in _SETTINGS if (value := getattr(tokenizer, name, None))}
    return GPTBigCodeTokenizer(type(backend).from_str(backend.to_str()), settings, str(tokenizer.name_or_path))


def backend_of(tokenizer: Any) -> Tokenizer:
    """The object of the tokenizers library inside a tokenizer of this package, or inside a fast one of transformers.

    Raises:
        InputError: It is neither.
    """
    from tokenizers import Tokenizer

    # transformers has a `backend` too, which is a string.
    name = "backend" if isinstance(tokenizer, GPTBigCodeTokenizer) else "backend_tokenizer"
    backend = getattr(tokenizer, name, None)
    if not isinstance(backend, Tokenizer):
        raise InputError(
            f"tokenizer must be a tokenizer of this package, not {type(tokenizer).__module__}.{type(tokenizer).__name__}; "
            "AutoTokenizer.from_pretrained opens one"
        )
    return backend
