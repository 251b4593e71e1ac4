"""bench/kernels.py and the timers of the core: every case, its counts, two builds in turn, and what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from oracle.kernel_sets import every_isa

from gptbigcode_cpu import _core

BENCH = Path(__file__).resolve().parents[2] / "bench"
BUILD = Path(_core.__file__)
TINY = [
    *("--shape", "40x200", "--vocab", "50", "--heads", "4", "--depth", "600", "--tokens", "20", "--memory", "1"),
    *("--seconds", "0", "--rounds", "2"),
]
# Bytes of a tile of 16 rows and 200 columns, two blocks of 128 (docs/format.md).
TILE_200 = {
    "float32": 16 * 200 * 4,
    "bfloat16": 16 * 200 * 2,
    "int8": 2 * (16 * 128 + 16 * 2),
    "int6": 2 * (16 * 128 * 6 // 8 + 16 * 4) + 16 * 4,
    "int4": 2 * (16 * 128 // 2 + 16) + 16 * 4,
}
KV_ITEM = {"int8": 1, "bfloat16": 2, "float16": 2, "float32": 4}


@pytest.fixture(scope="module")
def bench() -> Iterator[Callable[[str], ModuleType]]:
    """``bench("kernels")``: a file of bench/ as a module; it finds its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        yield import_module


def kernels(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "kernels.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def expected_counts(case: dict[str, Any]) -> tuple[int, int]:
    """Multiply-adds and bytes, from what the kernel computes."""
    kernel, dtype, rows, depth, head_dim = (case[key] for key in ("kernel", "dtype", "rows", "depth", "head_dim"))
    if kernel in ("linear", "head"):
        features = 50 if kernel == "head" else 40
        return rows * features * 200 * (2 if kernel == "head" else 1), math.ceil(features / 16) * TILE_200[dtype]
    if kernel == "attention":
        products = sum(1 for row in range(rows) for position in range(depth + rows) if position <= depth + row)
        scales = 2 * 4 if dtype == "int8" else 0
        return 4 * products * head_dim * 2, (depth + rows) * (2 * head_dim * KV_ITEM[dtype] + scales)
    if kernel == "merge_attention":  # 601 tokens are two chunks of 512
        return 0, 4 * 2 * (head_dim + 2) * 4
    return 0, rows * 200 * 4


def test_every_case_gives_positive_numbers_and_the_right_counts() -> None:
    shown = kernels(*TINY, "--rows", "1,3,10", "--old", BUILD, "--json")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == "", "nothing to see where nobody looks"
    found = json.loads(shown.stdout)
    assert found["new"] == found["old"] == str(BUILD.resolve())
    assert found["isa"] == found["old isa"] == _core.select_kernel()

    counts: dict[str, int] = {}
    for case in found["cases"]:
        counts[case["kernel"]] = counts.get(case["kernel"], 0) + 1
        assert [*case["seconds"]] == ["old", "new"]
        for seconds in case["seconds"].values():
            assert len(seconds) == 2
            assert all(0 < value < 60 for value in seconds)
        assert (case["macs"], case["nbytes"]) == expected_counts(case), case["name"]
        new, old = case["seconds"]["new"], case["seconds"]["old"]
        middle = sum(new) / 2
        assert case["gb_per_s"] == pytest.approx(case["nbytes"] / middle / 1e9)
        assert case["gmac_per_s"] == (pytest.approx(case["macs"] / middle / 1e9) if case["macs"] else None)
        assert case["new_to_old"] == pytest.approx([new[0] / old[0], new[1] / old[1]])
        if case["kernel"] in ("attention", "merge_attention"):
            assert case["cost"] is None
        elif case["rows"] == 1:
            assert case["cost"] == 1
        else:
            assert case["cost"] > 0
        if case["where"] == "memory":
            assert (case["copies"] - 1) * case["nbytes"] <= 1 << 20 < case["copies"] * case["nbytes"]
        else:
            assert case["copies"] == 1
    # Five types from memory and hot; two heads with what the head takes; four types, two sizes, four calls; ...
    assert counts == {
        "linear": 5 * 2 * 3,
        "head": 2 * 2,
        "attention": 4 * 2 * 4,
        "merge_attention": 2,
        **dict.fromkeys(("layer_norm", "quantize", "activate"), 3),
    }
    assert len({case["name"] for case in found["cases"]}) == len(found["cases"])


def test_a_hot_layer_fits_the_cache_and_has_a_tile_for_each_thread(bench: Callable[[str], ModuleType]) -> None:
    cases = bench("kernel_cases")
    for threads in (1, 3, 100):
        for dtype in cases.DTYPES:
            hot = [
                case for case in cases.all_cases(_core, cases.Sizes(threads=threads), [dtype], [], [1]) if case.where == "hot"
            ]
            layer = hot[0]
            assert layer.kernel == "linear"
            assert layer.nbytes(_core) == _core.pack_weight(np.zeros((layer.n, layer.k), np.float32), dtype).nbytes
            assert layer.nbytes(_core) <= threads * 192 * 1024
            assert layer.n >= min(16 * threads, 2048)


def test_two_kernel_sets_of_one_build() -> None:
    shown = kernels(*TINY, "--filter", "linear int8 hot", "--old", BUILD, "--old-isa", "scalar", "--json")
    found = json.loads(shown.stdout)
    assert (found["isa"], found["old isa"]) == (_core.select_kernel(), "scalar")
    shown = kernels(*TINY, "--old", BUILD, "--old-isa", "mmx")
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: the old build: unknown kernel set 'mmx'; this build has: ")


@every_isa
def test_options_choose_the_cases(isa: str) -> None:
    options = ["--dtypes", "int6,int4", "--kv-dtypes", "float16", "--rows", "2,9", "--threads", "2", "--isa", isa]
    listed = kernels(*TINY, *options, "--filter", "memory", "--list")
    assert listed.stdout.splitlines() == [
        *(f"linear {dtype} memory 40x200 rows={rows}" for dtype in ("int6", "int4") for rows in (2, 9)),
        "head int6 memory 50x200 rows=2",
        *(f"attention float16 memory decode 4x{head_dim} depth=600 rows=1" for head_dim in (128, 64)),
    ]
    shown = kernels(*TINY, *options, "--filter", "memory rows=2", "--markdown")
    assert shown.returncode == 0, shown.stderr
    setting, _, head, rule, *lines = shown.stdout.splitlines()
    assert f"isa {isa}, threads 2, rounds 2" in setting
    assert head == "| case | rows | time | GB/s | GMAC/s | cost |"
    assert rule.startswith("| --- | ---: |")
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| linear int6 memory 40x200", "2"],
        ["| linear int4 memory 40x200", "2"],
        ["| head int6 memory 50x200", "2"],
    ]


def test_builds_take_turns_and_tables_have_medians_and_ratios_within_rounds(bench: Callable[[str], ModuleType]) -> None:
    tool, cases = bench("kernels"), bench("kernel_cases")
    one, four = (cases.Case("linear", "int8", "memory", rows, 16, 128) for rows in (1, 4))
    decode = cases.Case("attention", "int8", "hot", 1, heads=2, head_dim=64, depth=0)
    asked: list[tuple[str, int]] = []

    class Fake:
        """A build whose rounds take the times given."""

        def __init__(self, label: str, *seconds: float) -> None:
            self.label, self.seconds = label, seconds
            self.rounds: dict[int, int] = {}

        def ask(self, request: dict[str, Any]) -> dict[str, Any]:
            if "cases" in request:
                self.rounds = {}
                return {}
            asked.append((self.label, request["measure"]))
            self.rounds[request["measure"]] = number = self.rounds.get(request["measure"], -1) + 1
            return {"seconds": self.seconds[number] * (request["measure"] + 1)}

    workers = [Fake("old", 2e-3, 1e-3, 4e-3), Fake("new", 1e-3, 3e-3, 2e-3)]
    arguments = Namespace(isas={"old": "", "new": ""}, threads=1, rounds=3, seconds=0.1)
    found = tool.results(tool.measure(workers, [one, four, decode], arguments), [one, four, decode])
    assert asked[:4] == [("old", 0), ("new", 0), ("old", 1), ("new", 1)]
    assert len(asked) == 3 * 3 * 2
    # 2048 products and 2080 bytes in 2 ms; the median of 1/2, 3/1 and 2/4, not the ratio of medians, which is 1.
    assert tool.table_of(found) == [
        ["case", "rows", "time", "GB/s", "GMAC/s", "cost", "old time", "new/old"],
        ["linear int8 memory 16x128", "1", "2 ms", "0.00", "0.00", "1.00", "2 ms", "0.50 (0.50-3.00)"],
        ["linear int8 memory 16x128", "4", "4 ms", "0.00", "0.00", "2.00", "4 ms", "0.50 (0.50-3.00)"],
        ["attention int8 hot decode 2x64 depth=0", "1", "2 ms", "0.00", "0.00", "", "2 ms", "0.50 (0.50-3.00)"],
    ]
    assert found[1]["gmac_per_s"] == pytest.approx(4 * 16 * 128 / 4e-3 / 1e9)
    assert [tool.in_units(seconds) for seconds in (2.5, 0.0123, 4.56789e-5, 5e-8)] == ["2.5 s", "12.3 ms", "45.7 us", "50 ns"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--old", "missing.so"], f"missing.so does not exist; name a build's file, such as .../gptbigcode_cpu/{BUILD.name}"),
        (["--old", BENCH], "is a directory; name a build's file"),
        (["--isa", "mmx"], "unknown kernel set 'mmx'; this build has: "),
        (["--dtypes", "int8,int5"], "'int5' is not one of float32, bfloat16, int8, int6, int4"),
        (["--kv-dtypes", "int4"], "'int4' is not one of int8, float16"),
        (["--rows", "1,0"], "'0' is not a number from 1 to 4096"),
        (["--rows", "one"], "'one' is not a number from 1 to 4096"),
        (["--seconds", "nan"], "'nan' is not a number from 0 to 60"),
        (["--shape", "2048"], "'2048' is not a shape such as 8192x2048"),
        (["--shape", "0x16"], "'0x16' is not a shape"),
        (["--filter", "linear int5"], "no case has the word 'int5'; the words are linear, float32, memory"),
        (["--filter", "layer_norm int8"], "no case has all of the words layer_norm, int8; --list shows the cases"),
        (["--json", "--markdown"], "not allowed with"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_wrong_options_are_one_line(flags: list[str | Path], says: str) -> None:
    shown = kernels(*flags)
    assert shown.returncode == 2
    assert says in shown.stderr
    assert shown.stderr.startswith("error: ")
    assert shown.stderr.count("\n") == 1
    assert shown.stdout == ""


def test_a_build_that_cannot_be_measured_is_one_line(
    bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken, other = tmp_path / BUILD.name, tmp_path / "_core.cpython-22-z80.so"
    broken.write_bytes(b"no library")
    other.write_bytes(BUILD.read_bytes())
    for path, says in ((broken, "is no build of the core"), (other, "was built for another Python")):
        shown = kernels(*TINY, "--old", path)
        assert shown.returncode == 1
        assert shown.stderr.startswith(f"error: the old build: {path} {says}")
        assert shown.stderr.count("\n") == 1

    cases = bench("kernel_cases")
    assert cases.load_core(BUILD).kernel_names() == _core.kernel_names()
    monkeypatch.setattr(cases, "TIMING", ("time_linear", "time_travel"))
    with pytest.raises(
        ValueError, match=r"lacks the timing functions time_travel; .*docs/benchmarks\.md, 'Measure one kernel'"
    ):
        cases.load_core(BUILD)
    assert "## Measure one kernel" in (BENCH.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_a_worker_runs_the_build_it_was_given_and_no_other(bench: Callable[[str], ModuleType], tmp_path: Path) -> None:
    copy = tmp_path / BUILD.name
    copy.write_bytes(BUILD.read_bytes())
    worker = bench("kernels").Worker("old", copy)
    try:
        assert worker.ask({"isa": "scalar"}) == {"isa": "scalar"}
        mapped = {entry.path for entry in psutil.Process(worker.process.pid).memory_maps()}
    finally:
        worker.close()
    assert {path for path in mapped if Path(path).name.startswith("_core.")} == {str(copy)}
    # Here the installed build is imported already, and would be taken for the other.
    with pytest.raises(ValueError, match=r"cannot be loaded: this process has|is no build of the core"):
        bench("kernel_cases").load_core(copy)


def test_a_worker_that_ends_says_how(bench: Callable[[str], ModuleType]) -> None:
    tool = bench("kernels")
    worker = tool.Worker("old", BUILD)
    try:
        assert worker.ask({"isa": "scalar"}) == {"isa": "scalar"}
        with pytest.raises(tool.BenchError, match="the old build: unknown kernel set 'mmx'"):
            worker.ask({"isa": "mmx"})
        worker.process.kill()
        worker.process.wait()
        with pytest.raises(tool.BenchError, match="the process of the old build ended: signal 9"):
            worker.ask({"isa": ""})
    finally:
        worker.close()
    assert worker.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("busy", [0.0, 1.0], ids=["starting", "measuring"])
def test_an_interruption_ends_the_workers(busy: float) -> None:
    """Interrupted when the workers have used so many seconds: importing takes less than one, so that one measures."""
    flags = [*TINY, "--seconds", "30", "--filter", "quantize", "--old", str(BUILD)]
    command = [sys.executable, str(BENCH / "kernels.py"), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        tool = psutil.Process(process.pid)
        while len(workers := tool.children()) < 2 or max(worker.cpu_times().user for worker in workers) < busy:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, complaint = process.communicate(timeout=60)
    assert (process.returncode, out, complaint) == (130, "", "")
    if busy:
        assert not any(worker.is_running() for worker in workers), "it waits for their end"
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            while worker.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)  # one that was just starting ends when it finds no requests


def test_timers_repeat_and_refuse_what_does_not_fit() -> None:
    random = np.random.default_rng(3)
    x = random.standard_normal((3, 40), dtype=np.float32)
    packed = _core.pack_weight(random.standard_normal((33, 40), dtype=np.float32), "int8")
    qkv = random.standard_normal((70, 6, 16), dtype=np.float32)
    for timer in (
        _core.time_linear([packed, packed.copy()], "int8", 33, x, num_threads=2),
        _core.time_linear([packed], "int8", 33, x[:2], halves=True),
        _core.time_attention(qkv, 2, "float16", 40, n_layer=3, num_threads=2),
        _core.time_attention(qkv, 1, "int8", 1, merge=True),
        *(_core.time_rows(kernel, x) for kernel in ("layer_norm", "quantize", "activate")),
    ):
        assert len(timer.measure(0)) == 1
        several = timer.measure(0.01)
        assert len(several) > 1
        assert all(0 < seconds < 1 for seconds in several)
        for seconds in (-1, math.nan, math.inf):
            with pytest.raises(ValueError, match="seconds must be in"):
                timer.measure(seconds)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("no packed weights", lambda: _core.time_linear([], "int8", 33, x)),
        ("wrong shape", lambda: _core.time_linear([packed], "int8", 17, x)),
        ("wrong shape", lambda: _core.time_linear([packed, packed[:2]], "int8", 33, x)),
        ("wrong type", lambda: _core.time_linear([packed.view(np.int8)], "int8", 33, x)),
        ("even number of rows", lambda: _core.time_linear([packed], "int8", 33, x, halves=True)),
        ("at least one row", lambda: _core.time_linear([packed], "int8", 33, x[:0])),
        ("n_layer must be positive", lambda: _core.time_attention(qkv, 1, "int8", 1, n_layer=0)),
        ("n_queries must be in", lambda: _core.time_attention(qkv, 1, "int8", 71)),
        ("multiple of n_kv_head", lambda: _core.time_attention(qkv[:, :5], 2, "int8", 1)),
        ("unknown kernel 'softmax'", lambda: _core.time_rows("softmax", x)),
        ("at least one row", lambda: _core.time_rows("quantize", x[0])),
        ("unknown kernel set", lambda: _core.time_rows("quantize", x, "mmx")),
    ]
    for says, call in refused:
        with pytest.raises(ValueError, match=says):
            call()
