"""A drafter that runs a smaller model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.draft import NO_DRAFT, Draft
from gptbigcode_cpu.engine.logits.chain import Chain
from gptbigcode_cpu.engine.logits.processors import softmax
from gptbigcode_cpu.engine.prefill import prefill
from gptbigcode_cpu.engine.row import Row

if TYPE_CHECKING:
    from gptbigcode_cpu import _core


@dataclass
class _Writer:
    """The state of the draft model for one row."""

    cache: _core.KVCache
    chain: Chain
    random: Random
    length: int  # number of tokens to draft next time
    drafted: list[int] = field(default_factory=list)
    probabilities: list[NDArray[np.float64]] = field(default_factory=list)


class ModelDrafter:
    """Drafts the tokens that a smaller model would generate.

    The length of a draft depends on earlier drafts and on the smaller model's confidence, but never on time. Sampled drafts use
    random numbers, and with a seed the text must not depend on the speed of the machine.
    """

    def __init__(
        self,
        core: _core.Model,
        n_positions: int,
        chain_for: Callable[[int, int], Chain],
        *,
        do_sample: bool,
        num_tokens: int,
        adapts: bool,
        confidence_threshold: float,
    ) -> None:
        """
        Args:
            core: The smaller model; it has the vocabulary of the other model.
            n_positions: The longest sequence that the smaller model can run.
            chain_for: Function that makes the logits processors of rows. It takes the length of their prompts and their
                maximum length.
            do_sample: Whether tokens are drawn at random.
            num_tokens: Number of tokens of the first draft.
            adapts: Whether to draft more tokens after a correct draft, and fewer after a wrong one.
            confidence_threshold: A draft ends when the smaller model's probability of the chosen token is below this.
        """
        self._core, self._n_positions, self._chain_for = core, n_positions, chain_for
        self._do_sample, self._threshold = do_sample, confidence_threshold
        self._first_length, self._adapts = num_tokens, adapts
        self._writers: dict[int, _Writer] = {}

    def begin(self, row: Row) -> None:
        from gptbigcode_cpu import _core

        chain = self._chain_for(row.prompt_length, len(row.ids))
        # Independent of the random numbers of the sampler, which draws the tokens that are not drafted.
        random = Random(row.seed ^ 0xD1B54A32D192ED03)
        self._writers[row.index] = _Writer(_core.KVCache(self._core), chain, random, self._first_length)

    def propose(self, rows: Sequence[Row]) -> list[Draft]:
        limits = {row.index: self._limit(row) for row in rows}
        for row in rows:
            writer = self._writers[row.index]
            writer.drafted, writer.probabilities = [], []
            writer.cache.truncate(min(len(writer.cache), len(row.tokens) - 1))  # after an interrupted step it may have more
        writing = [row for row in rows if limits[row.index] > 0]
        logits = self._catch_up(writing)
        while writing:
            going_on = [row for row, scores in zip(writing, logits, strict=True) if self._guess(row, scores)]
            writing = [row for row in going_on if len(self._writers[row.index].drafted) < limits[row.index]]
            if not writing:
                break
            writers = [self._writers[row.index] for row in writing]
            last = [np.array(writer.drafted[-1:], dtype=np.int32) for writer in writers]
            logits = list(self._core.forward([writer.cache for writer in writers], last, [1] * len(writers)))
        return [self._draft(row) for row in rows]

    def accept(self, row: Row, drafted: int, scores: NDArray[np.float32], probabilities: NDArray[np.float64]) -> int:
        writer = self._writers[row.index]
        wanted = _distribution(scores)
        if writer.random.random() * probabilities[drafted] < wanted[drafted]:
            return drafted
        return _draw(np.maximum(wanted - probabilities, 0), writer.random)

    def verified(self, row: Row, draft: Draft, tokens: Sequence[int]) -> None:
        if row.finished:
            del self._writers[row.index]
            return
        writer = self._writers[row.index]
        if self._adapts and len(draft.tokens):
            kept = len(tokens) - 1 == len(draft.tokens)
            writer.length = writer.length + 2 if kept else max(1, writer.length - 1)
        # Keep the tokens that the draft model has run and the row accepted, except for the row's last token.
        writer.cache.truncate(min(len(writer.cache), row.length - row.pads - 1))

    def measured(self, n_tokens: int, seconds: float) -> None:
        pass

    def _limit(self, row: Row) -> int:
        return min(self._writers[row.index].length, row.room - 1, self._n_positions - len(row.tokens) + 1)

    def _catch_up(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Run the tokens that the draft model has not seen yet; return the logits after the last token of each row."""
        caches = [self._writers[row.index].cache for row in rows]
        return [logits for _, logits in prefill(self._core, [row.tokens for row in rows], caches)]

    def _guess(self, row: Row, logits: NDArray[np.float32]) -> bool:
        """Add a token to the draft. Return whether to go on: false after or instead of a token that is too improbable."""
        writer = self._writers[row.index]
        ids = np.concatenate([row.ids[: row.length], np.array(writer.drafted, dtype=np.int32)]).astype(np.int64)
        scores = writer.chain.complete([row], ids[None], logits[None])[0]
        if not self._do_sample:
            token = int(scores.argmax())
            if self._threshold and softmax(scores[None])[0, token] < self._threshold:
                return False
        else:
            distribution = _distribution(scores)
            token = _draw(distribution, writer.random)
            writer.probabilities.append(distribution)
        writer.drafted.append(token)
        # A drawn token must not be dropped because of its probability, since that would change the distribution. The draft
        # ends after it.
        return not self._do_sample or distribution[token] >= self._threshold

    def _draft(self, row: Row) -> Draft:
        writer = self._writers[row.index]
        if not writer.drafted:
            return NO_DRAFT
        tokens = np.array(writer.drafted, dtype=np.int32)
        return Draft(tokens, writer.probabilities if self._do_sample else None)


def _distribution(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return softmax(scores, np.float64)


def _draw(weights: NDArray[np.float64], random: Random) -> int:
    """Draw a place at random, with probabilities proportional to `weights`."""
    cumulative = np.cumsum(weights)
    place = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
    # Rounding may lead beyond the last place whose weight is not 0.
    return min(place, int(np.flatnonzero(weights)[-1]))
