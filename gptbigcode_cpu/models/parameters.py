"""The weights of a model for scripts that ask for their number, size or device."""

from __future__ import annotations

import math
from typing import Any

from gptbigcode_cpu.common.device import Device
from gptbigcode_cpu.errors import UnsupportedError


class Parameter:
    """The name, shape and type of a weight. It has no values, because these are packed.

    Attributes:
        name: The name in a checkpoint.
        shape: The shape in a checkpoint.
        dtype: Storage type of the model.
    """

    is_cuda = False

    def __init__(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """
        Args:
            name: The name in a checkpoint.
            shape: The shape in a checkpoint.
            dtype: Storage type of the model.
        """
        self.name, self.shape, self.dtype = name, shape, dtype

    @property
    def device(self) -> Device:
        """Always ``"cpu"``."""
        return Device("cpu")

    @property
    def requires_grad(self) -> bool:
        """Always False; setting it to True raises `UnsupportedError`."""
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value:
            raise UnsupportedError("models are not trained here; train with transformers and convert the checkpoint")

    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    nelement = numel

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of dimension `dim`."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __getattr__(self, name: str) -> Any:  # only called for missing attributes
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedError(f"a weight has no {name}: its values are packed; use get_input_embeddings() for embeddings")

    def __repr__(self) -> str:
        return f"Parameter(name={self.name!r}, shape={list(self.shape)}, dtype={self.dtype!r})"
