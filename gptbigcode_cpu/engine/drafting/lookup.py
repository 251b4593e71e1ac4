"""A drafter that looks for an earlier occurrence of the last tokens, and proposes the tokens that followed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.draft import NO_DRAFT, Draft
from gptbigcode_cpu.engine.drafting.pace import Pace
from gptbigcode_cpu.engine.row import Row

if TYPE_CHECKING:
    from gptbigcode_cpu import _core


class LookupDrafter:
    """Drafts the tokens that followed an earlier occurrence of the last tokens (prompt lookup)."""

    def __init__(self, num_tokens: int, max_match: int | None) -> None:
        """
        Args:
            num_tokens: Maximum number of tokens of a draft.
            max_match: Maximum number of tokens that are compared; None: no limit.
        """
        self._num_tokens, self._max_match = num_tokens, max_match or 2**62
        self._pace = Pace()
        self._indices: dict[int, _core.SuffixIndex] = {}
        self._matches: dict[int, tuple[int, int]] = {}

    def begin(self, row: Row) -> None:
        from gptbigcode_cpu import _core

        self._indices[row.index] = index = _core.SuffixIndex()
        index.extend(row.tokens)
        self._matches[row.index] = index.match(self._max_match)

    def propose(self, rows: Sequence[Row]) -> list[Draft]:
        matches = [self._matches[row.index][0] for row in rows]
        if not any(matches):
            return [NO_DRAFT] * len(rows)
        limits = [min(self._num_tokens, row.room - 1) if match else 0 for row, match in zip(rows, matches, strict=True)]
        return [self._draft(row, n) for row, n in zip(rows, self._pace.lengths(matches, limits), strict=True)]

    def accept(self, row: Row, drafted: int, scores: NDArray[np.float32], probabilities: NDArray[np.float64]) -> int:
        raise AssertionError("a look-up draws nothing at random")

    def verified(self, row: Row, draft: Draft, tokens: Sequence[int]) -> None:
        match, end = self._matches[row.index]
        text = row.tokens
        if match:
            # The look-up can also be checked against tokens that were not drafted.
            period = len(text) - len(tokens) - end
            for place, token in enumerate(tokens):
                right = int(text[end + place % period]) == token
                self._pace.saw(match + place, right)
                if not right:
                    break
        if row.finished:
            del self._indices[row.index], self._matches[row.index]
            return
        index = self._indices[row.index]
        index.extend(text[len(text) - len(tokens) :])
        self._matches[row.index] = index.match(self._max_match)

    def measured(self, n_tokens: int, seconds: float) -> None:
        self._pace.measured(n_tokens, seconds)

    def _draft(self, row: Row, n_tokens: int) -> Draft:
        if n_tokens == 0:
            return NO_DRAFT
        tokens, end = row.tokens, self._matches[row.index][1]
        # If fewer than n tokens followed the earlier occurrence, they are repeated.
        return Draft(np.resize(tokens[end:], n_tokens))
