"""The configuration of a model and its checks."""

from __future__ import annotations

from gptbigcode_cpu.config.checks import MODEL_TYPE
from gptbigcode_cpu.config.model_config import DEFAULTS, GPTBigCodeConfig, PreTrainedConfig, PretrainedConfig, read_config

__all__ = ["DEFAULTS", "MODEL_TYPE", "GPTBigCodeConfig", "PreTrainedConfig", "PretrainedConfig", "read_config"]
