"""``gptbigcode-cpu bench``: what it measures, says and draws, on the packaged demo model."""

from __future__ import annotations

import json
import os
import pty
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from gptbigcode_cpu import _core, errors
from gptbigcode_cpu.cli.bench import _as_text
from gptbigcode_cpu.hub import paths as hub
from gptbigcode_cpu.measure import benchmark
from gptbigcode_cpu.measure.benchmark import Limits, TimedCall, Timing, Work, least_work, weights_of_a_step
from gptbigcode_cpu.store.weights import open_packed

PROGRAM = [sys.executable, "-m", "gptbigcode_cpu", "bench"]
QUICK = ["--prompt-tokens", "40", "--new-tokens", "3", "--threads", "1", "--repeat", "2"]


def bench(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, **environment}, check=False)


def measured(*arguments: str) -> dict[str, Any]:
    shown = bench(*QUICK, "--json", *arguments)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == "", "no progress where there is no terminal"
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def test_plain_run() -> None:
    found = measured()
    assert (found["threads"], found["prefill_threads"]) == (1, 1)
    assert (found["prompt_tokens"], found["new_tokens"], found["repeat"]) == (40, 3, 2)
    assert found["time_to_first_token_s"] > found["load_s"] > 0
    assert found["peak_rss_bytes"] > 10e6
    (at,) = found["depths"]
    assert {*at} == {
        *("depth", "prefill_tokens_per_s", "prefill_share_of_empty", "prefill_share_of_int8_peak"),
        *("decode_tokens_per_s", "decode_share_of_empty", "decode_share_of_bandwidth"),
    }
    assert at["depth"] == 0
    assert at["prefill_share_of_empty"] == at["decode_share_of_empty"] == 1
    assert min(at["prefill_tokens_per_s"], at["decode_tokens_per_s"]) > 0
    assert (found["rows"], found["limits"]) == ([], None)
    assert {*found} == {
        *("model", "dtype", "isa", "threads", "prefill_threads", "kv_dtype", "prompt_tokens", "new_tokens", "repeat", "load_s"),
        *("time_to_first_token_s", "peak_rss_bytes", "kv_bytes_per_token", "depths", "rows", "limits", "calls"),
        "phases",
    }
    text = bench(*QUICK).stdout
    assert "of empty" not in text
    assert "medians of 2 rounds, each with prefills of 40 tokens and 3 steps" in text


def test_depths_share_one_fill_and_are_compared_with_the_empty_context() -> None:
    found = measured("--depths", "0,100,1500", "--prefill-threads", "2")
    assert (found["threads"], found["prefill_threads"]) == (1, 2)
    assert [at["depth"] for at in found["depths"]] == [0, 100, 1500]
    by_call = {(call["tokens"], call["depth"]): call["seconds"] for call in found["calls"]}
    for at in found["depths"]:
        shares = [empty / deep for empty, deep in zip(by_call[1, 0], by_call[1, at["depth"]], strict=True)]
        assert at["decode_share_of_empty"] == pytest.approx(sum(shares) / 2)
    assert [(call["tokens"], call["depth"]) for call in found["calls"]] == [(t, d) for d in (0, 100, 1500) for t in (40, 1)]
    assert all(len(call["seconds"]) == 2 for call in found["calls"])
    shown = bench(*QUICK, "--depths", "100,0", "--prefill-threads", "2").stdout
    assert "1 (prefill: 2)" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith(("  100", "    0"))] == ["100", "0"]
    assert "of empty" in shown


def test_without_the_empty_context_there_is_no_share_of_it() -> None:
    (at,) = measured("--depths", "70")["depths"]
    assert at["decode_share_of_empty"] is at["prefill_share_of_empty"] is None


def test_rows_are_relative_to_one_even_if_one_is_not_asked_for() -> None:
    found = measured("--depths", "10", "--rows", "4,2")
    assert [row["rows"] for row in found["rows"]] == [4, 2]
    one = next(call for call in found["calls"] if (call["sequences"], call["tokens"], call["depth"]) == (1, 1, 0))
    assert len(one["seconds"]) == 2
    for row in found["rows"]:
        (step,) = (call for call in found["calls"] if call["sequences"] == row["rows"])
        ratios = [many / single for many, single in zip(step["seconds"], one["seconds"], strict=True)]
        assert row["cost"] == pytest.approx(sum(ratios) / 2)
        assert row["tokens_per_s"] == pytest.approx(row["rows"] / row["step_s"])
        assert row["share_of_limit"] is None


def test_phases_add_up_to_the_call() -> None:
    calls = measured("--depths", "0,64", "--phases")["phases"]
    expected = [f"{what} at depth {depth}" for depth in (0, 64) for what in ("prefill of 40", "step of 1")]
    assert [call["call"] for call in calls] == [*expected, "token of generate"]
    for call in calls:
        names = [phase["name"] for phase in call["phases"]]
        assert names[:4] == ["embed, ln_1", "c_attn", "write kv", "attention"] and names[-1] == "lm_head"
        assert sum(phase["share"] for phase in call["phases"]) + call["outside_share"] == pytest.approx(1)
        for phase in call["phases"]:
            assert 0 < phase["seconds"] == pytest.approx(phase["share"] * call["seconds"])
            assert 0 <= phase["imbalance"] < 1


def test_phases_are_printed() -> None:
    output = bench(*QUICK, "--phases").stdout
    for line in ("prefill of 40 at depth 0: ", "phase", "imbalance", "mlp c_proj", "outside the core", "token of generate: "):
        assert line in output


def test_limits() -> None:
    found = measured("--limits", "--depths", "0,200")
    assert min(found["limits"]["read_bytes_per_s"], found["limits"]["int8_macs_per_s"]) > 0
    for call in found["calls"]:
        rate = {key: call[key] / statistics.median(call["seconds"]) for key in ("nbytes", "macs")}
        assert call["share_of_bandwidth"] == pytest.approx(rate["nbytes"] / found["limits"]["read_bytes_per_s"])
        assert call["share_of_int8_peak"] == pytest.approx(rate["macs"] / found["limits"]["int8_macs_per_s"])
    by_call = {(call["sequences"], call["tokens"], call["depth"]): call for call in found["calls"]}
    for at in found["depths"]:
        assert at["decode_share_of_bandwidth"] == by_call[1, 1, at["depth"]]["share_of_bandwidth"]
        assert at["prefill_share_of_int8_peak"] == by_call[1, 40, at["depth"]]["share_of_int8_peak"]
    for row in found["rows"]:
        step = by_call[row["rows"], 1, 0]
        assert row["share_of_limit"] == max(step["share_of_bandwidth"], step["share_of_int8_peak"])
    assert found["limits"]["read_bytes"] == sum(array.nbytes for array in weights_of_a_step(open_packed(hub.resolve("demo"))))
    assert [row["rows"] for row in found["rows"]] == [1, 2, 4, 8, 16]
    assert {call["tokens"] for call in found["calls"]} == {1, 32, 40}
    shown = bench(*QUICK, "--limits").stdout
    for word in ("read bandwidth", "int8 peak", "of bandwidth", "of int8 peak", "of the limit", "multiply-adds/s"):
        assert word in shown


def test_the_best_of_all_rounds_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    bandwidths, peaks = iter([3e9, 5e9, 4e9, 1e9, 2e9, 2e9]), iter([7e10, 1e10, 2e10, 3e10, 8e10, 1e10])
    read: list[list[int]] = []

    def bandwidth(arrays: list[NDArray[Any]], isa: str, num_threads: int) -> float:
        assert (isa, num_threads) == (_core.select_kernel(), 1)
        read.append([array.nbytes for array in arrays])
        return next(bandwidths)

    monkeypatch.setattr(_core, "measure_read_bandwidth", bandwidth)
    monkeypatch.setattr(_core, "measure_int8_peak", lambda isa, num_threads: next(peaks) * num_threads)
    options: dict[str, Any] = {"prompt_tokens": 4, "new_tokens": 2, "threads": 1, "prefill_threads": 2, "rows": (1,)}
    monkeypatch.setattr(benchmark, "_READ_AT_MOST", 1 << 20)
    result = benchmark.measure(hub.resolve("demo"), limits=True, repeat=3, **options)
    assert result.limits is not None
    assert (result.limits.read_bytes_per_s, result.limits.int8_macs_per_s) == (5e9, 16e10)
    assert next(bandwidths, None) is next(peaks, None) is None, "after each of two calls of three rounds"
    assert all(sizes == read[0] and sum(sizes[:-1]) < 1 << 20 <= sum(sizes) for sizes in read)
    assert result.limits.read_bytes == sum(read[0])


def test_a_bandwidth_of_the_cache_is_called_one() -> None:
    result = benchmark.measure(hub.resolve("demo"), limits=True, prompt_tokens=4, new_tokens=2, repeat=1, threads=1)
    assert result.limits is not None
    for cache, fits in ((None, False), (result.limits.read_bytes - 1, False), (result.limits.read_bytes, True)):
        shown = _as_text(replace(result, limits=replace(result.limits, cache_bytes=cache)))
        assert ("of a cache: the weights fit" in shown) == fits


def test_float_weights_are_not_compared_with_the_int8_peak() -> None:
    limits = Limits(20.0, 400.0, 10, None)
    timing = benchmark._timing(TimedCall(1, 1, 0), (1.0, 3.0, 2.0), Work(macs=100, nbytes=10), "bfloat16", limits)
    assert (timing.share_of_bandwidth, timing.share_of_int8_peak) == (0.25, None)
    timing = benchmark._timing(TimedCall(1, 1, 0), (1.0, 3.0, 2.0), Work(macs=100, nbytes=10), "int4", limits)
    assert timing.share_of_int8_peak == 0.125


def test_ratios_are_taken_within_rounds() -> None:
    one, two = (Timing(1, 1, 0, seconds, 0, 0, None, None) for seconds in ((1.0, 10.0, 2.0), (2.0, 20.0, 6.0)))
    assert two.relative_to(one) == 2  # the medians alone would say 3
    assert one.tokens_per_s == 0.5


def test_work_of_a_call_is_that_of_the_formulas() -> None:
    packed = open_packed(hub.resolve("demo"))
    linear = 8 * (256 * (256 + 2 * 64) + 256 * 256 + 2 * 256 * 1024)
    head = 8192 * 256
    assert least_work(packed, 1000, TimedCall(1, 1, 0)).macs == linear + head + 8 * 2 * 256
    assert least_work(packed, 1000, TimedCall(1, 1, 9)).macs == linear + head + 8 * 2 * 256 * 10
    assert least_work(packed, 1000, TimedCall(1, 4, 9)).macs == 4 * linear + head + 8 * 2 * 256 * (10 + 11 + 12 + 13)
    assert least_work(packed, 1000, TimedCall(3, 1, 9)).macs == 3 * least_work(packed, 1000, TimedCall(1, 1, 9)).macs
    weights = least_work(packed, 0, TimedCall(1, 1, 0)).nbytes
    tables = {"transformer.wpe.weight", "transformer.wte.column_scale", "transformer.ln_f.weight", "transformer.ln_f.bias"}
    assert weights == packed.nbytes - sum(packed.tensors[name].nbytes for name in tables)
    assert least_work(packed, 1000, TimedCall(2, 5, 20)).nbytes == weights + 2 * 25 * 1000


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--depths", "0,x"], 2, "not a list like 0,1024,4096"),
        (["--depths", ""], 2, "not a list"),
        (["--rows", "0,1"], 2, "from 1 on"),
        (["--depths", "0,2040"], 8, "need 2080 positions, the model has 2048"),
        (["--plot", "x.png"], 2, "nothing to draw"),
        (["--limits", "--plot", "x.jpeg"], 2, ".png, .svg, .pdf"),
        (["--limits", "--plot", "no/such/x.png"], 2, "there is no directory no/such"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], code: int, says: str) -> None:
    shown = bench(*QUICK, *arguments)
    assert shown.returncode == code, shown.stderr
    assert says in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_plot_without_matplotlib_names_the_extra_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('no matplotlib')")
    shown = bench(*QUICK, "--limits", "--plot", tmp_path / "x.png", PYTHONPATH=str(tmp_path))
    assert shown.returncode == 12
    assert shown.stderr == 'error: plots need matplotlib: pip install "gptbigcode-cpu[bench]"\n'
    assert shown.stdout == ""


MAGIC = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_plot(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"plot{suffix}"
    file.write_text("old")
    shown = bench(*QUICK, "--depths", "0,128,256", "--limits", "--plot", file)
    assert shown.returncode == 0, shown.stderr
    assert file.read_bytes().startswith(MAGIC[suffix])
    assert [*tmp_path.iterdir()] == [file], "nothing else is left"
    if suffix == ".svg":
        drawn = file.read_text()
        for text in (
            *("Decode", "Prefill of 40", "milliseconds per token", "tokens in the cache", "A step of several sequences"),
            *("Roofline, empty context", "multiply-adds per byte of weights and cache", "demo: int8", "1 thread", "tokens/s"),
        ):
            assert f">{text}" in drawn or text in drawn, text


def test_a_plot_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    from gptbigcode_cpu.measure import plots

    result = benchmark.measure(hub.resolve("demo"), depths=(0, 8), prompt_tokens=4, new_tokens=2, repeat=1, threads=1)
    file = tmp_path / "plot.png"
    plots.draw(result, file)
    before = file.read_bytes()

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure.Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        plots.draw(result, file)
    assert file.read_bytes() == before
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("options", [{"depths": (0, 8)}, {"rows": (3,)}, {"rows": (1, 5)}, {"limits": True}])
def test_each_part_can_be_drawn_alone(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from gptbigcode_cpu.measure import plots

    result = benchmark.measure(hub.resolve("demo"), prompt_tokens=4, new_tokens=2, repeat=1, threads=1, **options)
    plots.draw(result, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert ("Roofline" in drawn) == ("limits" in options)
    assert ("A step of several" in drawn) == ("depths" not in options)
    assert (">Decode" in drawn) == ("depths" in options)


def test_progress_on_a_terminal_is_one_line_that_goes_away() -> None:
    primary, secondary = pty.openpty()
    with subprocess.Popen([*PROGRAM, *QUICK, "--depths", "600"], stdout=subprocess.PIPE, stderr=secondary) as process:
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
    states = shown.decode().split("\r\x1b[K")
    assert "filling the cache: 512 of 600 tokens" in states
    assert "round 2 of 2: step of 1 at depth 600" in states
    assert states[-1] == ""
    assert "\n" not in shown.decode()


def test_results_are_plain_data() -> None:
    result = benchmark.measure(hub.resolve("demo"), prompt_tokens=4, new_tokens=2, repeat=1, threads=1, rows=(2, 2))
    assert len(result.rows) == 1
    assert json.loads(json.dumps(asdict(result)))["depths"][0]["depth"] == 0
    with pytest.raises(errors.ContextLengthError, match="the model has 2048"):
        benchmark.measure(hub.resolve("demo"), depths=(2047,), prompt_tokens=4, new_tokens=2)
