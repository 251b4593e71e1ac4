"""A tensor of a checkpoint that is read when it is needed, whatever file it is in.

A tensor is handed out as a view on a mapped file, and its pages are given back after use: they would otherwise count as memory
of this process until the last tensor is done. Quantised weights are dequantised some rows at a time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.store.tensor_file import NUMPY_TYPES


class Rows:
    """A tensor whose rows are computed when they are asked for, so that it is never in memory as a whole.

    It is indexed along its first axis by a slice or an array of row numbers, as a numpy array is.
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[NDArray[np.intp]], NDArray[Any]]) -> None:
        """
        Args:
            shape: Of the tensor.
            read: Makes the rows of these numbers, ``[len(rows), *shape[1:]]``.
        """
        self.shape = shape
        self._read = read

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> NDArray[Any]:
        return self._read(np.arange(self.shape[0])[rows])


class Shard(ABC):
    """One file of a checkpoint, or tensors that are computed from those of several files."""

    @abstractmethod
    def signatures(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Name -> safetensors type and shape of every tensor."""

    @abstractmethod
    def array(self, name: str) -> NDArray[Any] | Rows:
        """A view on one tensor, bfloat16 as uint16, or its dequantised rows."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Give the pages of a tensor back; views on it stay valid."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of a checkpoint, not read yet: safetensors type, shape, where it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Shard

    @property
    def nbytes(self) -> int:
        """Bytes of the values that `open` gives; a quantised checkpoint stores fewer."""
        return math.prod(self.shape) * NUMPY_TYPES[self.dtype].itemsize

    @contextmanager
    def open(self) -> Iterator[NDArray[Any] | Rows]:
        """A view on the values for the length of a ``with`` block; bfloat16 as uint16."""
        try:
            yield self.shard.array(self.name)
        finally:
            self.shard.release(self.name)
