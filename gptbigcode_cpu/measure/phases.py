"""Measure the time of each phase of a call, and the time outside the core.

A phase is a part of a layer whose work the threads share, such as a linear layer or attention. The next phase starts when the
last item of work is done. A thread that does not work in a phase waits for the last item or for the operating system.
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

DECODE_ROWS = 16  # calls with more new tokens use the prefill threads


@dataclass(frozen=True)
class Phase:
    """One kind of phase, summed over all layers of one call.

    Attributes:
        name: The name of the computation.
        seconds: Seconds from the start of the first item to the end of the last.
        share: Share of the time of the call.
        imbalance: Share of the threads' time in this phase in which they waited.
    """

    name: str
    seconds: float
    share: float
    imbalance: float


@dataclass(frozen=True)
class CallPhases:
    """Mean times of a call.

    Attributes:
        call: The name of the call.
        seconds: Seconds of one call, measured in Python.
        outside_share: Share of this time that belongs to no phase: Python code, and preparing the call.
        phases: The phases in the order of the network, without those that took no time.
    """

    call: str
    seconds: float
    outside_share: float
    phases: tuple[Phase, ...]


def profile(
    model: _core.Model, name: str, call: Callable[[], object], *, times: int, calls: int = 1, threads: int
) -> CallPhases:
    """Measure the time of each phase of a call.

    Args:
        model: The core's model.
        name: The name of the call in the result.
        call: Function that runs the model.
        times: How often to run `call`; the result has means.
        calls: How often `call` runs the model, for example once per token of `generate`. The result is per run of the model.
        threads: Number of threads that take part.
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
    """Profile a prefill and a decode step on top of each kv cache, and a token of `generate`.

    Args:
        loaded: The model.
        past: The kv caches, by their number of tokens.
        prompt: Tokens of the prefill, int32 ``[t]``.
        steps: Number of decode steps to average.
        report: Called with a text that says what is being done.
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
    written = generate().shape[1] - 1  # the first run also imports and allocates what later runs reuse
    found.append(profile(model, "token of generate", generate, times=2, calls=written, threads=model.num_threads))
    return tuple(found)
