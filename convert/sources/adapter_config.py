"""The ``adapter_config.json`` of a LoRA adapter of PEFT, and the check that it can be merged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.config.checks import LIMITS
from gptbigcode_cpu.errors import ConfigError, ModelNotFoundError
from gptbigcode_cpu.hub.adapters import ADAPTER_CONFIG

_LARGEST = 1e30  # a weight times it is still a float32
_ADVICE = "merge it with PEFT (merge_and_unload, then save_pretrained) and convert the result"
# Settings with which an adapter is more than weights to add, each with the reason why it is refused.
_REFUSED = {
    "alora_invocation_tokens": "it is active after certain tokens only",
    "arrow_config": "it chooses between adapters while it runs",
    "kasa_config": "it changes the base model's weights",
    "layer_replication": "it repeats layers of the base model",
    "monteclora_config": "its weights are random",
    "target_parameters": "it changes parameters and not layers",
    "use_bdlora": "its matrices consist of blocks",
    "use_qalora": "it pools the inputs of a layer",
}
# PEFT makes other base weights before it loads adapters that began like this.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class AdapterConfig:
    """How an adapter is merged.

    Attributes:
        base: Name of the model that it was trained on.
        task: The task of the model, such as ``CAUSAL_LM``.
        dora: Every output of a layer has a magnitude of its own (arXiv:2402.09353).
        token_ids: Module -> the tokens whose rows are replaced.
    """

    base: str | None
    task: str | None
    dora: bool
    token_ids: Mapping[str, tuple[int, ...]]
    _rank: int
    _alpha: float
    _rank_pattern: Mapping[str, int]
    _alpha_pattern: Mapping[str, float]
    _rslora: bool

    def rank(self, module: str) -> int:
        """Columns of ``lora_B`` of a layer."""
        return self._rank_pattern.get(_matching(self._rank_pattern, module), self._rank)

    def scale(self, module: str) -> float:
        """The factor of the product of its matrices: ``alpha / rank``, or rsLoRA's ``alpha / sqrt(rank)``."""
        alpha, rank = self._alpha_pattern.get(_matching(self._alpha_pattern, module), self._alpha), self.rank(module)
        return alpha / (math.sqrt(rank) if self._rslora else rank)


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Read the configuration of an adapter.

    Raises:
        ModelNotFoundError: There is none, or it cannot be read.
        ConfigError: It is malformed, or the adapter is of a kind that cannot be merged.
    """
    path = directory / ADAPTER_CONFIG
    content = read_object(path, ConfigError, unreadable=ModelNotFoundError)
    if content is None:
        raise ModelNotFoundError(f"{directory} holds no LoRA adapter: it has no {ADAPTER_CONFIG}")
    try:
        return _checked(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _checked(content: Mapping[str, Any]) -> AdapterConfig:
    if (kind := content.get("peft_type")) != "LORA":
        raise ConfigError(f"peft_type is {shown(kind)}; only 'LORA' adapters are merged; {_ADVICE} if PEFT can")
    for key, reason in _REFUSED.items():
        if content.get(key):
            raise ConfigError(f"{key} is {shown(content[key])}, which is not supported: {reason}; {_ADVICE}")
    start = content.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise ConfigError(
            f"init_lora_weights is {shown(start)}, for which PEFT changes the base model's weights; {_ADVICE}, or save the "
            "adapter with path_initial_model_for_weight_conversion"
        )
    base, task = content.get("base_model_name_or_path"), content.get("task_type")
    return AdapterConfig(
        base=base if isinstance(base, str) and base else None,
        task=task if isinstance(task, str) else None,
        dora=_switch(content, "use_dora"),
        token_ids=_token_ids(content.get("trainable_token_indices")),
        _rank=_positive("r", content.get("r", 8)),
        _alpha=_number("lora_alpha", content.get("lora_alpha", 8)),
        _rank_pattern={key: _positive(key, value) for key, value in _pattern(content, "rank_pattern").items()},
        _alpha_pattern={key: _number(key, value) for key, value in _pattern(content, "alpha_pattern").items()},
        _rslora=_switch(content, "use_rslora"),
    )


def _matching(patterns: Mapping[str, Any], module: str) -> str:
    """The first pattern that matches the end of a module's name from a dot on, as PEFT looks for it."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), module)


def _pattern(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must be an object, not {shown(value)}")
    for pattern in value:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(f"{key}: {shown(pattern)} is not a regular expression: {one_line(error)}") from error
    return value


def _token_ids(value: Any) -> dict[str, tuple[int, ...]]:
    given = value if isinstance(value, dict) else {"wte": value or []}
    for ids in given.values():
        if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
            raise ConfigError(f"trainable_token_indices must be token ids, not {shown(ids)}")
    return {str(module): tuple(ids) for module, ids in given.items()}


def _switch(content: Mapping[str, Any], key: str) -> bool:
    value = content.get(key) or False
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, not {shown(value)}")
    return value


def _positive(key: str, value: Any) -> int:
    if type(value) is not int or value <= 0:
        raise ConfigError(f"the rank {one_line(key)} must be a positive whole number, not {shown(value)}")
    if value > LIMITS["n_inner"]:
        raise ConfigError(f"the rank {one_line(key)} is {shown(value)}, more than any layer has inputs")
    return value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        raise ConfigError(f"{one_line(key)} must be a number of at most {_LARGEST:g}, not {shown(value)}")
    return float(value)
