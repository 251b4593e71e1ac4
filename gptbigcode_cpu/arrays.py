"""Token ids in and out: lists, numpy arrays and torch tensors, without importing torch before a caller uses it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, MissingDependencyError


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
        InputError: Rows of different lengths, or not integers (of numpy's `kinds`); the message calls the argument `what`.
    """
    if is_torch(values):
        values = values.detach().cpu().numpy()  # type: ignore[attr-defined]
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{what} must be a rectangular array of integers; pad rows to one length and pass an attention_mask"
        ) from error
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in kinds:
        raise InputError(f"{what} must hold integers, not {array.dtype}")
    return array.astype(np.int64, copy=False)
