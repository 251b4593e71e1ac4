"""Measure how fast this machine runs a model, and how close that is to the machine's limits.

All measurements are calls of one operation: it runs n new tokens of each of m sequences on top of d cached tokens. The calls
take turns in rounds, so that a change of the machine's speed affects all of them. Ratios are medians of the ratios within a
round.

The machine's limits are measured after every call of every round, and the best value counts. So a share of a limit may be too
low if the machine was slow for a while, but it does not get too high if only a measurement of the limits was slow.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.errors import ContextLengthError
from gptbigcode_cpu.measure.phases import CallPhases, profile_model
from gptbigcode_cpu.store.tensors import QUANTISED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gptbigcode_cpu._core import KVCache, Model
    from gptbigcode_cpu.models.causal_lm import GPTBigCodeForCausalLM
    from gptbigcode_cpu.store.weights import PackedModel

LIMIT_ROWS = (1, 2, 4, 8, 16)  # numbers of rows of the steps that are compared with the limits
_SHORTEST_PREFILL = 32
_CHUNK = 512  # tokens per call while the cache is filled; Ctrl-C takes effect between calls
_READ_AT_MOST = 1 << 30  # bytes of weights that are read to measure bandwidth; more than caches hold

Report = Callable[[str], None]


@dataclass(frozen=True)
class TimedCall:
    """A call that runs `tokens` new tokens of each of `sequences` sequences, on top of `depth` cached tokens."""

    sequences: int
    tokens: int
    depth: int

    def __str__(self) -> str:
        work = f"prefill of {self.tokens}" if self.tokens > 1 else f"step of {self.sequences}"
        return f"{work} at depth {self.depth}"


@dataclass(frozen=True)
class Work:
    """The minimum work of a call.

    Attributes:
        macs: Multiply-adds of the linear layers, of attention, and of the LM head for one row per sequence.
        nbytes: Bytes of the weights and of the kv cache, each read from memory once.
    """

    macs: int
    nbytes: int


@dataclass(frozen=True)
class Limits:
    """The limits of the machine.

    Attributes:
        read_bytes_per_s: Bandwidth of the decode threads together when they only read the weights.
        int8_macs_per_s: int8 multiply-adds in registers per second, of the prefill threads together.
        read_bytes: Bytes of weights that were read repeatedly to measure the bandwidth.
        cache_bytes: Size of the largest cache of the processor, or None if unknown. If `read_bytes` is not larger, the weights
            were read from this cache.
    """

    read_bytes_per_s: float
    int8_macs_per_s: float
    read_bytes: int
    cache_bytes: int | None

    @property
    def from_cache(self) -> bool:
        """Whether the weights fit into the cache, so that its bandwidth was measured instead of the memory's."""
        return self.cache_bytes is not None and self.read_bytes <= self.cache_bytes


@dataclass(frozen=True)
class Timing:
    """The measurements of one call: the median seconds of each round, and the minimum work (see `Work`)."""

    sequences: int
    tokens: int
    depth: int
    seconds: tuple[float, ...]
    macs: int
    nbytes: int
    share_of_bandwidth: float | None
    share_of_int8_peak: float | None

    @property
    def tokens_per_s(self) -> float:
        return self.sequences * self.tokens / statistics.median(self.seconds)

    def relative_to(self, other: Timing) -> float:
        """The ratio of this call's seconds to those of `other`, median over the rounds."""
        return statistics.median(mine / its for mine, its in zip(self.seconds, other.seconds, strict=True))


@dataclass(frozen=True)
class AtDepth:
    """Speed on top of `depth` cached tokens. The shares of the speed at depth 0 are None if depth 0 was not measured."""

    depth: int
    prefill_tokens_per_s: float
    prefill_share_of_empty: float | None
    prefill_share_of_int8_peak: float | None
    decode_tokens_per_s: float
    decode_share_of_empty: float | None
    decode_share_of_bandwidth: float | None


@dataclass(frozen=True)
class StepOfRows:
    """One decode step of `rows` sequences at depth 0, one token each.

    Attributes:
        rows: Number of sequences.
        step_s: Seconds of the step.
        cost: Ratio of its seconds to those of a step of one sequence.
        tokens_per_s: Tokens per second of all sequences together.
        share_of_limit: Speed as a share of the bandwidth limit or the int8 limit, whichever is lower; None without limits.
    """

    rows: int
    step_s: float
    cost: float
    tokens_per_s: float
    share_of_limit: float | None


@dataclass(frozen=True)
class BenchResult:
    """All measurements, with the keys of ``bench --json``. Speeds are medians over `repeat` rounds."""

    model: str
    dtype: str
    isa: str
    threads: int
    prefill_threads: int
    kv_dtype: str
    prompt_tokens: int
    new_tokens: int
    repeat: int
    load_s: float
    time_to_first_token_s: float
    peak_rss_bytes: int
    kv_bytes_per_token: int
    depths: tuple[AtDepth, ...]
    rows: tuple[StepOfRows, ...]
    limits: Limits | None
    calls: tuple[Timing, ...]
    phases: tuple[CallPhases, ...]


def peak_rss_bytes() -> int:
    """The largest resident set size of this process so far in bytes, mapped weights included."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the memory of the parent before exec
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cache_bytes() -> int | None:
    """Bytes of the largest cache of the first processor; None if the system does not report it."""
    units = {"K": 1 << 10, "M": 1 << 20}
    sizes = [file.read_text().strip() for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=None)


def weights_of_a_step(packed: PackedModel) -> list[NDArray[Any]]:
    """The tensors that every call reads completely."""
    head = "lm_head.weight" if "lm_head.weight" in packed.tensors else "transformer.wte.weight"
    return [array for name, array in packed.tensors.items() if ".h." in name or name == head]


def least_work(packed: PackedModel, kv_bytes_per_token: int, call: TimedCall) -> Work:
    """The minimum work of a call."""
    config = packed.config
    weights = sum(array.nbytes for array in weights_of_a_step(packed))
    attention = config.n_embd * (2 * config.n_embd + 2 * config.n_kv_head * config.head_dim)
    linear = config.n_layer * (attention + 2 * config.n_embd * config.n_inner)
    # Each new token attends to all cached tokens, to the new ones before it, and to itself: for the scores and for the values.
    pairs = call.tokens * call.depth + call.tokens * (call.tokens + 1) // 2
    per_sequence = call.tokens * linear + 2 * config.n_layer * config.n_embd * pairs + config.vocab_size * config.n_embd
    cached = call.sequences * (call.depth + call.tokens) * kv_bytes_per_token
    return Work(macs=call.sequences * per_sequence, nbytes=weights + cached)


def measure(
    path: Path,
    *,
    depths: Sequence[int] = (0,),
    rows: Sequence[int] = (),
    limits: bool = False,
    phases: bool = False,
    prompt_tokens: int = 512,
    new_tokens: int = 64,
    repeat: int = 3,
    threads: int | None = None,
    prefill_threads: int | None = None,
    kv_dtype: str = "auto",
    report: Report = lambda _: None,
) -> BenchResult:
    """Measure a converted model on random tokens.

    Args:
        path: Directory of the converted model.
        depths: Numbers of cached tokens. At each depth, one prefill and decoding are measured.
        rows: Numbers of sequences in one decode step.
        limits: Measure the machine's limits as well, and also prefills of other lengths and, unless `rows` is given, steps of
            `LIMIT_ROWS`.
        phases: Finally profile prefill and decoding at each of `depths`, and `generate`, phase by phase.
        prompt_tokens: Number of tokens of one prefill.
        new_tokens: Number of decode steps per round, also for each of `rows`.
        repeat: Number of rounds.
        threads: Number of threads; None: the default.
        prefill_threads: Number of threads for calls with more than 16 tokens; None: `threads`.
        kv_dtype: Storage type of the kv cache, as in `from_pretrained`.
        report: Called with a text that says what is being done.

    Raises:
        ContextLengthError: The tokens do not fit into the model's positions.
    """
    import numpy as np

    from gptbigcode_cpu._core import KVCache, Sampler
    from gptbigcode_cpu.models.causal_lm import GPTBigCodeForCausalLM

    report("loading")
    start = time.perf_counter()
    loaded = GPTBigCodeForCausalLM.from_pretrained(
        path, num_threads=threads, prefill_threads=prefill_threads, kv_dtype=kv_dtype
    )
    load_s = time.perf_counter() - start
    model, packed, positions = loaded.core, loaded._packed, loaded.config.n_positions
    longest = max(depths) + max(prompt_tokens, new_tokens)
    if longest > positions:
        raise ContextLengthError(f"depth and new tokens need {longest} positions, the model has {positions}; ask for fewer")

    prompt = np.random.default_rng(0).integers(0, loaded.config.vocab_size, prompt_tokens, dtype=np.int32)
    report(f"first prefill of {prompt_tokens}")
    logits = model.forward([KVCache(model)], [prompt], [1])
    Sampler().sample(logits[0], prompt)
    time_to_first_token_s = time.perf_counter() - start

    rows = tuple(dict.fromkeys(rows or (LIMIT_ROWS if limits else ())))
    depths = tuple(dict.fromkeys(depths))
    lengths = [1 << i for i in range(prompt_tokens.bit_length()) if _SHORTEST_PREFILL <= 1 << i < prompt_tokens]
    calls = [TimedCall(1, tokens, depth) for depth in depths for tokens in (prompt_tokens, 1)]
    calls += [TimedCall(count, 1, 0) for count in ((1, *rows) if rows else ())]
    calls += [TimedCall(1, tokens, 0) for tokens in (*lengths, prompt_tokens)] if limits else []
    measured: list[Limits] = []
    after_call = (lambda: measured.append(_measure_limits(packed, model))) if limits else (lambda: None)
    seconds = _time(loaded, [*dict.fromkeys(calls)], after_call, steps=new_tokens, repeat=repeat, report=report)
    machine = _best(measured) if limits else None
    timings = {
        call: _timing(call, of_rounds, least_work(packed, model.kv_bytes_per_token, call), packed.dtype, machine)
        for call, of_rounds in seconds.items()
    }
    return BenchResult(
        model=str(path),
        dtype=loaded.dtype,
        isa=model.isa,
        threads=model.num_threads,
        prefill_threads=model.prefill_threads,
        kv_dtype=loaded.kv_dtype,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeat=repeat,
        load_s=load_s,
        time_to_first_token_s=time_to_first_token_s,
        peak_rss_bytes=peak_rss_bytes(),
        kv_bytes_per_token=model.kv_bytes_per_token,
        depths=tuple(_at_depth(timings, depth, prompt_tokens) for depth in depths),
        rows=tuple(_step_of_rows(timings[TimedCall(count, 1, 0)], timings[TimedCall(1, 1, 0)]) for count in rows),
        limits=machine,
        calls=tuple(timings.values()),
        phases=_profile(loaded, depths, prompt_tokens, new_tokens, report) if phases else (),
    )


def _time(
    loaded: GPTBigCodeForCausalLM,
    calls: Sequence[TimedCall],
    after_call: Callable[[], None],
    *,
    steps: int,
    repeat: int,
    report: Report,
) -> dict[TimedCall, tuple[float, ...]]:
    """Seconds of each call in each round. For single-token calls, it is the median of `steps` calls per round."""
    import numpy as np

    from gptbigcode_cpu._core import KVCache

    model, random = loaded.core, np.random.default_rng(1)

    def random_tokens(count: int) -> NDArray[np.int32]:
        return random.integers(0, loaded.config.vocab_size, count, dtype=np.int32)

    past = _filled({call.depth for call in calls}, KVCache(model), random_tokens, loaded, report)

    def one_round(call: TimedCall) -> float:
        caches = [past[call.depth].fork() for _ in range(call.sequences)]
        seconds = []
        for _ in range(steps if call.tokens == 1 else 1):
            tokens = [random_tokens(call.tokens) for _ in caches]
            start = time.perf_counter()
            model.forward(caches, tokens, [1] * len(caches))
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    seconds: dict[TimedCall, list[float]] = {call: [] for call in calls}
    for number in range(repeat):
        for call in calls:
            report(f"round {number + 1} of {repeat}: {call}")
            seconds[call].append(one_round(call))
            after_call()
    return {call: tuple(of_rounds) for call, of_rounds in seconds.items()}


def _profile(
    loaded: GPTBigCodeForCausalLM, depths: Sequence[int], prompt_tokens: int, new_tokens: int, report: Report
) -> tuple[CallPhases, ...]:
    import numpy as np

    from gptbigcode_cpu._core import KVCache

    random, vocab_size = np.random.default_rng(2), loaded.config.vocab_size

    def random_tokens(count: int) -> NDArray[np.int32]:
        return random.integers(0, vocab_size, count, dtype=np.int32)

    past = _filled(set(depths), KVCache(loaded.core), random_tokens, loaded, report)
    return profile_model(loaded, past, random_tokens(prompt_tokens), new_tokens, report)


def _filled(
    depths: set[int],
    cache: KVCache,
    random_tokens: Callable[[int], NDArray[np.int32]],
    loaded: GPTBigCodeForCausalLM,
    report: Report,
) -> dict[int, KVCache]:
    """A kv cache of random tokens for each depth. The caches share their common tokens."""
    caches = {}
    for depth in sorted(depths):
        while len(cache) < depth:
            report(f"filling the cache: {len(cache)} of {max(depths)} tokens")
            loaded.core.forward([cache], [random_tokens(min(_CHUNK, depth - len(cache)))], [0])
        caches[depth] = cache.fork()
    return caches


def _measure_limits(packed: PackedModel, model: Model) -> Limits:
    from gptbigcode_cpu._core import measure_int8_peak, measure_read_bandwidth

    read: list[NDArray[Any]] = []
    for array in weights_of_a_step(packed):
        if sum(other.nbytes for other in read) < _READ_AT_MOST:
            read.append(array)
    return Limits(
        read_bytes_per_s=measure_read_bandwidth(read, model.isa, model.num_threads),
        int8_macs_per_s=measure_int8_peak(model.isa, model.prefill_threads),
        read_bytes=sum(array.nbytes for array in read),
        cache_bytes=cache_bytes(),
    )


def _best(measured: Sequence[Limits]) -> Limits:
    return replace(
        measured[0],
        read_bytes_per_s=max(limits.read_bytes_per_s for limits in measured),
        int8_macs_per_s=max(limits.int8_macs_per_s for limits in measured),
    )


def _timing(call: TimedCall, seconds: tuple[float, ...], work: Work, dtype: str, limits: Limits | None) -> Timing:
    median = statistics.median(seconds)
    quantized = dtype in QUANTISED  # float weights are not multiplied as int8
    return Timing(
        sequences=call.sequences,
        tokens=call.tokens,
        depth=call.depth,
        seconds=seconds,
        macs=work.macs,
        nbytes=work.nbytes,
        share_of_bandwidth=work.nbytes / median / limits.read_bytes_per_s if limits else None,
        share_of_int8_peak=work.macs / median / limits.int8_macs_per_s if limits and quantized else None,
    )


def _at_depth(timings: dict[TimedCall, Timing], depth: int, prompt_tokens: int) -> AtDepth:
    prefill, decode = timings[TimedCall(1, prompt_tokens, depth)], timings[TimedCall(1, 1, depth)]
    empty_prefill, empty_decode = timings.get(TimedCall(1, prompt_tokens, 0)), timings.get(TimedCall(1, 1, 0))
    return AtDepth(
        depth=depth,
        prefill_tokens_per_s=prefill.tokens_per_s,
        prefill_share_of_empty=empty_prefill.relative_to(prefill) if empty_prefill else None,
        prefill_share_of_int8_peak=prefill.share_of_int8_peak,
        decode_tokens_per_s=decode.tokens_per_s,
        decode_share_of_empty=empty_decode.relative_to(decode) if empty_decode else None,
        decode_share_of_bandwidth=decode.share_of_bandwidth,
    )


def _step_of_rows(step: Timing, one: Timing) -> StepOfRows:
    shares = [share for share in (step.share_of_bandwidth, step.share_of_int8_peak) if share is not None]
    return StepOfRows(
        rows=step.sequences,
        step_s=statistics.median(step.seconds),
        cost=step.relative_to(one),
        tokens_per_s=step.tokens_per_s,
        share_of_limit=max(shares, default=None),
    )
