"""Where the time of a call goes: phase by phase of the network, and outside the core.

A phase is a piece of work of a layer that threads share, such as a linear layer or attention; the next one starts when its last
item is done. What a thread does not spend at work in a phase it waits: for the last item, or for the operating system.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import _core


@dataclass(frozen=True)
class Phase:
    """One kind of phase, over all layers of one call.

    Attributes:
        name: What is computed.
        seconds: From the first item to the last.
        share: Of the call.
        imbalance: Part of the threads' time in this phase that they did not work.
    """

    name: str
    seconds: float
    share: float
    imbalance: float


@dataclass(frozen=True)
class CallPhases:
    """Mean times of a call.

    Attributes:
        call: What was called.
        seconds: Of one call, seen from Python.
        outside_share: Part of them that no phase accounts for: Python, and preparing the call.
        phases: In the order of the network; those that took no time are left out.
    """

    call: str
    seconds: float
    outside_share: float
    phases: tuple[Phase, ...]


def profile(
    model: _core.Model, name: str, call: Callable[[], object], *, times: int, calls: int = 1, threads: int
) -> CallPhases:
    """Time a call phase by phase.

    Args:
        model: What it calls.
        name: What to call it in the result.
        call: Runs the model.
        times: How often to run it; means are returned.
        calls: Calls of the model within one, such as the tokens that `generate` writes; times are those of one of them.
        threads: That take part.
    """
    model.start_profile()
    start = time.perf_counter()
    try:
        for _ in range(times):
            call()
    finally:
        seconds = time.perf_counter() - start
        found = model.stop_profile()
    phases = tuple(
        Phase(
            name=phase,
            seconds=phase_seconds / times / calls,
            share=phase_seconds / seconds,
            imbalance=max(0.0, 1 - sum(busy) / (threads * phase_seconds)),
        )
        for phase, phase_seconds, busy in found
        if sum(busy) > 0
    )
    return CallPhases(name, seconds / times / calls, 1 - sum(phase.share for phase in phases), phases)
