"""Floating-point types of checkpoints: what their values are, and which values a storage type cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.random_models import full_config, random_state, to_bfloat16

from gptbigcode_cpu import _core
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.sources.floats import finite_float32, to_float32
from gptbigcode_cpu.errors import CheckpointError

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 2}
LARGEST_BFLOAT16 = np.float32(float.fromhex("0x1.fefffep127"))  # what is larger rounds to infinity
NAMES = ["transformer.wte.weight", "transformer.h.1.mlp.c_fc.weight", "transformer.h.0.attn.c_attn.weight"]


def write(path: Path, tensors: dict[str, tuple[str, NDArray[Any]]]) -> None:
    header: dict[str, Any] = {}
    data = b""
    for name, (kind, values) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def state() -> dict[str, tuple[str, NDArray[Any]]]:
    return {name: ("F32", values) for name, values in random_state(full_config(**SMALL)).items()}


def converted(source: Path, out: Path, dtype: str) -> bytes:
    convert(source, out, dtype=dtype, num_threads=1)
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_float64_is_rounded_to_float32(tmp_path: Path, make_checkpoint: MakeCheckpoint, dtype: str) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    expected = converted(source, tmp_path / "expected", dtype)
    write(source / "model.safetensors", {name: ("F64", values.astype(np.float64)) for name, (_, values) in state().items()})
    assert converted(source, tmp_path / "out", dtype) == expected


def test_a_tied_head_in_another_type_is_the_same_head(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", storage="bfloat16", **SMALL)
    expected = converted(source, tmp_path / "expected", "int8")
    tensors = {name: ("BF16", to_bfloat16(values)) for name, (_, values) in state().items()}
    head = to_float32(tensors[NAMES[0]][1], "BF16")
    write(source / "model.safetensors", tensors | {"lm_head.weight": ("F32", head)})
    assert converted(source, tmp_path / "out", "int8") == expected


@pytest.mark.parametrize(
    ("kind", "code", "value"),
    [
        ("F8_E4M3", 0x00, 0.0),
        ("F8_E4M3", 0x01, 2.0**-9),
        ("F8_E4M3", 0x08, 2.0**-6),
        ("F8_E4M3", 0x38, 1.0),
        ("F8_E4M3", 0xB9, -1.125),
        ("F8_E4M3", 0x7E, 448.0),
        ("F8_E4M3", 0xFF, np.nan),
        ("F8_E5M2", 0x01, 2.0**-16),
        ("F8_E5M2", 0x3C, 1.0),
        ("F8_E5M2", 0xBD, -1.25),
        ("F8_E5M2", 0x7B, 57344.0),
        ("F8_E5M2", 0xFC, -np.inf),
        ("F8_E5M2", 0x7D, np.nan),
    ],
)
def test_floats_of_eight_bits(kind: str, code: int, value: float) -> None:
    found = to_float32(np.array([code], np.uint8), kind)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array([value], np.float32), equal_nan=True)


@pytest.mark.parametrize(("kind", "name"), [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")])
def test_all_floats_of_eight_bits(kind: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes).view(getattr(torch, name)).float().numpy()
    assert np.array_equal(to_float32(codes, kind), expected, equal_nan=True)


def test_weights_of_eight_bits(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    codes = np.random.RandomState(0).randint(0, 0x7C, (50, 36)).astype(np.uint8)
    values = state() | {"transformer.h.1.mlp.c_fc.weight": ("F32", to_float32(codes, "F8_E5M2"))}
    write(source / "model.safetensors", values)
    expected = converted(source, tmp_path / "expected", "int8")
    write(source / "model.safetensors", values | {"transformer.h.1.mlp.c_fc.weight": ("F8_E5M2", codes)})
    assert converted(source, tmp_path / "out", "int8") == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1e300])
def test_values_that_no_float32_holds(tmp_path: Path, make_checkpoint: MakeCheckpoint, name: str, value: float) -> None:
    source = make_checkpoint(tmp_path / "source", multi_query=True, **SMALL)
    tensors = state()
    changed = tensors[name][1].astype(np.float64)
    changed[40, 7] = value
    write(source / "model.safetensors", tensors | {name: ("F64", changed)})
    reason = "beyond the range of float32" if np.isfinite(value) else "NaN or infinite"
    for dtype in ("float32", "bfloat16", "int4"):
        with pytest.raises(
            CheckpointError, match=rf"tensor {name} has the value {value:g} at \[40, 7\].*{reason}".replace("+", r"\+")
        ):
            convert(source, tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [*NAMES, "transformer.wpe.weight"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int6", "int4"])
def test_values_that_a_storage_type_cannot_hold(tmp_path: Path, make_checkpoint: MakeCheckpoint, name: str, dtype: str) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    tensors = state()
    changed = tensors[name][1].copy()
    changed[5, 3] = -np.finfo(np.float32).max
    write(source / "model.safetensors", tensors | {name: ("F32", changed)})
    with pytest.raises(CheckpointError, match=rf"tensor {name} has the value 3.40282e\+38, too large for .*use dtype float32"):
        convert(source, tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()
    convert(source, tmp_path / "out", dtype="float32")


def test_the_largest_weights_that_fit() -> None:
    fits = np.full((1, 128), LARGEST_BFLOAT16, np.float32)
    assert np.isfinite(_core.unpack_weight(_core.pack_weight(fits, "bfloat16"), "bfloat16", 1, 128)).all()
    with pytest.raises(ValueError, match="too large an element at row 0, column 0"):
        _core.pack_weight(np.nextafter(fits, np.float32(np.inf)), "bfloat16")
    for dtype in ("int8", "int6", "int4"):
        weight = np.random.RandomState(0).uniform(-1, 1, (16, 128)).astype(np.float32) * np.float32(2.0**127)
        weight[:, 0] = 2.0**127
        assert np.isfinite(_core.unpack_weight(_core.pack_weight(weight, dtype), dtype, 16, 128)).all()
        with pytest.raises(ValueError, match="too large an element at row 0, column 0"):
            _core.pack_weight(np.nextafter(weight, np.float32(np.inf)), dtype)


def test_a_value_is_named_by_its_row_in_the_tensor() -> None:
    rows = np.array([[1.0, 2.0], [3.0, np.inf]], np.float32)
    with pytest.raises(CheckpointError, match=r"tensor a has the value inf at \[11, 1\]"):
        finite_float32(rows, "F32", "a", begin=10)
