"""The state of one sequence in decoding."""

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
    """One sequence in decoding.

    Attributes:
        index: Number of the row in its request.
        cache: The kv cache of all tokens but the last, which the next step runs.
        ids: Padding, prompt and output, int32 ``[max length]``; the part after `length` is unused.
        pads: Number of padding tokens.
        prompt_length: Length of padding and prompt.
        length: Length of padding, prompt and output.
        chain: The logits processors.
        sampler: The core's sampler, which chooses the tokens.
        seed: The random seed.
        logits: The logits after the last token and after each token of the draft, ``[1 + draft tokens, vocab]``; None until
            the step has run.
        draft: The drafted tokens that this step checks.
        finished: Whether the row gets no more tokens.
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
        """Prompt and output, without padding."""
        return self.ids[self.pads : self.length]

    @property
    def room(self) -> int:
        """How many tokens may still be added."""
        return len(self.ids) - self.length

    def add(self, token: int, eos: frozenset[int]) -> None:
        """Append a token. The row is finished if the token is in `eos`, or if no room is left."""
        self.ids[self.length] = token
        self.length += 1
        self.finished |= token in eos or self.length == len(self.ids)


def row_seed(seed: int, row: int) -> int:
    """The seed of a row. Rows are multiples of the 64-bit golden ratio apart, as in SplitMix64, so no two rows share one."""
    return (seed + row * 0x9E3779B97F4A7C15) % 2**64
