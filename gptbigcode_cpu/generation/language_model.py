"""The interface of a model that generation needs. The classes in `gptbigcode_cpu.models` implement it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.generation.cache import DynamicCache
from gptbigcode_cpu.generation.config import GenerationConfig

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.engine.engine import Engine


@dataclass(frozen=True)
class PromptBatch:
    """Checked prompts.

    Attributes:
        ids: Token ids as given by the caller, padding included, int64 ``[batch, tokens]``.
        mask: True for tokens and False for padding, bool ``[batch, tokens]``.
        rows: Each row without its padding, int32 ``[t_i]``.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    rows: list[NDArray[np.int32]]


@runtime_checkable
class LanguageModel(Protocol):
    """A model that generates text, as the functions of this folder and of `fim` use it."""

    config: GPTBigCodeConfig
    core: _core.Model

    @property
    def generation_config(self) -> GenerationConfig:
        """Default options of every call."""

    @property
    def engine(self) -> Engine:
        """The engine that runs all requests of this model."""

    def prompt(self, token_ids: Sequence[int]) -> NDArray[np.int32]:
        """The checked form of one prompt, int32 ``[tokens]``."""

    def prompt_batch(
        self, input_ids: Any, attention_mask: Any, padding_token: int | None = None, past: DynamicCache | None = None
    ) -> PromptBatch:
        """The checked form of several prompts."""

    def resolve_options(self, config: Any, options: Any) -> GenerationConfig:
        """All options of a call."""

    def stream(self, input_ids: Any, generation_config: GenerationConfig | None = None, **options: Any) -> Iterator[int]:
        """The new tokens of one sequence, one by one."""
