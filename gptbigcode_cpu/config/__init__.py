"""The configuration of a model and its checks."""

from __future__ import annotations

from gptbigcode_cpu.config.model_config import (
    CONFIG_NAME,
    DEFAULTS,
    MODEL_TYPE,
    GPTBigCodeConfig,
    PreTrainedConfig,
    PretrainedConfig,
)

__all__ = ["CONFIG_NAME", "DEFAULTS", "MODEL_TYPE", "GPTBigCodeConfig", "PreTrainedConfig", "PretrainedConfig"]
