"""The public part of text generation: options, arguments, and the methods that models inherit, such as `generate`."""

from __future__ import annotations

from gptbigcode_cpu.engine.options import by_full_names
from gptbigcode_cpu.generation.call import GenerateArguments
from gptbigcode_cpu.generation.config import GenerationConfig, merged_options
from gptbigcode_cpu.generation.given import check_stored, given_config, parse_generation_config, read_generation_config
from gptbigcode_cpu.generation.mixin import GenerationMixin

__all__ = [
    "GenerateArguments",
    "GenerationConfig",
    "GenerationMixin",
    "by_full_names",
    "check_stored",
    "given_config",
    "merged_options",
    "parse_generation_config",
    "read_generation_config",
]
