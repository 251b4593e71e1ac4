"""Text generation: options, logits processors, stopping criteria, and the loops that run the core."""

from __future__ import annotations

from .call import Call
from .config import GenerationConfig, merged_options, read_config
from .mixin import GenerationMixin

__all__ = ["Call", "GenerationConfig", "GenerationMixin", "merged_options", "read_config"]
