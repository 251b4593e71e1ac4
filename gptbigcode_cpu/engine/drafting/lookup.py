"""Speculation: guess several tokens cheaply, let the model check all of them in one step.

The core computes the same bits for a token whether it runs alone or after others in one call, so what is kept is exactly
what plain decoding writes. A draft without probabilities, from a look-up or a greedy model, is accepted as long as the tokens
that the sampler chooses are the drafted ones: those are drawn as without a draft, with the same random numbers. A draft that
was itself drawn at random is accepted or replaced such that the model's distribution is kept (Leviathan et al., "Fast
inference from transformers via speculative decoding", 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.pace import Pace
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.config import GenerationConfig

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.engine.rows import Row
    from gptbigcode_cpu.generation.call import Call


@dataclass(frozen=True)
class Draft:
    """Guessed tokens of a row.

    Attributes:
        tokens: int32 ``[n]``.
        probabilities: For tokens drawn at random, the distribution of each, float64 ``[vocab]``.
    """

    tokens: NDArray[np.int32]
    probabilities: Sequence[NDArray[np.float64]] | None = None


NO_DRAFT = Draft(np.zeros(0, dtype=np.int32))


class Drafter(Protocol):
    """What guesses tokens."""

    def begin(self, row: Row) -> None:
        """A row is about to start."""

    def propose(self, rows: Sequence[Row]) -> list[Draft]:
        """A draft for each row, empty where none is worth its cost; at least one token of the row's room is left free."""

    def accept(self, row: Row, drafted: int, scores: NDArray[np.float32], probabilities: NDArray[np.float64]) -> int:
        """The token to write instead of one drawn from `probabilities`: itself, or another one.

        Args:
            row: The row.
            drafted: The drawn token.
            scores: The model's processed scores ``[vocab]``.
            probabilities: The distribution that the token was drawn from, ``[vocab]``.
        """

    def verified(self, row: Row, draft: Draft, tokens: Sequence[int]) -> None:
        """The draft of a row has become these tokens, the first of them as drafted, all but the last one perhaps."""

    def measured(self, n_tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""


class LookupDrafter:
    """Guesses that the text goes on as after an earlier occurrence of its last tokens."""

    def __init__(self, num_tokens: int, max_match: int | None) -> None:
        """
        Args:
            num_tokens: Tokens of a draft at most.
            max_match: Tokens that are compared at most; None = no bound.
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
            # What the look-up would have said is known for tokens that were not drafted, too.
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
        # Where the text ends, what followed the earlier occurrence is taken to come again and again.
        return Draft(np.resize(tokens[end:], n_tokens))


def make_drafter(config: GenerationConfig, call: Call) -> Drafter | None:
    """What guesses tokens in a call, if anything does.

    Raises:
        InputError: Two things would, or there are beams.
    """
    if call.assistant_model is None and config.prompt_lookup_num_tokens is None:
        return None
    if (config.num_beams or 1) > 1:
        raise InputError("assistant_model and prompt_lookup_num_tokens are not supported with num_beams")
    if call.assistant_model is None:
        return LookupDrafter(config.prompt_lookup_num_tokens or 0, config.max_matching_ngram_size)
    if config.prompt_lookup_num_tokens is not None:
        raise InputError("pass either assistant_model or prompt_lookup_num_tokens")
    from gptbigcode_cpu.engine.drafting.assistant import ModelDrafter

    return ModelDrafter(config, call.assistant_model)
