"""From a source tensor to the bytes of the converted file, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu import _core
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.sources.attention_rows import by_kind
from gptbigcode_cpu.convert.sources.floats import finite_float32
from gptbigcode_cpu.convert.sources.tensors import SourceTensor
from gptbigcode_cpu.errors import CheckpointError
from gptbigcode_cpu.store.tensors import EMBEDDING, LM_HEAD, StoredTensor

# Source bytes packed at once: enough to keep every thread busy, little against the memory that a conversion may use.
_CHUNK_BYTES = 16 << 20
_TILE_ROWS = 16
_PACKABLE = ("F32", "F16", "BF16")  # what the core reads as it is
_LARGEST = np.float32(2.0**127)  # the core's bound for integer types
_COLUMN_RANGE = 64.0  # how far the scale of a column may be from the typical one
# What a look-up is worth beside the head (docs/quantization-study.md). Heads of trained models use every column more than that.
_LOOKED_UP = 1 / 6


def packed_chunks(
    config: GPTBigCodeConfig,
    stored: StoredTensor,
    source: SourceTensor,
    num_threads: int,
    column_scale: NDArray[np.float32] | None = None,
    feedback: NDArray[np.float32] | None = None,
) -> Iterator[NDArray[Any]]:
    """The stored form of a tensor, in pieces that follow each other in the file.

    Args:
        config: Of the model, for the order of the rows.
        stored: The tensor that is written.
        source: Where its values are.
        num_threads: 0 = default.
        column_scale: float32 ``[columns]``; what is packed are the weights over it.
        feedback: Passes rounding errors on to later columns; `_core.pack_weight` describes it.

    Raises:
        CheckpointError: A value is NaN or infinite, or too large for the type it is stored in.
    """
    assert stored.rows is not None
    first, last = stored.rows
    order = _row_order(config, source)
    for begin, rows in _row_chunks(source, first, last, order):
        if stored.dtype is None:
            yield _convert(rows, source.name, source.dtype, begin, stored.kind)
        else:
            yield _pack(rows, source.name, source.dtype, begin, stored.dtype, num_threads, column_scale, feedback)


def column_scales(config: GPTBigCodeConfig, sources: Mapping[str, SourceTensor]) -> dict[str, NDArray[np.float32]]:
    """The scales of the columns of token embedding and LM head, by name. Weights are divided by them before they are quantised.

    The input of the head is a LayerNorm's output, whose column k has about the magnitude ``sqrt(gain_k^2 + bias_k^2)``. The
    error that rounding makes there grows with this magnitude, and with that of the weights in the column, which sets the step.
    Dividing the weights by ``sqrt(magnitude of the weights / magnitude of the input)`` balances the two, as SmoothQuant
    (arXiv:2211.10438) does from measured activations. A matrix that is only looked up has inputs of magnitude 1. In one that is
    both, a column counts as an input of at least `_LOOKED_UP` times the typical magnitude: the head may not use it at all, and
    what is looked up there goes through all blocks.

    Raises:
        CheckpointError: A value is NaN or infinite.
    """
    gain, bias = (read_vector(config, sources[f"transformer.ln_f.{name}"]).astype(np.float64) for name in ("weight", "bias"))
    inputs = np.sqrt(gain * gain + bias * bias)
    found = {}
    for name in (EMBEDDING, LM_HEAD):
        if name not in sources:
            continue
        used = inputs
        if name == EMBEDDING:
            typical = np.sqrt(np.square(inputs).mean())
            used = np.maximum(inputs, _LOOKED_UP * typical) if config.tie_word_embeddings else np.ones_like(inputs)
        found[name] = _column_scale(_column_magnitudes(sources[name]), used)
    return found


def _column_scale(weights: NDArray[np.float64], inputs: NDArray[np.float64]) -> NDArray[np.float32]:
    used = (weights > 0) & (inputs > 0)
    if not used.any():
        return np.ones(len(weights), np.float32)
    ratio = np.full(len(weights), -np.inf)
    ratio[used] = 0.5 * np.log(weights[used] / inputs[used])
    ratio[(weights > 0) & (inputs == 0)] = np.inf
    typical = np.median(ratio[used])
    limit = np.log(_COLUMN_RANGE)
    logarithm = np.clip(np.clip(ratio, typical - limit, typical + limit), -80, 80)  # within the range of float32
    scale: NDArray[np.float64] = np.exp(logarithm)
    return scale.astype(np.float32)


def _column_magnitudes(source: SourceTensor) -> NDArray[np.float64]:
    """Root mean square of every column."""
    squares = np.zeros(source.shape[1])
    for begin, rows in _row_chunks(source, 0, source.shape[0], None):
        values = finite_float32(rows, source.dtype, source.name, begin)
        squares += np.einsum("ij,ij->j", values, values, dtype=np.float64)
    return np.sqrt(squares / source.shape[0])


def read_rows(source: SourceTensor, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Some rows of a tensor, in this order.

    Raises:
        CheckpointError: A value is NaN or infinite.
    """
    with source.open() as values:
        return finite_float32(values[rows], source.dtype, source.name)


def read_vector(config: GPTBigCodeConfig, source: SourceTensor) -> NDArray[np.float32]:
    """A bias or a LayerNorm's parameters, float32, in the order in which they are stored.

    Raises:
        CheckpointError: A value is NaN or infinite.
    """
    return stored_rows(config, source, np.arange(source.shape[0]))


def stored_rows(config: GPTBigCodeConfig, source: SourceTensor, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Some rows of a tensor, float32, counted in the order in which they are stored.

    Raises:
        CheckpointError: A value is NaN or infinite.
    """
    order = _row_order(config, source)
    return read_rows(source, rows if order is None else order[rows])


def _row_chunks(
    source: SourceTensor, first: int, last: int, order: NDArray[np.intp] | None
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows `first` to `last` of a tensor in the order they are stored, some at a time: number of the first, values."""
    row_bytes = max(1, source.nbytes // source.shape[0])
    step = max(_TILE_ROWS, _CHUNK_BYTES // row_bytes // _TILE_ROWS * _TILE_ROWS)
    with source.open() as values:
        for begin in range(first, last, step):
            end = min(begin + step, last)
            rows = values[begin:end] if order is None else values[order[begin:end]]
            yield begin, np.require(rows, requirements=("C", "ALIGNED"))


def _row_order(config: GPTBigCodeConfig, source: SourceTensor) -> NDArray[np.intp] | None:
    """Rows of ``c_attn`` in the order they are stored, or None where it is the order of the checkpoint."""
    return None if config.multi_query or ".attn.c_attn." not in source.name else by_kind(config)


def _pack(
    chunk: NDArray[Any],
    name: str,
    source_type: str,
    begin: int,
    packing: str,
    num_threads: int,
    column_scale: NDArray[np.float32] | None,
    feedback: NDArray[np.float32] | None,
) -> NDArray[Any]:
    values = chunk
    if column_scale is not None or source_type not in _PACKABLE:
        values = finite_float32(chunk, source_type, name, begin)
    try:
        if column_scale is not None:
            if np.abs(values).max() > _LARGEST:  # the product with the scale may be infinite
                raise ValueError
            with np.errstate(over="ignore"):
                values = values / column_scale
        return _core.pack_weight(values, packing, num_threads, feedback=feedback)
    except ValueError as error:
        largest = float(np.abs(finite_float32(chunk, source_type, name, begin)).max())
        raise CheckpointError(f"tensor {name} has the value {largest:g}, too large for {packing}; use dtype float32") from error


def _convert(chunk: NDArray[Any], name: str, source_type: str, begin: int, stored_type: str) -> NDArray[Any]:
    values = finite_float32(chunk, source_type, name, begin)
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


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
