"""The arguments of `generate` that are not options: objects and functions of the caller."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import items_of, plain
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.streamers import Streamer

if TYPE_CHECKING:
    from gptbigcode_cpu.generation.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """The arguments of a call that are not options.

    Attributes:
        logits_processor: The caller's logits processors, in order.
        stopping_criteria: The caller's stopping criteria.
        prefix_allowed_tokens_fn: Function of a prompt's number and its tokens so far that returns the tokens allowed next.
        assistant_model: A smaller model that drafts tokens.
        tokenizer: Needed by `stop_strings`, `json_schema`, `regex` and `grammar`.
        negative_prompts: Used by `guidance_scale`: one per prompt, int32 ``[tokens]``.
        json_schema: JSON schema that the output must follow.
        regex: Regular expression that the output must match.
        grammar: Lark grammar that the output must follow.
        streamer: Receives the tokens of a pipeline's call; `generate` passes its streamer separately.
        torch: Whether the caller's own functions are given torch tensors.

    Raises:
        InputError: `logits_processor` or `stopping_criteria` is not a list.
    """

    logits_processor: Sequence[Callable[..., Any]] | None = None
    stopping_criteria: Sequence[Callable[..., Any]] | None = None
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None
    assistant_model: LanguageModel | None = None
    tokenizer: Any = None
    negative_prompts: Sequence[NDArray[np.int32]] | None = None
    json_schema: Any = None
    regex: str | None = None
    grammar: str | None = None
    streamer: Streamer | None = None
    torch: bool = False

    def __post_init__(self) -> None:
        for name in ("logits_processor", "stopping_criteria"):
            if (value := getattr(self, name)) is not None:
                if (functions := items_of(value)) is None:
                    raise InputError(f"{name} must be a list, not {shown(value)}")
                object.__setattr__(self, name, functions)

    @classmethod
    def taken_from(cls, options: Mapping[str, Any]) -> tuple[GenerateArguments, dict[str, Any]]:
        """Split `options` into these arguments and the rest."""
        names = {field.name for field in dataclasses.fields(cls)} - {"torch", "negative_prompts"}
        call = cls(**{name: value for name, value in options.items() if name in names})
        return call, {name: value for name, value in options.items() if name not in names}

    @property
    def max_length(self) -> int | None:
        """The smallest `max_length` of the caller's `MaxLengthCriteria`, which replaces the option; None if there is none.

        Raises:
            InputError: A `max_length` is not a number of tokens.
        """
        criteria: Sequence[Any] = self.stopping_criteria or ()
        lengths = [plain(it.max_length) for it in criteria if type(it).__name__ == "MaxLengthCriteria"]
        for length in lengths:
            if not isinstance(length, (int, float)) or not abs(length) < 2**31:
                raise InputError(f"max_length of MaxLengthCriteria must be a number of tokens, not {shown(length)}")
        return math.ceil(min(lengths)) if lengths else None
