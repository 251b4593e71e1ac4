"""The decoding loop: prompts in, steps of new tokens out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.lookup import NO_DRAFT, Draft, Drafter, make_drafter
from gptbigcode_cpu.engine.logits.chain import Chain
from gptbigcode_cpu.engine.prefill import prefill
from gptbigcode_cpu.errors import FormatError, InputError
from gptbigcode_cpu.generation.call import Call
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.rules import Rules
from gptbigcode_cpu.generation.seeding import drawn_seed

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

Logits = NDArray[np.float32]


@dataclass(slots=True)
class Row:
    """One sequence while it is being written."""

    index: int
    cache: _core.KVCache  # of all tokens but the last, which the next step runs
    ids: NDArray[np.int32]  # padding, prompt and output; the part beyond `length` is free
    pads: int
    prompt_length: int  # of padding and prompt
    length: int
    chain: Chain
    sampler: _core.Sampler
    seed: int
    logits: Logits  # [1 + tokens of the draft, vocab]: after the token that was last, and after each one of the draft
    draft: Draft = NO_DRAFT  # of the step that is being done
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


@dataclass
class Record:
    """What `output_scores` and `output_logits` return: one array ``[rows, vocab]`` per step each."""

    scores: list[Logits] = field(default_factory=list)
    logits: list[Logits] = field(default_factory=list)


def record_parts(record: Record | None, config: GenerationConfig) -> dict[str, Any]:
    """What was asked for, by the names of the outputs."""
    if record is None:
        return {}
    parts = {"scores": config.output_scores, "logits": config.output_logits}
    return {name: tuple(getattr(record, name)) for name, wanted in parts.items() if wanted}


def token_steps(
    core: _core.Model,
    prompts: Sequence[NDArray[np.int32]],
    limits: Sequence[int],
    config: GenerationConfig,
    call: Call | None = None,
    *,
    width: int = 0,
    first_row: int = 0,
    max_rows: int | None = None,
    record: Record | None = None,
    caches: Sequence[_core.KVCache] | None = None,
    kept: dict[int, _core.KVCache] | None = None,
) -> Iterator[dict[int, list[int]]]:
    """Continue several prompts in one ragged batch; rows that are finished leave it.

    A row's tokens depend on its prompt, the options and its own number only, not on the other rows.

    Args:
        core: The model.
        prompts: int32 ``[t_i]``, valid and not empty.
        limits: New tokens per prompt at most, >= 1.
        config: All options, defaults included.
        call: The other arguments.
        width: Tokens of padding and prompt, where lengths are counted with the padding.
        first_row: Number of the first row, for its seed.
        max_rows: Rows that run together; the others wait for a place. Default: all.
        record: Collects scores and logits.
        caches: Of the prompts' first tokens, for each fewer than it has; they grow. Default: nothing has been run yet.
        kept: Collects the cache of every row, which grows with it.

    Yields:
        Per step the new tokens, usually one, of each row that is not finished yet; row ``i * num_return_sequences + j`` is
        sequence j of prompt i. Closing the iterator stops the work.

    Raises:
        InputError: The options exclude every token, or an argument is wrong.
        FormatError: The logits are NaN.
    """
    copies = config.num_return_sequences or 1
    run = _Run(core, config, call or Call(), len(prompts) * copies, record)  # a mistake shows at the call
    return _steps(run, prompts, limits, width, first_row, max_rows, caches, {} if kept is None else kept)


def _steps(
    run: _Run,
    prompts: Sequence[NDArray[np.int32]],
    limits: Sequence[int],
    width: int,
    first_row: int,
    max_rows: int | None,
    caches: Sequence[_core.KVCache] | None,
    kept: dict[int, _core.KVCache],
) -> Iterator[dict[int, list[int]]]:
    config, copies = run.config, run.config.num_return_sequences or 1
    seed = call_seed(config)
    waiting = list(range(len(prompts)))
    rows: list[Row] = []
    while rows or waiting:
        run.forward(rows)
        if waiting:
            room = len(waiting) * copies if max_rows is None else max_rows - len(rows)
            admitted = waiting[: max(room // copies, int(not rows))]
            del waiting[: len(admitted)]
            begun = None if caches is None else [caches[i] for i in admitted]
            for i, (cache, last) in zip(admitted, prefill(run.core, [prompts[i] for i in admitted], begun), strict=True):
                for copy in range(copies):
                    index = i * copies + copy
                    own_seed = row_seed(seed, first_row + index)
                    kept[index] = cache.fork() if copy else cache
                    rows.append(run.row(index, kept[index], prompts[i], width, limits[i], own_seed, last[None]))
        yield run.advance(rows)
        rows = run.remaining(rows)


class _Run:
    """One call of `token_steps`."""

    def __init__(self, core: _core.Model, config: GenerationConfig, call: Call, n_rows: int, record: Record | None) -> None:
        self.core, self.config, self._record = core, config, record
        self._rules = Rules(config, call, core)
        self._drafter: Drafter | None = make_drafter(config, call)
        # Functions of the caller that expect a rectangular batch get one: finished rows go on with the fill token.
        self._lockstep = self._rules.needs_whole_batch and n_rows > 1
        if self._lockstep and self._drafter is not None:
            raise InputError(
                "with assistant_model or prompt_lookup_num_tokens rows do not advance together, so output_scores, "
                "output_logits, and functions in logits_processor and stopping_criteria need a batch of one"
            )
        # Of the step that is being done: when it began, and its tokens.
        self._started, self._n_tokens = 0.0, 0

    def row(
        self,
        index: int,
        cache: _core.KVCache,
        prompt: NDArray[np.int32],
        width: int,
        limit: int,
        seed: int,
        logits: Logits,
    ) -> Row:
        """A row at its beginning."""
        from gptbigcode_cpu import _core

        pads = max(0, width - len(prompt))
        ids = np.full(pads + len(prompt) + limit, self._rules.fill, dtype=np.int32)
        prompt_length = pads + len(prompt)
        ids[pads:prompt_length] = prompt
        chain = self._rules.chain(prompt_length, len(ids))
        sampler = _core.Sampler(seed=seed, **chain.sampler_options)
        row = Row(index, cache, ids, pads, prompt_length, prompt_length, chain, sampler, seed, logits)
        if self._drafter is not None:
            self._drafter.begin(row)
        return row

    def advance(self, rows: Sequence[Row]) -> dict[int, list[int]]:
        """Choose the next tokens, and find out which rows are finished."""
        if self._lockstep:
            return self._advance_together(rows)
        step = {row.index: self._verify(row) for row in rows}
        if self._drafter is not None and self._n_tokens:
            self._drafter.measured(self._n_tokens, time.perf_counter() - self._started)
        return step

    def remaining(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that go on."""
        if self._lockstep:
            return [] if all(row.finished for row in rows) else list(rows)
        return [row for row in rows if not row.finished]

    def forward(self, rows: Sequence[Row]) -> None:
        """Run the last token and the draft of every row."""
        self._n_tokens = 0
        if not rows:
            return
        if self._drafter is not None:
            self._started = time.perf_counter()
            for row, draft in zip(rows, self._drafter.propose(rows), strict=True):
                row.draft = draft
        caches, tokens, counts = [], [], []
        for row in rows:
            last, drafted = row.ids[row.length - 1 : row.length], row.draft.tokens
            caches.append(row.cache)
            tokens.append(np.append(last, drafted) if len(drafted) else last)
            counts.append(len(drafted) + 1)
        logits = self.core.forward(caches, tokens, counts)
        for row in rows:
            first, self._n_tokens = self._n_tokens, self._n_tokens + len(row.draft.tokens) + 1
            row.logits = logits[first : self._n_tokens]

    def _verify(self, row: Row) -> list[int]:
        """Choose tokens as long as they are those of the draft, and one more."""
        draft = row.draft
        tokens: list[int] = []
        for position, logits in enumerate(row.logits):
            drafted = int(draft.tokens[position]) if position < len(draft.tokens) else None
            if drafted is not None and draft.probabilities is not None:
                assert self._drafter is not None
                scores = row.chain.complete([row], row.ids[None, : row.length].astype(np.int64), logits[None])[0]
                token = self._drafter.accept(row, drafted, scores, draft.probabilities[position])
                self._keep(logits[None], scores[None])
            else:
                token = _sample(row, self._for_samplers([row], [logits])[0], logits)
            row.add(token, self._rules.eos)
            tokens.append(token)
            self._ask_criteria([row])
            if row.finished or token != drafted:
                break
        if self._drafter is not None:
            self._drafter.verified(row, draft, tokens)
            if len(draft.tokens) and not row.finished:
                row.cache.truncate(row.length - row.pads - 1)
        return tokens

    def _advance_together(self, rows: Sequence[Row]) -> dict[int, list[int]]:
        tokens = {}
        logits = [row.logits[0] for row in rows]
        for row, scores, unprocessed in zip(rows, self._for_samplers(rows, logits), logits, strict=True):
            token = _sample(row, scores, unprocessed)
            if row.finished:
                token = self._rules.fill
            row.add(token, self._rules.eos)
            tokens[row.index] = [token]
        self._ask_criteria(rows)
        return tokens

    def _for_samplers(self, rows: Sequence[Row], logits: Sequence[Logits]) -> Sequence[Logits]:
        """What the samplers of rows of equal length choose by."""
        chain = rows[0].chain
        if chain.is_native and self._record is None:
            return logits
        ids, stacked = _ids(rows), np.stack(logits)
        scores = chain.before_sampler(rows, ids, stacked)
        if self._record is not None:
            self._keep(stacked, chain.instead_of_sampler(rows, ids, scores))
        return list(scores)

    def _keep(self, logits: Logits, scores: Logits) -> None:
        if self._record is not None:
            self._record.logits.append(logits.copy())
            self._record.scores.append(scores)

    def _ask_criteria(self, rows: Sequence[Row]) -> None:
        """Finish rows of equal length for whatever reason besides end tokens and length there is."""
        if not self._rules.criteria:
            return
        ids = _ids(rows)
        history = self._record.scores if self._record is not None and self.config.output_scores else None
        for criterion in self._rules.criteria:
            for row, finished in zip(rows, criterion(ids, history), strict=True):
                row.finished |= bool(finished)


def _ids(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Padding, prompt and output of rows of equal length, int64 ``[rows, tokens]``."""
    return np.stack([row.ids[: row.length] for row in rows]).astype(np.int64)


def check_logits(logits: Logits) -> None:
    """Raises:
    FormatError: They are NaN.
    """
    if np.isnan(logits).any():
        raise FormatError("the model computes NaN, so its weights are damaged; convert the checkpoint again")


def _sample(row: Row, scores: Logits, logits: Logits) -> int:
    try:
        return row.sampler.sample(scores, row.tokens)
    except ValueError as error:
        check_logits(logits)
        raise InputError(f"no token can be chosen: {error}; look at logit_bias and the logits processors") from error


def call_seed(config: GenerationConfig) -> int:
    """The seed of a call. Without sampling nothing is drawn, so that no generator of the caller moves on."""
    if config.seed is not None:
        return int(config.seed)
    return drawn_seed() if config.do_sample else 0


def row_seed(seed: int, row: int) -> int:
    """A seed per row: steps of the 64-bit golden ratio, the increments of SplitMix64, never repeat."""
    return (seed + row * 0x9E3779B97F4A7C15) % 2**64
