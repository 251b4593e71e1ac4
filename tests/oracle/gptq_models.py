"""Checkpoints quantised as AutoGPTQ and AutoAWQ do it, with random codes, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.convert import convert
from oracle.random_models import full_config, random_state

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 64, "n_head": 2, "n_inner": 96, "n_positions": 7, "vocab_size": 270, "n_layer": 2}
Layer = dict[str, NDArray[Any]]


def words(codes: Iterable[int], bits: int) -> list[int]:
    """Codes as one long number, cut into words of 32 bits."""
    number, count = 0, 0
    for code in codes:
        number |= int(code) << (bits * count)
        count += 1
    assert count * bits % 32 == 0
    return np.frombuffer(number.to_bytes(count * bits // 8, "little"), "<i4").tolist()


def random_layer(n: int, k: int, bits: int, group: NDArray[Any], seed: int) -> tuple[Layer, NDArray[np.float32]]:
    """Codes ``[k, n]``, zeros and scales ``[groups, n]``, and the weight ``[n, k]`` they stand for."""
    random = np.random.RandomState(seed)
    groups = int(group.max()) + 1
    layer = {
        "codes": random.randint(0, 1 << bits, (k, n)),
        "zeros": random.randint(1, 1 << bits, (groups, n)),
        "scales": (random.uniform(0.5, 2, (groups, n)) / (1 << bits)).astype(np.float16),
    }
    weight = np.empty((n, k), np.float32)
    for i in range(k):
        codes, zeros = layer["codes"][i].astype(np.float32), layer["zeros"][group[i]].astype(np.float32)
        weight[:, i] = layer["scales"][group[i]].astype(np.float32) * (codes - zeros)
    return layer, weight


def pack_gptq(layer: Layer, bits: int, offset: int = 1) -> Layer:
    """As AutoGPTQ stores a layer: codes along the inputs, zeros along the outputs and less by one."""
    zeros = (layer["zeros"] - offset) % (1 << bits)
    return {
        "qweight": np.array([words(column, bits) for column in layer["codes"].T], np.int32).T.copy(),
        "qzeros": np.array([words(row, bits) for row in zeros], np.int32),
        "scales": layer["scales"],
    }


def pack_awq(layer: Layer) -> Layer:
    """As AutoAWQ stores a layer: both along the outputs, in its order."""

    def packed(values: NDArray[Any]) -> NDArray[np.int32]:
        rows = [[row[8 * i + place] for i in range(len(row) // 8) for place in (0, 2, 4, 6, 1, 3, 5, 7)] for row in values]
        return np.array([words(row, 4) for row in rows], np.int32)

    return {"qweight": packed(layer["codes"]), "qzeros": packed(layer["zeros"]), "scales": layer["scales"]}


def write_tensors(path: Path, tensors: dict[str, NDArray[Any]]) -> None:
    types = {"float32": "F32", "float16": "F16", "uint16": "BF16", "int32": "I32", "int64": "I64"}
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        end = len(data) + values.nbytes
        header[name] = {"dtype": types[str(values.dtype)], "shape": list(values.shape), "data_offsets": [len(data), end]}
        data += np.ascontiguousarray(values).tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_quantised(
    source: Path,
    pack: Callable[[Layer], Layer],
    quantization: dict[str, Any],
    group_of: Callable[[int, int], NDArray[Any]],
    **config: Any,
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
    """Replace the weights of a checkpoint by quantised ones.

    Args:
        source: The checkpoint, in one file.
        pack: Makes the stored form of a layer.
        quantization: For its ``config.json``.
        group_of: Inputs and seed of a layer -> the group of each input.
        config: Of the checkpoint.

    Returns:
        The tensors written, and the values that they stand for.
    """
    stored: dict[str, NDArray[Any]] = {}
    expected: dict[str, NDArray[np.float32]] = {}
    for seed, (name, values) in enumerate(random_state(full_config(**SMALL | config)).items()):
        if ".h." not in name or values.ndim != 2:
            stored[name] = expected[name] = values
            continue
        group = group_of(values.shape[1], seed)
        layer, expected[name] = random_layer(*values.shape, quantization.get("bits", 4), group, seed)
        prefix = name.removesuffix("weight")
        stored |= {prefix + part: array for part, array in pack(layer).items()}
        if quantization.get("desc_act"):
            stored[f"{prefix}g_idx"] = group.astype(np.int32)
    write_tensors(source / "model.safetensors", stored)
    content = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(content | {"quantization_config": quantization}))
    return stored, expected


def expected_bytes(
    make_checkpoint: MakeCheckpoint, directory: Path, values: dict[str, NDArray[Any]], dtype: str, **config: Any
) -> bytes:
    source = make_checkpoint(directory / "expected-source", **SMALL | config)
    write_tensors(source / "model.safetensors", values)
    convert(source, directory / f"expected-{dtype}", dtype=dtype, num_threads=1)
    return (directory / f"expected-{dtype}" / "model.safetensors").read_bytes()


def neighbours(size: int) -> Callable[[int, int], NDArray[Any]]:
    return lambda k, seed: np.arange(k) // (k if size == -1 else size)
