"""Arrays in and out: lists, numpy arrays and torch tensors, without importing torch before a caller uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.errors import InputError, MissingDependencyError


def is_torch(values: object) -> bool:
    """Whether `values` is a torch tensor."""
    return type(values).__module__.partition(".")[0] == "torch" and hasattr(values, "detach")


def to_torch(array: NDArray[Any]) -> Any:
    """The torch tensor that shares the memory of `array`.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    try:
        torch = import_module("torch")
    except ImportError as error:
        raise MissingDependencyError('torch tensors need torch: pip install "gptbigcode-cpu[convert]"') from error
    return torch.from_numpy(array)


def to_int_array(values: object, what: str, kinds: str = "iu") -> NDArray[np.int64]:
    """Integers of a (nested) list, numpy array or torch tensor as int64.

    Raises:
        InputError: Rows of different lengths, a tensor on another device, or not integers (of numpy's `kinds`); the message
            calls the argument `what`.
    """
    array = _to_numpy(values, what, "integers; pad rows to one length and pass an attention_mask")
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in kinds:
        raise InputError(f"{what} must hold integers, not {array.dtype}")
    if array.dtype.kind == "f" and not ((array == np.floor(array)) & (np.abs(array.astype(np.float64)) < 2.0**62)).all():
        raise InputError(f"{what} must hold whole numbers")
    return array.astype(np.int64, copy=False)


def to_float_array(values: object, what: str) -> NDArray[np.float32]:
    """Finite numbers of a (nested) list, numpy array or torch tensor as C-contiguous float32.

    Raises:
        InputError: Rows of different lengths, a tensor on another device, not floats, NaN or infinite; the message calls the
            argument `what`.
    """
    array = _to_numpy(values, what, "numbers")
    if array.dtype.kind != "f":
        raise InputError(f"{what} must hold floating-point numbers, not {array.dtype}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{what} must hold finite numbers")
    return array


def plain(value: Any, depth: int = 8) -> Any:
    """Turn numbers and arrays of numpy and torch, also inside lists, tuples and dicts, into Python's; anything else stays as it
    is.

    Args:
        value: The value.
        depth: How deep lists and dicts are looked into.
    """
    if isinstance(value, (np.generic, np.ndarray)) or is_torch(value):
        return (value.detach().cpu() if is_torch(value) else value).tolist()
    if isinstance(value, (bool, str, bytes)) or depth == 0:
        return value
    if isinstance(value, Mapping):
        keys = (plain(key, depth - 1) for key in value)
        return {
            tuple(key) if isinstance(key, list) else key: plain(value[old], depth - 1)
            for key, old in zip(keys, value, strict=True)
        }
    if isinstance(value, Sequence):
        items = (plain(item, depth - 1) for item in value)
        return tuple(items) if isinstance(value, tuple) else list(items)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:  # a fraction beyond all floats
            return value
    return value


def items_of(values: Any) -> list[Any] | None:
    """The items of something that has items; None if it has none."""
    try:
        return list(values)
    except TypeError:  # numpy's and torch's numbers are instances of Iterable, too
        return None


def _to_numpy(values: object, what: str, content: str) -> NDArray[Any]:
    if is_torch(values):
        tensor: Any = values
        if tensor.device.type != "cpu":
            where = tensor.device.type
            raise InputError(f"{what} is on the device {where!r}; this package computes on the CPU, so pass {what}.cpu()")
        # numpy has no bfloat16.
        values = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).detach()
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise InputError(f"{what} must be a rectangular array of {content}") from error
