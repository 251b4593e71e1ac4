"""The thread pool: every item is done once, late threads hold nobody up, and fewer threads take part beside other work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from oracle.arrays import assert_same_bits, random_floats

from gptbigcode_cpu import _core
from gptbigcode_cpu.hub import paths as hub
from gptbigcode_cpu.store.weights import load_core, open_packed


@pytest.fixture(scope="module")
def demo() -> Path:
    return hub.resolve("demo")


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that want a CPU each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def steps(core: Any, count: int) -> list[Any]:
    """Logits of a prompt and of `count` steps after it."""
    cache = _core.KVCache(core)
    logits = [core.forward([cache], [np.arange(40, dtype=np.int32)], [1])]
    return logits + [core.forward([cache], [np.array([token], np.int32)], [1]) for token in range(count)]


@pytest.mark.parametrize("num_threads", [2, 3, 8, 33])
def test_more_threads_than_cpus_give_the_same_bits_beside_other_work(
    num_threads: int, demo: Path, core_model: Callable[..., Any]
) -> None:
    expected = steps(core_model(demo, num_threads=1), 30)
    with busy_processes(os.cpu_count() or 1):
        core = core_model(demo, num_threads=num_threads)
        for _ in range(3):
            for found, wanted in zip(steps(core, 30), expected, strict=True):
                assert_same_bits(found, wanted, num_threads)


def test_a_model_that_adapts_gives_the_same_bits(demo: Path, core_model: Callable[..., Any]) -> None:
    expected = steps(core_model(demo, num_threads=1), 200)
    core = load_core(open_packed(demo))  # no number of threads: it is left to the core
    with busy_processes(os.cpu_count() or 1):
        for found, wanted in zip(steps(core, 200), expected, strict=True):
            assert_same_bits(found, wanted)


def test_every_item_is_done_once_whoever_comes_late() -> None:
    # One pool for many calls of very different sizes: threads that come late from one find another.
    weight, x = random_floats(1, 700, 256), random_floats(2, 33, 256)
    packed = _core.pack_weight(weight, "int4")
    expected = {m: _core.linear(packed, "int4", 700, x[:m]) for m in (1, 2, 17, 33)}
    timers = {m: _core.time_linear([packed], "int4", 700, x[:m], num_threads=4) for m in expected}
    for _ in range(5):
        for m, timer in timers.items():
            timer.measure(0.002)
            assert_same_bits(_core.linear(packed, "int4", 700, x[:m], num_threads=4), expected[m], m)


def test_a_pool_has_no_races(tmp_path: Path) -> None:
    csrc, program = Path(__file__).parents[2] / "csrc", tmp_path / "races"
    sources = [
        Path(__file__).parent / "thread_pool_races.cpp",
        csrc / "base" / "fork.cpp",
        csrc / "base" / "thread_pool.cpp",
    ]
    command = ["g++", "-std=c++20", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{csrc}", *sources, "-o", program]
    if not csrc.is_dir() or shutil.which("g++") is None:
        pytest.skip("needs the C++ sources and g++")
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0 and "tsan" in built.stderr:
        pytest.skip("g++ has no ThreadSanitizer here")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(
        [program], capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "LD_PRELOAD": ""}
    )
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


def test_an_idle_model_uses_no_cpu(demo: Path, core_model: Callable[..., Any]) -> None:
    core = core_model(demo, num_threads=4)
    steps(core, 5)
    time.sleep(0.2)  # until the threads have stopped looking for work
    process = psutil.Process()
    mine = threading.get_native_id()

    def seconds_of_others() -> float:
        return sum(thread.user_time + thread.system_time for thread in process.threads() if thread.id != mine)

    before = seconds_of_others()
    time.sleep(0.5)
    assert seconds_of_others() - before <= 0.05


class TestTeamSize:
    """The choice, on times made up."""

    @staticmethod
    def run(team: Any, seconds: Callable[[int], float], switches: int, calls: int) -> list[int]:
        """The numbers of threads of so many calls, which take `seconds(threads)`."""
        used = []
        for _ in range(calls):
            used.append(team.threads)
            team.report(1, seconds(team.threads), switches)
        return used

    def test_all_threads_on_a_quiet_machine(self) -> None:
        assert set(self.run(_core.TeamSize(4), lambda threads: 0.01, 0, 500)) == {4}

    @pytest.mark.parametrize("threads", [2, 4, 8, 64])
    def test_all_threads_beside_those_of_the_kernel(self, threads: int) -> None:
        """They take every CPU some twenty times a second; calls are long, as those of prompts are."""
        used = self.run(_core.TeamSize(threads), lambda _: 0.5, threads * 10, 300)
        assert set(used) == {threads}

    def test_a_trial_of_long_calls_takes_one(self) -> None:
        used = self.run(_core.TeamSize(2), lambda threads: 1.0 / threads, 200, 300)
        assert used[:3] == [2, 1, 2]
        assert used.count(1) < 15

    def test_fewer_where_they_are_faster(self) -> None:
        used = self.run(_core.TeamSize(4), lambda threads: 0.01 * (1 + abs(threads - 2)), 5, 2000)
        assert used[0] == 4
        assert used[-500:].count(2) > 400

    def test_more_again_when_the_other_work_is_gone(self) -> None:
        team = _core.TeamSize(2)
        assert 1 in self.run(team, lambda threads: 0.01 * threads, 5, 500)[-100:]
        assert set(self.run(team, lambda threads: 0.02 / threads, 0, 500)[-400:]) == {2}

    def test_all_threads_beside_other_work_if_they_are_faster(self) -> None:
        used = self.run(_core.TeamSize(2), lambda threads: 0.02 / threads, 5, 2000)
        assert used.count(1) < 200, "trials are rare"

    def test_one_thread_stays_one(self) -> None:
        assert set(self.run(_core.TeamSize(1), lambda threads: 0.01, 5, 200)) == {1}
        with pytest.raises(ValueError, match="most must be at least 1"):
            _core.TeamSize(0)
