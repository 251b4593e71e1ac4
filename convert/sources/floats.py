"""Floating-point numbers as checkpoints store them, turned into float32 and checked."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.errors import CheckpointError

# Types of safetensors that a weight may have. Types of 8 bits are handed out as uint8, bfloat16 as uint16.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def to_float32(values: NDArray[Any], source_type: str) -> NDArray[np.float32]:
    """Numbers of one of the types `FLOATS` as float32. Numbers beyond the range of float32 become infinite."""
    if source_type == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if source_type.startswith("F8"):
        found: NDArray[np.float32] = _eight_bits(source_type)[values]
        return found
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32)


def finite_float32(values: NDArray[Any], source_type: str, name: str, begin: int = 0) -> NDArray[np.float32]:
    """The same, with every value checked.

    Args:
        values: Some rows of a tensor.
        source_type: Their type.
        name: The tensor, for the message.
        begin: The number of the first row, for the message.

    Raises:
        CheckpointError: A value is NaN or infinite, or beyond the range of float32.
    """
    found = to_float32(values, source_type)
    finite = np.isfinite(found)
    if finite.all():
        return found
    where = np.argwhere(~finite)[0]
    index = [int(where[0]) + begin, *(int(position) for position in where[1:])]
    value = float(values[tuple(where)] if source_type == "F64" else found[tuple(where)])
    if np.isfinite(value):
        raise CheckpointError(f"tensor {name} has the value {value:g} at {index}, beyond the range of float32")
    raise CheckpointError(f"tensor {name} has the value {value} at {index}; a model with NaN or infinite weights is broken")


@cache
def _eight_bits(source_type: str) -> NDArray[np.float32]:
    """The value of each of the 256 codes (arXiv:2209.05433). E4M3 has no infinities, and one NaN of either sign."""
    mantissa_bits = 3 if source_type == "F8_E4M3" else 2
    code = np.arange(256)
    mantissa, exponent = code & ((1 << mantissa_bits) - 1), (code & 127) >> mantissa_bits
    bias = 7 if mantissa_bits == 3 else 15
    fraction = mantissa / (1 << mantissa_bits) + (exponent > 0)  # an exponent of 0 means 1, and no leading one
    values = np.ldexp(fraction, np.maximum(exponent, 1) - bias)
    if mantissa_bits == 3:
        values[(code & 127) == 127] = np.nan
    else:
        values[exponent == 31] = np.where(mantissa[exponent == 31] == 0, np.inf, np.nan)
    signed: NDArray[np.float64] = np.where(code < 128, values, -values)
    return signed.astype(np.float32)
