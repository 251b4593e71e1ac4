"""The cache of conversions, which are made when plain checkpoints are first used. `converted` makes and opens them.

A conversion is a directory ``DTYPE-KEY``, where the key is a digest of the content of the checkpoint. A process that uses one
holds a shared lock on its directory until it ends, so that another process that makes room knows it is in use. The time of
modification of the directory is when it was last used.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptbigcode_cpu.common.file_names import CONFIG
from gptbigcode_cpu.common.files import Lock
from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.common.regular_files import checked_path
from gptbigcode_cpu.common.sizes import human_bytes, parse_bytes
from gptbigcode_cpu.errors import ConfigError, InputError

CACHE_VARIABLE: Final = "GPTBIGCODE_CPU_CACHE"
SIZE_VARIABLE: Final = "GPTBIGCODE_CPU_CACHE_SIZE"
DEFAULT_LIMIT: Final = 50_000_000_000  # bytes

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<dtype>[a-z]+\d+)-[0-9a-f]{32}")
NOTE = "conversion.json"
_in_use: dict[Path, Lock] = {}  # conversions that this process uses, and the locks that say so


@dataclass(frozen=True)
class Conversion:
    """A conversion in the cache.

    Attributes:
        path: Its directory.
        name: The converted checkpoint: an id on the Hub, or a path.
        dtype: Storage type of the weights.
        nbytes: Bytes of its files.
        last_used: Seconds since the epoch.
        format_version: Of what it is stored in; only `weights.FORMAT_VERSION` can be opened.
    """

    path: Path
    name: str
    dtype: str
    nbytes: int
    last_used: float
    format_version: int | None


def cache_directory() -> Path:
    """Where conversions are kept: ``GPTBIGCODE_CPU_CACHE``, else ``gptbigcode-cpu`` in the user's cache directory.

    Raises:
        InputError: The variable names no directory, or the user has no home.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return checked_path(chosen, CACHE_VARIABLE)
    if (chosen := os.environ.get("XDG_CACHE_HOME", "")).startswith("/"):  # the specification says to ignore any other
        return Path(chosen) / "gptbigcode-cpu"
    return checked_path("~/.cache/gptbigcode-cpu", f"the cache of conversions, without {CACHE_VARIABLE},")


def size_limit() -> int | None:
    """Bytes that all conversions together may have: ``GPTBIGCODE_CPU_CACHE_SIZE``, such as ``20GB``; None for ``unlimited``.

    Raises:
        InputError: The variable says something else.
    """
    text = os.environ.get(SIZE_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    if text.lower() == "unlimited":
        return None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise InputError(f"{SIZE_VARIABLE}: {error}, or unlimited") from error


def conversions() -> list[Conversion]:
    """All conversions in the cache, those used last first."""
    found = []
    with suppress(OSError):
        for path in cache_directory().iterdir():
            match = _NAME.fullmatch(path.name)
            with suppress(OSError):  # it is being removed
                if match is not None and path.is_dir():
                    found.append(described(path, match["dtype"]))
    return sorted(found, key=lambda each: -each.last_used)


def names() -> list[str]:
    """The names of the converted checkpoints, each once."""
    return list(dict.fromkeys(each.name for each in conversions()))


def in_use(conversion: Conversion) -> bool:
    """Whether a process uses it."""
    try:
        Lock(conversion.path, wait=False).release()
    except OSError:
        return conversion.path.is_dir()
    return False


def remove(conversion: Conversion) -> None:
    """Remove it. Processes that have it open keep it in memory; its room on the disk is free when they end.

    Raises:
        OSError: It cannot be removed.
    """
    path = conversion.path
    aside = path.with_name(f".{path.name}.removed-{os.urandom(8).hex()}")
    with suppress(FileNotFoundError):  # another process was faster
        path.rename(aside)
        shutil.rmtree(aside)
    _lock_file(path).unlink(missing_ok=True)


def make_room(limit: int) -> list[Conversion]:
    """Remove conversions until the rest has at most `limit` bytes: first those of another format, then those used longest ago.

    What a process uses stays.

    Returns:
        What was removed.
    """
    from gptbigcode_cpu.store.weights import FORMAT_VERSION

    kept = conversions()
    excess = sum(each.nbytes for each in kept) - limit
    removed = []
    for each in sorted(kept, key=lambda each: (each.format_version == FORMAT_VERSION, each.last_used)):
        if excess <= 0:
            break
        with suppress(OSError):  # it is in use, or another process was faster
            with Lock(each.path, wait=False):
                remove(each)
            excess -= each.nbytes
            removed.append(each)
            size = human_bytes(each.nbytes)
            logger.warning(
                "removed the conversion of %s to %s (%s) to make room: %s", each.name, each.dtype, size, SIZE_VARIABLE
            )
    return removed


def name_of(source: Path) -> str:
    """The id on the Hub of a download, the absolute path of anything else."""
    for part in source.parts:
        if found := re.fullmatch(r"models--([^/]+?)--([^/]+)", part):
            return f"{found[1]}/{found[2]}"
    return str(source.absolute())


def described(path: Path, dtype: str) -> Conversion:
    name, version = path.name, None
    with suppress(ConfigError):
        name = str((read_object(path / NOTE, ConfigError) or {}).get("name", name))
    with suppress(ConfigError):
        quantization = (read_object(path / CONFIG, ConfigError) or {}).get("quantization_config")
        version = quantization.get("format_version") if isinstance(quantization, dict) else None
    nbytes = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return Conversion(path, name, dtype, nbytes, path.stat().st_mtime, version)


def lock_for_use(directory: Path) -> Lock | None:
    """A lock that says that a conversion is used; None where it is not there or cannot be locked."""
    with suppress(OSError):
        return Lock(directory, shared=True)  # waits for a process that is removing it
    return None


def note_use(directory: Path, lock: Lock | None) -> None:
    """Keep a lock until this process ends, and note when the conversion was last used.

    Args:
        directory: The conversion.
        lock: From `lock_for_use`.
    """
    if lock is None:
        return
    with suppress(OSError):  # of a cache that cannot be written
        lock.touch()
    if (before := _in_use.get(directory)) is not None:
        before.release()
    _in_use[directory] = lock


@contextmanager
def making(directory: Path) -> Iterator[None]:
    """Hold the lock of the process that makes a conversion; a second process waits here for the first."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(_lock_file(directory), create=True)
    except OSError as error:
        reason = f"the cache of conversions cannot be written ({error.strerror}); {CACHE_VARIABLE} names another directory"
        raise OSError(error.errno, reason, str(directory.parent)) from error
    with lock:
        yield


def _lock_file(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")
