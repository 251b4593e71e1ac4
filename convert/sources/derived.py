"""Tensors that are computed from others of the checkpoint when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from gptbigcode_cpu.convert.sources.tensors import Rows, Shard, SourceTensor

Values = NDArray[Any] | Rows


def derived(
    name: str, dtype: str, shape: tuple[int, ...], parts: tuple[SourceTensor, ...], compute: Callable[..., Values]
) -> SourceTensor:
    """A tensor that is made of others.

    Args:
        name: Of the new tensor.
        dtype: Safetensors type of its values.
        shape: Of it.
        parts: The tensors that it is made of.
        compute: Called with a view on each part, makes the values or their `Rows`.
    """
    return SourceTensor(name, dtype, shape, _Derived(name, dtype, shape, parts, compute))


class _Derived(Shard):
    def __init__(
        self, name: str, dtype: str, shape: tuple[int, ...], parts: tuple[SourceTensor, ...], compute: Callable[..., Values]
    ) -> None:
        self._signature = {name: (dtype, shape)}
        self._parts = parts
        self._compute = compute

    def signatures(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        return self._signature

    def array(self, name: str) -> Values:
        return self._compute(*(part.shard.array(part.name) for part in self._parts))

    def release(self, name: str) -> None:
        for part in self._parts:
            part.shard.release(part.name)
