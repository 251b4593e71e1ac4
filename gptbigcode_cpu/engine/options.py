"""The values that generation options may have: a rule for each supported option."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.errors import InputError

# A function that tells whether a plain value is acceptable, and a text for messages that says what is expected.
Rule = tuple[Callable[[Any], bool], str]

SCHEDULES = ("constant", "heuristic", "heuristic_transient")
# Counts and token ids are int32 in the core, scores are float32.
_LARGEST_INT = 2**31 - 1
_FLOAT = np.finfo(np.float32)
_SMALLEST, _LARGEST = float(_FLOAT.tiny), float(_FLOAT.max)
# Maximum number of rows of one prompt; each of them needs memory for a kv cache.
_MOST_ROWS = 1 << 16


def is_flag(value: object) -> bool:
    """Whether `value` is True or False."""
    return isinstance(value, bool)


def is_int(value: object) -> bool:
    """Whether `value` is an integer and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether `value` is a number and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _within(value: Any, low: float, high: float) -> bool:
    return is_real(value) and low <= value <= high  # Python compares integers of any size with floats; NaN is never within


def _integer(low: int, high: int = _LARGEST_INT) -> Rule:
    return lambda value: is_int(value) and low <= value <= high, f"an integer from {low} to {high}"


def _number(low: float, high: float, expected: str, *, above: bool = False, below: bool = False) -> Rule:
    def accepts(value: Any) -> bool:
        return _within(value, low, high) and not (above and value == low) and not (below and value == high)

    return accepts, expected


def _ids(value: Any, low: int = 0) -> bool:
    return _is_list(value) and all(is_int(token_id) and low <= token_id <= _LARGEST_INT for token_id in value)


def is_bias(value: Any) -> bool:
    """Whether `value` may be added to a score: a finite number in the range of float32, or -inf."""
    return _within(value, -_LARGEST, _LARGEST) or (is_real(value) and value == -math.inf)


def _is_sequence_bias(value: Any) -> bool:
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not _is_list(pairs) or not pairs:
        return False
    return all(_is_list(pair) and len(pair) == 2 and _ids(pair[0]) and len(pair[0]) > 0 and is_bias(pair[1]) for pair in pairs)


def sequence_biases(value: Any) -> dict[tuple[int, ...], float]:
    """`sequence_bias` in either of its forms, ``{(id, ...): bias}`` or ``[[[id, ...], bias], ...]``, as a dict.

    Raises:
        InputError: `value` has neither form.
    """
    value = required("sequence_bias", value)
    pairs = value.items() if isinstance(value, Mapping) else value
    return {tuple(ids): float(bias) for ids, bias in pairs}


def _is_decay(value: Any) -> bool:
    if not _is_list(value) or len(value) != 2:
        return False
    return is_int(value[0]) and 0 <= value[0] <= _LARGEST_INT and _within(value[1], _SMALLEST, _LARGEST)


def _is_logit_bias(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(is_int(key) and 0 <= key <= _LARGEST_INT and is_bias(bias) for key, bias in value.items())


def _is_stop_strings(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return _is_list(texts) and len(texts) > 0 and all(isinstance(text, str) and text and _is_unicode(text) for text in texts)


def _is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which cannot be encoded as tokens."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


_FLAG: Rule = (is_flag, "True or False")
_TOKEN: Rule = _integer(0)
_TOKENS: Rule = (_ids, "a list of token ids")
_SHARE: Rule = _number(0, 1, "a number in (0, 1]", above=True)
_POSITIVE: Rule = _number(_SMALLEST, _LARGEST, "a positive number, at most 3.4e38")

RULES: dict[str, Rule] = {
    "max_length": _integer(1),
    "max_new_tokens": _integer(1),
    "min_length": _integer(0),
    "min_new_tokens": _integer(0),
    "early_stopping": (lambda value: is_flag(value) or (isinstance(value, str) and value == "never"), "True, False or 'never'"),
    "max_time": _number(0, _LARGEST, "a positive number of seconds", above=True),
    "stop_strings": (_is_stop_strings, "a string or a list of strings of Unicode text, none of them empty"),
    "do_sample": _FLAG,
    "num_beams": _integer(1, _MOST_ROWS),
    "length_penalty": _number(-_LARGEST, _LARGEST, "a number"),
    "num_return_sequences": _integer(1, _MOST_ROWS),
    "temperature": _number(_SMALLEST, _LARGEST, "a positive number; for greedy decoding pass do_sample=False"),
    "top_k": _integer(0),
    "top_p": _SHARE,
    "min_p": _number(0, 1, "a number in [0, 1]"),
    "top_h": _SHARE,
    "typical_p": _SHARE,
    "epsilon_cutoff": _number(0, 1, "a number in [0, 1)", below=True),
    "eta_cutoff": _number(0, 1, "a number in [0, 1)", below=True),
    "repetition_penalty": _POSITIVE,
    "encoder_repetition_penalty": _POSITIVE,
    "no_repeat_ngram_size": _integer(0),
    "encoder_no_repeat_ngram_size": _integer(0),
    "bad_words_ids": (
        lambda value: _is_list(value) and len(value) > 0 and all(_ids(ids) and len(ids) > 0 for ids in value),
        "a list of lists of token ids",
    ),
    "sequence_bias": (_is_sequence_bias, "a dict of tuples of token ids to finite numbers or -inf, or a list of such pairs"),
    "logit_bias": (_is_logit_bias, "a dict of token ids to finite numbers or -inf"),
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": (lambda value: _TOKEN[0](value) or (_ids(value) and len(value) > 0), "a token id or a list of them"),
    "exponential_decay_length_penalty": (_is_decay, "a pair (start, factor) of a count and a positive number"),
    "guidance_scale": _number(-_LARGEST, _LARGEST, "a number"),
    "use_cache": _FLAG,
    "remove_invalid_values": _FLAG,
    "renormalize_logits": _FLAG,
    "return_dict_in_generate": _FLAG,
    "output_scores": _FLAG,
    "output_logits": _FLAG,
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    # In some checkpoints, -1 means that there is no end token.
    "eos_token_id": (lambda value: _ids([value], -1) or _ids(value, -1), "a token id or a list of them"),
    "prompt_lookup_num_tokens": _integer(1),
    "max_matching_ngram_size": _integer(1),
    "num_assistant_tokens": _integer(1),
    "num_assistant_tokens_schedule": (
        lambda value: isinstance(value, str) and value in SCHEDULES,
        f"one of {', '.join(SCHEDULES)}",
    ),
    "assistant_confidence_threshold": _number(0, 1, "a number in [0, 1]"),
    "seed": _integer(0, 2**64 - 1),
}

# Other names of options, from pipelines and other engines.
ALIASES = {"stop": "stop_strings", "stop_sequence": "stop_strings"}

# The defaults of transformers. There is none for the length, because it depends on the prompt.
DEFAULTS: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "temperature": 1.0,
    "top_k": 50,
    "length_penalty": 1.0,
    "early_stopping": False,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
}


def checked(name: str, value: Any) -> Any:
    """Check the value of a supported option, and return it as a plain Python object. None ("not set") is always allowed.

    Raises:
        InputError: The value has the wrong type or is out of range.
    """
    accepts, expected = RULES[name]
    result = plain(value)
    if result is not None and not accepts(result):
        raise InputError(f"{name} must be {expected}, not {shown(value)}")
    return result


def required(name: str, value: Any) -> Any:
    """Like `checked`, but None is refused.

    Raises:
        InputError: The value is None, has the wrong type or is out of range.
    """
    if value is None:
        raise InputError(f"{name} must be {RULES[name][1]}, not None")
    return checked(name, value)


def by_full_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with the names in `ALIASES` replaced by the full names.

    Raises:
        InputError: One option is given under two names.
    """
    result = {name: value for name, value in options.items() if name not in ALIASES}
    for alias, name in ALIASES.items():
        if options.get(alias) is not None:
            if result.get(name) is not None:
                raise InputError(f"{alias} is another name of {name}, which is given too; pass one of them")
            result[name] = options[alias]
    return result


# Options with their neutral values: those that only sampling reads, those that only a beam search reads, and those that
# only matter with return_dict_in_generate.
SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "top_h": None, "typical_p": 1.0}
SAMPLING |= {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
_BEAMS = {"early_stopping": False, "length_penalty": 1.0, "num_beam_groups": 1, "diversity_penalty": 0.0}
_OUTPUTS = {"output_scores": False, "output_logits": False}


def idle_options(options: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """The options that have no effect because of `options`: each name with its neutral value and the reason.

    Args:
        options: The options that are set.
    """
    cases = (
        (not options.get("do_sample"), SAMPLING, "without do_sample=True"),
        (bool(options.get("do_sample")), {"penalty_alpha": 0.0}, "with do_sample=True"),
        ((options.get("num_beams") or 1) == 1, _BEAMS, "with num_beams=1"),
        (not options.get("return_dict_in_generate"), _OUTPUTS, "without return_dict_in_generate=True"),
    )
    return {name: (neutral[name], reason) for idle, neutral, reason in cases if idle for name in neutral}


def check_token_ids(options: Mapping[str, Any], vocab_size: int) -> None:
    """Refuse token ids outside the vocabulary in options that would fail, or do something unexpected, later.

    Raises:
        InputError: An id is outside the vocabulary; the message names the option.
    """
    bias = options.get("sequence_bias")
    named: dict[str, Iterable[int]] = {
        "logit_bias": options.get("logit_bias", {}),
        "sequence_bias": [] if bias is None else [token_id for ids in sequence_biases(bias) for token_id in ids],
        "bad_words_ids": [token_id for ids in options.get("bad_words_ids", ()) for token_id in ids],
    }
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        ids = options.get(name, ())
        named[name] = ids if isinstance(ids, Sequence) else [ids]
    for name, token_ids in named.items():
        if outside := [token_id for token_id in token_ids if token_id >= vocab_size]:
            raise InputError(f"{name} names token {outside[0]}; the vocabulary has {vocab_size}")
