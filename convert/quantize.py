"""From a source tensor to the bytes of the converted file, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu import _core
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.read import SourceTensor
from gptbigcode_cpu.errors import CheckpointError
from gptbigcode_cpu.weights import HEAD_DTYPES, Role, TensorSpec

# Source bytes packed at once: enough to keep every thread busy, little against the memory that a conversion may use.
_CHUNK_BYTES = 16 << 20
_TILE_ROWS = 16


def packed_chunks(
    config: GPTBigCodeConfig, spec: TensorSpec, source: SourceTensor, dtype: str, num_threads: int
) -> Iterator[NDArray[Any]]:
    """The stored form of a tensor, in pieces that follow each other in the file.

    Args:
        config: Of the model, for the order of the rows.
        spec: What the tensor is.
        source: Where its values are.
        dtype: Storage type of the linear layers.
        num_threads: 0 = default.

    Raises:
        CheckpointError: A value is NaN or infinite, or too large for the type it is stored in.
    """
    stored_type, _ = spec.stored_as(dtype)
    packing = dtype if spec.role is Role.LINEAR else HEAD_DTYPES[dtype]
    order = _row_order(config, spec)
    row_bytes = max(1, source.nbytes // spec.shape[0])
    step = max(_TILE_ROWS, _CHUNK_BYTES // row_bytes // _TILE_ROWS * _TILE_ROWS)
    with source.open() as values:
        for begin in range(0, spec.shape[0], step):
            chunk = values[begin : begin + step] if order is None else values[order[begin : begin + step]]
            chunk = np.require(chunk, requirements=("C", "ALIGNED"))
            if spec.role in (Role.LINEAR, Role.HEAD):
                yield _pack(chunk, spec.name, source.dtype, begin, packing, num_threads)
            else:
                yield _convert(chunk, spec.name, source.dtype, begin, stored_type)


def _row_order(config: GPTBigCodeConfig, spec: TensorSpec) -> NDArray[np.intp] | None:
    """Rows of ``c_attn`` in the order they are stored, or None where it is the order of the checkpoint.

    Without multi-query attention a checkpoint has them as ``[n_head, 3, head_dim]``; stored are ``[3, n_head, head_dim]``.
    """
    if config.multi_query or ".attn.c_attn." not in spec.name:
        return None
    rows = np.arange(spec.shape[0]).reshape(config.n_head, 3, config.head_dim)
    return rows.transpose(1, 0, 2).reshape(-1)


def _pack(chunk: NDArray[Any], name: str, source_type: str, begin: int, packing: str, num_threads: int) -> NDArray[Any]:
    try:
        return _core.pack_weight(chunk, packing, num_threads)
    except ValueError:
        # The core saw a chunk; the message shall give the row in the tensor.
        _require_finite(_to_float32(chunk, source_type), name, begin)
        raise


def _convert(chunk: NDArray[Any], name: str, source_type: str, begin: int, stored_type: str) -> NDArray[Any]:
    values = _to_float32(chunk, source_type)
    _require_finite(values, name, begin)
    if stored_type == "F32":
        return values
    if stored_type == "BF16":
        stored: NDArray[Any] = _to_bfloat16(values)
        finite = (stored & 0x7F80) != 0x7F80
    else:
        with np.errstate(over="ignore"):
            stored = values.astype(np.float16)
        finite = np.isfinite(stored)
    if not finite.all():
        largest = float(np.abs(values).max())
        raise CheckpointError(f"tensor {name} has the value {largest:g}, too large for {stored_type}; use dtype float32")
    return stored


def _to_float32(values: NDArray[Any], source_type: str) -> NDArray[np.float32]:
    if source_type == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values, np.float32)


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _require_finite(values: NDArray[np.float32], name: str, begin: int) -> None:
    if np.isfinite(values).all():
        return
    where = np.argwhere(~np.isfinite(values))[0]
    value = values[tuple(where)]
    index = [int(where[0]) + begin, *(int(position) for position in where[1:])]
    raise CheckpointError(f"tensor {name} has the value {value} at {index}; a model with NaN or infinite weights is broken")
