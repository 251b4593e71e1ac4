"""Pad rows to the same length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gptbigcode_cpu.common.arrays import to_int_array
from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass(frozen=True)
class Padding:
    """The length to pad to, and the side."""

    length: int | None  # None: the length of the longest row
    multiple: int | None
    side: Literal["left", "right"]

    def width(self, longest: int) -> int:
        """The length of the padded rows."""
        width = longest if self.length is None else self.length
        return width if self.multiple is None else -(-width // self.multiple) * self.multiple


def pad_encodings(encodings: list[Encoding], padding: Padding, pad_id: int, pad_token: str) -> None:
    """Pad rows and their overflowing rows in place."""
    width = padding.width(max(map(len, encodings), default=0))
    for row in encodings:
        row.pad(width, direction=padding.side, pad_id=pad_id, pad_type_id=0, pad_token=pad_token)


def pad_values(inputs: Mapping[str, Any], padding: Padding | None, pad_id: int, attention_mask: bool) -> dict[str, Any]:
    """Pad lists of token ids, and the masks that belong to them.

    Args:
        inputs: ``input_ids`` and optionally masks, of one row or several; lists or tensors.
        padding: How to pad; None: do not pad.
        pad_id: The token that fills ``input_ids``.
        attention_mask: Add an ``attention_mask`` if there is none.

    Raises:
        InputError: The values have different numbers of rows.
    """
    values = {name: _lists(value, name) for name, value in inputs.items()}
    ids = values["input_ids"]
    one = bool(ids) and not isinstance(ids[0], list)
    if one:
        values = {name: [value] for name, value in values.items()}
    rows = values["input_ids"]
    if any(len(value) != len(rows) for value in values.values()):
        raise InputError("the values to pad have different numbers of rows")
    if attention_mask and "attention_mask" not in values:
        values["attention_mask"] = [[1] * len(row) for row in rows]
    if padding is not None:
        width = padding.width(max(map(len, rows), default=0))
        gaps = [max(0, width - len(row)) for row in rows]
        fillers = {"input_ids": pad_id, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
        if not attention_mask:  # a mask that was given but is not wanted is not padded
            del fillers["attention_mask"]
        for name in values.keys() & fillers:
            parts = [(row, [fillers[name]] * gap) for row, gap in zip(values[name], gaps, strict=True)]
            values[name] = [row + filler if padding.side == "right" else filler + row for row, filler in parts]
    return {name: value[0] for name, value in values.items()} if one else values


def _lists(value: Any, name: str) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [_lists(row, name) if not isinstance(row, int) else row for row in value]
    lists = to_int_array(value, name).tolist()
    return lists if isinstance(lists, list) else [lists]
