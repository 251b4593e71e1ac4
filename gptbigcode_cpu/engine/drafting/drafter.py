"""What a step of speculative decoding asks of the object that guesses tokens.

The core computes the same bits for a token whether it runs alone or after others in one call, so the tokens that are kept are
exactly those of plain decoding. A draft without probabilities, from a look-up or a greedy model, is accepted as long as the
sampler chooses the drafted tokens: they are drawn as without a draft, with the same random numbers. A draft that was itself
drawn at random is accepted or replaced such that the model's distribution is kept (Leviathan et al., "Fast inference from
transformers via speculative decoding", 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.draft import Draft
from gptbigcode_cpu.engine.row import Row


class Drafter(Protocol):
    """What guesses tokens for the rows of one request."""

    def begin(self, row: Row) -> None:
        """A row is about to start."""

    def propose(self, rows: Sequence[Row]) -> list[Draft]:
        """A draft for each row, empty where none is worth its cost. It leaves at least one token of the row's room free."""

    def accept(self, row: Row, drafted: int, scores: NDArray[np.float32], probabilities: NDArray[np.float64]) -> int:
        """The token to write where `drafted` was drawn from `probabilities`: the drafted one, or another.

        Args:
            row: The row.
            drafted: The drawn token.
            scores: The model's processed scores ``[vocab]``.
            probabilities: The distribution that the token was drawn from, ``[vocab]``.
        """

    def verified(self, row: Row, draft: Draft, tokens: Sequence[int]) -> None:
        """The model has checked a draft. The row has grown by `tokens`: a part of the draft, and one token of the model's."""

    def measured(self, n_tokens: int, seconds: float) -> None:
        """A step of `n_tokens` tokens took so long."""
