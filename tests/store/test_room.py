"""Models that do not fit into memory or on the disk: what the error says, and which type would fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import AutoModelForCausalLM
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import DiskSpaceError
from gptbigcode_cpu.store import room
from gptbigcode_cpu.store.tensors import converted_bytes

SHAPE: dict[str, Any] = {"n_embd": 256, "n_head": 4, "n_inner": 1024, "n_positions": 64, "vocab_size": 512, "n_layer": 2}


@pytest.fixture
def source(tmp_path: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    return make_checkpoint(tmp_path / "source", **SHAPE)


def test_sizes_are_those_of_the_files(source: Path, tmp_path: Path) -> None:
    config = GPTBigCodeConfig.from_pretrained(source)
    for dtype in ("int8", "int4", "float32"):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        assert converted_bytes(config, dtype) == model.get_memory_footprint()


def test_the_finest_type_that_fits(source: Path) -> None:
    config = GPTBigCodeConfig.from_pretrained(source)
    size = {dtype: converted_bytes(config, dtype) for dtype in ("int8", "int6", "int4")}
    assert room.what_would_fit(config, "int8", size["int6"]).startswith("; int6 would fit (")
    assert room.what_would_fit(config, "int8", size["int6"] - 1).startswith("; int4 would fit (")
    assert room.what_would_fit(config, "float32", size["int8"]).startswith("; int8 would fit (")
    assert room.what_would_fit(config, "int8", size["int4"] - 1).startswith("; not even int4 would fit (")


def test_a_model_that_is_larger_than_the_memory(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = GPTBigCodeConfig.from_pretrained(source)
    monkeypatch.setattr(room, "memory_bytes", lambda: converted_bytes(config, "int6"))
    with caplog.at_level(logging.WARNING, "gptbigcode_cpu"):
        AutoModelForCausalLM.from_pretrained(source)
        AutoModelForCausalLM.from_pretrained(source, dtype="int6")
    first, *others = caplog.messages
    assert first.startswith(f"{source} in int8 needs ") and "; int6 would fit (" in first
    assert all("was quantised" in message for message in others)


def test_the_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(room, "_CGROUP_LIMIT", limit)
    machine = room.memory_bytes()
    assert machine > 1 << 28
    for text, memory in (("max\n", machine), ("1048576\n", 1 << 20), (f"{1 << 60}\n", machine)):
        limit.write_text(text)
        assert room.memory_bytes() == memory


def test_a_conversion_that_the_disk_has_no_room_for(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTBigCodeConfig.from_pretrained(source)
    monkeypatch.setattr("gptbigcode_cpu.convert.available_bytes", lambda _: converted_bytes(config, "int4") + 1000)
    with pytest.raises(DiskSpaceError, match=r"nothing was written; int4 would fit \("):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
