"""What the options of generation may be: a rule per supported option, and why the others are refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.suggest import nearest

# Whether a value is acceptable, and how to say what is expected.
Rule = tuple[Callable[[Any], bool], str]

SCHEDULES = ("constant", "heuristic", "heuristic_transient")


def is_int(value: object) -> bool:
    """Whether `value` is an integer, numpy's included, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether `value` is a number, numpy's included, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _integer(low: int, high: int | None = None) -> Rule:
    bound = f"of at least {low}" if high is None else f"from {low} to {high}"
    return lambda value: is_int(value) and value >= low and (high is None or value <= high), f"an integer {bound}"


def _number(low: float, high: float, expected: str, *, above: bool = False, below: bool = False) -> Rule:
    def accepts(value: Any) -> bool:
        number = float(value) if is_real(value) else math.nan
        inside = low < number if above else low <= number
        return inside and (number < high if below else number <= high) and math.isfinite(number)

    return accepts, expected


def _flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _ids(value: Any, low: int = 0) -> bool:
    return _is_list(value) and all(is_int(token_id) and token_id >= low for token_id in value)


def _is_sequence_bias(value: Any) -> bool:
    try:
        return bool(sequence_biases(value))
    except (TypeError, ValueError):
        return False


def sequence_biases(value: Any) -> dict[tuple[int, ...], float]:
    """`sequence_bias` in either of its forms, ``{(id, ...): bias}`` or ``[[[id, ...], bias], ...]``, as a dict.

    Raises:
        TypeError, ValueError: It is neither.
    """
    pairs = value.items() if isinstance(value, Mapping) else value
    biases: dict[tuple[int, ...], float] = {}
    for ids, bias in pairs:
        if not ids or not _ids(ids) or not is_real(bias) or math.isnan(bias) or bias == math.inf:
            raise ValueError(ids)
        biases[tuple(int(token_id) for token_id in ids)] = float(bias)
    return biases


def _is_decay(value: Any) -> bool:
    return _is_list(value) and len(value) == 2 and is_int(value[0]) and value[0] >= 0 and is_real(value[1]) and value[1] > 0


def _is_logit_bias(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(is_int(key) and key >= 0 and is_real(bias) and bias < math.inf for key, bias in value.items())


def _is_stop_strings(value: Any) -> bool:
    return (isinstance(value, str) and value != "") or (
        _is_list(value) and len(value) > 0 and all(isinstance(text, str) and text for text in value)
    )


_FLAG: Rule = (_flag, "True or False")
_TOKEN: Rule = _integer(0)
_TOKENS: Rule = (_ids, "a list of token ids")
_SHARE: Rule = _number(0, 1, "a number in (0, 1]", above=True)
_POSITIVE: Rule = _number(0, math.inf, "a positive number", above=True)

RULES: dict[str, Rule] = {
    "max_length": _integer(1),
    "max_new_tokens": _integer(1),
    "min_length": _integer(0),
    "min_new_tokens": _integer(0),
    "early_stopping": (lambda value: _flag(value) or value == "never", "True, False or 'never'"),
    "max_time": _POSITIVE,
    "stop_strings": (_is_stop_strings, "a string or a list of strings, none of them empty"),
    "do_sample": _FLAG,
    "num_beams": _integer(1),
    "length_penalty": _number(-math.inf, math.inf, "a number"),
    "num_return_sequences": _integer(1),
    "temperature": _number(0, math.inf, "a positive number; for greedy decoding pass do_sample=False", above=True),
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
        lambda value: _is_list(value) and len(value) > 0 and all(ids and _ids(ids) for ids in value),
        "a list of lists of token ids",
    ),
    "sequence_bias": (_is_sequence_bias, "a dict of tuples of token ids to finite numbers or -inf, or a list of such pairs"),
    "logit_bias": (_is_logit_bias, "a dict of token ids to finite numbers or -inf"),
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": (lambda value: _TOKEN[0](value) or (_ids(value) and len(value) > 0), "a token id or a list of them"),
    "exponential_decay_length_penalty": (_is_decay, "a pair (start, factor) of a count and a positive number"),
    "guidance_scale": _number(-math.inf, math.inf, "a number"),
    "remove_invalid_values": _FLAG,
    "renormalize_logits": _FLAG,
    "return_dict_in_generate": _FLAG,
    "output_scores": _FLAG,
    "output_logits": _FLAG,
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    # -1 is how some checkpoints say that there is none.
    "eos_token_id": (lambda value: (is_int(value) and value >= -1) or _ids(value, -1), "a token id or a list of them"),
    "prompt_lookup_num_tokens": _integer(1),
    "max_matching_ngram_size": _integer(1),
    "num_assistant_tokens": _integer(1),
    "num_assistant_tokens_schedule": (lambda value: value in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
    "assistant_confidence_threshold": _number(0, 1, "a number in [0, 1]"),
    "seed": _integer(0, 2**64 - 1),
}

_REMOVED = "transformers 5 itself does not have it any more"
_ENCODER = "it belongs to encoder-decoder models"
_COMPILED = "nothing is compiled when a model runs"
_CACHE = "there is one cache, of reference-counted blocks; see kv_dtype of from_pretrained"
# Options of transformers that are not offered: the values that change nothing, which may be passed, and the reason.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_cache": ((True,), "keys and values are always cached"),
    "cache_implementation": (("dynamic",), _CACHE),
    "cache_config": ((), _CACHE),
    "max_cache_len": ((), _CACHE),
    "prefill_chunk_size": ((), "prompts always run in chunks"),
    "output_attentions": ((False,), "attention weights are never stored"),
    "output_hidden_states": ((False,), "generate keeps no hidden states; call the model on the sequences it returns"),
    "use_mtp": ((False,), "these models predict one token at a time"),
    "decoder_start_token_id": ((), _ENCODER),
    "token_healing": ((False,), "cut the prompt at a token boundary instead"),
    "watermarking_config": ((), "pass a logits_processor"),
    "is_assistant": ((False,), "pass the draft model as assistant_model"),
    "assistant_early_exit": ((), "layers cannot be left out"),
    "assistant_lookbehind": ((10,), "the draft model must share the tokenizer"),
    "target_lookbehind": ((10,), "the draft model must share the tokenizer"),
    "assistant_tokenizer": ((), "the draft model must share the tokenizer"),
    "assistant_ensemble_weight": ((), "speculation never changes the distribution"),
    "speculation_type": ((), "pass assistant_model or prompt_lookup_num_tokens"),
    "compile_config": ((), _COMPILED),
    "disable_compile": ((True, False), _COMPILED),
    "continuous_batching_config": ((), "finished rows leave a batch by themselves"),
    "synced_gpus": ((False,), "there is one process and no GPU"),
    "custom_generate": ((), "pass a logits_processor or stopping_criteria"),
    "trust_remote_code": ((False,), "no code is ever loaded from a repository"),
    "low_memory": ((False,), _REMOVED),
    "penalty_alpha": ((0, 0.0), _REMOVED),
    "dola_layers": ((), _REMOVED),
    "diversity_penalty": ((0, 0.0), _REMOVED),
    "num_beam_groups": ((1,), _REMOVED),
    "constraints": ((), _REMOVED),
    "force_words_ids": ((), _REMOVED),
    "inputs_embeds": ((), "prompts are token ids"),
    "position_ids": ((), "positions follow from attention_mask"),
    "past_key_values": ((), "generate starts from the whole prompt"),
    "cache": ((), "generate starts from the whole prompt"),
}


def check_value(name: str, value: Any) -> None:
    """Check the value of a supported option; None, "not set", is always one.

    Raises:
        InputError: It has the wrong type or is out of range.
    """
    accepts, expected = RULES[name]
    if value is not None and not accepts(value):
        raise InputError(f"{name} must be {expected}, not {value!r}")


def is_neutral(name: str, value: Any) -> bool:
    """Whether an unsupported option has a value that asks for nothing."""
    return value is None or any(_flag(value) == _flag(neutral) and value == neutral for neutral in UNSUPPORTED[name][0])


def refuse(name: str, value: Any, others: Iterable[str] = ()) -> None:
    """Refuse an option that is no field of `GenerationConfig`, unless it is one of transformers with a neutral value.

    Args:
        name: The option.
        value: Its value.
        others: Further names that could have been meant.

    Raises:
        InputError: It is unsupported, for the reason given, or unknown.
    """
    if name not in UNSUPPORTED:
        raise InputError(f"unknown option {name!r}{nearest(name, [*RULES, *others])}")
    if not is_neutral(name, value):
        neutral, reason = UNSUPPORTED[name]
        allowed = f"; only its neutral value {neutral[0]!r} may be passed" if neutral else ""
        raise InputError(f"{name} is not supported: {reason}{allowed}")


def check_token_ids(options: Mapping[str, Any], vocab_size: int) -> None:
    """Refuse ids outside the vocabulary where they would be an error or an accident later.

    Raises:
        InputError: There is one; the message names the option.
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
