"""Instructions per token, counted by callgrind: what a change of the code costs, whatever the machine's mood.

The counts are those of one thread on the AVX2 kernels, which valgrind can run, for a model of one small layer. A bound is the
committed count times `SLACK`: above the differences between compilers, below a regression that one would want to know of. After
a change that is worth its price, or that saves a lot, print the table anew and commit it:

    python tests/core/test_perf_gate.py

What Python adds to a token is counted in calls of functions. Most of their time goes into fetching code and objects that the
weights have driven out of the caches, so every function that is left out counts, however short.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SLACK = 1.25
# Millions of instructions: a step of one sequence, a token of a prefill; ratios: a step of four over a step of one, and the
# same step and prefill with a filled cache over the empty one, which do not depend on the type of the weights.
COMMITTED: dict[str, dict[str, float]] = {
    "int4": {"step": 0.87, "prefill": 0.345, "step of 4": 2.86, "step at depth": 1.15, "prefill at depth": 1.37},
    "int6": {"step": 1.03, "prefill": 0.385, "step of 4": 2.7},
    "int8": {"step": 0.88, "prefill": 0.396, "step of 4": 3.11},
    "bfloat16": {"step": 1.22, "prefill": 0.535, "step of 4": 2.47},
}
# Millions of instructions to sample a token of StarCoder's vocabulary, by the options of the sampler.
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "greedy with a penalty and a bias": {"temperature": 0.0, "repetition_penalty": 1.1, "logit_bias": {5: 1.0}},
    "top_k and top_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
    "top_p": {"temperature": 0.8, "top_p": 0.95},
}
DTYPES = tuple(COMMITTED)
COMMITTED["sampling"] = {"greedy": 0.06, "greedy with a penalty and a bias": 0.343, "top_k and top_p": 0.284, "top_p": 0.486}

CONFIG = {"n_layer": 1, "n_embd": 512, "n_head": 4, "n_inner": 1024, "vocab_size": 1024, "n_positions": 768}
DEPTH, PROMPT, STEPS = 512, 64, 4

# Valgrind's own way to start, stop and read its counters from inside the program.
SWITCHES = """
#include <valgrind/callgrind.h>
extern "C" void start() { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
extern "C" void stop(const char* name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""

PROGRAM = f"""
import ctypes, sys
import numpy as np
from pathlib import Path
from gptbigcode_cpu._core import KVCache, Sampler
from gptbigcode_cpu.store.weights import load_core, open_packed

switches = ctypes.CDLL(sys.argv[1])

random = np.random.default_rng(6)
logits = (2 * random.standard_normal(49152)).astype(np.float32)
context = random.integers(0, 49152, 2000).astype(np.int32)
for number, options in enumerate({list(SAMPLING.values())!r}):
    sampler = Sampler(**options)
    sampler.sample(logits, context)
    switches.start()
    for _ in range({STEPS}):
        sampler.sample(logits, context)
    switches.stop(f"sampling {{number}} 0 0".encode())

def counted(name, caches, count, times):
    tokens = [np.arange(count, dtype=np.int32) + 7 * i for i in range(len(caches))]
    model.forward(caches, tokens, [1] * len(caches))  # buffers and cache blocks are allocated
    switches.start()
    for _ in range(times):
        model.forward(caches, tokens, [1] * len(caches))
    switches.stop(name.encode())

for path in map(Path, sys.argv[2:]):
    model = load_core(open_packed(path), num_threads=1)
    for depth in (0, {DEPTH}) if path.name == "int4" else (0,):
        past = KVCache(model)
        if depth:
            model.forward([past], [np.zeros(depth, np.int32)], [0])
        for rows in (1, 4) if depth == 0 else (1,):
            counted(f"{{path.name}} step {{rows}} {{depth}}", [past.fork() for _ in range(rows)], 1, {STEPS})
        prompt = past.fork()
        counted(f"{{path.name}} prefill 1 {{depth}}", [prompt], {PROMPT}, 1)
"""


def measure(directory: Path, write_checkpoint: Callable[..., Path]) -> dict[str, dict[str, float]]:
    """Count in one run under callgrind; the keys are those of `COMMITTED`."""
    from gptbigcode_cpu.convert import convert

    checkpoint = write_checkpoint(directory / "checkpoint", **CONFIG)
    for dtype in DTYPES:
        convert(checkpoint, directory / dtype, dtype=dtype)
    (directory / "switches.cpp").write_text(SWITCHES)
    library, out = directory / "switches.so", directory / "counts"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, directory / "switches.cpp"], check=True)
    callgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--combine-dumps=yes", f"--callgrind-out-file={out}"]
    models = [directory / dtype for dtype in DTYPES]
    subprocess.run(
        [*callgrind, sys.executable, "-c", PROGRAM, library, *models],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "GPTBIGCODE_CPU_ISA": "avx2", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    text = out.read_text()
    parts = re.findall(r"^desc: Trigger: Client Request: (\S+) (\S+) (\d+) (\d+)$.*?^totals: (\d+)$", text, re.M | re.S)
    counts = {(dtype, kind, int(rows), int(depth)): int(total) for dtype, kind, rows, depth, total in parts}
    sampling = [counts["sampling", str(number), 0, 0] / STEPS / 1e6 for number in range(len(SAMPLING))]
    found = {"sampling": dict(zip(SAMPLING, sampling, strict=True))}
    for dtype in DTYPES:
        step, prefill = counts[dtype, "step", 1, 0], counts[dtype, "prefill", 1, 0]
        found[dtype] = {
            "step": step / STEPS / 1e6,
            "prefill": prefill / PROMPT / 1e6,
            "step of 4": counts[dtype, "step", 4, 0] / step,
        }
        if (dtype, "step", 1, DEPTH) in counts:
            found[dtype]["step at depth"] = counts[dtype, "step", 1, DEPTH] / step
            found[dtype]["prefill at depth"] = counts[dtype, "prefill", 1, DEPTH] / prefill
    return found


def lacking() -> str | None:
    """Why nothing can be counted here."""
    for program in ("valgrind", "g++"):
        if shutil.which(program) is None:
            return f"no {program}"
    from gptbigcode_cpu._core import supported_kernel_names

    return None if "avx2" in supported_kernel_names() else "this CPU has no AVX2"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path]) -> dict[str, dict[str, float]]:
    reason = lacking()
    if reason:
        pytest.skip(f"instructions are not counted: {reason}")
    return measure(tmp_path_factory.mktemp("gate"), make_checkpoint)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("dtype", "what"), [(dtype, what) for dtype, counts in COMMITTED.items() for what in counts])
def test_no_more_instructions_than_before(counted: dict[str, dict[str, float]], dtype: str, what: str) -> None:
    expected, found = COMMITTED[dtype][what], counted[dtype][what]
    assert found <= SLACK * expected, f"{what}, {dtype}: {found:.3g} instead of {expected:.3g}; see the top of this file"


# Calls of functions for a token of `generate`, greedy and without anything else: those of Python and those it makes into C.
CALLS_PER_TOKEN = 22


def test_no_more_function_calls_than_before(converted: Callable[..., Path]) -> None:
    from gptbigcode_cpu import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(converted("int8"))

    def calls(tokens: int) -> int:
        events: list[str] = []
        sys.setprofile(lambda frame, event, argument: events.append(event))
        try:
            model.generate([[1]], max_new_tokens=tokens, do_sample=False, eos_token_id=[])
        finally:
            sys.setprofile(None)
        return events.count("call") + events.count("c_call")

    calls(1)  # imports what is needed
    per_token = (calls(33) - calls(1)) / 32
    assert per_token <= CALLS_PER_TOKEN


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from oracle.random_models import write_checkpoint

    with tempfile.TemporaryDirectory() as directory:
        for dtype, counts in measure(Path(directory), write_checkpoint).items():
            print(f'    "{dtype}": {{' + ", ".join(f'"{what}": {count:.3g}' for what, count in counts.items()) + "},")
