"""Beam search, as in transformers.

The beams of a prompt are small arrays ``[beams, ...]``. The kv cache of a beam is a fork of the cache of the beam that it
continues, so beams share all blocks except those that they have written themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.decoding import Decoding, Forward, Prefill, Step, check_logits
from gptbigcode_cpu.engine.logits.processors import log_softmax
from gptbigcode_cpu.engine.request import BeamOptions, Request, Rules
from gptbigcode_cpu.engine.row import Logits
from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

Floats = NDArray[np.float32]
# Added to scores that must not win. The value is that of transformers, because its rounding decides ties.
_LOSES = np.float32(-1e9)


@dataclass(frozen=True)
class _RowInfo:
    """The `RowInfo` of a beam, for the logits processors."""

    index: int
    pads: int
    prompt_length: int


@dataclass
class BeamResult:
    """The sequences of all prompts; for each prompt, the best one comes first.

    Attributes:
        sequences: int64 ``[prompts * num_return_sequences, tokens]``, padding and prompt included.
        scores: The log-probability of each sequence divided by ``n_new_tokens ** length_penalty``, float32 ``[rows]``.
        beam_indices: The row of a step's scores that each new token comes from, int32 ``[rows, new tokens]``; -1 after the end.
        caches: The kv caches of the ``prompts * num_beams`` beams that a further step would continue, without their last
            tokens.
    """

    sequences: NDArray[np.int64]
    scores: Floats
    beam_indices: NDArray[np.int32]
    caches: list[_core.KVCache]


class _Beams:
    """The beams of one prompt. The steps have the names and the order of transformers' ``_beam_search``."""

    def __init__(
        self,
        number: int,
        prompt: NDArray[np.int32],
        pads: int,
        limit: int,
        options: BeamOptions,
        rules: Rules,
        seed: int,
        isa: str,
    ) -> None:
        self.number, self.pads = number, pads
        self.prompt_length = self.length = pads + len(prompt)
        self.n_beams = n = options.num_beams
        self._options, self._rules = options, rules
        self._length_penalty = options.length_penalty
        self.max_length = self.prompt_length + limit
        self.chain = rules.chain_for(self.prompt_length, self.max_length)
        # With so many candidates, n of them do not end, even if every beam has all end tokens among its best.
        self.n_candidates = max(2, 1 + len(options.eos_token_ids)) * n
        # As in transformers, a pad token 0 is replaced by the end token.
        fill = rules.fill or next(iter(options.eos_token_ids), 0)
        self.running = np.full((n, self.max_length), fill, dtype=np.int64)
        self.running[:, pads : self.prompt_length] = prompt
        self.running[:, :pads] = rules.fill
        # At first only the first beam counts; otherwise all beams would choose the same tokens.
        self.running_scores = np.where(np.arange(n) == 0, np.float32(0), _LOSES)
        self.running_indices = np.full((n, limit), -1, dtype=np.int32)
        self.sequences, self.indices = self.running.copy(), self.running_indices.copy()
        self.scores = np.full(n, _LOSES)
        self.finished = np.zeros(n, dtype=np.bool_)
        self._improvable = True
        self.done = False
        self._sampler = _drawing_sampler(seed, isa) if options.do_sample else None

    @property
    def rows(self) -> list[_RowInfo]:
        """The beams as rows of the batch."""
        first = self.number * self.n_beams
        return [_RowInfo(first + beam, self.pads, self.prompt_length) for beam in range(self.n_beams)]

    def step(self, log_probabilities: Floats, history: Sequence[Floats] | None) -> NDArray[np.int64]:
        """Continue all beams by one token.

        Args:
            log_probabilities: The processed log-probabilities, float32 ``[beams, vocab]``.
            history: The scores of all steps so far, for the caller's stopping criteria.

        Returns:
            The beam that each new beam continues.
        """
        vocab_size = log_probabilities.shape[1]
        with np.errstate(over="ignore"):
            total = _comparable(log_probabilities + self.running_scores[:, None]).reshape(-1)
        chosen = self._drawn(total) if self._sampler is not None else _best(total, self.n_candidates)
        scores, parents = total[chosen], chosen // vocab_size
        candidates, indices = self.running[parents], self.running_indices[parents]
        candidates[:, self.length] = chosen % vocab_size
        indices[:, self.length - self.prompt_length] = parents + self.number * self.n_beams
        hits = self._hits(candidates[:, : self.length + 1], history)
        self._keep_finished(scores, candidates, indices, hits)
        running_scores = scores + hits.astype(np.float32) * _LOSES
        going_on = _best(running_scores, self.n_beams)
        self.running, self.running_indices = candidates[going_on], indices[going_on]
        self.running_scores = running_scores[going_on]
        self.length += 1
        self._find_out_whether_done(bool(hits.all()))
        continued: NDArray[np.int64] = parents[going_on]
        return continued

    def _hits(self, candidates: NDArray[np.int64], history: Sequence[Floats] | None) -> NDArray[np.bool_]:
        """Which candidates are finished after their last token."""
        hits: NDArray[np.bool_] = np.isin(candidates[:, -1], [*self._rules.eos]) | (candidates.shape[1] >= self.max_length)
        for criterion in self._rules.criteria:
            hits |= np.asarray(criterion(candidates, history), dtype=np.bool_)
        return hits

    def _keep_finished(
        self, scores: Floats, candidates: NDArray[np.int64], indices: NDArray[np.int32], hits: NDArray[np.bool_]
    ) -> None:
        # Only the first n candidates may end; the others exist so that n beams can go on.
        ended = hits & (np.arange(self.n_candidates) < self.n_beams)
        new_length = self.length + 1 - self.prompt_length
        with np.errstate(over="ignore"):
            scores = scores / _length_factor(new_length, self._length_penalty)
        full = bool(self.finished.all()) and self._options.early_stopping is True
        for loses in (full, not self._improvable, ~ended):
            scores = scores + np.asarray(loses, dtype=np.float32) * _LOSES
        # Among equal scores, finished beams come before places that are still empty.
        order = np.argsort(~np.concatenate([self.finished, ended]), kind="stable")
        merged = np.concatenate([self.scores, scores])
        best = order[_best(merged[order], self.n_beams)]
        self.scores = merged[best]
        self.sequences = np.concatenate([self.sequences, candidates])[best]
        self.indices = np.concatenate([self.indices, indices])[best]
        self.finished = np.concatenate([self.finished, ended])[best]

    def _find_out_whether_done(self, all_hit: bool) -> None:
        to_the_end = self._options.early_stopping == "never" and self._length_penalty > 0
        length = (self.max_length if to_the_end else self.length) - self.prompt_length
        with np.errstate(over="ignore"):
            best_possible = self.running_scores[0] / _length_factor(length, self._length_penalty)
        worst_finished = np.where(self.finished, self.scores.min(), _LOSES)
        self._improvable &= bool((best_possible > worst_finished).any())
        full = bool(self.finished.all()) and self._options.early_stopping is True
        self.done = not self._improvable or full or all_hit

    def _drawn(self, total: Floats) -> NDArray[np.int64]:
        """Draw candidates without replacement, and sort them, best first."""
        assert self._sampler is not None
        left = total.copy()
        nothing = np.zeros(0, dtype=np.int32)
        chosen = []
        for _ in range(self.n_candidates):
            if np.isneginf(left).all():
                raise InputError(f"beam sampling needs {self.n_candidates} tokens to choose from; top_k or top_p leaves fewer")
            chosen.append(self._sampler.sample(left, nothing))
            left[chosen[-1]] = -np.inf
        drawn = np.array(chosen)
        return drawn[np.argsort(-total[drawn], kind="stable")]


class _Beam:
    """A beam within a step: its kv cache, and the logits after its last token."""

    __slots__ = ("cache", "logits")

    def __init__(self, cache: _core.KVCache, logits: Logits | None = None) -> None:
        self.cache, self.logits = cache, logits


class BeamDecoding(Decoding):
    """A beam search for several prompts, whose beams advance together.

    Attributes:
        result: The sequences that were found; None until the search is done.
    """

    def __init__(self, core: _core.Model, request: Request) -> None:
        super().__init__(core, request)
        assert request.beams is not None
        self._options = request.beams
        self.result: BeamResult | None = None
        self._groups: list[_Beams] = []
        self._active: list[_Beams] = []
        self._beams: dict[int, list[_Beam]] = {}  # of each prompt

    @property
    def rows_per_prompt(self) -> int:
        return self._options.num_beams

    @property
    def n_rows(self) -> int:
        return len(self._active) * self._options.num_beams

    @property
    def together(self) -> bool:
        return True

    def _row_bytes(self) -> int:
        return sum(self._nbytes(group.number) for group in self._active)

    def _begin(self, ready: Sequence[Prefill]) -> None:
        request = self.request
        width = max(request.width, *map(len, request.prompts))
        for prefill in ready:
            number, prompt = prefill.number, prefill.prompt
            caches = [prefill.cache, *(prefill.cache.fork() for _ in range(self._options.num_beams - 1))]
            self._beams[number] = [_Beam(cache, prefill.logits) for cache in caches]
            limit, seed = request.limits[number], request.seeds[number]
            pads = width - len(prompt)
            self._groups.append(_Beams(number, prompt, pads, limit, self._options, request.rules, seed, self.core.isa))
        self._active = list(self._groups)

    def add_rows(self, forward: Forward) -> None:
        for group in self._active:
            for tokens, beam in zip(group.running, self._beams[group.number], strict=True):
                done = group.pads + len(beam.cache)
                if done >= group.length:  # the logits of an interrupted step were lost
                    done = group.length - 1
                    beam.cache.truncate(done - group.pads)
                forward.parts.append((beam.cache, tokens[done : group.length].astype(np.int32), 1, beam))
                forward.n_tokens += group.length - done

    def advance(self, n_tokens: int) -> Step:
        beams = [beam for group in self._active for beam in self._beams[group.number]]
        logits = [beam.logits for beam in beams if beam.logits is not None]
        if not beams or len(logits) < len(beams):
            return {}
        rules, options = self.request.rules, self._options
        parents = _step(self._active, np.concatenate(logits), rules, options.remove_invalid_values)
        for group in self._active:
            before = [beam.cache for beam in self._beams[group.number]]
            self._beams[group.number] = [_Beam(cache) for cache in _continued(before, parents[group.number])]
        # The caller's functions and the recorded scores need a row for every beam until all prompts are done.
        if rules.needs_whole_batch:
            self._active = [] if all(group.done for group in self._groups) else self._groups
        else:
            self._active = [group for group in self._active if not group.done]
        if not self._active:
            caches = [beam.cache for group in self._groups for beam in self._beams[group.number]]
            self.result = _result(self._groups, options.num_return_sequences, caches)
            self._beams, self.done = {}, True
        return {}


def _step(active: Sequence[_Beams], logits: Floats, rules: Rules, remove_invalid_values: bool) -> dict[int, NDArray[np.int64]]:
    """Continue the beams of all prompts by one token; return, per prompt, the beam that each new beam continues."""
    if not remove_invalid_values:
        check_logits(logits)
    rows = [row for group in active for row in group.rows]
    ids = np.concatenate([group.running[:, : group.length] for group in active])
    scores = _comparable(active[0].chain.complete(rows, ids, log_softmax(logits)))
    history = None
    if rules.record is not None:
        rules.record.add(logits, scores)
        history = rules.record.history
    n = active[0].n_beams
    return {group.number: group.step(scores[i * n : (i + 1) * n], history) for i, group in enumerate(active)}


def _continued(caches: Sequence[_core.KVCache], parents: NDArray[np.int64]) -> list[_core.KVCache]:
    """The kv caches of new beams. The first child takes over its parent's cache, the others get forks."""
    taken: set[int] = set()
    new = []
    for parent in parents.tolist():
        new.append(caches[parent].fork() if parent in taken else caches[parent])
        taken.add(parent)
    return new


def _result(groups: Sequence[_Beams], n: int, caches: list[_core.KVCache]) -> BeamResult:
    indices = np.concatenate([group.indices[:n] for group in groups])
    new_tokens = int((indices >= 0).sum(axis=1).max())
    sequences = np.concatenate([group.sequences[:n] for group in groups])
    return BeamResult(
        sequences[:, : groups[0].prompt_length + new_tokens],
        np.concatenate([group.scores[:n] for group in groups]),
        indices[:, :new_tokens],
        caches,
    )


def _comparable(scores: Floats) -> Floats:
    """The scores, if they can be compared.

    Raises:
        InputError: A score is NaN or positive infinity.
    """
    if not (scores < np.inf).all():
        raise InputError("no token can be chosen: the scores become infinite or NaN; look at the options with large values")
    return scores


def _length_factor(length: int, penalty: float) -> np.float32:
    """``length**penalty``, clipped to the range of float32."""
    with np.errstate(over="ignore", under="ignore"):
        limits = np.finfo(np.float32)
        return np.float32(np.clip(np.float64(length) ** penalty, limits.tiny, limits.max))


def _best(scores: Floats, count: int) -> NDArray[np.int64]:
    """Places of the `count` largest scores, largest first; among equal scores, the first place comes first."""
    if count < len(scores) // 8:  # sorting a whole large vocabulary would take longer than running the model
        threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
        places = np.flatnonzero(scores >= threshold)
        return places[np.argsort(-scores[places], kind="stable")][:count]
    return np.argsort(-scores, kind="stable")[:count]


def _drawing_sampler(seed: int, isa: str) -> _core.Sampler:
    from gptbigcode_cpu import _core

    return _core.Sampler(temperature=1.0, seed=seed, isa=isa)
