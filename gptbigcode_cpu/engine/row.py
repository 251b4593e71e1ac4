"""One sequence while it is being written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.draft import NO_DRAFT, Draft
from gptbigcode_cpu.engine.logits.chain import Chain

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

Logits = NDArray[np.float32]


@dataclass(slots=True, eq=False)
class Row:
    """One sequence while it is being written.

    Attributes:
        index: Number of the row in its request.
        cache: Keys and values of its tokens but the last, which the next step runs.
        ids: int32: padding, prompt and output; the part beyond `length` is free.
        pads: Tokens of padding.
        prompt_length: Tokens of padding and prompt.
        length: Tokens of padding, prompt and output.
        chain: Its logits processors.
        sampler: What chooses its tokens.
        seed: Of its random numbers.
        logits: ``[1 + tokens of the draft, vocab]``: after the last token, and after each one of the draft; None until the
            step has run.
        draft: Tokens that this step checks.
        finished: It gets no more tokens.
    """

    index: int
    cache: _core.KVCache
    ids: NDArray[np.int32]
    pads: int
    prompt_length: int
    length: int
    chain: Chain
    sampler: _core.Sampler
    seed: int
    logits: Logits | None
    draft: Draft = NO_DRAFT
    finished: bool = False

    @property
    def tokens(self) -> NDArray[np.int32]:
        """Prompt and output."""
        return self.ids[self.pads : self.length]

    @property
    def room(self) -> int:
        """Tokens that may still be written."""
        return len(self.ids) - self.length

    def add(self, token: int, eos: frozenset[int]) -> None:
        """Write a token; one of `eos` finishes the row, and so does the last one for which there is room."""
        self.ids[self.length] = token
        self.length += 1
        self.finished |= token in eos or self.length == len(self.ids)


def row_seed(seed: int, row: int) -> int:
    """A seed for each row of a call: steps of the 64-bit golden ratio, the increments of SplitMix64, which never repeat."""
    return (seed + row * 0x9E3779B97F4A7C15) % 2**64
