"""What an open model costs: milliseconds, little memory, one copy of the weights for all processes, and no CPU when idle."""

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
        assert answer["loaded"] < 10e6
        assert answer["read"] < 0.1 * size, "opening reads no weights"
        assert answer["used"] < 50e6, "weights were copied"
        assert answer["shared"] > 0.95 * size


BEAMS = """
    import sys
    from gptbigcode_cpu import AutoModelForCausalLM

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096

    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=1, kv_dtype="float32")
    prompt = [[5] * 1000]
    options = {"eos_token_id": [], "max_new_tokens": 4, "return_dict_in_generate": True}
    first = model.generate(prompt, num_beams=2, **options)  # what is needed in any case is there now
    before = resident()
    beams = model.generate(prompt, num_beams=16, **options)
    print(resident() - before, beams.past_key_values.nbytes)
"""


def test_beams_share_keys_and_values(
    tmp_path: Path, make_checkpoint: Callable[..., Path], converted: Callable[..., Path]
) -> None:
    """The prompt's keys and values are in memory once, whatever the number of beams; `nbytes` counts them for every row."""
    source = make_checkpoint(tmp_path, n_embd=256, n_head=1, n_inner=64, n_layer=8, n_positions=1100, vocab_size=300)
    command = [sys.executable, "-c", textwrap.dedent(BEAMS), str(converted("int8", source))]
    grown, counted = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    of_a_row = 1000 * 8 * 2 * 256 * 4
    assert counted >= 16 * of_a_row
    assert grown < 5 * of_a_row


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
