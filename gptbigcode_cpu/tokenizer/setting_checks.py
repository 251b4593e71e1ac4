"""Check the types of the settings in a ``tokenizer_config.json``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.errors import TokenizerError
from gptbigcode_cpu.tokenizer.special_tokens import EXTRA_NAMES

MAX_TOKEN_ID = (1 << 32) - 1  # the largest id in the tokenizers library


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 1  # false for NaN


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _are_recorded(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_token_id(key) for key in value)


def _is_token_id(key: Any) -> bool:
    text = str(key)
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= MAX_TOKEN_ID


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model_max_length": (_is_length, "a number of at least 1"),
    "model_input_names": (_are_texts, "a list of names"),
    "added_tokens_decoder": (_are_recorded, "an object that maps token ids to tokens"),
    **dict.fromkeys(EXTRA_NAMES, (lambda value: isinstance(value, list | tuple | Mapping), "a list of tokens")),
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that have a wrong type. None means "not set".

    Raises:
        TokenizerError: A setting has a wrong type; the message names it.
    """
    for name, (accepts, expected) in _CHECKS.items():
        value = settings.get(name)
        if value is not None and not accepts(value):
            raise TokenizerError(f"{name} must be {expected}, not {shown(value)}")


def length_limit(value: Any, unlimited: int) -> int:
    """A checked ``model_max_length`` as an integer; `unlimited` if it is None or infinite."""
    return unlimited if value is None or value == math.inf else int(value)
