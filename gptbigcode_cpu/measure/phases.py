"""Where the time of a call goes: phase by phase of the network, and outside the core.

A phase is a piece of work of a layer that threads share, such as a linear layer or attention; the next one starts when its last
item is done. What a thread does not spend at work in a phase it waits: for the last item, or for the operating system.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gptbigcode_cpu import _core
    from gptbigcode_cpu.models.causal_lm import GPTBigCodeForCausalLM

DECODE_ROWS = 16  # more new tokens than this run on the threads for prefill


@dataclass(frozen=True)
class Phase:
    """One kind of phase, over all layers of one call.

    Attributes:
        name: The computation.
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
        call: The kind of call.
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
        model: The model that it calls.
        name: Its name in the result.
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


def profile_model(
    loaded: GPTBigCodeForCausalLM,
    past: dict[int, _core.KVCache],
    prompt: NDArray[np.int32],
    steps: int,
    report: Callable[[str], None],
) -> tuple[CallPhases, ...]:
    """Profile a prefill and a step on top of each cache, and what `generate` adds to a step.

    Args:
        loaded: The model.
        past: Caches by the number of their tokens.
        prompt: Tokens of the prefill, int32 ``[t]``.
        steps: Single-token steps to take the mean of.
        report: Told what is being done.
    """
    model = loaded.core
    found = []

    def forward(cache: _core.KVCache, tokens: NDArray[np.int32]) -> None:
        model.forward([cache.fork()], [tokens], [1])

    for depth, cache in past.items():
        for tokens, name, times in ((prompt, f"prefill of {len(prompt)}", 2), (prompt[:1], "step of 1", steps)):
            report(f"phases of a {name} at depth {depth}")
            threads = model.prefill_threads if len(tokens) > DECODE_ROWS else model.num_threads
            found.append(
                profile(model, f"{name} at depth {depth}", partial(forward, cache, tokens), times=times, threads=threads)
            )
    report("phases of generate")
    generate = partial(loaded.generate, prompt[None, :1], max_new_tokens=steps)
    written = generate().shape[1] - 1  # also imports and allocates what is needed once
    found.append(profile(model, "token of generate", generate, times=2, calls=written, threads=model.num_threads))
    return tuple(found)
