"""Reading of GGUF files. They come from strangers, so everything in the header is checked.

A GGUF file is a header (counts, key-value pairs, tensor descriptions) and the tensors' data
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Every count and length is checked against the bytes that are
there before anything of that size is made; the `gguf` package's own reader does not do that, and makes several objects for
each string of a vocabulary. What the data means is left to `gguf_files`.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.common.regular_files import open_regular

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# A vocabulary of 256,000 tokens with its merges has 10 MB.
MAX_HEADER_BYTES = 32 << 20
MAX_RANK = 4
MAX_DIMENSION = 1 << 48
MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32

_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, struct.Struct] = {
    number: struct.Struct(f"<{code}")
    for number, code in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}.items()
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


class GGUFError(ValueError):
    """The file is not a valid GGUF file. The callers know which file it is and say so."""


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor of a file: the number of its type, its shape as numpy has it, and its first byte in the file."""

    type_number: int
    shape: tuple[int, ...]
    begin: int


@dataclass(frozen=True)
class GGUFFile:
    """A mapped GGUF file.

    Attributes:
        path: The file.
        metadata: The key-value pairs: numbers, strings, lists of strings, numpy arrays of numbers. llama.cpp asks for no
            encoding of strings; see `_Cursor.text`.
        tensors: By name. The caller knows the sizes of the types, and checks that the data lies within the file.
        mapping: The whole file.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]
    mapping: mmap.mmap


def map_gguf(path: Path) -> GGUFFile:
    """Check and parse the header of a GGUF file and map the file.

    Raises:
        GGUFError: The header is not as it must be; the message names the check.
        OSError: The file cannot be opened.
    """
    with open_regular(path) as file:
        if file.seek(0, 2) < 24:
            raise GGUFError(f"the file has {file.tell()} bytes, too few for the start of a header")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(mapping)
    n_tensors, n_pairs = _counts(cursor)
    metadata = _pairs(cursor, n_pairs)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise GGUFError(f"general.alignment must be a power of two up to {MAX_ALIGNMENT}, not {alignment!r:.40}")
    described = _descriptions(cursor, n_tensors)
    data_begin = cursor.position + -cursor.position % alignment
    tensors = {}
    for name, (type_number, shape, offset) in described.items():
        if offset % alignment:
            raise GGUFError(f"tensor {shown(name)} begins at offset {offset}, which is not a multiple of {alignment}")
        tensors[name] = GGUFTensor(type_number, shape, data_begin + offset)
    return GGUFFile(path, metadata, tensors, mapping)


class _Cursor:
    """A position in the header; nothing is read beyond its end or that of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._end = min(len(data), MAX_HEADER_BYTES)
        self.position = 0

    @property
    def left(self) -> int:
        return self._end - self.position

    def take(self, size: int, what: str) -> int:
        """Step over `size` bytes and return where they begin."""
        if size > self.left:
            if self._end == len(self._data):
                raise GGUFError(f"{what} takes {size} bytes, but only {self.left} follow: the file is truncated or damaged")
            raise GGUFError(f"{what} ends beyond the {MAX_HEADER_BYTES} bytes that a header may have")
        begin = self.position
        self.position += size
        return begin

    def bytes(self, size: int, what: str) -> bytes:
        begin = self.take(size, what)
        return self._data[begin : begin + size]

    def number(self, kind: struct.Struct, what: str) -> Any:
        return kind.unpack_from(self._data, self.take(kind.size, what))[0]

    def text(self, what: str) -> str:
        """A string, whose bytes that are not UTF-8 become lone surrogates, as `os.fsdecode` makes them."""
        return self.bytes(self.number(_U64, what), what).decode("utf-8", "surrogateescape")

    def count(self, what: str, least_bytes: int) -> int:
        """A number of things that take at least so many bytes each."""
        value: int = self.number(_U64, what)
        if value * least_bytes > self.left:
            raise GGUFError(f"{what} claims {value} entries, more than the {self.left} bytes that follow can hold")
        return value

    def numbers(self, type_number: int, count: int, what: str) -> np.ndarray[Any, Any]:
        kind = np.dtype(_SCALARS[type_number].format)
        return np.frombuffer(self.bytes(count * kind.itemsize, what), kind)


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """Numbers of tensors and of key-value pairs, after magic and version."""
    magic, version = cursor.bytes(4, "the start"), cursor.number(_U32, "the version")
    if magic != MAGIC:
        raise GGUFError(f"the file starts with {magic!r}, not with {MAGIC!r}")
    if version not in VERSIONS:
        if version & 0xFFFF == 0:
            raise GGUFError("the file is big-endian, which is not supported")
        raise GGUFError(f"the file has GGUF version {version}, supported are {' and '.join(map(str, VERSIONS))}")
    # Least: an empty name, rank 0, type and offset; an empty key, type and one byte.
    n_tensors = cursor.count("the number of tensors", 24)
    return n_tensors, cursor.count("the number of key-value pairs", 13)


def _pairs(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for i in range(count):
        key = cursor.text(f"key {i}")
        what = f"the value of {shown(key)}"
        if key in metadata:
            raise GGUFError(f"the key {shown(key)} is there twice")
        metadata[key] = _value(cursor, cursor.number(_U32, what), what)
    return metadata


def _value(cursor: _Cursor, kind: int, what: str) -> Any:
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind], what)
    if kind == _STRING:
        return cursor.text(what)
    if kind != _ARRAY:
        raise GGUFError(f"{what} has the unknown type {kind}")
    element = cursor.number(_U32, what)
    if element == _STRING:
        return [cursor.text(what) for _ in range(cursor.count(what, 8))]
    if element in _SCALARS:
        return cursor.numbers(element, cursor.count(what, 1), what)
    raise GGUFError(f"{what} is an array of type {element}, which is not supported")


def _descriptions(cursor: _Cursor, count: int) -> dict[str, tuple[int, tuple[int, ...], int]]:
    """Type, shape and offset of every tensor, by name."""
    tensors: dict[str, tuple[int, tuple[int, ...], int]] = {}
    for i in range(count):
        name = cursor.text(f"the name of tensor {i}")
        what = f"the description of tensor {shown(name)}"
        if name in tensors:
            raise GGUFError(f"tensor {shown(name)} is there twice")
        rank = cursor.number(_U32, what)
        if not 1 <= rank <= MAX_RANK:
            raise GGUFError(f"tensor {shown(name)} has {rank} dimensions, it must have 1 to {MAX_RANK}")
        sizes = [cursor.number(_U64, what) for _ in range(rank)]
        if not all(1 <= size <= MAX_DIMENSION for size in sizes):
            raise GGUFError(f"tensor {shown(name)} has sizes outside 1..2**48: {sizes}")
        tensors[name] = cursor.number(_U32, what), tuple(reversed(sizes)), cursor.number(_U64, what)
    return tensors
