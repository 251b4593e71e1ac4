"""Pass the steps of a call to a streamer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common import messages
from gptbigcode_cpu.common.arrays import to_torch
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.foreign import wants_torch
from gptbigcode_cpu.generation.streamers import BaseStreamer, Streamer

if TYPE_CHECKING:
    from gptbigcode_cpu.engine.decoding import Step


@contextmanager
def informed(streamer: Streamer | None) -> Iterator[None]:
    """Tell a streamer when the block has ended: call `fail` after an exception and `end` otherwise.

    Raises:
        InputError: `streamer` lacks a method that a streamer needs.
    """
    if streamer is not None and not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
        given = messages.shown(streamer)
        raise InputError(f"streamer must have the methods put and end, as TextStreamer has; not {given}")
    try:
        yield
    except BaseException as error:
        if isinstance(streamer, BaseStreamer):
            streamer.fail(error)
        elif streamer is not None:  # a streamer of transformers has no method fail
            streamer.end()
        raise
    if streamer is not None:
        streamer.end()


def refuse_with_beams(streamer: Streamer | None) -> None:
    """Refuse a streamer, because a beam search may give up tokens later.

    Raises:
        InputError: There is a streamer.
    """
    if streamer is not None:
        raise InputError("a streamer cannot be used with num_beams: a beam search may give up its first tokens later")


def pass_on(
    steps: Iterable[Step], streamer: Streamer, prompts: NDArray[np.int64], fill: int, torch: bool = False
) -> list[list[int]]:
    """Pass a text to a streamer while it is written: first the prompts, then one token of every row at a time.

    Args:
        steps: New tokens by row, as `Engine.steps` yields them.
        streamer: Receives the tokens.
        prompts: int64 ``[rows, tokens]``.
        fill: The token that fills rows which have ended.
        torch: Whether the prompt is a torch tensor. If so, the caller's own streamers are given torch tensors.

    Returns:
        The new tokens of each row.
    """
    form = to_torch if wants_torch(streamer, torch) else np.asarray
    streamer.put(form(prompts))
    written: list[list[int]] = [[] for _ in prompts]
    place = 0
    for step in steps:
        for row, tokens in step.items():
            written[row] += tokens
        # With speculation one row may be ahead of others.
        complete = min(len(written[row]) for row in step)
        for column in range(place, complete):
            streamer.put(form(_column(written, column, fill)))
        place = max(place, complete)
    for column in range(place, max(map(len, written))):
        streamer.put(form(_column(written, column, fill)))
    return written


def _column(written: Sequence[Sequence[int]], place: int, fill: int) -> NDArray[np.int64]:
    """The token of every row at a place of the output."""
    return np.array([row[place] if place < len(row) else fill for row in written], dtype=np.int64)
