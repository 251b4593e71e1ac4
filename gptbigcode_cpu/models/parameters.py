"""The weights of a model as scripts look at them: how many, how large, where."""

from __future__ import annotations

import math
from typing import Any

from gptbigcode_cpu.common.device import Device
from gptbigcode_cpu.errors import UnsupportedError


class Parameter:
    """A weight: its shape and type, and not its values, which are packed.

    Attributes:
        name: As in a checkpoint.
        shape: As in a checkpoint.
        dtype: Storage type of the model.
    """

    is_cuda = False

    def __init__(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        """
        Args:
            name: As in a checkpoint.
            shape: As in a checkpoint.
            dtype: Storage type of the model.
        """
        self.name, self.shape, self.dtype = name, shape, dtype

    @property
    def device(self) -> Device:
        """Always ``"cpu"``."""
        return Device("cpu")

    @property
    def requires_grad(self) -> bool:
        """Always False; only that may be set."""
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value:
            raise UnsupportedError("models are not trained here; train with transformers and convert the checkpoint")

    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    nelement = numel

    def size(self, dim: int | None = None) -> Any:
        """The shape, or its entry `dim`."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def __getattr__(self, name: str) -> Any:  # Python calls it only for attributes that do not exist
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedError(f"a weight has no {name}: its values are packed; get_input_embeddings() gives those of tokens")

    def __repr__(self) -> str:
        return f"Parameter(name={self.name!r}, shape={list(self.shape)}, dtype={self.dtype!r})"
