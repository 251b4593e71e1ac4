"""The output directory: sizes known beforehand, written beside its target, flushed to disk, then renamed into place."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from gptbigcode_cpu.errors import DiskSpaceError, InputError
from gptbigcode_cpu.store.tensor_file import NUMPY_TYPES
from gptbigcode_cpu.store.weights import ALIGNMENT, PAD_PREFIX

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


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
def replacing(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary directory beside `out` that takes its place when the block ends, and vanishes when it fails.

    The owner of the directory holds a lock on it, so that the next conversion can tell one that was killed, whose remains it
    removes, from one that is at work.

    Raises:
        DiskSpaceError: The file system filled up.
        InputError: Without `overwrite`, something appeared at `out` in the meantime.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(out)
    temporary, lock = _create_locked(out)
    try:
        yield temporary
        for path in temporary.iterdir():
            fsync(path)
        fsync(temporary)
        _put_in_place(temporary, out, overwrite)
        fsync(out.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise DiskSpaceError(f"{out.parent} filled up ({error.strerror}); what was written was removed") from error
        raise
    finally:
        # After an exchange this is the model that was replaced.
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out`, which a later conversion removes if this process is killed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    directory, lock = _create_locked(out)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _prefix(out: Path) -> str:
    return f".{out.name}.convert-"


def _create_locked(out: Path) -> tuple[Path, int]:
    while True:
        path = out.parent / f"{_prefix(out)}{secrets.token_hex(8)}"
        path.mkdir()
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between creation and lock another process may have taken it for abandoned.
            if path.exists():
                return path, lock
        os.close(lock)


def _remove_abandoned(out: Path) -> None:
    for path in out.parent.iterdir():
        if not path.name.startswith(_prefix(out)):
            continue
        remove_unlocked(path)


def remove_unlocked(directory: Path) -> None:
    """Remove a directory, unless it is not there or a process holds its lock."""
    with suppress(OSError):
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(lock)


def _put_in_place(temporary: Path, out: Path, overwrite: bool) -> None:
    """Rename, or exchange with what is there, so that `out` is at every moment the old or the new model."""
    try:
        temporary.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not overwrite:
            raise InputError(f"{out} was created while the conversion ran; it was left as it is") from error
        _exchange(temporary, out)


def _exchange(temporary: Path, out: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(out), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(out))
    # This file system cannot exchange. The old model is set aside and comes back should the second step fail.
    aside = out.parent / f"{_prefix(out)}{secrets.token_hex(8)}.replaced"
    out.rename(aside)
    try:
        temporary.rename(out)
    except OSError:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def fsync(path: Path) -> None:
    """What was written to a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
