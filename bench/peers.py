"""Measure this package and its peers on the same checkpoint, side by side in one run.

Every measurement is a fresh process; the engines take turns (A B C, A B C, ...), so that a change of the machine's speed hits
all of them. Figures are medians over the rounds with their spread; the ratio to the first engine is the median of the ratios
within each round, and so is the share of the empty context's speed.

    python bench/make_checkpoint.py starcoderbase-1b /tmp/starcoderbase-1b
    python bench/peers.py /tmp/starcoderbase-1b --threads 2
    python bench/peers.py /tmp/starcoderbase-1b --threads 2 --depths 0,4096 --rows 1,2,4,8 --markdown \\
        --engine gptbigcode-cpu:int4 --engine llama-cpp:q4_0

An engine that is not installed is listed as skipped. Each may live in another environment:

    python bench/peers.py CHECKPOINT --threads 2 --python llama-cpp=/path/to/venv/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ENGINES = (
    "gptbigcode-cpu:int4",
    "gptbigcode-cpu:int8",
    "llama-cpp:q4_0",
    "llama-cpp:q8_0",
    "ctranslate2:int8",
    "openvino:int4",
    "transformers:bfloat16",
    "transformers:float32",
)
_MODULES = {
    "gptbigcode-cpu": "gptbigcode_cpu._core",
    "llama-cpp": "llama_cpp",
    "gguf": "gguf",
    "ctranslate2": "ctranslate2",
    "openvino": "optimum.intel",
    "transformers": "torch, transformers",
}
_WORKER = Path(__file__).with_name("worker.py")

Measurement = dict[str, Any]  # see worker.measure


class EngineError(Exception):
    """A worker process failed; the text is its last line."""


def last_line(text: str, otherwise: str) -> str:
    """The last line of what a process said."""
    return (text.strip().splitlines() or [otherwise])[-1]


def run(command: list[str], threads: int) -> str:
    """What a process prints. Its libraries are told how many threads to use.

    Raises:
        EngineError: It failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        raise EngineError(last_line(process.stderr, f"exit status {process.returncode}"))
    return process.stdout


def _worker(action: str, engine: str, arguments: argparse.Namespace) -> list[str]:
    name = engine.partition(":")[0]
    python = arguments.pythons.get(name, sys.executable)
    return [python, str(_WORKER), action, engine, str(arguments.checkpoint), str(arguments.work)]


def prepare(engines: Sequence[str], arguments: argparse.Namespace) -> dict[str, str]:
    """Convert the checkpoint for every engine, and start each once, so that its files are in the page cache.

    Returns:
        Engine -> why it is skipped, for those that cannot run.
    """
    skipped: dict[str, str] = {}
    for engine in engines:
        name = engine.partition(":")[0]
        steps = [("gguf", "gguf:bf16"), (name, engine)] if name == "llama-cpp" else [(name, engine)]
        try:
            for package, step in steps:
                python = arguments.pythons.get(package, sys.executable)
                run([python, "-c", f"import {_MODULES[package]}"], arguments.threads)
                print(f"preparing {step}", file=sys.stderr)
                run(_worker("prepare", step, arguments), arguments.threads)
            first_token_from_exec(engine, arguments)
        except EngineError as error:
            skipped[engine] = str(error)
    return skipped


def first_token_from_exec(engine: str, arguments: argparse.Namespace) -> float:
    """Seconds from the start of a process to the first token of a prompt of 8."""
    start = time.perf_counter()
    command = [*_worker("first-token", engine, arguments), "--threads", str(arguments.threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        _, complaint = process.communicate()
    if process.returncode or not line.strip().isdecimal():
        raise EngineError(last_line(complaint, f"exit status {process.returncode}"))
    return seconds


def measure(engine: str, arguments: argparse.Namespace) -> Measurement:
    """One measurement, in fresh processes."""
    command = _worker("measure", engine, arguments)
    for option in ("threads", "prompt_tokens", "new_tokens"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    for option in ("depths", "rows"):
        command += [f"--{option}", ",".join(map(str, getattr(arguments, option)))]
    found: Measurement = json.loads(last_line(run(command, arguments.threads), "{}"))
    return {"first_token_from_exec_s": first_token_from_exec(engine, arguments), **found}


def summary(values: list[float], reference: list[float]) -> tuple[float, float, float, float]:
    """Median, minimum, maximum, and the median ratio to the reference's value of the same round."""
    ratios = [value / other for value, other in zip(values, reference, strict=True)]
    return statistics.median(values), min(values), max(values), statistics.median(ratios)


Table = list[list[str]]  # the first line has the heads


def speed_table(measurements: dict[str, list[Measurement]], depths: Sequence[int]) -> Table:
    """Prefill and decode of every engine at every depth, beside the first engine and beside its own empty context."""
    share = ["of empty"] if len(depths) > 1 and 0 in depths else []
    lines = [["engine", "depth", "prefill tokens/s", "ratio", *share, "decode tokens/s", "ratio", *share]]
    reference = next(iter(measurements.values()), [])
    for depth in map(str, depths):
        for engine, rounds in measurements.items():
            line = [engine, depth]
            for key in ("prefill_tokens_per_s", "decode_tokens_per_s"):
                if depth not in rounds[0][key]:
                    continue
                values = [found[key][depth] for found in rounds]
                median, low, high, ratio = summary(values, [found[key][depth] for found in reference])
                line += [f"{median:.1f} ({low:.1f}-{high:.1f})", f"{ratio:.2f}"]
                if share:
                    line.append(f"{summary(values, [found[key]['0'] for found in rounds])[3]:.0%}")
            if len(line) == len(lines[0]):
                lines.append(line)
    return lines


def start_table(measurements: dict[str, list[Measurement]]) -> Table:
    """How soon the first token comes, and how much memory it all took."""
    lines = [["engine", "exec to first token, prompt of 8", "load to first token", "memory", "build"]]
    for engine, rounds in measurements.items():
        sooner = [found["first_token_from_exec_s"] for found in rounds]
        first = statistics.median(found["time_to_first_token_s"] for found in rounds)
        peak = statistics.median(found["peak_rss_bytes"] for found in rounds)
        median, low, high, _ = summary(sooner, sooner)
        line = [engine, f"{median:.2f} s ({low:.2f}-{high:.2f})", f"{first:.2f} s", f"{peak / 1e9:.2f} GB"]
        lines.append([*line, rounds[0]["build"]])
    return lines


def rows_table(measurements: dict[str, list[Measurement]], rows: Sequence[int]) -> Table:
    """What a step of several sequences costs, relative to the first number of rows."""
    lines = [["engine", f"step of {rows[0]}", *(f"{count} / {rows[0]}" for count in rows[1:])]]
    for engine, rounds in measurements.items():
        if not rounds[0]["step_s"]:
            continue
        first = [found["step_s"][str(rows[0])] for found in rounds]
        median, low, high, _ = summary(first, first)
        line = [engine, f"{1e3 * median:.2f} ms ({1e3 * low:.2f}-{1e3 * high:.2f})"]
        line += [f"{summary([found['step_s'][str(count)] for found in rounds], first)[3]:.2f}" for count in rows[1:]]
        lines.append(line)
    return lines


def as_text(table: Table) -> str:
    """Columns for the terminal."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in table
    )


def as_markdown(table: Table) -> str:
    """A table for docs."""
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [table[0], rule, *table[1:]])


def processor() -> str:
    """What the CPU calls itself."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _numbers(least: int) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        found = tuple(dict.fromkeys(map(int, text.split(","))))
        if min(found) < least:
            raise ValueError(text)
        return found

    parse.__name__ = "list of numbers"  # what argparse calls it
    return parse


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="GPTBigCode checkpoint, bfloat16, one safetensors file")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="may be repeated; the first is the reference [all]")
    parser.add_argument(
        "--python", action="append", default=[], metavar="ENGINE=PATH", help="interpreter of an engine; may be repeated"
    )
    parser.add_argument("--work", type=Path, help="where converted models are kept [CHECKPOINT.peers]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of one prefill [512]")
    parser.add_argument("--new-tokens", type=int, default=64, help="decoded one by one [64]")
    parser.add_argument(
        "--depths", type=_numbers(0), default=(0,), metavar="N,N", help="cached tokens before prefill and decode [0]"
    )
    parser.add_argument(
        "--rows", type=_numbers(1), default=(), metavar="N,N", help="steps of so many sequences, the first is the reference"
    )
    parser.add_argument("--rounds", type=int, default=5)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object with every measurement")
    output.add_argument("--markdown", action="store_true", help="print the tables for a document")
    arguments = parser.parse_args()
    arguments.pythons = dict(pair.partition("=")[::2] for pair in arguments.python)
    unknown = set(arguments.pythons) - set(_MODULES)
    if unknown:
        parser.error(f"--python knows {', '.join(_MODULES)}, not {', '.join(sorted(unknown))}")
    if not (arguments.checkpoint / "model.safetensors").is_file():
        parser.error(f"{arguments.checkpoint} holds no model.safetensors")
    arguments.checkpoint = arguments.checkpoint.resolve()
    arguments.work = arguments.work or arguments.checkpoint.with_name(arguments.checkpoint.name + ".peers")
    return arguments


def main() -> None:
    """Prepare, measure in turns, print."""
    arguments = _arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    engines = [*dict.fromkeys(arguments.engine or ENGINES)]
    skipped = prepare(engines, arguments)
    measurements: dict[str, list[Measurement]] = {engine: [] for engine in engines if engine not in skipped}
    for number in range(arguments.rounds):
        for engine in [*measurements]:
            print(f"round {number + 1} of {arguments.rounds}: {engine}", file=sys.stderr)
            try:
                measurements[engine].append(measure(engine, arguments))
            except EngineError as error:
                skipped[engine] = str(error)
                del measurements[engine]

    keys = ("threads", "prompt_tokens", "new_tokens", "depths", "rows", "rounds")
    setting = {"processor": processor(), "checkpoint": arguments.checkpoint.name}
    setting |= {key: getattr(arguments, key) for key in keys}
    if arguments.json:
        print(json.dumps({**setting, "measurements": measurements, "skipped": skipped}))
        return
    tables = [speed_table(measurements, arguments.depths), start_table(measurements)]
    if arguments.rows:
        tables.append(rows_table(measurements, arguments.rows))
    draw = as_markdown if arguments.markdown else as_text
    shown = ((key.replace("_", " "), value) for key, value in setting.items() if value != ())
    line = ", ".join(f"{key} {' '.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in shown)
    print("\n\n".join([line, *map(draw, tables)]))
    for engine, reason in skipped.items():
        print(f"\n{engine} was skipped: {reason}")


if __name__ == "__main__":
    main()
