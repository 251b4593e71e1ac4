"""The base class of the results of a call, with the names of transformers.

An output is an object, a mapping and a tuple at once: ``output.logits``, ``output["logits"]`` and, if the logits come first,
``output[0]`` are the same. A part that was not computed is None, and is left out of the mapping and the tuple.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptbigcode_cpu.generation.cache import DynamicCache


class ModelOutput:
    """Base class of outputs."""

    @property
    def cache(self) -> DynamicCache | None:
        """Same as ``past_key_values``; the newer name in transformers."""
        cache: DynamicCache | None = getattr(self, "past_key_values", None)
        return cache

    def keys(self) -> tuple[str, ...]:
        """The names of the computed parts, in order."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)  # type: ignore[arg-type]

    def values(self) -> tuple[Any, ...]:
        """The computed parts, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Pairs of name and computed part, in order."""
        return tuple(zip(self.keys(), self.values(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        """The computed parts, in order."""
        return self.values()

    def get(self, key: str, default: Any = None) -> Any:
        """The part called `key`, or `default` if it was not computed."""
        return getattr(self, key) if key in self else default

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys() or (key == "cache" and self.cache is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())
