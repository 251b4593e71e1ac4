"""The interface of drafters, the objects that draft tokens for speculative decoding.

The core computes the same bits for a token whether it runs alone or together with others, so a draft never changes the logits.
A draft without probabilities comes from a look-up or a greedy model. It is accepted as long as the sampler, with the same
random numbers as without a draft, chooses the drafted tokens. A sampled draft is accepted or replaced in a way that keeps the
model's distribution (Leviathan et al., "Fast inference from transformers via speculative decoding", 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.draft import Draft
from gptbigcode_cpu.engine.row import Row


class Drafter(Protocol):
    """Drafts tokens for the rows of one request."""

    def begin(self, row: Row) -> None:
        """Called when a row starts."""

    def propose(self, rows: Sequence[Row]) -> list[Draft]:
        """A draft for each row, empty if drafting is not worth its cost. A draft is shorter than the row's `room`."""

    def accept(self, row: Row, drafted: int, scores: NDArray[np.float32], probabilities: NDArray[np.float64]) -> int:
        """Accept a token that was drawn from `probabilities`, or replace it; return the token to append.

        Args:
            row: The row.
            drafted: The drafted token.
            scores: The model's processed scores ``[vocab]``.
            probabilities: The distribution that the token was drawn from, ``[vocab]``.
        """

    def verified(self, row: Row, draft: Draft, tokens: Sequence[int]) -> None:
        """Called when the model has checked a draft. The row has grown by `tokens`: the accepted tokens and one more."""

    def measured(self, n_tokens: int, seconds: float) -> None:
        """Called when a step of `n_tokens` tokens has taken `seconds`."""
