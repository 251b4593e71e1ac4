"""Text generation: options, logits processors, stopping criteria, and the loops that run the core."""

from __future__ import annotations

from gptbigcode_cpu.generation.call import Call
from gptbigcode_cpu.generation.config import GenerationConfig, merged_options
from gptbigcode_cpu.generation.files import check_stored, given_config, read_config, read_content
from gptbigcode_cpu.generation.mixin import GenerationMixin
from gptbigcode_cpu.generation.options import by_full_names

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
