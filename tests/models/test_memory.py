"""What an open model costs: little memory, shared weights, shared keys and values of beams, and no CPU when idle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import AutoModelForCausalLM

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads Linux's memory accounts")

# 107 million weights, 60 MB in int4.
SHAPE: dict[str, Any] = {"n_embd": 1024, "n_head": 8, "n_inner": 4096, "n_layer": 10, "n_positions": 64, "vocab_size": 300}

SCRIPT = """
    import json, sys, time
    import numpy
    from gptbigcode_cpu import AutoModelForCausalLM
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.hub import paths as hub
    from gptbigcode_cpu.models import causal_lm as modeling
    from gptbigcode_cpu.store import weights  # imports are not what is measured

    def memory(path="/proc/self/smaps_rollup"):
        rows = (line.split() for line in open(path).readlines()[1:])
        return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}

    def private():
        found = memory()
        return found["Private_Clean"] + found["Private_Dirty"]

    def shared_weights():
        size = 0
        inside = False
        for line in open("/proc/self/smaps"):
            first = line.split()[0]
            if "-" in first:
                inside = line.rstrip().endswith("model.safetensors")
            elif inside and first in ("Shared_Clean:", "Shared_Dirty:"):
                size += int(line.split()[1]) * 1024
        return size

    before = private()
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=2)
    loaded, read = private() - before, shared_weights()
    model([[1, 2, 3]])  # touches every weight but most of the embedding
    print(json.dumps({"loaded": loaded, "read": read}), flush=True)
    sys.stdin.readline()  # until the other process has computed too
    print(json.dumps({"shared": shared_weights(), "used": private() - before}), flush=True)
    sys.stdin.readline()
"""


def test_opening_is_cheap_and_processes_share_the_weights(
    tmp_path: Path, make_checkpoint: Callable[..., Path], converted: Callable[..., Path]
) -> None:
    directory = converted("int4", make_checkpoint(tmp_path, **SHAPE))
    size = (directory / "model.safetensors").stat().st_size
    assert size > 50e6
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(directory)]
    answers: list[dict[str, float]] = [{}, {}]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        for _ in range(2):
            for process, answer in zip(processes, answers, strict=True):
                assert process.stdout is not None
                answer |= json.loads(process.stdout.readline())
            for process in processes:
                print(file=process.stdin, flush=True)
    assert [process.returncode for process in processes] == [0, 0]
    for answer in answers:
        # Pages that one process alone has read are private to it; they become shared when the other one reads them, too.
        assert answer["loaded"] < 10e6, "opening reads no weights, and copies none"
        assert answer["read"] < 0.1 * size, "opening reads no weights"
        assert answer["used"] < 50e6, "weights were copied"
        assert answer["shared"] > 0.95 * size


PROMPT_TOKENS = 1984  # whole blocks of 64 tokens, so that what is copied on writing is small
SHARING: dict[str, Any] = {"n_embd": 512, "n_head": 8, "n_inner": 64, "n_layer": 2, "n_positions": 2048, "multi_query": False}

SHARING_SCRIPT = """
    import json, sys
    import numpy as np
    from gptbigcode_cpu import AutoModelForCausalLM, _core

    def memory(name):
        return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name + ":"))

    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=1, kv_dtype="float32")
    prompt = (np.arange(int(sys.argv[2])) % 200 + 10).tolist()

    core = model.core
    parent = _core.KVCache(core)
    core.forward([parent], [np.array(prompt, np.int32)], [0])
    before = memory("VmRSS")  # nothing as large has been freed yet, so that what forks take is new
    forks = [parent.fork() for _ in range(8)]
    core.forward(forks, [np.array([i], np.int32) for i in range(8)], [1] * 8)
    answer = {"forks": memory("VmRSS") - before, "of_forks": sum(fork.nbytes for fork in forks), "prompt": parent.nbytes}
    del parent, forks

    def peak_of_beams(count):
        model.generate([prompt], num_beams=count, max_new_tokens=4, eos_token_id=[], pad_token_id=4)
        return memory("VmHWM")

    few, many = peak_of_beams(2), peak_of_beams(8)
    print(json.dumps(answer | {"beams": many - few}))
"""


@pytest.fixture(scope="module")
def sharing(
    make_checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, int]:
    """Bytes that a process of its own needed for beams and forks."""
    directory = converted("int8", make_checkpoint(tmp_path_factory.mktemp("sharing") / "checkpoint", **SHARING))
    command = [sys.executable, "-c", textwrap.dedent(SHARING_SCRIPT), str(directory), str(PROMPT_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    assert found["prompt"] > 15e6, "large beside what else comes and goes"
    return found


def test_forks_of_a_cache_share_memory(sharing: dict[str, int]) -> None:
    assert sharing["of_forks"] > 8 * sharing["prompt"], "each says how much it refers to"
    assert sharing["forks"] < sharing["prompt"]  # if each had its own: eight times as much


def test_beams_share_keys_and_values(sharing: dict[str, int]) -> None:
    """Eight beams need hardly more than two: each has a block of its own for what it writes."""
    assert sharing["beams"] < sharing["prompt"]  # if each had its own: at least six times as much


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the kernel has no huge pages")
def test_weights_are_to_be_read_in_huge_pages(converted: Callable[..., Path]) -> None:
    directory = converted("int8")
    model = AutoModelForCausalLM.from_pretrained(directory, num_threads=1)
    flags = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            name = line.split()[-1]
        elif line.startswith("VmFlags:"):
            flags[name] = line.split()[1:]
    assert "hg" in flags[str(directory / "model.safetensors")]
    del model


def test_an_idle_model_uses_no_cpu(converted: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted("int8"), num_threads=2)
    model.generate([[1, 2, 3]], max_new_tokens=4)
    time.sleep(0.05)  # threads spin for less than that after the last step
    before = os.times()
    time.sleep(0.5)
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.1
