"""How often a load opens each file: once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.models.converted import packed_dir

SCRIPT = """
import collections, json, sys
import gptbigcode_cpu, numpy
from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, pipeline

opened = collections.Counter()

def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(sys.argv[1]):
        opened[str(arguments[0])[len(sys.argv[1]):]] += 1

sys.addaudithook(hook)
eval(sys.argv[2])(sys.argv[1] + sys.argv[3])
print(json.dumps(opened))
"""


def opened(root: Path, load: str, model: str) -> dict[str, int]:
    """The files below a directory that a fresh process opens when it loads a model there."""
    command = [sys.executable, "-c", SCRIPT, f"{root}/", load, model]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.fixture
def source(tmp_path: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    return make_checkpoint(tmp_path / "source", n_embd=36, n_head=3, n_inner=50, n_positions=7, vocab_size=270, n_layer=1)


def test_a_converted_model(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "model")
    model = {"model/config.json": 1, "model/model.safetensors": 1, "model/generation_config.json": 1}
    assert opened(tmp_path, "AutoModelForCausalLM.from_pretrained", "model") == model
    tokenizer = opened(tmp_path, "AutoTokenizer.from_pretrained", "model")
    assert {*tokenizer.values()} == {1}
    assert "model/config.json" not in tokenizer
    assert opened(tmp_path, "lambda name: pipeline(model=name)", "model") == model | tokenizer


def test_a_checkpoint_whose_conversion_is_kept(tmp_path: Path, source: Path) -> None:
    kept = packed_dir(source)
    found = opened(tmp_path, "AutoModelForCausalLM.from_pretrained", "source")
    assert {*found.values()} == {1}
    assert {name for name in found if name.startswith("source/")} == {"source/config.json"}
    names = {"config.json", "model.safetensors", "generation_config.json"}
    assert names <= {name.removeprefix(f"cache/{kept.name}/") for name in found}
