"""Fixtures that several test files share."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))  # for `from oracle...`; importlib mode adds nothing itself

from oracle import data, drawn  # noqa: E402
from oracle.random_models import write_checkpoint  # noqa: E402

# The tests write nothing outside the checkout: no temporary file, and nothing into the user's caches.
SCRATCH = TESTS.parent / "build" / "tests"
SCRATCH.mkdir(parents=True, exist_ok=True)
CACHES = SCRATCH / f"caches-{os.getpid()}"
tempfile.tempdir = str(SCRATCH)
os.environ |= {
    "TMPDIR": str(SCRATCH),
    "MPLCONFIGDIR": str(SCRATCH / "matplotlib"),
    "GPTBIGCODE_CPU_CACHE": str(CACHES / "gptbigcode-cpu"),
    "HF_HOME": str(CACHES / "huggingface"),
    drawn.SEED_VARIABLE: str(drawn.SEED),  # pytest-xdist's workers inherit it, and draw from the seed that the header names
}

# A shell starts background jobs with this ignored, which every process started here would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow for reasons of its own: how long an example takes says nothing about the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHES, ignore_errors=True)


def pytest_report_header() -> str:
    return f"drawn cases: {drawn.SEED_VARIABLE}={drawn.SEED} repeats them"


def say_what_is_missing(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make the reason of a skip for want of a module one that says what to do."""
    if report.skipped and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        if missing := re.match(r"Skipped: could not import '(\w+)", reason):
            name = missing[1]
            report.longrepr = (path, line, f"Skipped: compares with {name}, which is not installed here (pip install {name})")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    say_what_is_missing(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    say_what_is_missing(report)
    if report.failed and "draws" in getattr(item, "fixturenames", ()):
        report.sections.append(("Drawn cases", f"{drawn.SEED_VARIABLE}={drawn.SEED} repeats them"))
    return report


MARKERS = {
    "torch": re.compile(r'importorskip\("(torch|transformers|peft)"'),
    "subprocess": re.compile(r"^import subprocess$|^from subprocess import", re.MULTILINE),
}
_markers_of: dict[Path, list[str]] = {}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of files that need torch or start processes, so that nobody keeps lists of them."""
    if item.path not in _markers_of:
        text = item.path.read_text(encoding="utf-8")
        _markers_of[item.path] = [name for name, pattern in MARKERS.items() if pattern.search(text)]
    for name in _markers_of[item.path]:
        item.add_marker(name)


@pytest.fixture
def draws(request: pytest.FixtureRequest) -> Callable[[int], Iterator[np.random.Generator]]:
    """``draws(count)``: about that many random generators, a case each; others in every run (oracle/drawn.py)."""
    return lambda count: drawn.generators(request.node.name, count)


@pytest.fixture(scope="session")
def checkpoint_dir() -> Path:
    """The python-8m checkpoint: small, but trained."""
    return data.CHECKPOINT


@pytest.fixture(scope="session")
def eval_file() -> Path:
    """The file of held-out texts: a JSON object per line, with `path` and `text`."""
    return data.HELD_OUT


@pytest.fixture(scope="session")
def eval_texts() -> list[str]:
    """Held-out Python files, in file order."""
    return data.held_out_texts()


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    """``make_checkpoint(directory, seed=0, storage="float32", prefix="transformer.", shards=1, **config)``.

    Writes a small random checkpoint (oracle/random_models.py) with a byte-level tokenizer, and returns the directory.
    """
    return write_checkpoint


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """``converted(dtype, source=None)``: path of the converted python-8m, or of `source`; each is converted once."""
    done: dict[tuple[Path, str], Path] = {}

    def convert_once(dtype: str, source: Path | None = None) -> Path:
        from gptbigcode_cpu.convert import convert

        checkpoint = source or request.getfixturevalue("checkpoint_dir")
        if (checkpoint, dtype) not in done:
            out = tmp_path_factory.mktemp("converted") / dtype
            convert(checkpoint, out, dtype=dtype)
            done[checkpoint, dtype] = out
        return done[checkpoint, dtype]

    return convert_once


@pytest.fixture(scope="session")
def core_model() -> Callable[..., Any]:
    """``core_model(converted_directory, isa="", num_threads=1, kv_dtype="auto", prefill_threads=0)``: the compiled model."""

    def load(directory: Path, isa: str = "", num_threads: int = 1, kv_dtype: str = "auto", prefill_threads: int = 0) -> Any:
        from gptbigcode_cpu.store.weights import load_core, open_packed

        return load_core(open_packed(directory), num_threads, prefill_threads, kv_dtype, isa or None)

    return load


@pytest.fixture(scope="session")
def run_core() -> Callable[..., NDArray[np.float32]]:
    """``run_core(model, tokens, cache=None, keep=all)``: logits of new tokens of one sequence, by default a fresh one."""

    def run(model: Any, tokens: Any, cache: Any = None, keep: int | None = None) -> NDArray[np.float32]:
        from gptbigcode_cpu import _core

        ids = np.asarray(tokens, dtype=np.int32)
        logits: NDArray[np.float32] = model.forward(
            [_core.KVCache(model) if cache is None else cache], [ids], [len(ids) if keep is None else keep]
        )
        return logits

    return run
