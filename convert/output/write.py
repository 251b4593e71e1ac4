"""The output directory: sizes known beforehand, written beside its target, flushed to disk, then renamed into place."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from gptbigcode_cpu.common import files
from gptbigcode_cpu.errors import DiskSpaceError, InputError
from gptbigcode_cpu.store.tensor_file import NUMPY_TYPES
from gptbigcode_cpu.store.weights import ALIGNMENT, PAD_PREFIX

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def header_bytes(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, int]:
    """The start of a safetensors file in which every tensor begins on a multiple of 64 bytes.

    Args:
        tensors: Name, safetensors type and shape in file order.

    Returns:
        The header with its length prefix, and the size of the whole file.
    """
    header: dict[str, Any] = {}
    position = 0
    fillers = 0
    for name, dtype, shape in tensors:
        gap = -position % ALIGNMENT
        if gap:
            header[f"{PAD_PREFIX}{fillers}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [position, position + gap]}
            fillers += 1
            position += gap
        end = position + math.prod(shape) * NUMPY_TYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + position


def pad_to_alignment(file: BinaryIO) -> None:
    """Fill the gap in front of the next tensor."""
    file.write(bytes(-file.tell() % ALIGNMENT))


def check_target(out: Path, overwrite: bool, is_model: bool) -> None:
    """Refuse a target that must not be replaced.

    Args:
        out: The output directory.
        overwrite: Whether a converted model there may be replaced.
        is_model: Whether `out` holds a converted model.

    Raises:
        InputError: `out` is a file, or a directory with content that may not be replaced.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; the output of a conversion is a directory")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{out} exists and is not empty; choose another directory, or pass overwrite=True")
    if not is_model:
        raise InputError(
            f"{out} is not empty and holds no converted model, so it will not be replaced; choose another directory"
        )


def available_bytes(out: Path) -> int:
    """Free bytes of the file system that `out` will be on."""
    existing = out
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


@contextmanager
def output_directory(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary directory beside `out` that takes its place when the block ends, and is removed if it fails.

    The process holds a lock on the directory while it works. A later conversion to `out` removes a directory that nobody
    holds: the process that made it was killed.

    Raises:
        DiskSpaceError: The file system filled up.
        InputError: Without `overwrite`, something appeared at `out` in the meantime.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in out.parent.iterdir():
        if path.name.startswith(_prefix(out)):
            files.remove_unused(path)
    try:
        with scratch(out) as temporary:
            yield temporary
            for path in temporary.iterdir():
                files.flush(path)
            files.flush(temporary)
            _put_in_place(temporary, out, overwrite)
            files.flush(out.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise DiskSpaceError(f"{out.parent} filled up ({error.strerror}); what was written was removed") from error
        raise


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out`, which a later conversion removes if this process is killed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    directory, lock = _create_locked(out)
    with lock:
        try:
            yield directory
        finally:
            # After an exchange this is the model that was replaced.
            shutil.rmtree(directory, ignore_errors=True)


def _prefix(out: Path) -> str:
    return f".{out.name}.convert-"


def _create_locked(out: Path) -> tuple[Path, files.Lock]:
    while True:
        path = out.parent / f"{_prefix(out)}{os.urandom(8).hex()}"
        path.mkdir()
        # Between creation and lock another process may take it for abandoned.
        with suppress(BlockingIOError, FileNotFoundError):
            return path, files.Lock(path, wait=False)


def _put_in_place(temporary: Path, out: Path, overwrite: bool) -> None:
    """Rename, or exchange with what is there, so that `out` is at every moment the old or the new model."""
    try:
        temporary.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not overwrite:
            raise InputError(f"{out} was created while the conversion ran; it was left as it is") from error
        files.exchange(temporary, out)
