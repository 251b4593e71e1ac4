"""Files that other processes see while they are written: locks, and names that are complete or not there.

What operating systems do differently about it is here. Where Python has no `fcntl`, as on Windows, every lock is granted, and
what a process might still use is not removed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

fcntl: Any
try:
    import fcntl
except ImportError:
    fcntl = None

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Lock:
    """A lock of this process on a file or a directory. It ends with a ``with`` block, with `release`, or with the process.

    Other processes see it even if they open the file under another name. It does not keep them from reading or writing.
    """

    def __init__(self, path: Path, *, shared: bool = False, wait: bool = True, create: bool = False) -> None:
        """
        Args:
            path: The file or directory.
            shared: Others may hold a shared lock at the same time; else nobody.
            wait: Wait for the process that holds it.
            create: Create the file if it is not there.

        Raises:
            BlockingIOError: Somebody holds it, and `wait` is false.
            FileNotFoundError: There is no such file, or it was removed while this process waited.
            OSError: It cannot be opened or locked.
        """
        self._descriptor: int | None = None
        if fcntl is None:
            path.touch() if create else path.stat()
            return
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        while self._descriptor is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY, 0o666)
            try:
                fcntl.flock(descriptor, kind)
                # The name may stand for another file by now: the one that was locked is of no use then.
                if _is_called(descriptor, path, create):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None) -> None:
        self.release()

    def touch(self) -> None:
        """Set the time of modification of what is locked to now."""
        if self._descriptor is not None:
            os.utime(self._descriptor)

    def release(self) -> None:
        """End the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_called(descriptor: int, path: Path, create: bool) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        if create:
            return False
        raise


def remove_unused(directory: Path) -> None:
    """Remove a directory with its content, unless it is not there or a process holds a lock on it."""
    if fcntl is None:
        return
    with suppress(OSError), Lock(directory, wait=False):
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a file that takes the place of `path` when the block ends, and is removed if it fails.

    The new file is on the disk before it gets its name, so `path` is at every moment the old file or the complete new one. A
    symbolic link is replaced, not followed.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}{path.suffix}")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8; it appears complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def flush(path: Path) -> None:
    """Wait until what was written to a file, or the names in a directory, are on the disk."""
    if os.name == "nt" and path.is_dir():  # cannot be opened there
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(new: Path, old: Path) -> None:
    """Exchange the names of two directories on one file system.

    Both names exist at every moment where the system can do that (Linux). Elsewhere `old` is missing for a moment, the old
    directory is removed instead of getting the other name, and it gets its name back if the new one cannot have it.
    """
    import ctypes

    renamed = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renamed is not None:
        if renamed(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # these: this file system cannot exchange
            raise OSError(number, os.strerror(number), str(old))
    aside = new.with_name(f"{new.name}.replaced")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
