"""The only device."""

from __future__ import annotations


class Device(str):
    """Where a model is. Equal to the string ``"cpu"``, and usable where torch takes a device."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """The kind of the device."""
        return str(self)
