"""docs/format.md, read literally: a reader made from its formulas alone, in plain numpy, finds the checkpoint's weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.random_models import full_config, random_state

from gptbigcode_cpu.convert import convert

Array = NDArray[Any]
# Two blocks along K, rows that do not fill a tile, a width that leaves gaps between tensors.
SHAPE: dict[str, Any] = {"n_embd": 132, "n_head": 3, "n_inner": 150, "n_positions": 7, "vocab_size": 270, "n_layer": 1}
LINEAR = ("c_attn.query.weight", "c_attn.key_value.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PACKED = (*LINEAR, "wte.weight", "wpe.weight", "lm_head.weight")


def read(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Type, shape and bytes of every tensor; the claims about the file itself are checked on the way."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    assert (8 + length) % 64 == 0
    assert header.rstrip(b" ").endswith(b"}")
    tensors = {}
    position = gaps = 0
    for name, entry in json.loads(header).items():
        begin, end = entry["data_offsets"]
        assert begin == position, "no holes, in the order of the header"
        position = end
        if name == f"__pad__.{gaps}":
            gaps += 1
            assert (entry["dtype"], entry["shape"]) == ("U8", [end - begin])
            assert end - begin < 64
            assert not any(data[begin:end])
        else:
            assert begin % 64 == 0
            tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    assert position == len(data)
    assert gaps
    return tensors


def bfloat16(bits: Array) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rows_and_columns(blocks: Array, n: int, k: int) -> Array:
    """The ``[n, k]`` matrix in ``[tile, block, 16 rows, 128 columns]``; what pads it is zero."""
    matrix = np.concatenate([np.concatenate(tile, axis=1) for tile in blocks])
    assert not matrix[n:].any()
    assert not matrix[:, k:].any()
    return matrix[:n, :k]


def steps_of(blocks: Array, n: int, k: int) -> Array:
    """The same for the distances between neighbouring values."""
    return np.concatenate([np.concatenate(tile, axis=1) for tile in blocks])[:n, :k]


def read_int8(data: bytes, n: int, k: int) -> tuple[Array, Array]:
    """Weights and the step between neighbouring values, ``[n, k]`` each."""
    blocks = np.frombuffer(data, np.uint8).reshape(-(-n // 16), -(-k // 128), 2080)
    column, row = np.arange(128)[None, :], np.arange(16)[:, None]
    codes = blocks[:, :, column // 4 * 64 + row * 4 + column % 4].astype(int) - 128
    assert codes.min() >= -127
    scales = bfloat16(blocks[:, :, 2048:].copy().view("<u2"))[..., None]
    return rows_and_columns(scales * codes, n, k), steps_of(np.repeat(scales, 128, 3), n, k)


def read_int4(data: bytes, n: int, k: int) -> tuple[Array, Array]:
    codebook = np.array([-15, -13, -10, -8, -6, -4, -3, -1, 0, 1, 3, 5, 7, 9, 11, 14])
    blocks = -(-k // 128)
    tiles = np.frombuffer(data, np.uint8).reshape(-(-n // 16), blocks * 1040 + 64)
    column, row = np.arange(blocks * 128)[None, :], np.arange(16)[:, None]
    block, group, inside = column // 128 * 1040, column % 128 // 16, column % 16
    pair = tiles[:, block + group * 128 + inside % 8 // 4 * 64 + row * 4 + inside % 4]
    codes = np.where(inside < 8, pair & 15, pair >> 4)
    row_bytes = tiles[:, block + 1024 + row]
    multipliers, offsets = row_bytes.view(np.int8).astype(int) >> 2, row_bytes % 4 - np.array(1)
    assert np.abs(multipliers).max() <= 31
    scales = tiles[:, blocks * 1040 :].copy().view("<f4")[..., None]
    matrix = (scales * (multipliers * (codebook[codes] + offsets)).astype(np.float32)).reshape(-1, blocks * 128)
    assert not matrix[n:].any()
    return matrix[:n, :k], np.abs(scales * multipliers).reshape(-1, blocks * 128)[:n, :k]


def read_int6(data: bytes, n: int, k: int) -> tuple[Array, Array]:
    blocks = -(-k // 128)
    tiles = np.frombuffer(data, np.uint8).reshape(-(-n // 16), blocks * 1600 + 64)
    column, row = np.arange(blocks * 128)[None, :], np.arange(16)[:, None]
    block, group, inside = column // 128 * 1600, column % 128 // 16, column % 16
    pair = tiles[:, block + group * 128 + inside % 8 // 4 * 64 + row * 4 + inside % 4]
    low = np.where(inside < 8, pair & 15, pair >> 4).astype(int)
    high = tiles[:, block + 1024 + group * 64 + row * 4 + inside % 4] >> inside // 4 * 2 & 3
    multipliers = tiles[:, block + 1536 + column % 128 // 32 * 16 + row].view(np.int8).astype(int)
    assert np.abs(multipliers).max() <= 127
    scales = tiles[:, blocks * 1600 :].copy().view("<f4")[..., None]
    matrix = (scales * (multipliers * (low + 16 * high - 32)).astype(np.float32)).reshape(-1, blocks * 128)
    assert not matrix[n:].any()
    assert not matrix[:, k:].any()
    return matrix[:n, :k], np.abs(scales * multipliers).reshape(-1, blocks * 128)[:n, :k]


def read_tiles(values: Array, n: int, k: int) -> Array:
    tiles = values.reshape(-(-n // 16), k, 16)
    matrix: Array = np.array([[tiles[row // 16, column, row % 16] for column in range(k)] for row in range(len(tiles) * 16)])
    assert not matrix[n:].any()
    return matrix[:n]


def stored_order(name: str, values: Array, multi_query: bool) -> Array:
    """Query heads, then key heads, then value heads."""
    if multi_query or ".attn.c_attn." not in name:
        return values
    heads = values.reshape(SHAPE["n_head"], 3, SHAPE["n_embd"] // SHAPE["n_head"], -1)
    return np.concatenate([heads[:, part].reshape(-1, heads.shape[-1]) for part in range(3)]).reshape(values.shape)


@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "int6", "int4", "bfloat16", "float32"])
def test_a_reader_made_from_the_document(
    tmp_path: Path, make_checkpoint: Callable[..., Path], dtype: str, multi_query: bool
) -> None:
    fields = SHAPE | {"multi_query": multi_query, "tie_word_embeddings": False}
    state = random_state(full_config(**fields))
    out = tmp_path / "out"
    convert(make_checkpoint(tmp_path / "source", **fields), out, dtype=dtype)
    recorded = json.loads((out / "config.json").read_text())["quantization_config"]
    overrides = recorded.pop("overrides")
    assert recorded == {"quant_method": "gptbigcode-cpu", "format_version": 4, "dtype": dtype, "calibrated": False}
    in_int6 = {f"transformer.{name}.weight" for name in ("wte", "wpe", "h.0.attn.c_proj")} | {"lm_head.weight"}
    if multi_query:
        in_int6.add("transformer.h.0.attn.c_attn.key_value.weight")
    assert overrides == (dict.fromkeys(in_int6, "int6") if dtype == "int4" else {})

    for name in [name for name in state if name.endswith("c_attn.weight")]:
        rows = stored_order(name, state.pop(name), multi_query)
        state[name.replace("weight", "query.weight")] = rows[: SHAPE["n_embd"]]
        state[name.replace("weight", "key_value.weight")] = rows[SHAPE["n_embd"] :]
    tensors = read(out / "model.safetensors")
    scales = {}
    for name in ("transformer.wte", "lm_head") if dtype.startswith("int") else ():
        kind, shape, data = tensors.pop(f"{name}.column_scale")
        assert (kind, shape) == ("F32", [SHAPE["n_embd"]])
        scales[f"{name}.weight"] = np.frombuffer(data, "<f4")
    assert tensors.keys() == state.keys()
    for name, (kind, shape, data) in tensors.items():
        source = stored_order(name, state[name], multi_query) if name.endswith("bias") else state[name]
        if name == "transformer.wpe.weight" and dtype not in ("int6", "int4"):
            assert kind == {"float32": "F32", "bfloat16": "BF16"}.get(dtype, "F16")
            assert shape == list(source.shape)
            bits = np.frombuffer(data, {"F32": "<f4", "BF16": "<u2", "F16": "<f2"}[kind]).reshape(shape)
            values = bfloat16(bits) if kind == "BF16" else bits
            assert np.allclose(values, source, rtol=2**-8 if kind == "BF16" else 2**-10, atol=1e-7)
        elif not name.endswith(PACKED):
            assert (kind, shape) == ("F32", list(source.shape))
            assert np.array_equal(np.frombuffer(data, "<f4").reshape(shape), source)
        else:
            n, k = source.shape
            packing = overrides.get(name, dtype)
            if packing == "float32":
                assert (kind, shape) == ("F32", [-(-n // 16), k, 16])
                assert np.array_equal(read_tiles(np.frombuffer(data, "<f4"), n, k), source)
            elif packing == "bfloat16":
                assert (kind, shape) == ("BF16", [-(-n // 16), k, 16])
                assert np.allclose(read_tiles(bfloat16(np.frombuffer(data, "<u2")), n, k), source, rtol=2**-8, atol=0)
            else:
                tiles, blocks = -(-n // 16), -(-k // 128)
                # Neighbours in int4's codebook are up to 3 apart; a little may be clipped, in int6 too.
                expected_shape, reader, bound = {
                    "int8": ([tiles, blocks, 2080], read_int8, 0.5),
                    "int6": ([tiles, blocks * 1600 + 64], read_int6, 2),
                    "int4": ([tiles, blocks * 1040 + 64], read_int4, 2.5),
                }[packing]
                assert (kind, shape) == ("U8", expected_shape)
                weights, steps = reader(data, n, k)
                column_scale = scales.get(name, np.ones(k, np.float32))
                weights, steps = weights * column_scale, steps * column_scale
                assert (np.abs(weights - source) <= bound * steps * (1 + 1e-5)).all(), name
