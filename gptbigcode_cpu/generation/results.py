"""Run checked prompts through the engine, and build the results of `generate`, `stream` and the pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.beam import BeamResult
from gptbigcode_cpu.engine.decoding import Step
from gptbigcode_cpu.engine.engine import Engine, Ticket
from gptbigcode_cpu.engine.request import Record, Request
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.cache import DynamicCache
from gptbigcode_cpu.generation.call import GenerateArguments
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.language_model import LanguageModel, PromptBatch
from gptbigcode_cpu.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from gptbigcode_cpu.generation.requests import build_request
from gptbigcode_cpu.generation.rules import fill_token
from gptbigcode_cpu.generation.streamers import Streamer
from gptbigcode_cpu.generation.streaming import informed, pass_on, refuse_with_beams

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

_NO_PROMPT = np.zeros((0, 0), np.int64)


def decode_rows(
    model: LanguageModel,
    batch: PromptBatch,
    limit: int,
    config: GenerationConfig,
    arguments: GenerateArguments,
    *,
    record: Record | None,
    streamer: Streamer | None,
    past: DynamicCache | None,
) -> GenerateDecoderOnlyOutput:
    """Decode without beams.

    Args:
        model: The model.
        batch: The prompts.
        limit: Maximum number of new tokens.
        config: All options, defaults included.
        arguments: The other arguments of the call.
        record: Collects scores and logits.
        streamer: Receives the prompt and then the tokens of every step.
        past: The kv cache of the first columns of the prompts; it grows.
    """
    copies = config.num_return_sequences or 1
    prompts = np.repeat(batch.ids, copies, axis=0)
    request = build_request(
        model,
        batch.rows,
        [limit] * len(batch.rows),
        config,
        arguments,
        width=batch.ids.shape[1],
        record=record,
        caches=_row_caches(model.core, batch, past),
        keep_caches=past is not None or _keeps_cache(config),
    )
    with _submitted(model, request) as ticket:
        written = _written(ticket, streamer, prompts, arguments.torch)
    longest = max(map(len, written))
    new = np.full((len(written), longest), fill_token(config), dtype=np.int64)
    for row, tokens in enumerate(written):
        new[row, : len(tokens)] = tokens
    output = GenerateDecoderOnlyOutput(np.concatenate([prompts, new], axis=1), **_recorded(record, config))
    if request.keep_caches:
        ends = [len(batch.rows[row // copies]) + len(tokens) for row, tokens in enumerate(written)]
        rows = [ticket.caches[row] for row in range(len(written))]
        mask = np.repeat(batch.mask, copies, axis=0)
        output.past_key_values = _grown(model.core, past, rows, ends, mask, longest, config)
    return output


def decode_beams(
    model: LanguageModel,
    batch: PromptBatch,
    limit: int,
    config: GenerationConfig,
    arguments: GenerateArguments,
    *,
    record: Record | None,
    streamer: Streamer | None,
    past: DynamicCache | None,
) -> GenerateBeamDecoderOnlyOutput:
    """Decode with a beam search; arguments as of `decode_rows`.

    Raises:
        InputError: There is a streamer.
    """
    refuse_with_beams(streamer)
    width, n_beams = batch.ids.shape[1], config.num_beams or 1
    limits = [limit] * len(batch.rows)
    caches = _row_caches(model.core, batch, past)
    request = build_request(model, batch.rows, limits, config, arguments, width=width, record=record, caches=caches)
    result = _beams_of(model, request)
    result.sequences[:, :width] = np.repeat(batch.ids, config.num_return_sequences or 1, axis=0)
    output = GenerateBeamDecoderOnlyOutput(result.sequences, **_recorded(record, config))
    output.beam_indices = result.beam_indices.astype(np.int64)
    if config.output_scores:
        output.sequences_scores = result.scores
    prompts = np.repeat([len(row) for row in batch.rows], n_beams)
    ends = [len(cache) + 1 for cache in result.caches]
    steps = int((np.array(ends) - prompts).max())
    mask = np.repeat(batch.mask, n_beams, axis=0)
    output.past_key_values = _grown(model.core, past, result.caches, ends, mask, steps, config)
    return output


def check_stream(config: GenerationConfig | None, arguments: GenerateArguments) -> None:
    """Refuse options and arguments that cannot be used with `stream`, which yields one sequence token by token.

    Raises:
        InputError: Such an option or argument is given.
    """
    if arguments.streamer is not None:
        raise InputError("a stream gives the tokens itself; pass a streamer to generate, or to a call of the pipeline")
    if config is None:
        return
    if (config.num_return_sequences or 1) != 1 or (config.num_beams or 1) != 1:
        raise InputError("stream writes one sequence; use generate for several and for beams")
    if config.return_dict_in_generate:
        raise InputError("stream returns tokens only; use generate with return_dict_in_generate")


def stream_row(
    model: LanguageModel,
    batch: PromptBatch,
    limit: int,
    config: GenerationConfig,
    arguments: GenerateArguments,
    past: DynamicCache | None = None,
) -> Iterator[int]:
    """The new tokens of one row. Errors are raised by this call, not by the first step. Arguments as of `decode_rows`."""
    caches = _row_caches(model.core, batch, past)
    request = build_request(
        model,
        batch.rows,
        [limit],
        config,
        arguments,
        width=batch.ids.shape[1],
        caches=caches,
        keep_caches=past is not None,
    )

    def tokens() -> Iterator[int]:
        written = 0
        caches: dict[int, _core.KVCache] = {}
        try:
            with _submitted(model, request) as ticket:
                caches = ticket.caches
                for step in ticket.engine.steps(ticket):
                    written += len(step[0])
                    yield from step[0]
        finally:  # no step uses the cache any more
            if past is not None and written:
                _grown(model.core, past, [caches[0]], [len(batch.rows[0]) + written], batch.mask, written, config)

    return tokens()


def continued(
    model: LanguageModel,
    prompts: Sequence[NDArray[np.int32]],
    limits: Sequence[int],
    config: GenerationConfig,
    arguments: GenerateArguments,
    max_rows: int | None,
) -> list[list[int]]:
    """The new tokens of every row, without padding on either side; arguments as of `GenerationMixin.continuations`."""
    copies = config.num_return_sequences or 1
    streamer = arguments.streamer
    together = [(0, len(prompts))]
    # One prompt at a time for beams, for a streamer, and for the caller's functions, which need a rectangular batch.
    if config.num_beams != 1 or arguments.logits_processor or arguments.stopping_criteria or streamer is not None:
        together = [(i, i + 1) for i in range(len(prompts))]
    rows: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    for first, stop in together:
        some, some_limits, place = prompts[first:stop], limits[first:stop], first * copies
        request = build_request(model, some, some_limits, config, arguments, first_row=place, max_rows=max_rows)
        if request.beams is not None:
            refuse_with_beams(streamer)
            result = _beams_of(model, request)
            ends = (result.beam_indices >= 0).sum(axis=1)
            for row, (ids, end) in enumerate(zip(result.sequences, ends, strict=True)):
                rows[place + row] = ids[len(some[0]) : len(some[0]) + end].tolist()
            continue
        with informed(streamer), _submitted(model, request) as ticket:
            prompt = np.repeat(some[0][None].astype(np.int64), copies, axis=0) if streamer is not None else _NO_PROMPT
            rows[place : place + request.n_rows] = _written(ticket, streamer, prompt, arguments.torch)
    return rows


def written_steps(
    model: LanguageModel, prompt: NDArray[np.int32], limit: int, config: GenerationConfig, arguments: GenerateArguments
) -> Iterator[Step]:
    """The steps of one prompt. Errors are raised by this call; the work begins when the first step is asked for.

    Raises:
        InputError: See `check_stream` and `build_request`.
    """
    check_stream(config, arguments)
    request = build_request(model, [prompt], [limit], config, arguments)

    def steps() -> Iterator[Step]:
        with _submitted(model, request) as ticket:
            yield from ticket.engine.steps(ticket)

    return steps()


def _beams_of(model: LanguageModel, request: Request) -> BeamResult:
    with _submitted(model, request) as ticket:
        ticket.engine.finish(ticket)
    assert ticket.beams is not None
    return ticket.beams


def _written(ticket: Ticket, streamer: Streamer | None, prompts: NDArray[np.int64], torch: bool) -> list[list[int]]:
    """The new tokens of each row of a request. The streamer, if there is one, sees the prompts and every step."""
    if streamer is None:
        return ticket.engine.finish(ticket)
    return pass_on(ticket.engine.steps(ticket), streamer, prompts, ticket.request.rules.fill, torch)


@contextmanager
def _submitted(model: LanguageModel, request: Request) -> Iterator[Ticket]:
    """A request in the engine of its model, or in one of its own, until the block ends. Then no step uses its kv caches."""
    engine = Engine(model.core) if request.rules.calls_back else model.engine
    ticket = engine.submit(request, collects=True)
    try:
        yield ticket
    finally:
        ticket.engine.cancel(ticket, wait=True)


def _recorded(record: Record | None, config: GenerationConfig) -> dict[str, Any]:
    """The scores and logits that were asked for, as keyword arguments of the output classes."""
    if record is None:
        return {}
    parts = {"scores": config.output_scores, "logits": config.output_logits}
    return {name: tuple(getattr(record, name)) for name, wanted in parts.items() if wanted}


def _keeps_cache(config: GenerationConfig) -> bool:
    return bool(config.return_dict_in_generate) and config.use_cache is not False


def _row_caches(core: _core.Model, batch: PromptBatch, past: DynamicCache | None) -> list[_core.KVCache] | None:
    """Copies of the rows of the caller's cache, so that the cache stays unchanged if the call fails."""
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
    """The cache after a run. It holds all columns but the last one, whose tokens have not been run.

    Args:
        core: The model.
        past: The caller's cache, which grows; None: make a new cache if the options ask for it.
        rows: The kv cache of each row.
        ends: Number of tokens of each row, prompt included.
        prompt_mask: Which columns of the prompt are tokens, bool ``[rows, columns]``.
        steps: Number of new columns.
        config: All options.
    """
    wanted = _keeps_cache(config)
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
