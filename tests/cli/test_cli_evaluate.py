"""``gptbigcode-cpu evaluate`` as a user meets it: real processes on the packaged demo model."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from gptbigcode_cpu.cli import options

PROGRAM = [sys.executable, "-m", "gptbigcode_cpu", "evaluate"]
QUICK = ["--context", "64", "--max-tokens", "128", "--threads", "1"]
SOURCE = Path(options.__file__)


def evaluate(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}, check=False)


def measured(*arguments: str | Path) -> dict[str, Any]:
    shown = evaluate(*arguments, *QUICK, "--json")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == "", "no progress where there is no terminal"
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


KEYS = {
    *("model", "dtype", "kv_dtype", "reference", "reference_dtype", "reference_kv_dtype", "isa", "threads", "text"),
    *("context", "stride", "tokens_before", "windows", "tokens", "perplexity", "perplexity_stderr"),
    *("reference_perplexity", "reference_perplexity_stderr", "perplexity_change", "perplexity_change_stderr"),
    *("kl_mean", "kl_mean_stderr", "kl_median", "kl_p99", "top1_agreement", "layers", "fim"),
}


def test_alone() -> None:
    found = measured("demo", "--text", SOURCE, SOURCE.parent / "info.py")
    assert {*found} == KEYS
    assert found["text"] == [str(SOURCE), str(SOURCE.parent / "info.py")], "several files after one --text"
    assert (found["model"], found["dtype"], found["kv_dtype"], found["threads"]) == ("demo", "int8", "int8", 1)
    assert (found["context"], found["stride"], found["tokens_before"], found["windows"]) == (64, 32, [32, 63], 4)
    assert found["tokens"] == 128
    assert 2 < found["perplexity"] < 500
    assert 0 < found["perplexity_stderr"] < found["perplexity"]
    compared = [name for name in KEYS if name.startswith(("reference", "kl_", "perplexity_change", "top1", "layers", "fim"))]
    assert all(found[name] is None for name in compared)
    assert measured("demo", "--text", SOURCE, "--text", SOURCE.parent / "info.py") == found, "the same figures again"


def test_against_another_cache_with_hidden_lines() -> None:
    arguments = ["demo", "--reference", "demo", "--reference-kv-dtype", "float32", "--text", SOURCE]
    found = measured(*arguments, "--fim", "--fim-samples", "2", "--fim-hide", "tail", "--fim-seed", "4", "--stride", "20")
    assert {*found} == KEYS
    assert (found["kv_dtype"], found["reference_kv_dtype"], found["reference_dtype"]) == ("int8", "float32", "int8")
    assert (found["stride"], found["tokens_before"], found["tokens"]) == (20, [44, 63], 120)
    assert 0 < found["kl_median"] <= found["kl_mean"] < found["kl_p99"] < 0.2
    assert 0.8 < found["top1_agreement"] <= 1
    assert found["perplexity_change"] == pytest.approx(found["perplexity"] / found["reference_perplexity"] - 1)
    layers = found["layers"]
    assert [layer["after"] for layer in layers] == ["embeddings", *(f"block {i}" for i in range(7)), "ln_f"]
    assert layers[0]["relative_error"] == 0, "the same weights, another cache"
    assert all(0 < layer["relative_error"] < 0.2 for layer in layers[1:])
    assert (found["fim"]["hide"], found["fim"]["seed"]) == ("tail", 4)
    for order in ("psm", "spm"):
        assert {*found["fim"][order]} == {"matches", "samples", "exact_match", "interval_95"}
        assert found["fim"][order]["samples"] == 2
    shown = evaluate(*arguments, "--fim", "--fim-samples", "2", *QUICK).stdout
    for words in ("demo (int8, KV cache float32)", "128 tokens, each with 32 to 63 before it", "context 64, stride 32, 4 win"):
        assert words in shown
    for label in ("perplexity  ", "  change", "KL divergence, mean", "  median", "  99th percentile", "top-1 agreement"):
        assert f"\n{label}" in shown
    assert "%  after block 3\n" in shown
    assert "lines filled" in shown


@pytest.mark.parametrize(("storage", "exact"), [("float32", "float32"), ("float16", "float32"), ("bfloat16", "bfloat16")])
def test_a_plain_checkpoint_is_a_reference_as_it_is_stored(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, exact: str
) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    checkpoint = make_checkpoint(tmp_path / "checkpoint", storage=storage)

    def read(*arguments: str | Path) -> dict[str, Any]:
        shown = evaluate(*arguments, *QUICK, "--json")
        assert shown.returncode == 0, shown.stderr
        content: dict[str, Any] = json.loads(shown.stdout)
        return content

    command = [checkpoint, "--reference", checkpoint, "--text", SOURCE]
    found = read(*command)
    assert (found["dtype"], found["kv_dtype"]) == ("int8", "int8")
    assert (found["reference_dtype"], found["reference_kv_dtype"]) == (exact, "float32")
    assert found["kl_mean"] > 0
    assert found["layers"][0]["relative_error"] > 0, "the embeddings are quantised, those of the reference are not"
    alike = read(*command, "--dtype", "float32", "--kv-dtype", "float32")
    assert alike["reference_perplexity"] == alike["perplexity"] == found["reference_perplexity"]
    assert alike["kl_mean"] == 0
    found = read(*command, "--reference-dtype", "int8", "--reference-kv-dtype", "float16")
    assert (found["reference_dtype"], found["reference_kv_dtype"]) == ("int8", "float16")


def test_a_converted_model_is_a_reference_as_it_is(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    from gptbigcode_cpu.convert import convert

    convert(make_checkpoint(tmp_path / "checkpoint"), tmp_path / "int4", dtype="int4")
    found = json.loads(evaluate(tmp_path / "int4", "--reference", tmp_path / "int4", "--text", SOURCE, *QUICK, "--json").stdout)
    assert (found["reference_dtype"], found["reference_kv_dtype"], found["kl_mean"]) == ("int4", "int8", 0)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "Missing option '--text'"),
        (["--text", "no.txt"], 2, "'no.txt' does not exist"),
        (["--text", SOURCE, "--reference-dtype", "int8"], 2, "need --reference MODEL"),
        (["--text", SOURCE, "--fim-seed", "1"], 2, "need --fim"),
        (["--text", SOURCE, "--contxt", "64"], 2, "Did you mean one of: '--context'"),
        (["--text", SOURCE, "--plot", "x.jpeg"], 2, ".png, .svg, .pdf"),
        (["--text", SOURCE, "--plot", "no/such/x.png"], 2, "there is no directory no/such"),
        (["--text", SOURCE, "--context", "2049"], 8, "2048 positions"),
        (["--text", SOURCE, "--context", "64", "--stride", "64"], 9, "from 1 to 63"),
        (["--text", "SHORT"], 9, "short.txt: 3 tokens"),
        (["--text", "BAD"], 9, "bad.jsonl, line 2 has no field"),
        (["--text", SOURCE, "--reference", "OTHER"], 9, "the reference's 272"),
        (["--text", SOURCE, "--reference", "/no/such"], 3, "/no/such"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str | Path], code: int, says: str, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    (tmp_path / "short.txt").write_text("a b")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"txt": "a"}\n')
    files: dict[Any, Any] = {"SHORT": tmp_path / "short.txt", "BAD": tmp_path / "bad.jsonl"}
    if "OTHER" in arguments:
        files["OTHER"] = make_checkpoint(tmp_path / "other", n_positions=600)
    shown = evaluate("demo", *(files.get(each, each) for each in arguments), GPTBIGCODE_CPU_CACHE=str(tmp_path / "cache"))
    assert shown.returncode == code, shown.stderr
    assert says in shown.stderr
    lines = [line for line in shown.stderr.splitlines() if not line.startswith("note: ")]  # that something was converted
    assert len(lines) == 1
    assert shown.stdout == ""


def test_hidden_lines_need_a_model_that_was_trained_for_them(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    text = (checkpoint / "tokenizer.json").read_text(encoding="utf-8")
    (checkpoint / "tokenizer.json").write_text(text.replace("<fim_middle>", "<other>"), encoding="utf-8")
    shown = evaluate(checkpoint, "--text", SOURCE, "--fim", GPTBIGCODE_CPU_CACHE=str(tmp_path / "cache"))
    assert (shown.returncode, shown.stdout) == (7, "")
    assert "fill in the middle" in shown.stderr
    assert not (tmp_path / "cache").exists(), "said before anything is converted"


MAGIC = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_plot(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"plot{suffix}"
    against = [] if suffix == ".pdf" else ["--reference", "demo", "--reference-kv-dtype", "float32"]
    shown = evaluate("demo", "--text", SOURCE, *against, *QUICK, "--plot", file)
    assert shown.returncode == 0, shown.stderr
    assert file.read_bytes().startswith(MAGIC[suffix])
    assert file.stat().st_size > 5000
    assert [*tmp_path.iterdir()] == [file], "nothing else is left"
    if suffix == ".svg":
        drawn = file.read_text()
        for text in ("KL divergence from the reference", "Error of the activations", "Loss by position", "99 %", "embeddings"):
            assert text in drawn, text


def test_a_model_against_itself_can_be_drawn(tmp_path: Path) -> None:
    """Every divergence is 0, on an axis of logarithms."""
    pytest.importorskip("matplotlib")
    shown = evaluate("demo", "--text", SOURCE, "--reference", "demo", *QUICK, "--plot", tmp_path / "plot.png")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""


def test_plot_without_matplotlib_names_the_extra_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no matplotlib')")
    shown = evaluate("demo", "--text", SOURCE, "--plot", tmp_path / "x.png", PYTHONPATH=str(tmp_path))
    assert shown.returncode == 12
    assert shown.stderr == 'error: plots need matplotlib: pip install "gptbigcode-cpu[bench]"\n'
    assert shown.stdout == ""


def test_a_directory_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    command = click.Command("draw", params=[click.Option(["--other"])], callback=lambda **_: None)
    options.plot_option("it")(command)
    with pytest.raises(click.BadParameter, match="cannot be written to"):
        command.make_context("draw", ["--plot", str(tmp_path / "x.png")])


def test_progress_on_a_terminal_goes_away() -> None:
    primary, secondary = pty.openpty()
    termios.tcsetwinsize(secondary, (24, 100))
    command = [*PROGRAM, "demo", "--text", str(SOURCE), *QUICK, "--fim", "--fim-samples", "2"]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=secondary, env=environment) as process:
        os.close(secondary)
        shown = b""
        try:
            while piece := os.read(primary, 65536):
                shown += piece
        except OSError:  # the other side is closed
            pass
        finally:
            os.close(primary)
        assert process.wait() == 0
    drawn = shown.decode()
    assert "scoring [" in drawn
    assert "filling gaps [" in drawn
    assert drawn.endswith("\r\x1b[K"), "the line is cleared"
    assert "\n" not in drawn
