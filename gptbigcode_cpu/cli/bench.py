"""``gptbigcode-cpu bench``: how fast this machine runs a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gptbigcode_cpu.cli.model_name import ModelName
from gptbigcode_cpu.cli.options import (
    debug_option,
    json_option,
    kv_dtype_option,
    load_dtype_option,
    plot_option,
    prefill_threads_option,
    threads_option,
)
from gptbigcode_cpu.common.sizes import human_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from gptbigcode_cpu.measure.benchmark import BenchResult


class _Counts(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between."""

    name = "N,N,..."

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(part.strip().isdecimal() and int(part) >= self.least for part in parts):
            self.fail(f"{value!r} is not a list like 0,1024,4096 of whole numbers from {self.least} on.", param, ctx)
        return tuple(map(int, parts))


@click.command(short_help="Measure how fast this machine runs a model.")
@click.argument("model", default="demo", type=ModelName())
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Tokens of one prefill.")
@click.option(
    "--new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Decode steps of a round, one token each."
)
@click.option(
    "--depths",
    type=_Counts(0),
    default="0",
    show_default=True,
    help="Measure prefill and decode after so many tokens of context.",
)
@click.option("--rows", type=_Counts(1), default=(), help="Also measure the slowdown of a decode step with so many sequences.")
@click.option("--limits", is_flag=True, help="Also measure the limits of the machine, and each speed as a share of them.")
@click.option("--phases", is_flag=True, help="Print where the time goes, phase by phase, and how long threads waited in each.")
@plot_option("--depths, --rows and --limits")
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Rounds; medians are printed.")
@load_dtype_option
@kv_dtype_option
@threads_option
@prefill_threads_option
@json_option
@debug_option
def bench(
    model: str,
    prompt_tokens: int,
    new_tokens: int,
    depths: tuple[int, ...],
    rows: tuple[int, ...],
    limits: bool,
    phases: bool,
    plot: Path | None,
    repeat: int,
    dtype: str,
    kv_dtype: str,
    threads: int | None,
    prefill_threads: int | None,
    as_json: bool,
) -> None:
    """Measure prefill and decode speed of MODEL (default: the packaged demo model).

    Prompts are random tokens. Prefill is one call with all tokens of the prompt, decode is one call per token. Both run after
    the tokens of context that --depths names. Time to first token runs from opening the files to the first sampled token of a
    prompt. The measurements take turns for --repeat rounds, and their medians are printed.

    --rows 1,2,4,8 measures the slowdown with several sequences: the time of a decode step for so many sequences, relative to a
    step for one.

    --limits measures two limits of the machine: how fast it reads the weights, and how many int8 multiply-adds per second it
    computes. The first limits decode, because each token reads all weights and the whole KV cache. The second limits prefill.
    Both are measured after every call of every round, and the best measurement counts.

    --phases shows where the time goes in a prefill and a step at each of --depths, and in a token of generate: the time of each
    kind of phase, summed over the layers; its share of the call; and the imbalance, the part of that time in which threads had
    no work.

    --plot draws the time per token against the context (two or more --depths), the slowdown with --rows, and with --limits the
    roofline: what the machine allows for calls of every kind, and what was reached. It needs the extra bench:
    pip install "gptbigcode-cpu[bench]".

    \b
    Examples:
      gptbigcode-cpu bench
      gptbigcode-cpu bench starcoder-1b-int4 --threads 2 --depths 0,1024,4096 --plot context.png
      gptbigcode-cpu bench starcoder-1b-int4 --rows 1,2,4,8
      gptbigcode-cpu bench starcoder-1b-int4 --limits --plot roofline.png
      gptbigcode-cpu bench starcoder-1b-int4 --depths 0,4096 --phases
      gptbigcode-cpu bench starcoder-1b-int4 --json
    """
    if plot and len(depths) < 2 and not rows and not limits:
        raise click.UsageError("--plot has nothing to draw; give two or more --depths, or --rows, or --limits.")
    from gptbigcode_cpu.common.progress import progress_bar, status_line
    from gptbigcode_cpu.measure import benchmark
    from gptbigcode_cpu.models.converted import packed_dir

    if plot:
        from gptbigcode_cpu.measure import plots

        plots.require_matplotlib()
    with progress_bar() as progress:
        path = packed_dir(model, dtype=dtype, progress=progress)
    with status_line() as show:
        result = benchmark.measure(
            path,
            depths=depths,
            rows=rows,
            limits=limits,
            phases=phases,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            repeat=repeat,
            threads=threads,
            prefill_threads=prefill_threads,
            kv_dtype=kv_dtype,
            report=show or (lambda _: None),
        )
    if plot:
        plots.draw(result, plot)
    click.echo(json.dumps(asdict(result)) if as_json else _as_text(result))


def _table(heads: list[str], lines: list[list[str]]) -> Iterator[str]:
    """Columns aligned to the right; those without any entry are left out."""
    columns = [column for column in zip(heads, *lines, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    for line in zip(*columns, strict=True):
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _as_text(result: BenchResult) -> str:
    threads = f"{result.threads}"
    if result.prefill_threads != result.threads:
        threads += f" (prefill: {result.prefill_threads})"
    lines = [
        f"model                {result.model} ({result.dtype})",
        f"kernels, threads     {result.isa}, {threads}",
        f"KV cache             {result.kv_dtype}",
        f"load                 {result.load_s:.3f} s",
        f"time to first token  {result.time_to_first_token_s:.3f} s (prompt of {result.prompt_tokens})",
        f"peak memory          {human_bytes(result.peak_rss_bytes)}",
    ]
    if machine := result.limits:
        fits = ", of a cache: the weights fit into it" if machine.from_cache else ""
        lines += [
            f"read bandwidth       {human_bytes(machine.read_bytes_per_s)}/s{fits}",
            f"int8 peak            {machine.int8_macs_per_s / 1e9:.0f} billion multiply-adds/s",
        ]
    alone = len(result.depths) == 1  # shares of the empty context say something beside others
    depths = [
        [
            f"{at.depth}",
            f"{at.prefill_tokens_per_s:.1f}",
            "" if alone else _percent(at.prefill_share_of_empty),
            _percent(at.prefill_share_of_int8_peak),
            f"{at.decode_tokens_per_s:.1f}",
            "" if alone else _percent(at.decode_share_of_empty),
            _percent(at.decode_share_of_bandwidth),
        ]
        for at in result.depths
    ]
    heads = ["depth", "prefill tokens/s", "of empty", "of int8 peak", "decode tokens/s", "of empty", "of bandwidth"]
    lines += ["", *_table(heads, depths)]
    if result.rows:
        steps = [
            [
                f"{row.rows}",
                f"{1e3 * row.step_s:.2f}",
                f"{row.cost:.2f}",
                f"{row.tokens_per_s:.1f}",
                _percent(row.share_of_limit),
            ]
            for row in result.rows
        ]
        lines += ["", *_table(["sequences", "step ms", "slowdown", "tokens/s", "of the limit"], steps)]
    for call in result.phases:
        table = [
            [phase.name, f"{1e3 * phase.seconds:.3f}", f"{phase.share:.1%}", f"{phase.imbalance:.0%}"] for phase in call.phases
        ]
        total = [["outside the core", f"{1e3 * call.seconds * call.outside_share:.3f}", f"{call.outside_share:.1%}", ""]]
        lines += [
            "",
            f"{call.call}: {1e3 * call.seconds:.3f} ms",
            *_table(["phase", "ms", "share", "imbalance"], table + total),
        ]
    lines += [
        "",
        f"medians of {result.repeat} round{'s' if result.repeat > 1 else ''}, each with prefills of {result.prompt_tokens}"
        f" tokens and {result.new_tokens} steps of one token",
    ]
    return "\n".join(lines)
