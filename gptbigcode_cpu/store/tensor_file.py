"""Reading of safetensors files. They come from strangers, so everything in the header is checked.

The header is parsed and checked completely before anything is mapped: a capped length, known types, plain sizes, and data
ranges that follow each other without overlap or hole up to the exact end of the file.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.file_kinds import N_BYTES, described
from gptbigcode_cpu.common.json_files import JSONError, parse_object
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.common.regular_files import open_regular

# The largest published checkpoint of this family needs 100 kB; parsing takes many times the memory of the text.
MAX_HEADER_BYTES = 16 << 20
MAX_RANK = 8
MAX_DIMENSION = 1 << 48

# bfloat16 and floats of 8 bits have no numpy type; their bits are handed out as unsigned integers.
NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0"), np.dtype(np.uint8)),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}


class TensorFileError(ValueError):
    """The file is not a valid safetensors file. The callers know what the file was meant to be and say so."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: safetensors type, shape, and its bytes ``begin .. end`` counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class TensorFile:
    """A mapped safetensors file. The mapping lives as long as this object or any array made from it."""

    path: Path
    entries: Mapping[str, TensorEntry]
    mapping: mmap.mmap

    def array(self, entry: TensorEntry) -> NDArray[Any]:
        """A read-only view on the mapped bytes; nothing is read yet."""
        return np.ndarray(entry.shape, NUMPY_TYPES[entry.dtype], buffer=self.mapping, offset=entry.begin)

    def prefer_huge_pages(self) -> None:
        """Let Linux read what is not in its page cache yet in pages of 2 MiB, where its file system can (docs/kernels.md)."""
        if sys.platform == "linux":
            with suppress(OSError):  # a kernel without huge pages
                self.mapping.madvise(mmap.MADV_HUGEPAGE)


def map_tensor_file(path: Path) -> TensorFile:
    """Check the header of a safetensors file and map the file.

    Raises:
        TensorFileError: The header or the length of the file is not as it must be; the message names the check.
        OSError: The file cannot be opened.
    """
    with open_regular(path) as file:
        size = file.seek(0, 2)
        if size < 8:
            raise TensorFileError(f"the file has {size} bytes, too few for the 8 bytes of the header length")
        file.seek(0)
        start = file.read(N_BYTES)
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES:
            raise TensorFileError(
                f"the header claims {length} bytes, more than the {MAX_HEADER_BYTES} allowed{described(start)}"
            )
        if length > size - 8:
            raise TensorFileError(f"the header claims {length} bytes, but only {size - 8} follow")
        file.seek(8)
        entries = parse_header(file.read(length), 8 + length, size)
        return TensorFile(path, entries, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def parse_header(header: bytes, data_begin: int, file_size: int) -> dict[str, TensorEntry]:
    """Parse and check the JSON header of a file whose data spans ``data_begin .. file_size``.

    Raises:
        TensorFileError: The header is not as it must be; the message names the check.
    """
    if not header.startswith(b"{"):
        raise TensorFileError("the header does not start with '{'")
    try:
        content = parse_object(header, unique=True)
    except JSONError as error:
        raise TensorFileError(f"the header {error}") from error
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise TensorFileError("__metadata__ must map names to strings")
    entries = {name: _entry(name, value, data_begin) for name, value in content.items()}

    position = data_begin
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            kind = "overlaps the one before" if entry.begin < position else f"leaves a hole of {entry.begin - position} bytes"
            raise TensorFileError(f"tensor {shown(name)} {kind}: it begins at byte {entry.begin}, expected {position}")
        position = entry.end
    if position != file_size:
        kind = "truncated" if position > file_size else "followed by bytes that belong to no tensor"
        raise TensorFileError(f"the data is {kind}: the tensors end at byte {position}, the file at {file_size}")
    return entries


def _entry(name: str, value: object, data_begin: int) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"tensor {shown(name)} must have dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUMPY_TYPES:
        raise TensorFileError(f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    if not _are_sizes(shape, MAX_DIMENSION) or len(shape) > MAX_RANK:
        raise TensorFileError(f"tensor {shown(name)} has a shape that is not a list of at most {MAX_RANK} sizes")
    if not _are_sizes(offsets, 1 << 62) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise TensorFileError(f"tensor {shown(name)} has data_offsets that are not a begin and an end")
    begin, end = offsets
    if math.prod(shape) * NUMPY_TYPES[dtype].itemsize != end - begin:
        raise TensorFileError(
            f"tensor {shown(name)} of type {dtype} and shape {shown(shape)} does not fill its {end - begin} bytes"
        )
    return TensorEntry(dtype, tuple(shape), data_begin + begin, data_begin + end)


def _are_sizes(value: object, limit: int) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= limit for size in value)
