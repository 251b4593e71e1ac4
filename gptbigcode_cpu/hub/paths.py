"""From a model name to its local files: paths, Hub ids and the packaged demo. What is in the files is read elsewhere."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gptbigcode_cpu.common.file_names import CHAT_TEMPLATE_PATTERN, CONFIG, GENERATION_CONFIG, TOKENIZER_FILES
from gptbigcode_cpu.common.regular_files import is_present, open_regular
from gptbigcode_cpu.errors import ModelNotFoundError
from gptbigcode_cpu.hub.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, refuse_adapter
from gptbigcode_cpu.hub.checkpoint_files import AWQ_CONFIG, GPTQ_CONFIG, PYTORCH_PATTERNS, SAFETENSORS_PATTERNS
from gptbigcode_cpu.hub.downloads import check_room, described, fetch
from gptbigcode_cpu.hub.names import SHORT_NAMES, not_found
from gptbigcode_cpu.hub.source import Source

DEMO = "demo"
DEMO_DIRECTORY = Path(__file__).parent.parent / "demo"

# What is fetched besides the weights. Everything else in a repository (training states, other formats) stays there.
DESCRIPTION_PATTERNS = (
    *(CONFIG, ADAPTER_CONFIG, GPTQ_CONFIG, AWQ_CONFIG, GENERATION_CONFIG),
    *(*TOKENIZER_FILES, CHAT_TEMPLATE_PATTERN),
)

_GGUF, _GGUF_MAGIC = ".gguf", b"GGUF"
_GGUF_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def resolve(
    name_or_path: str | Path,
    source: Source | None = None,
    *,
    weights: bool = True,
    before_weights: Callable[[Path], object] | None = None,
) -> Path:
    """The local directory of a model, downloaded if need be, or its GGUF file.

    Args:
        name_or_path: A directory, a GGUF file (the first, if it is split), an id on the Hugging Face Hub, one of
            `names.SHORT_NAMES`, or ``demo`` for the model in this package (a directory of that name is ``./demo``).
        source: Where on the Hub, or in the directory, the files are.
        weights: Download the weights as well, not only configuration and tokenizer.
        before_weights: Called before weights are downloaded, with the directory that holds the other files by then. What it
            raises is raised here, so that a model that cannot be used costs no download of gigabytes.

    Raises:
        ModelNotFoundError: The name leads to no model; the message says whether path, repository, revision, access or
            connection was the trouble.
        DiskSpaceError: There is no room for the weights.
    """
    source = Source() if source is None else source
    if name_or_path == DEMO:
        return DEMO_DIRECTORY
    path = _local(name_or_path)
    if path is None:
        name = SHORT_NAMES.get(str(name_or_path), str(name_or_path))
        return _download(name, source, weights, before_weights)
    if path.is_dir():
        found = _in_directory(path, source.subfolder, source.gguf_file)
        if weights and found.is_dir():
            refuse_adapter(found, str(name_or_path))
        return found
    if is_gguf(path):
        return path
    near = f"; did you mean {path.parent}?" if (path.parent / CONFIG).is_file() else ""
    raise ModelNotFoundError(
        f"{name_or_path} is a file; a model is a directory with config.json and weights, or a GGUF file{near}"
    )


def resolve_adapter(name_or_path: str | Path, source: Source | None = None) -> Path:
    """The local directory of a LoRA adapter, downloaded if need be.

    Args:
        name_or_path: A directory, or an id on the Hugging Face Hub.
        source: Where on the Hub the files are.

    Raises:
        ModelNotFoundError: The name leads to no adapter.
    """
    path = _local(name_or_path)
    if path is None:
        source = Source() if source is None else source
        for weights in ADAPTER_WEIGHTS:
            path = fetch(str(name_or_path), source, (ADAPTER_CONFIG, *TOKENIZER_FILES, weights))
            if (path / weights).is_file():
                break
    if path is None or not path.is_dir() or not is_present(path / ADAPTER_CONFIG):
        raise ModelNotFoundError(f"{name_or_path} is not a LoRA adapter: there is no {ADAPTER_CONFIG} in it")
    return path


def _local(name_or_path: str | Path) -> Path | None:
    """The file or directory of this name, or None if it is an id on the Hub."""
    name = str(name_or_path)
    try:
        path = Path(name_or_path).expanduser()
        found = bool(name) and (path.is_dir() or path.is_file())
    except (OSError, RuntimeError) as error:  # RuntimeError: no such user after the ~
        raise ModelNotFoundError(f"{not_found(name)} ({error})") from error
    if found:
        _check_readable(path)
        return path
    if name and is_present(path):
        raise ModelNotFoundError(f"{name} is neither a directory nor a regular file")
    full = SHORT_NAMES.get(name, name)
    if isinstance(name_or_path, Path) or full.startswith(("/", ".", "~")) or full.count("/") != 1 or len(full) >= 200:
        raise ModelNotFoundError(not_found(name))
    return None


def _check_readable(path: Path) -> None:
    """Refuse a directory that may not be entered, and a file that cannot be read."""
    try:
        if path.is_dir():
            os.stat(f"{path}/.")  # noqa: PTH116 - a Path drops the dot, for which one has to enter
        else:
            open_regular(path).close()
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}") from error


def _in_directory(directory: Path, subfolder: str, gguf_file: str | None) -> Path:
    """The model in a directory that is here."""
    inside = directory / subfolder
    if ".." in Path(subfolder).parts or Path(subfolder).is_absolute() or not inside.is_dir():
        raise ModelNotFoundError(f"{directory} has no subfolder {subfolder!r}")
    if gguf_file is None:
        return _gguf_in(inside) or inside
    file = inside / gguf_file
    if not is_gguf(file) or not file.is_file():
        raise ModelNotFoundError(f"{inside} has no GGUF file {gguf_file!r}")
    return file


def is_gguf(path: Path) -> bool:
    """Whether a file is GGUF, by its suffix or by its first bytes: Ollama's ``blobs/sha256-...`` have no suffix."""
    return not path.is_dir() and (path.suffix == _GGUF or _begins_as_gguf(path))


def _begins_as_gguf(path: Path) -> bool:
    with suppress(OSError), open_regular(path) as file:
        return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    return False


def gguf_parts(path: Path) -> list[Path]:
    """The files of a model in GGUF: the one, or all parts of a split one.

    Raises:
        ModelNotFoundError: A part is missing, or `path` is not the first.
    """
    found = _GGUF_PART.fullmatch(path.name)
    if found is None:
        return [path]
    name, count = found["name"], int(found["count"])
    parts = [path.with_name(f"{name}-{number:05d}-of-{count:05d}{_GGUF}") for number in range(1, max(count, 1) + 1)]
    if path != parts[0]:
        raise ModelNotFoundError(f"{path} is a part of a split model, and not the first, {parts[0].name}")
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ModelNotFoundError(f"{path} lacks {len(missing)} of its {count} parts: {', '.join(missing[:8])}")
    return parts


def _gguf_in(directory: Path) -> Path | None:
    """The GGUF file of a directory that holds one model and in no other form."""
    if any(any(directory.glob(pattern)) for pattern in SAFETENSORS_PATTERNS + PYTORCH_PATTERNS):
        return None
    files = [path for path in directory.glob("*") if path.is_file()]
    found = [path for path in files if path.suffix == _GGUF]
    if not found and not is_present(directory / CONFIG):
        found = [path for path in files if _begins_as_gguf(path)]
    names = sorted(path.name for path in found)
    if len({_GGUF_PART.sub(r"\g<name>", name) for name in names}) > 1:
        raise ModelNotFoundError(f"{directory} holds several GGUF models; name the file of one: {', '.join(names[:8])}")
    return directory / names[0] if names else None


def _download(name: str, source: Source, weights: bool, before_weights: Callable[[Path], object] | None) -> Path:
    if (gguf_file := source.gguf_file) is not None:
        part = _GGUF_PART.fullmatch(gguf_file)
        patterns = [gguf_file] if part is None else [f"{part['name']}-*-of-{part['count']}{_GGUF}"]
        return _in_directory(fetch(name, source, patterns), "", gguf_file)
    directory = fetch(name, source, DESCRIPTION_PATTERNS, shows_progress=False)
    if weights:
        is_new = not any(any(directory.glob(pattern)) for pattern in SAFETENSORS_PATTERNS + PYTORCH_PATTERNS)
        if is_new:
            if before_weights is not None and (directory / CONFIG).is_file():
                before_weights(directory)
            check_room(name, source, directory, (SAFETENSORS_PATTERNS, PYTORCH_PATTERNS))
        has_more = is_new or _lacks_shards(directory)
        directory = fetch(name, source, (*DESCRIPTION_PATTERNS, *SAFETENSORS_PATTERNS), shows_progress=has_more)
        if not any(directory.glob("*.safetensors")):
            directory = fetch(name, source, (*DESCRIPTION_PATTERNS, *PYTORCH_PATTERNS), shows_progress=has_more)
        refuse_adapter(directory, name)
    if not (directory / CONFIG).is_file():
        raise ModelNotFoundError(
            f"{described(name, source)} has no config.json; it is not a model (of GGUF files on the Hub, gguf_file= names one)"
        )
    return directory


def _lacks_shards(directory: Path) -> bool:
    """Whether a download was interrupted between the files of a model."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        for index in directory.glob("*.index.json"):
            if not all((directory / file).exists() for file in json.loads(index.read_bytes())["weight_map"].values()):
                return True
    return False
