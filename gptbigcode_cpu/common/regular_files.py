"""Names and opening of files that others bring. Only regular files are opened: a pipe or a device may make a reader wait."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.errors import InputError

# What a file begins with that git clone leaves in the place of a large one where Git LFS is not installed.
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def checked_path(path: str | Path, what: str) -> Path:
    """A path that the user names, absolute and with ``~`` replaced.

    Raises:
        InputError: No file can have this name, or there is no such user after the ``~``; the message calls it `what`.
    """
    try:
        os.fsencode(path)
        if "\0" in str(path):
            raise ValueError("it contains a NUL character")
        return Path(path).expanduser().absolute()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{what} cannot be {shown(str(path))}: {one_line(error)}") from error


def is_present(path: Path) -> bool:
    """Whether something of this name is there, be it a file that `open_regular` opens or not."""
    try:
        path.lstat()
    except (OSError, ValueError):
        return False
    return True


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading, through symbolic links.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It is a link to what is not there, may not be read, is not a regular file, or is a pointer of Git LFS;
            ``strerror`` says which. A name that no file can have (a NUL, a lone surrogate, too long) is an OSError, too.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from error
    except FileNotFoundError as error:
        if not path.is_symlink():
            raise
        # Such as what is left of the Hub's cache when files were deleted from it, or a copy of it.
        reason = f"it is a symbolic link to {shown(str(path.readlink()))}, which is not there"
        raise OSError(errno.EINVAL, reason, str(path)) from error
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a regular file", str(path))
        if os.pread(descriptor, len(_GIT_LFS), 0) == _GIT_LFS:
            reason = "it is a pointer of Git LFS and not the file itself, which `git lfs pull` fetches"
            raise OSError(errno.EINVAL, reason, str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file.

    Args:
        path: The file.
        max_bytes: The largest size that is read.

    Raises:
        OSError: As of `open_regular`, or the file is larger.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it has more than the {max_bytes:,} bytes allowed", str(path))
    return content
