"""Converted models of plain checkpoints: made on first use, and opened from the cache of conversions afterwards."""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from gptbigcode_cpu.common.dtypes import DEFAULT_DTYPE, DTYPES
from gptbigcode_cpu.common.files import write_file
from gptbigcode_cpu.common.progress import Progress
from gptbigcode_cpu.common.regular_files import open_regular
from gptbigcode_cpu.common.sizes import human_bytes
from gptbigcode_cpu.config import read_config
from gptbigcode_cpu.errors import CheckpointError, ConfigError, FormatError, InputError
from gptbigcode_cpu.hub.checkpoint_files import PYTORCH_PATTERNS, SAFETENSORS_PATTERNS, find_weights, weights_files
from gptbigcode_cpu.hub.paths import DESCRIPTION_PATTERNS, gguf_parts, is_gguf, resolve
from gptbigcode_cpu.hub.source import Source
from gptbigcode_cpu.models import conversions
from gptbigcode_cpu.store.weights import FORMAT_VERSION, PackedModel, is_packed, open_packed, packed_scheme

logger = logging.getLogger(__name__)

_ATTEMPTS = 3


def packed_dir(
    name_or_path: str | Path,
    dtype: str = "auto",
    source: Source | None = None,
    *,
    num_threads: int = 0,
    progress: Progress | None = None,
) -> Path:
    """The directory of a converted model; a plain checkpoint is converted on first use and kept.

    Args:
        name_or_path: As in `gptbigcode_cpu.hub.paths.resolve`.
        dtype: One of `dtypes.DTYPES`, or ``auto``: what a converted model is stored in, and int8 for a plain checkpoint.
        source: Where on the Hub, or in the directory, the files are.
        num_threads: Threads that convert; 0 = default.
        progress: Called during a conversion, see `Progress`.

    Raises:
        InputError: `dtype` is unknown, or not the one that a converted model is stored in.
        GPTBigCodeError: As of `resolve` and `gptbigcode_cpu.convert.convert`.
        OSError: The cache cannot be written and does not hold the conversion.
    """
    if dtype not in (*DTYPES, "auto"):
        raise InputError(f"dtype {dtype!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    path = resolve(name_or_path, source, before_weights=read_config)
    config = read_config(path)
    if is_packed(config):
        packed_scheme(config, path, dtype)
        return path
    return open_converted(path, DEFAULT_DTYPE if dtype == "auto" else dtype, num_threads, progress).path


def open_converted(source: Path, dtype: str, num_threads: int = 0, progress: Progress | None = None) -> PackedModel:
    """The conversion of a plain checkpoint, opened; it is made if it is not there or damaged.

    Args:
        source: The directory of the checkpoint, or its GGUF file.
        dtype: Storage type of the weights.
        num_threads: Threads that convert; 0 = default.
        progress: Called during a conversion.

    Raises:
        GPTBigCodeError: As of `gptbigcode_cpu.convert.convert`.
        InputError: The size limit is malformed.
        OSError: The cache cannot be written and does not hold the conversion.
    """
    cache = conversions.cache_directory()
    target = cache / f"{dtype}-{_content_key(source, cache)}"
    for _ in range(_ATTEMPTS):  # one, unless another process makes room in between
        if (packed := _use(target)) is not None:
            return packed
        limit = conversions.size_limit()
        with conversions.making(target):
            if _opened(target) is None:
                _convert(source, target, dtype, num_threads, progress)
        if limit is not None:
            _use(target)  # before there is made room for it
            conversions.make_room(limit)
    if (packed := _use(target)) is not None:
        return packed
    raise FormatError(f"{target} could not be kept: it was removed or damaged right after it was made, {_ATTEMPTS} times")


def _convert(source: Path, target: Path, dtype: str, num_threads: int, progress: Progress | None) -> None:
    from gptbigcode_cpu.convert import convert

    name = conversions.name_of(source)
    shutil.rmtree(target, ignore_errors=True)  # a damaged one
    convert(source, target, dtype=dtype, num_threads=num_threads, progress=progress)
    write_file(target / conversions.NOTE, json.dumps({"name": name}))
    size = human_bytes(conversions.described(target, dtype).nbytes)
    logger.warning("%s was quantised to %s and is kept in %s (%s)", name, dtype, target, size)


def _use(target: Path) -> PackedModel | None:
    """A conversion, which is locked until this process ends; None if it cannot be opened."""
    lock = conversions.lock_for_use(target)
    packed = _opened(target)
    if packed is not None:
        conversions.note_use(target, lock)
    elif lock is not None:
        lock.release()
    return packed


def _opened(directory: Path) -> PackedModel | None:
    try:
        return open_packed(directory)
    except (ConfigError, FormatError, OSError):  # among them ModelNotFoundError
        return None


def _content_key(source: Path, cache: Path) -> str:
    """A name for a conversion of the content of a checkpoint, the same wherever it lies: 32 hexadecimal digits."""
    import hashlib

    if is_gguf(source):
        root, paths = source.parent, {*gguf_parts(source)}
    else:
        root = source
        patterns = (*DESCRIPTION_PATTERNS, *SAFETENSORS_PATTERNS, *PYTORCH_PATTERNS)
        paths = {find_weights(source), *weights_files(source), *(path for pattern in patterns for path in source.glob(pattern))}
    digest = hashlib.sha256(f"format {FORMAT_VERSION}\n".encode())
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root)} {_file_digest(path, cache / 'digests')}\n".encode())
    return digest.hexdigest()[:32]


def _file_digest(path: Path, memory: Path) -> str:
    """SHA-256 of a file, remembered while the file is unchanged: reading gigabytes at every start takes seconds."""
    import hashlib

    def note_of(status: os.stat_result) -> Path:
        state = [str(path.resolve()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        return memory / hashlib.sha256(json.dumps(state).encode()).hexdigest()

    with suppress(OSError):
        remembered = note_of(path.stat()).read_text()
        if len(remembered) == 64:
            return remembered
    try:
        with open_regular(path) as file:
            note = note_of(os.fstat(file.fileno()))
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    with suppress(OSError):  # a cache that cannot be written may still hold the conversion
        memory.mkdir(parents=True, exist_ok=True)
        write_file(note, digest)
    return digest
