"""bench/quality.py: divergences, windows of text, the table, and a run without llama.cpp."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer

BENCH = Path(__file__).resolve().parents[2] / "bench"
OURS = ["int8", "int6", "int4", "int4-calibrated", "bfloat16"]


@pytest.fixture(scope="module")
def bench() -> Iterator[Callable[[str], ModuleType]]:
    """``bench("quality")``: a file of bench/ as a module; it finds its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        yield import_module


def quality(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "quality.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def test_divergence_is_what_its_definition_says(bench: Callable[[str], ModuleType]) -> None:
    random = np.random.default_rng(5)
    windows = random.integers(0, 9, (5, 8)).astype(np.int32)
    expected, found = random.normal(0, 2, (2, 5, 4, 9)).astype(np.float32)

    divergences, same, ratios = [], [], []
    for window, theirs, ours in zip(windows, expected, found, strict=True):
        for target, p, q in zip(window[4:], map(softmax, theirs.tolist()), map(softmax, ours.tolist()), strict=True):
            divergences.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
            same.append(p.index(max(p)) == q.index(max(q)))
            ratios.append(p[target] / q[target])
    assert 0 < sum(same) < len(same)
    divergences.sort()

    measured = bench("divergence").compared(windows, expected, iter(found))
    assert measured.kl_mean == pytest.approx(sum(divergences) / 20)
    assert measured.kl_median == pytest.approx((divergences[9] + divergences[10]) / 2)
    # 99 % of the way along twenty points, the nineteen steps between them: 0.81 of the last step.
    assert measured.kl_p99 == pytest.approx(divergences[18] + 0.81 * (divergences[19] - divergences[18]))
    assert measured.top1_agreement == pytest.approx(sum(same) / 20)
    assert measured.perplexity_change == pytest.approx(math.prod(ratios) ** (1 / 20) - 1)


def test_divergence_of_equal_distributions_is_zero(bench: Callable[[str], ModuleType]) -> None:
    divergence = bench("divergence")
    windows, logits = np.zeros((3, 4), np.int32), np.full((3, 2, 5), 1e3, np.float32)
    assert divergence.compared(windows, logits, logits - 2e3) == divergence.Divergence(0, 0, 0, 1, 0)
    with pytest.raises(ValueError, match="shorter"):
        divergence.compared(windows, logits, logits[:2])


def test_windows_hold_every_text_after_an_end_token(
    bench: Callable[[str], ModuleType], make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "model")
    texts = [tmp_path / "a.jsonl", tmp_path / "b.py"]
    texts[0].write_text('{"text": "abcdef"}\n{"text": "ghi"}\n')
    texts[1].write_text("jklmnopqrstuvwxyz")

    def written(count: int) -> list[str]:
        windows = bench("divergence").text_windows(checkpoint, texts, 4, count)
        assert windows.dtype == np.int32
        assert windows.shape[1] == 4
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        return [tokenizer.decode(window).replace("<|endoftext|>", "|") for window in windows]

    every = ["|abc", "def|", "ghi|", "jklm", "nopq", "rstu", "vwxy"]  # z fills no window
    assert written(0) == written(7) == written(99) == every
    assert written(3) == ["|abc", "ghi|", "nopq"]
    assert written(1) == ["|abc"]
    with pytest.raises(SystemExit, match="less than one window of 99 tokens"):
        bench("divergence").text_windows(checkpoint, texts, 99, 0)
    assert bench("divergence").text_windows(checkpoint, [], 4, 0).shape == (0, 4)


def test_logits_predict_the_second_half(
    bench: Callable[[str], ModuleType], converted: Callable[..., Path], checkpoint_dir: Path
) -> None:
    path = converted("float32")
    windows = np.random.default_rng(0).integers(6, 8192, (2, 16)).astype(np.int32)
    model = AutoModelForCausalLM.from_pretrained(path)
    for window, logits in zip(windows, bench("divergence").our_logits(path, windows), strict=True):
        whole = np.asarray(model(window[None].astype(np.int64)).logits)[0]
        np.testing.assert_array_equal(logits, whole[7:15])


def test_table_names_and_rounds(bench: Callable[[str], ModuleType]) -> None:
    found = bench("quality")
    assert found.formats(False, False) == [f"gptbigcode-cpu:{name}" for name in OURS]
    plain, both = found.formats(True, False), found.formats(True, True)
    assert not any("imatrix" in engine for engine in plain)
    assert [engine for engine in both if "imatrix" not in engine] == plain
    place = both.index("llama-cpp:q4_k_m")
    assert both[place + 1] == "llama-cpp:q4_k_m-imatrix", "beside the same without"
    assert [found.label(engine) for engine in (both[0], *both[place : place + 2])] == [
        *("gptbigcode-cpu int8", "llama.cpp Q4_K_M", "llama.cpp Q4_K_M imatrix")
    ]

    report = bench("quality_report")
    row = report.Row(0.0123456, 0.00123456, 0.123456, 0.98765, -0.0123, "llama.cpp Q4_0", 10, 4.567, 12.34, (1.0, 30.0, 2.0))
    lines = report.as_markdown([row, row]).splitlines()
    assert lines[0] == (
        "|  | bits per weight of the file | KL mean | median | 99 % | same top token | perplexity"
        " | seconds to convert | decode tokens/s |"
    )
    assert lines[2:] == [
        "| llama.cpp Q4_0 | 4.57 | 0.01235 | 0.00123 | 0.1235 | 98.77 % | -1.23 % | 12.3 | 2.0 (1.0-30.0) |"
    ] * 2  # fmt: skip
    assert len({line.count("|") for line in lines}) == 1


def test_run_without_llama(checkpoint_dir: Path, eval_file: Path, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other")
    options = ["--no-llama", "--windows", "4", "--context", "128", "--rounds", "2", "--threads", "1"]
    files = ["--json", tmp_path / "rows.json", "--plot", tmp_path / "plot.png"]
    shown = quality(checkpoint_dir, eval_file, *options, *files, "--speed-checkpoint", other)
    assert shown.returncode == 0, shown.stderr
    assert "256 tokens, second halves of windows of 128; speeds of other" in shown.stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["name"] for row in rows] == [f"gptbigcode-cpu {name.replace('-', ' ')}" for name in OURS]
    assert [line.split(" | ")[0] for line in shown.stdout.splitlines()[-5:]] == [f"| {row['name']}" for row in rows]
    int8, int6, int4, calibrated, bfloat16 = rows
    losses = [row["kl_mean"] for row in (bfloat16, int8, int6, calibrated, int4)]
    assert losses == sorted(losses)
    assert 0 <= losses[0] < 1e-4 < losses[1]
    assert losses[-1] < 0.05
    assert int4["top1_agreement"] > 0.85
    assert abs(int4["perplexity_change"]) < 0.05
    assert calibrated["file_bytes"] == int4["file_bytes"] < int6["file_bytes"] < int8["file_bytes"] < bfloat16["file_bytes"]
    assert bfloat16["bits_per_weight"] == pytest.approx(16, rel=0.01)
    for row in rows:
        assert len(row["decode_tokens_per_s"]) == 2
        assert min(*row["decode_tokens_per_s"], row["convert_s"]) > 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_refuses_what_it_would_ignore(tmp_path: Path) -> None:
    for flags, says in ((["--rounds", "0"], "--rounds must be 1 or more"),):
        shown = quality(tmp_path, "text", *flags)
        assert shown.returncode == 2
        assert says in shown.stderr


def test_says_why_llama_cpp_cannot_run(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    text, absent = tmp_path / "text", tmp_path / "python"
    text.write_text("a" * 40)
    absent.write_text("#!/bin/sh\necho 'No module named llama_cpp' >&2\nexit 1\n")
    absent.chmod(0o755)
    checkpoint = make_checkpoint(tmp_path / "model", storage="bfloat16", n_inner=256)
    shown = quality(checkpoint, text, "--context", "8", "--python", f"llama-cpp={absent}")
    assert shown.returncode == 1
    assert shown.stderr.endswith("error: No module named llama_cpp\n")
