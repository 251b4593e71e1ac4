"""What a call of `generate` is given besides options: objects and functions of the caller."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import items_of, plain
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.streamers import Streamer


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """The arguments of a call that are no options.

    Attributes:
        logits_processor: The caller's processors, in order.
        stopping_criteria: The caller's criteria.
        prefix_allowed_tokens_fn: The tokens allowed after a prompt's number and the tokens so far.
        assistant_model: A smaller model that guesses tokens.
        tokenizer: For `stop_strings` and grammars.
        negative_prompts: For `guidance_scale`, int32 ``[tokens]`` for every prompt.
        json_schema: JSON schema that the output follows.
        regex: Regular expression that the output matches.
        grammar: Lark grammar of the output.
        streamer: Sees the tokens of a pipeline's call; `generate` has an argument of its own.
        torch: The caller's own functions are given torch tensors.

    Raises:
        InputError: `logits_processor` or `stopping_criteria` is no list.
    """

    logits_processor: Sequence[Callable[..., Any]] | None = None
    stopping_criteria: Sequence[Callable[..., Any]] | None = None
    prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None
    assistant_model: Any = None
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
        """The arguments among `options`, and the rest."""
        names = {field.name for field in dataclasses.fields(cls)} - {"torch", "negative_prompts"}
        call = cls(**{name: value for name, value in options.items() if name in names})
        return call, {name: value for name, value in options.items() if name not in names}

    @property
    def max_length(self) -> int | None:
        """That of a criterion of the caller, which replaces the option.

        Raises:
            InputError: It is no number.
        """
        criteria: Sequence[Any] = self.stopping_criteria or ()
        lengths = [plain(it.max_length) for it in criteria if type(it).__name__ == "MaxLengthCriteria"]
        for length in lengths:
            if not isinstance(length, (int, float)) or not abs(length) < 2**31:
                raise InputError(f"max_length of MaxLengthCriteria must be a number of tokens, not {shown(length)}")
        return math.ceil(min(lengths)) if lengths else None
