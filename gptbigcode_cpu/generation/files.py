"""The options of generation in the content of files, read as transformers reads them."""

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

# Options of this package, which transformers does not know: in a config.json they are something else.
_OURS = frozenset({"seed", "logit_bias"})
# They decide how fast the same tokens are written.
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


# Values with which files say "off", where an argument must not have them.
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
    """The options in the content of a file, and what else there is.

    Args:
        content: Of a ``generation_config.json``, or the attributes of an object of transformers.

    Returns:
        Options with values that `GenerationConfig` takes; everything else that says something.
    """
    known: dict[str, Any] = {}
    carried: dict[str, Any] = {}
    for name, value in content.items():
        if name not in RULES:
            carried[name] = value
            continue
        value = plain(value)
        if name == "logit_bias" and isinstance(value, dict):  # JSON has strings where it has ids
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
    """The value of an option, where 9.0 may stand for 9, and 0 and 1 for false and true, as other languages write them.

    Raises:
        InputError: It is wrong.
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
    """The options of generation among the keys of a ``config.json``."""
    names = {*RULES, *UNSUPPORTED} - _OURS
    found = {name: value for name, value in content.items() if name in names and value is not None}
    return {name: value for name, value in found.items() if name in RULES or not is_neutral(name, value)}
