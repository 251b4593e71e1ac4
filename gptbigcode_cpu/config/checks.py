"""Checks of the values of a GPTBigCode configuration. Every check returns the value in the form in which it is kept.

Raises of all of them: `ConfigError`, whose message names the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.errors import ConfigError

MODEL_TYPE = "gpt_bigcode"

# Largest sizes accepted. Each is far above the largest published model (n_embd 6144, vocabulary 49k, 8k positions) and low
# enough for any product of two of them to stay an ordinary number of bytes.
LIMITS = {
    "vocab_size": 1 << 24,
    "n_positions": 1 << 24,
    "n_embd": 1 << 16,
    "n_layer": 1 << 12,
    "n_head": 1 << 12,
    "n_inner": 1 << 20,
}
MAX_LABELS = 1 << 18  # each has a name, twice
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def size(key: str, value: object) -> int:
    """A whole number from 1 to its limit."""
    if type(value) is not int:
        raise ConfigError(f"{key} must be a whole number, not {shown(value)}")
    if not 1 <= value <= LIMITS[key]:
        raise ConfigError(f"{key} is {shown(value)}, it must be between 1 and {LIMITS[key]}")
    return value


def switch(key: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, not {shown(value)}")
    return value


def no_cross_attention(key: str, value: object) -> bool:
    """False: there are no cross-attention layers."""
    if switch(key, value):
        raise ConfigError("add_cross_attention is true: cross-attention layers are not supported")
    return False


def activation(key: str, value: object) -> str:
    """The name of an activation function that the core computes."""
    # Only the core knows what it computes; it is loaded here and not with this module.
    from gptbigcode_cpu import _core

    if not isinstance(value, str):
        raise ConfigError(f"{key} must be a name, not {shown(value)}")
    supported = _core.activation_names()
    if value not in supported:
        raise ConfigError(f"{key} {shown(value)} is not supported; supported are {', '.join(sorted(supported))}")
    return value


def epsilon(key: str, value: object) -> float:
    """A number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"{key} must be a number between 0 and 1, not {shown(value)}")
    return float(value)


def token_id(key: str, value: object) -> int | None:
    """A token id, -1, with which some checkpoints say "none", or None."""
    return None if value is None else _given_token_id(key, value)


def end_token_ids(key: str, value: object) -> int | list[int] | None:
    """A token id, a list of them, or None."""
    if isinstance(value, list | tuple):
        return [_given_token_id(key, item) for item in value]
    return token_id(key, value)


def names(key: str, value: object) -> list[str]:
    """A list of names."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{key} must be a list of names, not {shown(value)}")
    return list(value)


def id2label(key: str, value: object) -> dict[int, str]:
    """Label number -> name."""
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"{key} must be an object that gives each label number a name, not {shown(value)}")
    try:
        return {int(label): str(name) for label, name in value.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{key} must have numbers as keys, it is {shown(value)}") from error


def label2id(key: str, value: object) -> dict[str, int]:
    """Name -> label number."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be an object that gives each label name a number, not {shown(value)}")
    try:
        return {str(name): int(label) for name, label in value.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{key} must have numbers as values, it is {shown(value)}") from error


def label_count(key: str, value: object) -> int:
    """A positive number of labels."""
    if type(value) is not int or not 1 <= value <= MAX_LABELS:
        raise ConfigError(f"{key} must be a whole number from 1 to {MAX_LABELS}, not {shown(value)}")
    return value


def problem_type(key: str, value: object) -> str | None:
    """One of `PROBLEM_TYPES`, or None: the labels of a call decide."""
    if value is not None and value not in PROBLEM_TYPES:
        raise ConfigError(f"{key} must be one of {', '.join(PROBLEM_TYPES)}, not {shown(value)}")
    return value


def quantization(key: str, value: object) -> dict[str, Any] | None:
    """How the weights are stored, or None."""
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be an object, not {shown(value)}")
    return None if value is None else dict(value)


def no_pruning(key: str, value: object) -> Any:
    """Nothing: pruned heads are not supported."""
    if value:
        raise ConfigError(f"{key} is set: checkpoints with pruned attention heads are not supported")
    return value


def full_attention(values: Mapping[str, Any], n_positions: int) -> None:
    """Nothing: every token attends to all before it.

    transformers heeds these keys in models of all kinds. A window as wide as the context limits nothing.
    """
    for key in ("sliding_window", "attention_chunk_size"):
        width = values.get(key)
        if width is not None and not (type(width) is int and width >= n_positions):
            raise ConfigError(f"{key} is {shown(width)}: attention within a window is not supported")
    if values.get("is_causal") is False:
        raise ConfigError("is_causal is false: attention to later tokens is not supported")
    kinds = values.get("layer_types")
    if kinds is not None and not (isinstance(kinds, list | tuple) and all(kind == "full_attention" for kind in kinds)):
        raise ConfigError(f"layer_types is {shown(kinds)}; supported is 'full_attention' in all layers")


def dtype(key: str, value: object) -> str | None:
    """The name of a type, without torch's prefix, or None."""
    return None if value is None else str(value).removeprefix("torch.")


def _given_token_id(key: str, value: object) -> int:
    if type(value) is not int or not -1 <= value <= LIMITS["vocab_size"]:
        raise ConfigError(f"{key} must be a token id, not {shown(value)}")
    return value


CHECKS: dict[str, Callable[[str, object], Any]] = {
    **dict.fromkeys(LIMITS, size),
    **dict.fromkeys(("scale_attn_weights", "multi_query", "tie_word_embeddings", "use_cache"), switch),
    **dict.fromkeys(("output_hidden_states", "output_attentions", "return_dict"), switch),
    "add_cross_attention": no_cross_attention,
    "activation_function": activation,
    "layer_norm_epsilon": epsilon,
    "bos_token_id": token_id,
    "pad_token_id": token_id,
    "eos_token_id": end_token_ids,
    "architectures": names,
    "id2label": id2label,
    "label2id": label2id,
    "problem_type": problem_type,
    "quantization_config": quantization,
    "pruned_heads": no_pruning,
    "dtype": dtype,
}
