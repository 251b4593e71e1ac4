"""Read generation options from the content of files, as transformers does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.engine.options import RULES, checked, is_real
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.unsupported import UNSUPPORTED, is_neutral

logger = logging.getLogger(__name__)

# Options that transformers does not have: in a config.json these names mean something else.
_OURS = frozenset({"seed", "logit_bias"})
# These options change the speed, not the tokens.
_SPEED = frozenset(
    {
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
    }
)


def _at_most_zero(value: Any) -> bool:
    return is_real(value) and value <= 0


def _at_least_one(value: Any) -> bool:
    return is_real(value) and value >= 1


def _no_cutoff(value: Any) -> bool:
    return is_real(value) and not 0 < value < 1


def _empty(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict)) and not value


def _no_token(value: Any) -> bool:
    return _empty(value) or (isinstance(value, (list, tuple)) and all(_minus_one(item) for item in value))


def _minus_one(value: Any) -> bool:
    return is_real(value) and value == -1


# Values that mean "off" in a file, but are not allowed as arguments.
_OFF: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("min_length", "min_new_tokens", "num_return_sequences"), _at_most_zero),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), _at_most_zero),
    **dict.fromkeys(("top_p", "typical_p"), _at_least_one),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), _no_cutoff),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "stop_strings"), _empty),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "forced_bos_token_id"), _minus_one),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _no_token),
}


def sorted_content(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the content of a file into options and the rest.

    Args:
        content: The content of a ``generation_config.json``, or the attributes of a `GenerationConfig` of transformers.

    Returns:
        The options whose values `GenerationConfig` accepts, and everything else except values that mean "off".
    """
    known: dict[str, Any] = {}
    carried: dict[str, Any] = {}
    for name, value in content.items():
        if name not in RULES:
            carried[name] = value
            continue
        value = plain(value)
        if name == "logit_bias" and isinstance(value, dict):  # JSON keys are strings, the ids are numbers
            value = {int(key) if str(key).isdecimal() and len(str(key)) < 12 else key: bias for key, bias in value.items()}
        if value is None or (name in _OFF and _OFF[name](value)):
            continue
        try:
            known[name] = _read(name, value)
        except InputError as error:
            if name in _SPEED:
                logger.debug("ignored, because it changes no token: %s", error)
            else:
                carried[name] = value
    return known, carried


def _read(name: str, value: Any) -> Any:
    """The value of an option. 9.0 is read as 9, and 0 and 1 as false and true: other languages write files like that.

    Raises:
        InputError: The value is wrong.
    """
    readings: list[Any] = [value]
    if isinstance(value, float) and value.is_integer():
        readings.append(int(value))
    if value in (0, 1) and not isinstance(value, bool):
        readings.append(bool(value))
    for reading in readings:
        with suppress(InputError):
            return checked(name, reading)
    return checked(name, value)


def options_of_model(content: Mapping[str, Any]) -> dict[str, Any]:
    """The generation options in the content of a ``config.json``."""
    names = {*RULES, *UNSUPPORTED} - _OURS
    found = {name: value for name, value in content.items() if name in names and value is not None}
    return {name: value for name, value in found.items() if name in RULES or not is_neutral(name, value)}
