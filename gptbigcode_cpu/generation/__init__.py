"""Text generation: options, logits processors, stopping criteria, and the loops that run the core."""

from __future__ import annotations

from .call import Call
from .config import GenerationConfig, merged_options, read_config
from .loop import token_steps
from .mixin import GenerationMixin
from .prefill import text_logits

__all__ = ["Call", "GenerationConfig", "GenerationMixin", "merged_options", "read_config", "text_logits", "token_steps"]
