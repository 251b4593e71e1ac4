"""What each quantisation of this package and of llama.cpp loses on the same text, beside its size and speed.

Windows of `--context` tokens, second halves scored: Kullback-Leibler divergence, in nats, of the next-token distributions from
those of the float32 weights (this package's, which equal transformers' within 2e-4). llama.cpp runs its own quantisations with
its own kernels and its default cache (float16). Sizes are those of the weight files. With `--calibration` llama.cpp quantises
with an importance matrix, too, from the text of these files; "int4 calibrated" uses the same text, or else `builtin`.

Seconds to convert, and tokens per second where a short text is continued, are those of `--speed-checkpoint`, whose weights may
be random. The formats take turns for `--rounds` rounds; speeds are medians, spread in brackets. All formats of both checkpoints
lie in a temporary directory for a while; TMPDIR names another place for it.

    python bench/quality.py tests/data/python-8m tests/data/python_stdlib_held_out.jsonl
    python bench/quality.py CHECKPOINT TEXT.. --python llama-cpp=/path/to/venv/bin/python --calibration OTHER_TEXT.. \\
        --speed-checkpoint /tmp/starcoderbase-1b --plot quality.png
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from divergence import Logits, compared, our_logits, text_windows
from engines import prepare_gguf
from numpy.typing import NDArray
from peers import EngineError, last_line, run
from quality_report import Row, as_markdown, draw

from gptbigcode_cpu.convert import convert

OURS = ("int8", "int6", "int4", "int4-calibrated", "bfloat16")
LLAMA = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "iq4_nl", "iq4_xs", "q4_1", "q4_0")
IMATRIX = ("q5_k_m", "q4_k_m", "q4_k_s", "iq4_nl", "iq4_xs", "q4_1", "q4_0")
_HERE = Path(__file__).resolve().parent
_PROMPT, _NEW = 16, 48  # tokens, where speed is measured


def formats(llama: bool, calibrated: bool) -> list[str]:
    """What is measured, in the table's order, by the names that worker.py knows."""
    engines = [f"gptbigcode-cpu:{dtype}" for dtype in OURS]
    for variant in LLAMA if llama else ():
        engines.append(f"llama-cpp:{variant}")
        if calibrated and variant in IMATRIX:
            engines.append(f"llama-cpp:{variant}-imatrix")
    return engines


def label(engine: str) -> str:
    """What the table calls an engine and its variant."""
    name, _, variant = engine.partition(":")
    if name == "gptbigcode-cpu":
        return f"{name} {variant.replace('-', ' ')}"
    kind, *importance = variant.split("-")
    return " ".join(["llama.cpp", kind.upper(), *importance])


def weights_file(engine: str, work: Path) -> Path:
    """Where the weights of a format are."""
    name, _, variant = engine.partition(":")
    ours, theirs = work / f"gptbigcode-cpu-{variant}" / "model.safetensors", work / f"model-{variant}.gguf"
    return ours if name == "gptbigcode-cpu" else theirs


class Bench:
    """One checkpoint in every format, in a directory."""

    def __init__(self, checkpoint: Path, work: Path, arguments: argparse.Namespace) -> None:
        self.checkpoint, self.work, self.threads = checkpoint, work, arguments.threads
        self.sample = arguments.calibration or "builtin"
        self.pythons = {"gptbigcode-cpu": sys.executable, "llama-cpp": arguments.python}
        self.vocab_size: int = json.loads((checkpoint / "config.json").read_text())["vocab_size"]

    def llama(self, *command: str) -> str:
        """The last line that ``llama_quality.py`` prints."""
        action, *rest = command
        script = str(_HERE / "llama_quality.py")
        return last_line(run([self.pythons["llama-cpp"], script, action, str(self.work), *rest], self.threads), "")

    def convert(self, engines: Sequence[str], calibration: NDArray[np.int32]) -> dict[str, float]:
        """Make every format, importance matrices from the windows `calibration`; seconds that each took."""
        self.work.mkdir()
        seconds = {}
        for engine in engines:
            name, _, variant = engine.partition(":")
            print(f"converting {self.checkpoint.name} to {label(engine)}", file=sys.stderr)
            if name == "gptbigcode-cpu":
                start = time.perf_counter()
                dtype, _, calibrated = variant.partition("-")
                out = self.work / f"gptbigcode-cpu-{variant}"
                convert(self.checkpoint, out, dtype=dtype, calibrate=self.sample if calibrated else None)
                seconds[engine] = time.perf_counter() - start
                continue
            prepare_gguf("", self.checkpoint, self.work)
            if variant.endswith("-imatrix") and not (self.work / "imatrix.npz").exists():
                np.save(self.work / "calibration.npy", calibration)
                self.llama("imatrix")
            seconds[engine] = float(self.llama("quantise", variant))
        return seconds

    def logits(self, engine: str, windows: NDArray[np.int32]) -> Iterator[Logits]:
        """Logits of a format that predict the second half of each window."""
        name, _, variant = engine.partition(":")
        if name == "gptbigcode-cpu":
            yield from our_logits(self.work / f"gptbigcode-cpu-{variant}", windows)
            return
        np.save(self.work / "windows.npy", windows)
        self.llama("logits", variant)
        yield from np.load(self.work / "logits.npy", mmap_mode="r")
        (self.work / "logits.npy").unlink()

    def decode_tokens_per_s(self, engines: Sequence[str], rounds: int) -> dict[str, list[float]]:
        """Speeds where a short text is continued, one for each round; the formats take turns."""
        speeds: dict[str, list[float]] = {engine: [] for engine in engines}
        options = ["--threads", str(self.threads), "--prompt-tokens", str(_PROMPT), "--new-tokens", str(_NEW)]
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for engine in engines:
                python = self.pythons[engine.partition(":")[0]]
                command = [python, str(_HERE / "worker.py"), "measure", engine, str(self.checkpoint), str(self.work), *options]
                found = json.loads(last_line(run(command, self.threads), "{}"))
                speeds[engine].append(found["decode_tokens_per_s"]["0"])
        return speeds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="GPTBigCode checkpoint, bfloat16, one safetensors file")
    parser.add_argument("text", type=Path, nargs="+", help=".jsonl with a text field, or plain text")
    parser.add_argument("--context", type=int, default=512, help="tokens of a window [512]")
    parser.add_argument("--windows", type=int, default=0, help="at most so many, evenly spread; 0 = all")
    parser.add_argument("--calibration", type=Path, nargs="+", default=[], help="sample text, other than TEXT")
    parser.add_argument("--speed-checkpoint", type=Path, metavar="DIR", help="to time conversion and decoding on [CHECKPOINT]")
    parser.add_argument("--rounds", type=int, default=5, help="of measuring speed [5]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--python", default=sys.executable, metavar="llama-cpp=PATH", help="interpreter with llama-cpp-python")
    parser.add_argument("--no-llama", action="store_true", help="this package alone")
    parser.add_argument("--plot", type=Path, help=".png, .svg or .pdf")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    arguments.python = arguments.python.removeprefix("llama-cpp=")
    return arguments


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Convert, compare, time."""
    engines = formats(not arguments.no_llama, bool(arguments.calibration))
    windows = text_windows(arguments.checkpoint, arguments.text, arguments.context, arguments.windows)
    calibration = text_windows(arguments.checkpoint, arguments.calibration, arguments.context, 0)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments.checkpoint, Path(name) / "quality", arguments)
        seconds = bench.convert(engines, calibration)
        report = convert(bench.checkpoint, bench.work / "gptbigcode-cpu-float32", dtype="float32")
        shape = (len(windows), arguments.context // 2, bench.vocab_size)
        reference = np.lib.format.open_memmap(bench.work / "reference.npy", "w+", np.float32, shape)
        for i, logits in enumerate(bench.logits("gptbigcode-cpu:float32", windows)):
            reference[i] = logits
        found = {}
        for engine in engines:
            found[engine] = compared(windows, reference, bench.logits(engine, windows))
            print(f"{label(engine):26} KL {found[engine].kl_mean:.5f}", file=sys.stderr)
        sizes = {engine: weights_file(engine, bench.work).stat().st_size for engine in engines}
        if arguments.speed_checkpoint:
            bench = Bench(arguments.speed_checkpoint, Path(name) / "speed", arguments)
            # How fast a quantisation is does not depend on what the importance matrix weighs most.
            seconds = bench.convert(engines, np.arange(512, dtype=np.int32)[None] % bench.vocab_size)
        speeds = bench.decode_tokens_per_s(engines, arguments.rounds)
    print(f"{windows.size // 2} tokens, second halves of windows of {arguments.context}; speeds of {bench.checkpoint.name}")
    print(f"with {arguments.threads} threads\n")
    return [
        Row(
            **asdict(found[engine]),
            name=label(engine),
            file_bytes=sizes[engine],
            bits_per_weight=8 * sizes[engine] / report.n_parameters,
            convert_s=seconds[engine],
            decode_tokens_per_s=tuple(speeds[engine]),
        )
        for engine in engines
    ]


def main() -> None:
    """Measure and print the table."""
    arguments = _arguments()
    try:
        rows = measure(arguments)
    except EngineError as error:
        sys.exit(f"error: {error}")
    print(as_markdown(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if arguments.plot:
        draw(rows, arguments.plot)


if __name__ == "__main__":
    main()
