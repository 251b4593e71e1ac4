"""From a checked batch to what `generate` and `stream` return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.beam import beam_search
from gptbigcode_cpu.engine.rows import Record, record_parts, token_steps
from gptbigcode_cpu.generation.cache import DynamicCache
from gptbigcode_cpu.generation.call import Call
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gptbigcode_cpu.generation.streamers import Streamer
from gptbigcode_cpu.generation.streaming import fill_token, refuse_with_beams, shown

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.models.causal_lm import _Batch


def decode_rows(
    core: _core.Model,
    batch: _Batch,
    limit: int,
    config: GenerationConfig,
    call: Call,
    *,
    record: Record | None,
    streamer: Streamer | None,
    past: DynamicCache | None,
) -> GenerateDecoderOnlyOutput:
    """Decode without beams.

    Args:
        core: The model.
        batch: The prompts.
        limit: New tokens at most.
        config: All options, defaults included.
        call: The other arguments.
        record: Collects scores and logits.
        streamer: Receives the prompt and every step's tokens.
        past: What the rows have seen before; it grows.
    """
    copies = config.num_return_sequences or 1
    prompts = np.repeat(batch.ids, copies, axis=0)
    fill = fill_token(config)
    written: list[list[int]] = [[] for _ in prompts]
    caches = _row_caches(core, batch, past)
    kept: dict[int, _core.KVCache] = {}
    width = batch.ids.shape[1]
    steps = token_steps(
        core, batch.rows, [limit] * len(batch.rows), config, call, width=width, record=record, caches=caches, kept=kept
    )
    for step in shown(steps, streamer, prompts, fill, call.torch):
        for row, tokens in step.items():
            written[row] += tokens
    longest = max(map(len, written))
    new = np.full((len(written), longest), fill, dtype=np.int64)
    for row, tokens in enumerate(written):
        new[row, : len(tokens)] = tokens
    output = GenerateDecoderOnlyOutput(np.concatenate([prompts, new], axis=1), **record_parts(record, config))
    ends = [len(batch.rows[row // copies]) + len(tokens) for row, tokens in enumerate(written)]
    rows = [kept[row] for row in range(len(written))]
    output.past_key_values = _grown(core, past, rows, ends, np.repeat(batch.mask, copies, axis=0), longest, config)
    return output


def decode_beams(
    core: _core.Model,
    batch: _Batch,
    limit: int,
    config: GenerationConfig,
    call: Call,
    *,
    record: Record | None,
    streamer: Streamer | None,
    past: DynamicCache | None,
) -> GenerateBeamDecoderOnlyOutput:
    """Decode with beams; arguments as of `decode_rows`.

    Raises:
        InputError: There is a streamer.
    """
    refuse_with_beams(streamer)
    width, n_beams = batch.ids.shape[1], config.num_beams or 1
    caches = _row_caches(core, batch, past)
    result = beam_search(core, batch.rows, limit, config, call, width=width, record=record, caches=caches)
    result.sequences[:, :width] = np.repeat(batch.ids, config.num_return_sequences or 1, axis=0)
    output = GenerateBeamDecoderOnlyOutput(result.sequences, **record_parts(record, config))
    output.beam_indices = result.beam_indices.astype(np.int64)
    if config.output_scores:
        output.sequences_scores = result.scores
    prompts = np.repeat([len(row) for row in batch.rows], n_beams)
    ends = [len(cache) + 1 for cache in result.caches]
    steps = int((np.array(ends) - prompts).max())
    output.past_key_values = _grown(core, past, result.caches, ends, np.repeat(batch.mask, n_beams, axis=0), steps, config)
    return output


def stream_row(
    core: _core.Model, batch: _Batch, limit: int, config: GenerationConfig, call: Call, past: DynamicCache | None
) -> Iterator[int]:
    """The new tokens of one row; mistakes show at the call. Arguments as of `decode_rows`."""
    kept: dict[int, _core.KVCache] = {}
    caches = _row_caches(core, batch, past)
    steps = token_steps(core, batch.rows, [limit], config, call, width=batch.ids.shape[1], caches=caches, kept=kept)

    def tokens() -> Iterator[int]:
        written = 0
        try:
            for step in steps:
                written += len(step[0])
                yield from step[0]
        finally:
            if past is not None and written:
                _grown(core, past, [kept[0]], [len(batch.rows[0]) + written], batch.mask, written, config)

    return tokens()


def _row_caches(core: _core.Model, batch: _Batch, past: DynamicCache | None) -> list[_core.KVCache] | None:
    """Copies of a caller's cache for the rows: one that stays as it was if the call fails."""
    if past is None or not past.is_initialized:
        return None
    return [row.fork() for row in past.rows_for(core, len(batch.rows))]


def _grown(
    core: _core.Model,
    past: DynamicCache | None,
    rows: Sequence[_core.KVCache],
    ends: Sequence[int],
    prompt_mask: NDArray[np.bool_],
    steps: int,
    config: GenerationConfig,
) -> DynamicCache | None:
    """The cache after a run: of all columns but the last one, whose tokens have not been run.

    Args:
        core: The model.
        past: The caller's, which is to grow; None: a new one, if it is wanted.
        rows: The caches of the rows.
        ends: Tokens of each row, prompt included.
        prompt_mask: Which columns of the prompt are tokens, bool ``[rows, columns]``.
        steps: New columns.
        config: All options.
    """
    wanted = bool(config.return_dict_in_generate) and config.use_cache is not False
    if past is None and not wanted:
        return None
    mask = np.zeros((len(rows), prompt_mask.shape[1] + steps - 1), dtype=np.bool_)
    mask[:, : prompt_mask.shape[1]] = prompt_mask
    for i, (row, end) in enumerate(zip(rows, ends, strict=True)):
        row.truncate(min(len(row), end - 1))
        new = len(row) - int(prompt_mask[i].sum())
        mask[i, prompt_mask.shape[1] : prompt_mask.shape[1] + new] = True
    cache = DynamicCache() if past is None else past
    cache.grown(core, rows, mask)
    return cache if wanted else None
