"""GGUF files that are damaged or made to do harm: a typed error, in little time and memory."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle.gguf_models import Tensors, gguf_bytes, model_pairs, model_tensors
from oracle.random_models import full_config, random_state

from gptbigcode_cpu.common import gguf_header
from gptbigcode_cpu.common.gguf_header import GGUFError, map_gguf
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import CheckpointError, GPTBigCodeError

FIELDS = full_config(n_embd=32, n_head=2, n_inner=32, n_positions=4, vocab_size=262, n_layer=1)


def model_bytes(**options: Any) -> bytes:
    return gguf_bytes(model_pairs(FIELDS), model_tensors(FIELDS, random_state(FIELDS)), **options)


def header_size() -> int:
    data_size = sum(-(-len(data) // 32) * 32 for _, _, data in model_tensors(FIELDS, random_state(FIELDS)).values())
    return len(model_bytes()) - data_size


def refused(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    with pytest.raises(GGUFError) as error:
        map_gguf(path)
    return str(error.value)


HUGE = 1 << 62


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes, too few"),
        (b"GGUF" + bytes(19), "23 bytes, too few"),
        (b"GGML" + bytes(100), "starts with b'GGML'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1, supported are 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), f"number of tensors claims {HUGE} entries"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), f"key-value pairs claims {HUGE} entries"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, HUGE) + bytes(64), f"key 0 takes {HUGE} bytes"),
        (gguf_bytes({"a": (9, struct.pack("<IQ", 8, HUGE))}, {}), f"'a' claims {HUGE} entries"),
        (gguf_bytes({"a": (9, struct.pack("<IQ", 5, HUGE))}, {}), f"'a' claims {HUGE} entries"),
        (gguf_bytes({"a": (9, struct.pack("<IQ", 9, 1) + bytes(32))}, {}), "'a' is an array of type 9"),
        (gguf_bytes({"a": (13, bytes(8))}, {}), "'a' has the unknown type 13"),
        (gguf_bytes({"b": 1, "a": 1}, {}).replace(b"b", b"a", 1), "'a' is there twice"),
        (gguf_bytes({"general.alignment": 0}, {}), "power of two"),
        (gguf_bytes({"general.alignment": 1 << 30}, {}), "power of two"),
        (
            gguf_bytes({}, {"a": (0, (1,), bytes(4)), "b": (0, (1,), bytes(4))}).replace(b"b", b"a", 1),
            "tensor 'a' is there twice",
        ),
        (gguf_bytes({}, {"a": (0, (), bytes(64))}), "0 dimensions"),
        (gguf_bytes({}, {"a": (0, (1,) * 5, bytes(64))}), "5 dimensions"),
        (gguf_bytes({}, {"a": (0, (0, 4), bytes(64))}), "sizes outside"),
        (gguf_bytes({}, {"a": (0, (HUGE, HUGE), bytes(64))}), "sizes outside"),
        (gguf_bytes({}, {"a": (0, (1,), bytes(8)), "b": (0, (1,), bytes(4))}, alignment=8), "not a multiple of 32"),
    ],
)
def test_headers_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refused(content, tmp_path / "model.gguf")


def test_a_header_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 4096)
    content = gguf_bytes({"a": ["word" * 100] * 30}, {})
    assert "beyond the 4096 bytes that a header may have" in refused(content, tmp_path / "model.gguf")


def test_version_2_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(model_bytes(version=2))
    convert(tmp_path / "model.gguf", tmp_path / "out")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"token_embd.weight": (0, (2, 32), bytes(256)), "b": (0, (1 << 40, 9), bytes(64))}, "truncated: b ends at byte"),
        ({"token_embd.weight": (8, (2, 33), bytes(80))}, r"token_embd\.weight has rows of 33 values in blocks of 32 \(Q8_0\)"),
        (
            {"token_embd.weight": (0, (2, 32), bytes(32)), "b": (0, (1,), bytes(4096))},
            r"tensors token_embd\.weight and b overlap",
        ),
    ],
)
def test_data_that_is_not_there(tmp_path: Path, tensors: Tensors, message: str) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(model_pairs(FIELDS) | {"tokenizer.ggml.model": "none"}, tensors))
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model.gguf", tmp_path / "out")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = model_bytes()
    path = tmp_path / "model.gguf"
    for end in [*range(0, header_size(), 97), *range(header_size(), len(content), 4001), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match=r"model\.gguf"):
            convert(path, tmp_path / "out", dry_run=True)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_refused_or_harmless(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(model_bytes())
    for position, value in changes:
        content[position % header_size()] = value
    (tmp_path / "model.gguf").write_bytes(content)
    try:
        convert(tmp_path / "model.gguf", tmp_path / "out", dry_run=True)
    except GPTBigCodeError as error:
        assert "model.gguf" in str(error) or "the checkpoint does not fit" in str(error)


def test_claims_cost_no_memory(tmp_path: Path) -> None:
    tracemalloc.start()  # not the peak of the process, which what ran before has driven up
    try:
        for count in (1 << 20, 1 << 32, HUGE):
            for kind in (0, 5, 8, 12):
                content = gguf_bytes({"a": (9, struct.pack("<IQ", kind, count))}, {}) + bytes(1 << 10)
                refused(content, tmp_path / "model.gguf")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
