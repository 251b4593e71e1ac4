"""Measure this package and its peers on the same checkpoint, side by side in one run.

Every measurement is a fresh process; the engines take turns (A B C, A B C, ...), so that a change of the machine's speed hits
all of them. Speeds are medians over the rounds with their spread; the ratio to the first engine is the median of the ratios
within each round.

    python bench/make_checkpoint.py starcoderbase-1b /tmp/starcoderbase-1b
    python bench/peers.py /tmp/starcoderbase-1b --threads 2
    python bench/peers.py /tmp/starcoderbase-1b --threads 2 --depth 4096 --engine gptbigcode-cpu:int4 --engine llama-cpp:q4_0

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
from pathlib import Path

ENGINES = (
    "gptbigcode-cpu:int4",
    "gptbigcode-cpu:int8",
    "llama-cpp:q4_0",
    "llama-cpp:q8_0",
    "ctranslate2:int8",
    "transformers:bfloat16",
    "transformers:float32",
)
_MODULES = {
    "gptbigcode-cpu": "gptbigcode_cpu._core",
    "llama-cpp": "llama_cpp",
    "gguf": "gguf",
    "ctranslate2": "ctranslate2",
    "transformers": "torch, transformers",
}
_WORKER = Path(__file__).with_name("engines.py")

Measurement = dict[str, float]


class EngineError(Exception):
    """A worker process failed; the text is its last line."""


def _last_line(text: str, otherwise: str) -> str:
    return (text.strip().splitlines() or [otherwise])[-1]


def _run(command: list[str], threads: int) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        raise EngineError(_last_line(process.stderr, f"exit status {process.returncode}"))
    return process.stdout


def prepare(engines: list[str], pythons: dict[str, str], checkpoint: Path, work: Path, threads: int) -> dict[str, str]:
    """Convert the checkpoint for every engine.

    Returns:
        Engine -> why it is skipped, for those that cannot run.
    """
    skipped: dict[str, str] = {}
    for engine in engines:
        name = engine.partition(":")[0]
        steps = [("gguf", "gguf:bf16"), (name, engine)] if name == "llama-cpp" else [(name, engine)]
        try:
            for package, step in steps:
                python = pythons.get(package, sys.executable)
                _run([python, "-c", f"import {_MODULES[package]}"], threads)
                print(f"preparing {step}", file=sys.stderr)
                _run([python, str(_WORKER), "prepare", step, str(checkpoint), str(work)], threads)
        except EngineError as error:
            skipped[engine] = str(error)
    return skipped


def measure(engine: str, python: str, checkpoint: Path, work: Path, arguments: argparse.Namespace) -> Measurement:
    """One measurement in a fresh process."""
    command = [python, str(_WORKER), "measure", engine, str(checkpoint), str(work)]
    for option in ("threads", "prompt_tokens", "new_tokens", "depth"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    found: Measurement = json.loads(_last_line(_run(command, arguments.threads), "{}"))
    return found


def summary(values: list[float], reference: list[float]) -> tuple[float, float, float, float]:
    """Median, minimum, maximum, and the median ratio to the reference's value of the same round."""
    ratios = [value / other for value, other in zip(values, reference, strict=True)]
    return statistics.median(values), min(values), max(values), statistics.median(ratios)


def table(measurements: dict[str, list[Measurement]], skipped: dict[str, str]) -> str:
    """The results as text; ratios are to the first engine."""
    lines = [
        f"{'engine':24}{'prefill tokens/s':>28}{'ratio':>7}{'decode tokens/s':>28}{'ratio':>7}{'first token':>13}{'memory':>10}"
    ]
    reference = next(iter(measurements.values()), [])
    for engine, rounds in measurements.items():
        line = f"{engine:24}"
        for key in ("prefill_tokens_per_s", "decode_tokens_per_s"):
            median, low, high, ratio = summary([r[key] for r in rounds], [r[key] for r in reference])
            line += f"{median:12.1f} ({low:.1f}-{high:.1f})".rjust(28) + f"{ratio:7.2f}"
        first = statistics.median(r["time_to_first_token_s"] for r in rounds)
        peak = statistics.median(r["peak_rss_bytes"] for r in rounds)
        lines.append(line + f"{first:11.2f} s{peak / 1e9:7.2f} GB")
    lines += [f"{engine:24}skipped: {reason}" for engine, reason in skipped.items()]
    return "\n".join(lines)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="GPTBigCode checkpoint, bfloat16, one safetensors file")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="may be repeated; the first is the reference [all]")
    parser.add_argument(
        "--python", action="append", default=[], metavar="ENGINE=PATH", help="interpreter of an engine; may be repeated"
    )
    parser.add_argument("--work", type=Path, help="where converted models are kept [CHECKPOINT.peers]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--depth", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object with every measurement")
    return parser.parse_args()


def main() -> None:
    """Prepare, measure in turns, print."""
    arguments = _arguments()
    pythons = dict(pair.split("=", 1) for pair in arguments.python)
    unknown = set(pythons) - set(_MODULES)
    if unknown:
        sys.exit(f"error: --python knows {', '.join(_MODULES)}, not {', '.join(sorted(unknown))}")
    if not (arguments.checkpoint / "model.safetensors").is_file():
        sys.exit(f"error: {arguments.checkpoint} holds no model.safetensors")
    engines = arguments.engine or list(ENGINES)
    checkpoint = arguments.checkpoint.resolve()
    work = arguments.work or checkpoint.with_name(checkpoint.name + ".peers")
    work.mkdir(parents=True, exist_ok=True)

    skipped = prepare(engines, pythons, checkpoint, work, arguments.threads)
    measurements: dict[str, list[Measurement]] = {engine: [] for engine in engines if engine not in skipped}
    for number in range(arguments.rounds):
        for engine in [*measurements]:
            print(f"round {number + 1} of {arguments.rounds}: {engine}", file=sys.stderr)
            try:
                python = pythons.get(engine.partition(":")[0], sys.executable)
                measurements[engine].append(measure(engine, python, checkpoint, work, arguments))
            except EngineError as error:
                skipped[engine] = str(error)
                del measurements[engine]

    keys = ("threads", "prompt_tokens", "new_tokens", "depth", "rounds")
    setting = {"processor": _processor(), "checkpoint": checkpoint.name, **{key: getattr(arguments, key) for key in keys}}
    if arguments.json:
        print(json.dumps({**setting, "measurements": measurements, "skipped": skipped}))
    else:
        print(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in setting.items()))
        print(table(measurements, skipped))


if __name__ == "__main__":
    main()
