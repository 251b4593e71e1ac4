"""Text generation: options, logits processors, stopping criteria, and the loops that run the core."""

from __future__ import annotations

from .call import Call
from .config import GenerationConfig, merged_options
from .files import check_stored, given_config, read_config, read_content
from .mixin import GenerationMixin
from .options import by_full_names

__all__ = [
    "Call",
    "GenerationConfig",
    "GenerationMixin",
    "by_full_names",
    "check_stored",
    "given_config",
    "merged_options",
    "read_config",
    "read_content",
]
