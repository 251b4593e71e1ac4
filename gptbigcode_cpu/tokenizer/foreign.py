"""Accept tokenizers of transformers in place of those of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.tokenizer.tokenizer import GPTBigCodeTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Attributes of transformers' tokenizers that are also keys of a tokenizer_config.json.
_SETTINGS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "extra_special_tokens",
    "additional_special_tokens", "chat_template", "model_input_names", "model_max_length", "padding_side",
    "split_special_tokens", "truncation_side",
)  # fmt: skip


def own_tokenizer(tokenizer: Any) -> GPTBigCodeTokenizer:
    """Return a tokenizer of this package unchanged, and convert a fast tokenizer of transformers to one.

    The converted tokenizer is a copy. Later changes to the original do not affect it.

    Raises:
        InputError: `tokenizer` is neither.
    """
    if isinstance(tokenizer, GPTBigCodeTokenizer):
        return tokenizer
    backend = backend_of(tokenizer)
    settings = {name: value for name in _SETTINGS if (value := getattr(tokenizer, name, None))}
    return GPTBigCodeTokenizer(type(backend).from_str(backend.to_str()), settings, str(tokenizer.name_or_path))


def backend_of(tokenizer: Any) -> Tokenizer:
    """The `tokenizers.Tokenizer` inside a tokenizer of this package or a fast tokenizer of transformers.

    Raises:
        InputError: `tokenizer` is neither.
    """
    from tokenizers import Tokenizer

    # In transformers, the attribute `backend` is a string.
    name = "backend" if isinstance(tokenizer, GPTBigCodeTokenizer) else "backend_tokenizer"
    backend = getattr(tokenizer, name, None)
    if not isinstance(backend, Tokenizer):
        raise InputError(
            f"tokenizer must be a tokenizer of this package, not {type(tokenizer).__module__}.{type(tokenizer).__name__}; "
            "AutoTokenizer.from_pretrained loads one"
        )
    return backend
