"""Rows that are written token by token."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.decoding import Decoding, Forward, Prefill, Step, check_logits
from gptbigcode_cpu.engine.drafting.draft import NO_DRAFT
from gptbigcode_cpu.engine.request import Request
from gptbigcode_cpu.engine.row import Logits, Row
from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    from gptbigcode_cpu import _core


class RowsDecoding(Decoding):
    """Decoding without beams. The rows advance independently, or all together (`Request.lockstep`)."""

    def __init__(self, core: _core.Model, request: Request) -> None:
        super().__init__(core, request)
        self._rows: list[Row] = []
        self._drafter = request.drafter
        # The caller's functions need a rectangular batch, so finished rows go on with the fill token.
        self._lockstep = request.lockstep
        self._started = 0.0  # when drafting for the step began
        self._proposed = False  # whether there are drafts that have not been checked

    @property
    def rows_per_prompt(self) -> int:
        return self.request.copies

    @property
    def n_rows(self) -> int:
        return len(self._rows)

    @property
    def together(self) -> bool:
        return self._lockstep

    def _row_bytes(self) -> int:
        return sum(self.core.kv_bytes(len(row.ids) - row.pads - 1) for row in self._rows)

    def _begin(self, ready: Sequence[Prefill]) -> None:
        from gptbigcode_cpu import _core

        request, rules = self.request, self.request.rules
        for prefill in ready:
            prompt, limit = prefill.prompt, request.limits[prefill.number]
            pads = max(0, request.width - len(prompt))
            prompt_length = pads + len(prompt)
            chain = rules.chain_for(prompt_length, prompt_length + limit)
            for copy in range(request.copies):
                index = prefill.number * request.copies + copy
                ids = np.full(prompt_length + limit, rules.fill, dtype=np.int32)
                ids[pads:prompt_length] = prompt
                seed = request.seeds[index]
                sampler = _core.Sampler(seed=seed, isa=self.core.isa, **chain.sampler_options)
                cache = prefill.cache.fork() if copy else prefill.cache
                row = Row(index, cache, ids, pads, prompt_length, prompt_length, chain, sampler, seed, prefill.logits)
                if self._drafter is not None:
                    self._drafter.begin(row)
                if request.keep_caches:
                    self.caches[index] = cache
                self._rows.append(row)

    def add_rows(self, forward: Forward) -> None:
        rows = self._rows
        if self._drafter is not None and rows and not self._proposed:
            self._started = time.perf_counter()
            for row, draft in zip(rows, self._drafter.propose(rows), strict=True):
                row.draft = draft
            self._proposed = True
        for row in rows:
            done = row.pads + len(row.cache)
            if done >= row.length:  # a step was interrupted and its logits are lost
                done = row.length - 1
                row.cache.truncate(done - row.pads)
            tokens, wanted = row.ids[done : row.length], 1
            forward.n_tokens += row.length - done
            if row.draft is not NO_DRAFT:
                tokens = np.append(tokens, row.draft.tokens)
                wanted += len(row.draft.tokens)
                forward.n_tokens += len(row.draft.tokens)
            forward.parts.append((row.cache, tokens, wanted, row))

    def advance(self, n_tokens: int) -> Step:
        if self._lockstep:
            return self._advance_together()
        step: Step = {}
        ended = False
        for row in self._rows:
            if row.logits is not None:
                step[row.index] = self._choose(row) if row.draft is NO_DRAFT else self._verify(row)
                ended = ended or row.finished
        if self._drafter is not None and self._proposed:
            if n_tokens:
                self._drafter.measured(n_tokens, time.perf_counter() - self._started)
            self._proposed = False
        if ended:
            self._rows = [row for row in self._rows if not row.finished]
            self.done = not (self._rows or self.prefilling or self._waiting)
        return step

    def _choose(self, row: Row) -> list[int]:
        """Choose the next token of a row that has no draft."""
        assert row.logits is not None
        tokens = [self._sampled(row, row.logits[0])]
        row.logits = None
        if self._drafter is not None:
            self._drafter.verified(row, NO_DRAFT, tokens)
        return tokens

    def _sampled(self, row: Row, logits: Logits) -> int:
        """Choose a token from the logits after the row's last token, and append it."""
        rules = self.request.rules
        scores = logits
        if not row.chain.is_native or rules.record is not None:
            scores = self._for_samplers([row], [logits])[0]
        token = _sample(row, scores, logits)
        row.add(token, rules.eos)
        if rules.criteria:
            self._ask_criteria([row])
        return token

    def _verify(self, row: Row) -> list[int]:
        """Choose tokens as long as they match the draft, and one more."""
        draft, drafter, rules = row.draft, self._drafter, self.request.rules
        all_logits, row.logits, row.draft = row.logits, None, NO_DRAFT
        assert all_logits is not None
        assert drafter is not None
        tokens: list[int] = []
        for position, logits in enumerate(all_logits):
            drafted = int(draft.tokens[position]) if position < len(draft.tokens) else None
            if drafted is not None and draft.probabilities is not None:
                scores = row.chain.complete([row], row.ids[None, : row.length].astype(np.int64), logits[None])[0]
                token = drafter.accept(row, drafted, scores, draft.probabilities[position])
                if rules.record is not None:
                    rules.record.add(logits[None], scores[None])
                row.add(token, rules.eos)
                self._ask_criteria([row])
            else:
                token = self._sampled(row, logits)
            tokens.append(token)
            if row.finished or token != drafted:
                break
        drafter.verified(row, draft, tokens)
        if not row.finished:
            row.cache.truncate(row.length - row.pads - 1)
        return tokens

    def _advance_together(self) -> Step:
        rows, rules = self._rows, self.request.rules
        logits = [row.logits[0] for row in rows if row.logits is not None]
        if not rows or len(logits) < len(rows):
            return {}
        tokens = {}
        for row, scores, unprocessed in zip(rows, self._for_samplers(rows, logits), logits, strict=True):
            row.logits = None
            token = _sample(row, scores, unprocessed)
            if row.finished:
                token = rules.fill
            row.add(token, rules.eos)
            tokens[row.index] = [token]
        self._ask_criteria(rows)
        if all(row.finished for row in rows):
            self._rows, self.done = [], True
        return tokens

    def _for_samplers(self, rows: Sequence[Row], logits: Sequence[Logits]) -> Sequence[Logits]:
        """The scores that the samplers of rows of equal length choose from."""
        chain, record = rows[0].chain, self.request.rules.record
        if chain.is_native and record is None:
            return logits
        ids, stacked = _ids(rows), np.stack(logits)
        scores = chain.before_sampler(rows, ids, stacked)
        if record is not None:
            record.add(stacked, chain.instead_of_sampler(rows, ids, scores))
        return list(scores)

    def _ask_criteria(self, rows: Sequence[Row]) -> None:
        """Apply the stopping criteria to rows of equal length, and mark the rows that they finish."""
        rules = self.request.rules
        if not rules.criteria:
            return
        ids = _ids(rows)
        history = None if rules.record is None else rules.record.history
        for criterion in rules.criteria:
            for row, finished in zip(rows, criterion(ids, history), strict=True):
                row.finished |= bool(finished)


def _ids(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Padding, prompt and output of rows of equal length, int64 ``[rows, tokens]``."""
    return np.stack([row.ids[: row.length] for row in rows]).astype(np.int64)


def _sample(row: Row, scores: Logits, logits: Logits) -> int:
    try:
        return row.sampler.sample(scores, row.ids[row.pads : row.length])
    except ValueError as error:
        check_logits(logits)
        raise InputError(f"no token can be chosen: {error}; look at logit_bias and the logits processors") from error
