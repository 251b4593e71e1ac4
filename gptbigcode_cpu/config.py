"""The configuration of a GPTBigCode model: what transformers calls GPTBigCodeConfig, checked when it is read.

A key either changes the arithmetic, and is then honoured or refused with the reason, or it does not, and is then carried
along untouched (dropout rates, initialisation, cache switches).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gptbigcode_cpu.errors import ConfigError, ModelNotFoundError

MODEL_TYPE = "gpt_bigcode"

# The other names under which transformers reads and writes these keys (`attribute_map`).
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

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

_SWITCHES = {"scale_attn_weights": True, "multi_query": True, "tie_word_embeddings": True, "add_cross_attention": False}


@dataclass(frozen=True)
class GPTBigCodeConfig:
    """Everything about a GPTBigCode model that is not a weight.

    The fields carry transformers' names and defaults. `other` holds the keys that this package does not interpret, so that a
    configuration survives being read and written.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int = 3072
    activation_function: str = "gelu_pytorch_tanh"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    multi_query: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    pad_token_id: int | None = None
    architectures: tuple[str, ...] = ("GPTBigCodeForCausalLM",)
    id2label: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({0: "LABEL_0", 1: "LABEL_1"}))
    quantization_config: Mapping[str, Any] | None = None
    other: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def n_kv_head(self) -> int:
        """Key and value heads: one that all query heads share, or one for each."""
        return 1 if self.multi_query else self.n_head

    @property
    def attention_scale(self) -> float:
        """Factor on the attention scores."""
        return 1.0 / math.sqrt(self.head_dim) if self.scale_attn_weights else 1.0

    @property
    def num_labels(self) -> int:
        """Outputs of a classification head."""
        return len(self.id2label)

    @classmethod
    def from_json_file(cls, path: str | Path) -> GPTBigCodeConfig:
        """Read a ``config.json``.

        Raises:
            ModelNotFoundError: There is no such file, or it cannot be read.
            ConfigError: It is not JSON, or see `from_dict`.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise ModelNotFoundError(f"{path} does not exist; a model directory holds a config.json") from error
        except OSError as error:
            raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from error
        try:
            return cls.from_dict(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> GPTBigCodeConfig:
        """Check the content of a ``config.json``.

        Raises:
            ConfigError: A value has the wrong type, is out of range, or asks for something that is not supported.
        """
        if not isinstance(content, Mapping):
            raise ConfigError(f"a configuration is a JSON object, not {type(content).__name__}")
        given = dict(content)
        _check_model_type(given)
        for alias, key in ALIASES.items():
            if alias in given:
                value = given.pop(alias)
                if given.setdefault(key, value) != value:
                    raise ConfigError(f"{key} is {given[key]!r}, but its other name {alias} says {value!r}")

        known: dict[str, Any] = {}
        for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            known[key] = _size(given, key, getattr(cls, key))
        known["n_inner"] = _size(given, "n_inner", None) or 4 * known["n_embd"]
        for key, default in _SWITCHES.items():
            value = given.pop(key, default)
            if not isinstance(value, bool):
                raise ConfigError(f"{key} must be true or false, not {value!r}")
            known[key] = value
        if known.pop("add_cross_attention"):
            raise ConfigError("add_cross_attention is true: cross-attention layers are not supported")
        if known["n_embd"] % known["n_head"]:
            raise ConfigError(f"n_embd {known['n_embd']} is not a multiple of n_head {known['n_head']}")
        known["activation_function"] = _activation(given.pop("activation_function", cls.activation_function))
        known["layer_norm_epsilon"] = _epsilon(given.pop("layer_norm_epsilon", cls.layer_norm_epsilon))
        if given.get("pruned_heads"):
            raise ConfigError("pruned_heads is set: checkpoints with pruned attention heads are not supported")

        known["bos_token_id"] = _token_id("bos_token_id", given.pop("bos_token_id", cls.bos_token_id))
        known["pad_token_id"] = _token_id("pad_token_id", given.pop("pad_token_id", cls.pad_token_id))
        eos = given.pop("eos_token_id", cls.eos_token_id)
        if isinstance(eos, list):
            known["eos_token_id"] = tuple(_required_token_id("eos_token_id", item) for item in eos)
        else:
            known["eos_token_id"] = _token_id("eos_token_id", eos)
        known["architectures"] = _architectures(given.pop("architectures", None))
        known["id2label"] = _labels(given.pop("id2label", None), given.pop("num_labels", None))
        quantization = given.pop("quantization_config", None)
        if quantization is not None and not isinstance(quantization, Mapping):
            raise ConfigError(f"quantization_config must be an object, not {quantization!r}")
        known["quantization_config"] = quantization
        return cls(**known, other=MappingProxyType(given))

    def to_dict(self) -> dict[str, Any]:
        """The content of a ``config.json`` that `from_dict` reads back to an equal configuration."""
        content: dict[str, Any] = dict(self.other)
        content["model_type"] = MODEL_TYPE
        content["architectures"] = list(self.architectures)
        for key in (*LIMITS, "activation_function", "layer_norm_epsilon", "scale_attn_weights", "multi_query"):
            content[key] = getattr(self, key)
        content["add_cross_attention"] = False
        content["tie_word_embeddings"] = self.tie_word_embeddings
        content["bos_token_id"] = self.bos_token_id
        content["eos_token_id"] = list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id
        content["pad_token_id"] = self.pad_token_id
        if self.id2label != GPTBigCodeConfig().id2label:
            content["id2label"] = {str(label): name for label, name in self.id2label.items()}
        if self.quantization_config is not None:
            content["quantization_config"] = dict(self.quantization_config)
        return dict(sorted(content.items()))


def _check_model_type(given: dict[str, Any]) -> None:
    model_type = given.pop("model_type", None)
    if model_type == MODEL_TYPE:
        return
    hint = ""
    if model_type == "gpt2":
        hint = "; bigcode/santacoder exists in this format as bigcode/gpt_bigcode-santacoder"
    elif model_type == "starcoder2":
        hint = "; StarCoder2 is another architecture"
    raise ConfigError(f"model_type is {model_type!r}, this package runs {MODEL_TYPE!r} models{hint}")


def _size(given: dict[str, Any], key: str, default: int | None) -> int | None:
    value = given.pop(key, default)
    if value is None and default is None:
        return None
    if type(value) is not int:
        raise ConfigError(f"{key} must be a whole number, not {value!r}")
    if not 1 <= value <= LIMITS[key]:
        raise ConfigError(f"{key} is {value}, it must be between 1 and {LIMITS[key]}")
    return value


def _activation(name: object) -> str:
    # Only the core knows what it computes; it is loaded here and not with this module.
    from gptbigcode_cpu import _core

    if not isinstance(name, str):
        raise ConfigError(f"activation_function must be a name, not {name!r}")
    supported = _core.activation_names()
    if name not in supported:
        raise ConfigError(f"activation_function {name!r} is not supported; supported are {', '.join(sorted(supported))}")
    return name


def _epsilon(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"layer_norm_epsilon must be a number between 0 and 1, not {value!r}")
    return float(value)


def _token_id(key: str, value: object) -> int | None:
    return None if value is None else _required_token_id(key, value)


def _required_token_id(key: str, value: object) -> int:
    if type(value) is not int or not -1 <= value <= LIMITS["vocab_size"]:
        raise ConfigError(f"{key} must be a token id, not {value!r}")
    return value


def _architectures(value: object) -> tuple[str, ...]:
    if value is None:
        return GPTBigCodeConfig.architectures
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"architectures must be a list of names, not {value!r}")
    return tuple(value)


def _labels(id2label: object, num_labels: object) -> Mapping[int, str]:
    if id2label is None:
        count = 2 if num_labels is None else num_labels
        if type(count) is not int or not 1 <= count <= LIMITS["vocab_size"]:
            raise ConfigError(f"num_labels must be a positive whole number, not {num_labels!r}")
        return MappingProxyType({label: f"LABEL_{label}" for label in range(count)})
    if not isinstance(id2label, Mapping) or not id2label:
        raise ConfigError(f"id2label must be an object that gives each label number a name, not {id2label!r}")
    try:
        labels = {int(label): str(name) for label, name in id2label.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"id2label must have numbers as keys: {error}") from error
    if num_labels not in (None, len(labels)):
        raise ConfigError(f"num_labels is {num_labels!r}, but id2label names {len(labels)} labels")
    return MappingProxyType(labels)
