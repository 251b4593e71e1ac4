"""Run whole texts: prompts of the draft model, and texts that need logits at every position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

# Maximum number of tokens in one call of the core. Ctrl-C or closing an iterator waits for at most one call.
CHUNK_TOKENS = 512


def text_logits(core: _core.Model, prompts: Sequence[NDArray[np.int32]]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Logits at every position of several texts.

    Yields:
        ``(i, start, logits)``: the logits of text i from position `start` on, float32 ``[tokens, vocab]``.
    """
    from gptbigcode_cpu import _core

    caches = [_core.KVCache(core) for _ in prompts]
    for parts in _chunks([len(prompt) for prompt in prompts]):
        logits = core.forward(
            [caches[i] for i, _, _ in parts],
            [prompts[i][start:stop] for i, start, stop in parts],
            [stop - start for _, start, stop in parts],
        )
        done = 0
        for i, start, stop in parts:
            yield i, start, logits[done : done + stop - start]
            done += stop - start


def prefill(
    core: _core.Model, prompts: Sequence[NDArray[np.int32]], caches: Sequence[_core.KVCache] | None = None
) -> list[tuple[_core.KVCache, NDArray[np.float32]]]:
    """Run prompts; return for each its kv cache, and the logits ``[vocab]`` after its last token.

    Args:
        core: The model.
        prompts: int32 ``[t_i]``, none of them empty.
        caches: For each prompt, the kv cache of its first tokens, but not of all; default: none.
    """
    from gptbigcode_cpu import _core

    caches = caches or [_core.KVCache(core) for _ in prompts]
    prompts = [prompt[len(cache) :] for prompt, cache in zip(prompts, caches, strict=True)]
    last_logits: dict[int, NDArray[np.float32]] = {}
    for parts in _chunks([len(prompt) for prompt in prompts]):
        ends = [i for i, _, stop in parts if stop == len(prompts[i])]
        logits = core.forward(
            [caches[i] for i, _, _ in parts],
            [prompts[i][start:stop] for i, start, stop in parts],
            [int(stop == len(prompts[i])) for i, _, stop in parts],
        )
        last_logits.update(zip(ends, logits, strict=True))
    return [(cache, last_logits[i]) for i, cache in enumerate(caches)]


def _chunks(lengths: Sequence[int]) -> Iterator[list[tuple[int, int, int]]]:
    """Divide sequences into calls of up to `CHUNK_TOKENS` tokens: lists of ``(sequence, start, stop)``."""
    parts: list[tuple[int, int, int]] = []
    room = CHUNK_TOKENS
    for i, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            parts.append((i, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield parts
                parts, room = [], CHUNK_TOKENS
    if parts:
        yield parts
