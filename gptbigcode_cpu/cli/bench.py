"""``gptbigcode-cpu bench``: how fast this machine runs a model."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gptbigcode_cpu.cli.options import debug_option, human_bytes, json_option, load_dtype_option, threads_option
from gptbigcode_cpu.errors import ContextLengthError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gptbigcode_cpu._core import KVCache, Model

_CHUNK = 512  # tokens per call while the cache is filled to the depth: Ctrl-C is answered between calls


def peak_rss_bytes() -> int:
    """The largest resident set this process has had, mapped weights included."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the parent before exec
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _fill(model: Model, cache: KVCache, tokens: NDArray[np.int32]) -> None:
    for start in range(0, len(tokens), _CHUNK):
        model.forward([cache], [tokens[start : start + _CHUNK]], [0])


@dataclass(frozen=True)
class BenchResult:
    """What was measured; the keys of ``bench --json``."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    time_to_first_token_s: float
    load_s: float
    peak_rss_bytes: int
    isa: str
    threads: int
    model: str
    dtype: str
    prompt_tokens: int
    new_tokens: int
    depth: int


@dataclass(frozen=True)
class Limits:
    """What the machine can do at best, and how near the model comes; more keys of ``bench --json``.

    Attributes:
        read_bytes_per_s: Read bandwidth of the threads together.
        int8_macs_per_s: int8 multiply-adds on registers.
        decode_share_of_bandwidth: Weights read per second of decoding, as a part of the bandwidth.
        prefill_share_of_int8_peak: Multiply-adds of the blocks' linear layers per second of prefill, as a part of the peak;
            None for float weights.
    """

    read_bytes_per_s: float
    int8_macs_per_s: float
    decode_share_of_bandwidth: float
    prefill_share_of_int8_peak: float | None


def measure_limits(path: Path, result: BenchResult) -> Limits:
    """Measure the machine with the threads and the kernel set of `result`, a measurement of the model in `path`."""
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.weights import open_packed

    packed = open_packed(path)
    config = packed.config
    head = "lm_head.weight" if "lm_head.weight" in packed.tensors else "transformer.wte.weight"
    read = sum(array.nbytes for name, array in packed.tensors.items() if ".h." in name or name == head)
    attention = config.n_embd * (2 * config.n_embd + 2 * config.n_kv_head * config.head_dim)
    macs = config.n_layer * (attention + 2 * config.n_embd * config.n_inner)
    bandwidth = _core.measure_read_bandwidth(result.threads)
    peak = _core.measure_int8_peak(result.isa, result.threads)
    quantized = packed.dtype in ("int8", "int4")
    return Limits(
        read_bytes_per_s=bandwidth,
        int8_macs_per_s=peak,
        decode_share_of_bandwidth=result.decode_tokens_per_s * read / bandwidth,
        prefill_share_of_int8_peak=result.prefill_tokens_per_s * macs / peak if quantized else None,
    )


def measure(path: Path, *, prompt_tokens: int, new_tokens: int, depth: int, threads: int | None, repeat: int) -> BenchResult:
    """Measure a converted model.

    Args:
        path: Converted model directory.
        prompt_tokens: Tokens of one prefill.
        new_tokens: Single-token steps of one decode run.
        depth: Tokens that the cache holds before each prefill and each decode run.
        threads: None = default.
        repeat: Runs of each; the medians count.

    Raises:
        ContextLengthError: The tokens do not fit into the model's positions.
    """
    import numpy as np

    from gptbigcode_cpu._core import KVCache, Sampler
    from gptbigcode_cpu.modeling import GPTBigCodeForCausalLM

    start = time.perf_counter()
    loaded = GPTBigCodeForCausalLM.from_pretrained(path, num_threads=threads)
    model, config = loaded.core, loaded.config
    load_s = time.perf_counter() - start

    longest = depth + max(prompt_tokens, new_tokens)
    if longest > config.n_positions:
        raise ContextLengthError(
            f"depth and new tokens need {longest} positions, the model has {config.n_positions}; ask for fewer"
        )

    random = np.random.default_rng(0)

    def random_tokens(count: int) -> NDArray[np.int32]:
        return random.integers(0, config.vocab_size, count, dtype=np.int32)

    prompt = random_tokens(prompt_tokens)
    logits = model.forward([KVCache(model)], [prompt], [1])
    Sampler().sample(logits[0], prompt)
    time_to_first_token_s = time.perf_counter() - start

    cache = KVCache(model)
    _fill(model, cache, random_tokens(depth))

    def prefill() -> None:
        model.forward([cache], [prompt], [1])

    def decode() -> None:
        for token in steps:
            model.forward([cache], [token], [1])

    prefill_s, decode_s = [], []
    steps = random_tokens(new_tokens).reshape(new_tokens, 1)
    for _ in range(repeat):
        prefill_s.append(_seconds(prefill))
        cache.truncate(depth)
        decode_s.append(_seconds(decode))
        cache.truncate(depth)

    return BenchResult(
        prefill_tokens_per_s=prompt_tokens / statistics.median(prefill_s),
        decode_tokens_per_s=new_tokens / statistics.median(decode_s),
        time_to_first_token_s=time_to_first_token_s,
        load_s=load_s,
        peak_rss_bytes=peak_rss_bytes(),
        isa=model.isa,
        threads=model.num_threads,
        model=str(path),
        dtype=loaded.dtype,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        depth=depth,
    )


@click.command()
@click.argument("model", default="demo")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens of one prefill.")
@click.option("--new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens decoded one by one.")
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Tokens already in the cache before both measurements.",
)
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each; medians are printed.")
@click.option("--limits", is_flag=True, help="Measure the machine too: read bandwidth and int8 peak.")
@load_dtype_option
@threads_option
@json_option
@debug_option
def bench(
    model: str,
    prompt_tokens: int,
    new_tokens: int,
    depth: int,
    repeat: int,
    limits: bool,
    dtype: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure prefill and decode speed of MODEL (default: the packaged demo model).

    Prompts are random tokens. Prefill is one call with all prompt tokens, decode is one call per token, both on top of --depth
    cached tokens. Time to first token runs from opening the files to the first sampled token of a prompt, the first time.

    \b
    Examples:
      gptbigcode-cpu bench
      gptbigcode-cpu bench starcoder-1b-int4 --threads 2 --depth 4096
      gptbigcode-cpu bench starcoder-1b-int4 --limits
      gptbigcode-cpu bench starcoder-1b-int4 --json
    """
    from gptbigcode_cpu.hub import packed_dir
    from gptbigcode_cpu.progress import progress_bar

    with progress_bar() as progress:
        path = packed_dir(model, dtype=dtype, progress=progress)
    result = measure(path, prompt_tokens=prompt_tokens, new_tokens=new_tokens, depth=depth, threads=threads, repeat=repeat)
    machine = measure_limits(path, result) if limits else None
    if as_json:
        click.echo(json.dumps(asdict(result) | (asdict(machine) if machine else {})))
        return
    click.echo(f"model                {result.model} ({result.dtype})")
    click.echo(f"kernels, threads     {result.isa}, {result.threads}")
    click.echo(f"prefill              {result.prefill_tokens_per_s:.1f} tokens/s ({prompt_tokens} tokens at depth {depth})")
    click.echo(f"decode               {result.decode_tokens_per_s:.1f} tokens/s ({new_tokens} tokens at depth {depth})")
    click.echo(f"time to first token  {result.time_to_first_token_s:.3f} s")
    click.echo(f"load                 {result.load_s:.3f} s")
    click.echo(f"peak memory          {human_bytes(result.peak_rss_bytes)}")
    if machine:
        bandwidth, peak = machine.read_bytes_per_s, machine.int8_macs_per_s
        click.echo(f"read bandwidth       {human_bytes(bandwidth)}/s; decode uses {machine.decode_share_of_bandwidth:.0%}")
        share = machine.prefill_share_of_int8_peak
        used = "" if share is None else f"; prefill uses {share:.0%}"
        click.echo(f"int8 peak            {peak / 1e9:.0f} billion multiply-adds/s{used}")
