"""From a model name to its local files: paths, Hub ids and the packaged demo."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from gptbigcode_cpu.common.progress import Progress
from gptbigcode_cpu.common.regular_files import is_present, open_regular
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import CheckpointError, InputError, ModelNotFoundError
from gptbigcode_cpu.hub.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, refuse_adapter
from gptbigcode_cpu.hub.checkpoint_files import (
    AWQ_CONFIG,
    GPTQ_CONFIG,
    PYTORCH_PATTERNS,
    SAFETENSORS_PATTERNS,
    find_weights,
    weights_files,
)
from gptbigcode_cpu.hub.downloads import described, fetch
from gptbigcode_cpu.hub.names import SHORT_NAMES, not_found
from gptbigcode_cpu.store.tensors import DTYPES
from gptbigcode_cpu.store.weights import FORMAT_VERSION, is_packed, packed_scheme

DEMO = "demo"
DEMO_DIRECTORY = Path(__file__).parent.parent / "demo"
DEFAULT_DTYPE = "int8"

# What a model needs from its repository besides the weights; everything else (training states, other formats) stays there.
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
CHAT_TEMPLATE_FILES = "additional_chat_templates/*.jinja"
_DESCRIPTIONS = [
    *("config.json", ADAPTER_CONFIG, GPTQ_CONFIG, AWQ_CONFIG, GENERATION_CONFIG),
    *(*TOKENIZER_FILES, CHAT_TEMPLATE_FILES),
]

_GGUF, _GGUF_MAGIC = ".gguf", b"GGUF"
_GGUF_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def resolve(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
    gguf_file: str | None = None,
    weights: bool = True,
) -> Path:
    """The local directory of a model, downloaded if need be, or its GGUF file.

    Args:
        name_or_path: A directory, a GGUF file (the first, if it is split), an id on the Hugging Face Hub, one of
            `names.SHORT_NAMES`, or ``demo`` for the model in this package (a directory of that name is ``./demo``).
        revision: Branch, tag or commit on the Hub.
        token: Access token for the Hub; true = the stored one.
        cache_dir: Where the Hub client keeps its downloads.
        local_files_only: Do not connect to the Hub; ``HF_HUB_OFFLINE=1`` does the same.
        force_download: Download again what is there already.
        subfolder: Where in the directory or the repository the model is.
        gguf_file: A GGUF file there, the first if it is split, that holds the model.
        weights: Download the weights as well, not only configuration and tokenizer.

    Raises:
        ModelNotFoundError: The name leads to no model; the message says whether path, repository, revision, access or
            connection was the trouble.
    """
    if name_or_path == DEMO:
        return DEMO_DIRECTORY
    path = _local(name_or_path)
    if path is None:
        options = _hub_options(revision, token, cache_dir, local_files_only, force_download)
        return _download(SHORT_NAMES.get(str(name_or_path), str(name_or_path)), options, subfolder, gguf_file, weights)
    if path.is_dir():
        found = _in_directory(path, subfolder, gguf_file)
        if weights and found.is_dir():
            refuse_adapter(found, str(name_or_path))
        return found
    if is_gguf(path):
        return path
    near = f"; did you mean {path.parent}?" if (path.parent / "config.json").is_file() else ""
    raise ModelNotFoundError(
        f"{name_or_path} is a file; a model is a directory with config.json and weights, or a GGUF file{near}"
    )


def resolve_adapter(
    name_or_path: str | Path,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local directory of a LoRA adapter, downloaded if need be.

    Args:
        name_or_path: A directory, or an id on the Hugging Face Hub.
        token: As for `resolve`, like the other two.
        cache_dir: See there.
        local_files_only: See there.

    Raises:
        ModelNotFoundError: The name leads to no adapter.
    """
    path = _local(name_or_path)
    if path is None:
        options = _hub_options(None, token, cache_dir, local_files_only, False)
        for weights in ADAPTER_WEIGHTS:
            path = fetch(str(name_or_path), options, (ADAPTER_CONFIG, *TOKENIZER_FILES, weights))
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


def _hub_options(
    revision: str | None, token: str | bool | None, cache_dir: str | Path | None, local_files_only: bool, force_download: bool
) -> dict[str, Any]:
    return {
        "revision": revision,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }


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
    """Whether a path is that of a GGUF file: by its name, or by its first bytes, as Ollama's ``blobs/sha256-...`` have none."""
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
    if not found and not is_present(directory / "config.json"):
        found = [path for path in files if _begins_as_gguf(path)]
    names = sorted(path.name for path in found)
    if len({_GGUF_PART.sub(r"\g<name>", name) for name in names}) > 1:
        raise ModelNotFoundError(f"{directory} holds several GGUF models; name the file of one: {', '.join(names[:8])}")
    return directory / names[0] if names else None


def read_config(path: Path) -> GPTBigCodeConfig:
    """The configuration of a model that `resolve` found.

    Raises:
        ModelNotFoundError: There is no ``config.json``, or a part of a split GGUF file is missing.
        ConfigError: It is malformed, or asks for something that is not supported.
        CheckpointError: A GGUF file is malformed or holds another kind of model.
    """
    if not is_gguf(path):
        if path.is_dir() and not is_present(path / "config.json"):
            raise ModelNotFoundError(
                f"{path} holds no model: there is neither a config.json nor a .gguf file{_models_below(path)}"
            )
        return GPTBigCodeConfig.from_json_file(path / "config.json")
    from gptbigcode_cpu.convert.sources import gguf as gguf_files

    return gguf_files.read_config(gguf_files.open_gguf(path))


def _models_below(directory: Path) -> str:
    """A half-sentence that names the models in a directory's subdirectories."""
    try:
        found = sorted(str(path.parent) for path in directory.glob("*/config.json"))
    except OSError:
        return ""
    return f"; did you mean {' or '.join(found[:3])}?" if found else ""


def _download(name: str, options: dict[str, Any], subfolder: str, gguf_file: str | None, weights: bool) -> Path:
    """Download a model; `options` are arguments of ``huggingface_hub.snapshot_download``."""
    if gguf_file is not None:
        part = _GGUF_PART.fullmatch(gguf_file)
        patterns = [gguf_file] if part is None else [f"{part['name']}-*-of-{part['count']}{_GGUF}"]
        return _in_directory(fetch(name, options, patterns, subfolder), "", gguf_file)
    directory = fetch(name, options, _DESCRIPTIONS, subfolder, shows_progress=False)
    if weights:
        is_new = not any(any(directory.glob(pattern)) for pattern in SAFETENSORS_PATTERNS + PYTORCH_PATTERNS)
        if is_new:
            _check_before_weights(name, directory, options, subfolder)
        has_more = is_new or _lacks_shards(directory)
        directory = fetch(name, options, [*_DESCRIPTIONS, *SAFETENSORS_PATTERNS], subfolder, shows_progress=has_more)
        if not any(directory.glob("*.safetensors")):
            directory = fetch(name, options, [*_DESCRIPTIONS, *PYTORCH_PATTERNS], subfolder, shows_progress=has_more)
        refuse_adapter(directory, name)
    if not (directory / "config.json").is_file():
        raise ModelNotFoundError(
            f"{described(name, options)} has no config.json; it is not a model (of GGUF files on the Hub, gguf_file= names one)"
        )
    return directory


def _lacks_shards(directory: Path) -> bool:
    """Whether a download was interrupted between the files of a model."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        for index in directory.glob("*.index.json"):
            if not all((directory / file).exists() for file in json.loads(index.read_bytes())["weight_map"].values()):
                return True
    return False


def _check_before_weights(name: str, directory: Path, options: dict[str, Any], subfolder: str) -> None:
    """Refuse what can be refused before gigabytes are downloaded.

    Raises:
        GPTBigCodeError: The configuration is not supported, or the disk is too small.
    """
    from gptbigcode_cpu.store import room

    if (directory / "config.json").is_file():
        read_config(directory)
    if options["local_files_only"]:
        return
    try:
        import huggingface_hub

        revision = options["revision"] or "main"
        listed = huggingface_hub.model_info(name, revision=revision, token=options["token"], files_metadata=True).siblings
    except Exception:  # of the HTTP library; the download will say what is wrong
        return
    sizes = {path: file.size or 0 for file in listed or () if (path := Path(file.rfilename)).parent == Path(subfolder)}
    for patterns in (SAFETENSORS_PATTERNS, PYTORCH_PATTERNS):
        if wanted := [size for path, size in sizes.items() if any(path.match(pattern) for pattern in patterns)]:
            room.check_download(name, wanted, directory)
            return


def packed_dir(
    name_or_path: str | Path,
    dtype: str = "auto",
    *,
    num_threads: int = 0,
    progress: Progress | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The directory of a converted model; a plain checkpoint is converted on first use and kept.

    Args:
        name_or_path: See `resolve`.
        dtype: ``auto`` = as stored, or int8 for a plain checkpoint; else one of `tensors.DTYPES`.
        num_threads: Threads that convert; 0 = default.
        progress: Called during a conversion, see `Progress`.
        revision: See `resolve`.
        token: See `resolve`.
        cache_dir: See `resolve`; conversions are kept in `conversions.cache_directory`.
        local_files_only: See `resolve`.

    Raises:
        InputError: `dtype` is unknown, or not the one that a converted model is stored in.
        GPTBigCodeError: See `resolve` and `gptbigcode_cpu.convert.convert`.
        OSError: The cache cannot be written and does not hold the conversion.
    """
    if dtype not in (*DTYPES, "auto"):
        raise InputError(f"dtype {dtype!r} is unknown; choose one of auto, {', '.join(DTYPES)}")
    directory = resolve(name_or_path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    config = read_config(directory)
    if is_packed(config):
        stored = packed_scheme(config, directory).dtype
        if dtype not in ("auto", stored):
            raise InputError(f"{directory} is stored as {stored}; for {dtype} convert the original checkpoint")
        return directory
    from gptbigcode_cpu.models import conversions

    key = _content_key(directory, conversions.cache_directory())
    return conversions.converted(directory, key, DEFAULT_DTYPE if dtype == "auto" else dtype, num_threads, progress)


def _content_key(source: Path, cache: Path) -> str:
    """A name for a conversion of the content of a checkpoint, the same wherever it lies."""
    import hashlib

    if is_gguf(source):
        root, paths = source.parent, {*gguf_parts(source)}
    else:
        root = source
        patterns = (*_DESCRIPTIONS, *SAFETENSORS_PATTERNS, *PYTORCH_PATTERNS)
        paths = {find_weights(source), *weights_files(source), *(path for pattern in patterns for path in source.glob(pattern))}
    digest = hashlib.sha256(f"format {FORMAT_VERSION}\n".encode())
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root)} {_file_digest(path, cache / 'digests')}\n".encode())
    return digest.hexdigest()[:32]


def _file_digest(path: Path, memory: Path) -> str:
    """SHA-256 of a file, remembered while the file is unchanged: reading gigabytes at every start takes seconds."""
    import hashlib
    import secrets

    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            state = [str(path.resolve()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            note = memory / hashlib.sha256(json.dumps(state).encode()).hexdigest()
            with suppress(OSError):
                remembered = note.read_text()
                if len(remembered) == 64:
                    return remembered
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    with suppress(OSError):  # a cache that cannot be written may still hold the conversion
        memory.mkdir(parents=True, exist_ok=True)
        temporary = note.with_suffix(f".{secrets.token_hex(8)}")
        temporary.write_text(digest)
        temporary.rename(note)
    return digest
