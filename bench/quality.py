"""What each quantisation of this package and of llama.cpp loses, on the same text, beside its size.

Windows of `--context` tokens, second halves scored: Kullback-Leibler divergence, in nats, of the next-token distributions from
those of the float32 weights (this package's, which equal transformers' within 2e-4). llama.cpp runs its own quantisations with
its own kernels and its default cache (float16). Sizes are those of the weight files.

    python bench/quality.py ../shared/checkpoints/python-8m ../shared/eval/python_stdlib_held_out.jsonl
    python bench/quality.py CHECKPOINT TEXT.. --python llama-cpp=/path/to/venv/bin/python --plot quality.png
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engines import LlamaCpp, Workload, prepare_gguf, prepare_llama_cpp
from numpy.typing import NDArray

OURS = ("int8", "int6", "int4", "bfloat16")
LLAMA = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "iq4_nl", "iq4_xs", "q4_1", "q4_0")
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One quantisation measured."""

    name: str
    file_bytes: int
    bits_per_weight: float
    kl_mean: float
    kl_median: float
    kl_p99: float
    top1_agreement: float
    perplexity_change: float


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Log-probabilities, float64 ``[tokens, vocab]``."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def text_windows(checkpoint: Path, texts: Sequence[Path], context: int, count: int) -> NDArray[np.int32]:
    """Windows of the texts, each text after an end-of-text token, evenly spread."""
    from gptbigcode_cpu import AutoTokenizer
    from gptbigcode_cpu.corpus import read_texts

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokens = [token for text in read_texts(texts) for token in (tokenizer.eos_token_id, *tokenizer(text)["input_ids"])]
    windows = np.array(tokens[: len(tokens) // context * context], np.int32).reshape(-1, context)
    return windows[:: max(1, len(windows) // count)][:count] if count else windows


def our_logits(path: Path, windows: NDArray[np.int32]) -> Iterator[Logits]:
    """Logits that predict the second half of each window."""
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.weights import load_core, open_packed

    core = load_core(open_packed(path))
    for window in windows:
        yield core.forward([_core.KVCache(core)], [window[:-1]], [len(window) // 2])


def llama_worker(variant: str, work: Path) -> None:
    """The same by llama.cpp: windows from ``windows.npy``, logits to ``logits.npy``."""
    windows = np.load(work / "windows.npy")
    context, half = windows.shape[1], windows.shape[1] // 2
    prepare_llama_cpp(variant, work, work)
    engine = LlamaCpp(variant, work, work, Workload(2, context, 1, (0,), ()))
    vocab = engine.llama.llama_vocab_n_tokens(engine.llama.llama_model_get_vocab(engine.llama.llama_get_model(engine.context)))
    out = np.lib.format.open_memmap(work / "logits.npy", "w+", np.float32, (len(windows), half, vocab))
    for i, window in enumerate(windows):
        wanted = range(context - 1 - half, context - 1)
        engine.decode([(int(token), position, 0, position in wanted) for position, token in enumerate(window[:-1])])
        for j, position in enumerate(wanted):
            out[i, j] = np.ctypeslib.as_array(engine.llama.llama_get_logits_ith(engine.context, position), (vocab,))
        engine.keep(0)


def llama_logits(python: str, variant: str, work: Path) -> Iterator[Logits]:
    """Logits from a process of the interpreter that has llama-cpp-python."""
    subprocess.run([python, __file__, "--worker", variant, str(work)], check=True, stdout=subprocess.DEVNULL)
    yield from np.load(work / "logits.npy", mmap_mode="r")
    (work / "logits.npy").unlink()


def compared(
    name: str, file: Path, n_parameters: int, windows: NDArray[np.int32], reference: Iterable[Logits], actual: Iterator[Logits]
) -> Row:
    """A row from two sets of logits."""
    divergences, agreements, losses = [], [], []
    for window, theirs, ours in zip(windows, reference, actual, strict=True):
        expected, found = log_softmax(theirs), log_softmax(ours)
        targets = (np.arange(len(found)), window[-len(found) :])
        divergences.append((np.exp(expected) * (expected - found)).sum(axis=1))
        agreements.append(expected.argmax(axis=1) == found.argmax(axis=1))
        losses.append(expected[targets] - found[targets])
    kl = np.concatenate(divergences)
    size = file.stat().st_size
    return Row(
        name,
        size,
        8 * size / n_parameters,
        float(kl.mean()),
        float(np.median(kl)),
        float(np.quantile(kl, 0.99)),
        float(np.concatenate(agreements).mean()),
        math.expm1(float(np.concatenate(losses).mean())),
    )


def draw(rows: Sequence[Row], file: Path) -> None:
    """KL divergence against bits per weight of the whole file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for ours, colour in ((True, "tab:blue"), (False, "tab:orange")):
        shown = [row for row in rows if row.name.startswith("llama.cpp") != ours and row.bits_per_weight < 12]
        axes.scatter(
            [row.bits_per_weight for row in shown],
            [row.kl_mean for row in shown],
            color=colour,
            label="gptbigcode-cpu" if ours else "llama.cpp",
            zorder=3,
        )
        for row in shown:
            axes.annotate(
                row.name.rpartition(" ")[2], (row.bits_per_weight, row.kl_mean), xytext=(5, 5), textcoords="offset points"
            )
    axes.set(yscale="log", xlabel="bits per weight of the whole file", ylabel="KL divergence from float32, nats")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def as_markdown(rows: Sequence[Row]) -> str:
    """The table of docs/quantization.md."""
    head = "| | bits per weight of the file | KL mean | median | 99 % | same top token | perplexity |\n" + "|---" * 7 + "|"
    lines = [
        f"| {row.name} | {row.bits_per_weight:.2f} | {row.kl_mean:.5f} | {row.kl_median:.5f} | {row.kl_p99:.4f}"
        f" | {100 * row.top1_agreement:.2f} % | {100 * row.perplexity_change:+.2f} % |"
        for row in rows
    ]
    return "\n".join([head, *lines])


def main() -> None:
    """Measure and print the table."""
    if sys.argv[1:2] == ["--worker"]:
        llama_worker(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("text", type=Path, nargs="+", help=".jsonl with a text field, or plain text")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=0, help="at most so many, evenly spread; 0 = all")
    parser.add_argument("--python", default=f"llama-cpp={sys.executable}", help="llama-cpp=PATH of the interpreter that has it")
    parser.add_argument("--no-llama", action="store_true", help="this package alone")
    parser.add_argument("--plot", type=Path, help=".png, .svg or .pdf")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    arguments = parser.parse_args()

    from gptbigcode_cpu.convert import convert

    windows = text_windows(arguments.checkpoint, arguments.text, arguments.context, arguments.windows)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        np.save(work / "windows.npy", windows)
        report = convert(arguments.checkpoint, work / "float32", dtype="float32")
        reference = np.lib.format.open_memmap(
            work / "reference.npy",
            "w+",
            np.float32,
            (len(windows), arguments.context // 2, json.loads((work / "float32" / "config.json").read_text())["vocab_size"]),
        )
        for i, logits in enumerate(our_logits(work / "float32", windows)):
            reference[i] = logits

        def measure(label: str, file: Path, actual: Iterator[Logits]) -> None:
            row = compared(label, file, report.n_parameters, windows, reference, actual)
            print(f"{row.name:26} {row.bits_per_weight:6.2f} bits  KL {row.kl_mean:.5f}", file=sys.stderr, flush=True)
            rows.append(row)

        for dtype in OURS:
            convert(arguments.checkpoint, work / dtype, dtype=dtype)
            measure(f"gptbigcode-cpu {dtype}", work / dtype / "model.safetensors", our_logits(work / dtype, windows))
        if not arguments.no_llama:
            prepare_gguf("", arguments.checkpoint, work)
            python = arguments.python.removeprefix("llama-cpp=")
            for variant in LLAMA:
                logits_of: Any = llama_logits(python, variant, work)
                first = next(logits_of)  # makes the file whose size is asked for
                measure(f"llama.cpp {variant.upper()}", work / f"model-{variant}.gguf", _chained(first, logits_of))
    print(f"{windows.size // 2} tokens, second halves of windows of {arguments.context}\n")
    print(as_markdown(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if arguments.plot:
        draw(rows, arguments.plot)


def _chained(first: Logits, rest: Iterator[Logits]) -> Iterator[Logits]:
    yield first
    yield from rest


if __name__ == "__main__":
    main()
