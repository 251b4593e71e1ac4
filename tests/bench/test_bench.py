"""The benchmark tools: checkpoints that load, and peers side by side."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import AutoTokenizer
from gptbigcode_cpu._core import kernel_names
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.store.tensor_file import map_tensor_file

BENCH = Path(__file__).resolve().parents[2] / "bench"
SMALL = ["--layers", "2", "--embd", "128", "--heads", "2", "--inner", "256", "--vocab", "512", "--positions", "128"]


def load(name: str) -> ModuleType:
    """A file of bench/ as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "small"
    made = tool("make_checkpoint", "tiny_starcoder_py", out, *SMALL)
    assert made.returncode == 0, made.stderr
    return out


def test_shapes_are_those_of_the_models() -> None:
    make = load("make_checkpoint")
    billions = {name: sum(np.prod(s) for s in make.tensor_shapes(shape).values()) / 1e9 for name, shape in make.SHAPES.items()}
    expected = {
        "tiny_starcoder_py": 0.164,
        "santacoder": 1.12,
        "starcoderbase-1b": 1.14,
        "starcoderbase-3b": 3.04,
        "starcoderbase-7b": 7.33,
        "starcoder": 15.5,
        "granite-20b-code": 20.1,
    }
    assert billions == pytest.approx(expected, rel=0.01)


def test_checkpoint_converts_and_has_a_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    report = convert(checkpoint, tmp_path / "out", dtype="int4")
    assert report.n_tensors == 4 + 2 * 12
    file = map_tensor_file(checkpoint / "model.safetensors")
    bits = file.array(file.entries["transformer.wte.weight"])
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    assert abs(values.mean()) < 1e-3
    assert values.std() == pytest.approx(0.02, rel=0.05)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = "def é(x):\n\treturn '🙂'\r\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_checkpoint_depends_on_its_seed_only(checkpoint: Path, tmp_path: Path) -> None:
    for name, seed in (("again", "0"), ("other", "1")):
        assert tool("make_checkpoint", "tiny_starcoder_py", tmp_path / name, *SMALL, "--seed", seed).returncode == 0
    first, again, other = (path / "model.safetensors" for path in (checkpoint, tmp_path / "again", tmp_path / "other"))
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert tool("make_checkpoint", "tiny_starcoder_py", checkpoint).returncode == 1


def test_peers_measures_what_is_installed_and_names_the_rest(checkpoint: Path, tmp_path: Path) -> None:
    flags = [
        "--threads",
        "1",
        "--prompt-tokens",
        "8",
        "--new-tokens",
        "4",
        "--depths",
        "0,16",
        "--rows",
        "1,3",
        "--rounds",
        "2",
    ]
    engines = ["--engine", "gptbigcode-cpu:int8", "--engine", "gptbigcode-cpu:int4", "--engine", "ctranslate2:int8"]
    absent = tmp_path / "python"
    absent.write_text("#!/bin/sh\necho 'No module named engine' >&2\nexit 1\n")
    absent.chmod(0o755)
    shown = tool(
        "peers", checkpoint, "--work", tmp_path / "work", *flags, *engines, "--python", f"ctranslate2={absent}", "--json"
    )
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout)
    assert found["skipped"] == {"ctranslate2:int8": "No module named engine"}
    assert [*found["measurements"]] == ["gptbigcode-cpu:int8", "gptbigcode-cpu:int4"]
    for rounds in found["measurements"].values():
        assert len(rounds) == 2
        for measured in rounds:
            assert {*measured} == {
                *("build", "prefill_tokens_per_s", "decode_tokens_per_s", "step_s"),
                *("first_token_from_exec_s", "time_to_first_token_s", "peak_rss_bytes"),
            }
            assert [*measured["prefill_tokens_per_s"]] == [*measured["decode_tokens_per_s"]] == ["0", "16"]
            assert [*measured["step_s"]] == ["1", "3"]
            assert measured["build"] in kernel_names()
            assert 0 < measured["first_token_from_exec_s"] < 60
    order = [line.rpartition(" ")[2] for line in shown.stderr.splitlines() if line.startswith("round")]
    assert order == ["gptbigcode-cpu:int8", "gptbigcode-cpu:int4"] * 2, "engines take turns"


def test_peers_refuses_wrong_options(checkpoint: Path, tmp_path: Path) -> None:
    for flags, says in (
        (["--python", "lama=/usr/bin/python3"], "--python knows gptbigcode-cpu, llama-cpp"),
        (["--depths", "0,-1"], "invalid list of numbers value"),
        (["--rows", "0"], "invalid list of numbers value"),
        (["--json", "--markdown"], "not allowed with"),
    ):
        shown = tool("peers", checkpoint, *flags)
        assert shown.returncode == 2
        assert says in shown.stderr
    assert "holds no model.safetensors" in tool("peers", tmp_path).stderr


def measurement(speed: float) -> dict[str, Any]:
    """What a worker says, with all speeds given, half of them at depth 16."""
    speeds = {"0": speed, "16": speed / 2}
    return {
        "build": "b1",
        "prefill_tokens_per_s": speeds,
        "decode_tokens_per_s": speeds,
        "step_s": {"1": 1 / speed, "4": 2 / speed},
        "first_token_from_exec_s": 1 / speed,
        "time_to_first_token_s": 1.0,
        "peak_rss_bytes": 1e9,
    }


def test_tables_have_median_spread_and_ratios_within_rounds() -> None:
    peers = load("peers")
    assert peers.summary([10, 30, 20], [5, 10, 20]) == (20, 10, 30, 2)
    shallow = [{**measurement(3.0), "prefill_tokens_per_s": {"0": 3.0}, "decode_tokens_per_s": {"0": 3.0}, "step_s": {}}] * 2
    measurements = {"a": [measurement(10), measurement(30)], "b": [measurement(20), measurement(20)], "c": shallow}

    speeds = peers.speed_table(measurements, (0, 16))
    assert speeds[0] == [
        "engine",
        "depth",
        *["prefill tokens/s", "ratio", "of empty"],
        *["decode tokens/s", "ratio", "of empty"],
    ]
    # The median of 20 / 10 and 20 / 30, not the ratio of medians, which is 1.
    assert speeds[2] == ["b", "0", *["20.0 (20.0-20.0)", "1.33", "100%"] * 2]
    assert speeds[4] == ["a", "16", *["10.0 (5.0-15.0)", "1.00", "50%"] * 2]
    assert [line[:2] for line in speeds[1:]] == [["a", "0"], ["b", "0"], ["c", "0"], ["a", "16"], ["b", "16"]]
    assert "of empty" not in peers.speed_table(measurements, (0,))[0]

    assert peers.start_table(measurements)[2] == ["b", "0.05 s (0.05-0.05)", "1.00 s", "1.00 GB", "b1"]
    rows = peers.rows_table(measurements, (1, 4))
    assert rows == [
        ["engine", "step of 1", "4 / 1"],
        ["a", "66.67 ms (33.33-100.00)", "2.00"],
        ["b", "50.00 ms (50.00-50.00)", "2.00"],
    ]

    markdown = peers.as_markdown(rows).splitlines()
    assert markdown[:2] == ["| engine | step of 1 | 4 / 1 |", "| --- | ---: | ---: |"]
    assert len({len(line) for line in peers.as_text(speeds).splitlines()}) == 1, "columns are aligned"
