"""Sampled calls without a seed of their own: `set_seed`, and torch's generator."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import AutoModelForCausalLM, GPTBigCodeForCausalLM, set_seed
from gptbigcode_cpu.errors import InputError

SAMPLED: dict[str, Any] = {"do_sample": True, "max_new_tokens": 12, "eos_token_id": []}


@pytest.fixture(scope="module")
def source(converted: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Path:
    return converted("float32", make_checkpoint(tmp_path_factory.mktemp("seeding") / "model"))


@pytest.fixture(scope="module")
def model(source: Path) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(source, num_threads=1)


def test_set_seed_repeats(model: GPTBigCodeForCausalLM) -> None:
    def two(seed: int) -> list[Any]:
        set_seed(seed)
        return [model.generate([[5, 6]], **SAMPLED).tolist() for _ in range(2)]

    assert two(1) == two(1)
    assert two(1) != two(2)
    first, second = two(1)
    assert first != second


def test_seeds_the_others_too() -> None:
    set_seed(3)
    drawn = random.random(), np.random.rand()
    set_seed(3)
    assert drawn == (random.random(), np.random.rand())


def test_a_seed_of_the_call_wins(model: GPTBigCodeForCausalLM) -> None:
    outputs = []
    for seed in (1, 2):
        set_seed(seed)
        outputs.append(model.generate([[5, 6]], seed=7, **SAMPLED).tolist())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, None])
def test_bad_ones(seed: Any) -> None:
    with pytest.raises(InputError, match="seed must be an integer"):
        set_seed(seed)


def test_torch_manual_seed(model: GPTBigCodeForCausalLM) -> None:
    torch = pytest.importorskip("torch")
    set_seed(0)  # torch is there now, so that its generator is the one

    def drawn() -> Any:
        return model.generate([[5, 6]], **SAMPLED).tolist()

    torch.manual_seed(5)
    first = drawn()
    assert drawn() != first
    torch.manual_seed(5)
    assert drawn() == first


def test_greedy_calls_draw_nothing(model: GPTBigCodeForCausalLM) -> None:
    torch = pytest.importorskip("torch")
    set_seed(0)
    before = torch.get_rng_state()
    model.generate([[5, 6]], max_new_tokens=3)
    assert torch.equal(before, torch.get_rng_state())


def test_without_torch(source: Path) -> None:
    code = f"""
import sys
from gptbigcode_cpu import AutoModelForCausalLM, set_seed
model = AutoModelForCausalLM.from_pretrained({str(source)!r}, num_threads=1)
outputs = []
for seed in (4, 4, 5):
    set_seed(seed)
    outputs.append(model.generate([[5, 6]], do_sample=True, max_new_tokens=12, eos_token_id=[]).tolist())
assert outputs[0] == outputs[1] != outputs[2]
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
