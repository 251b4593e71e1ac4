"""Downloads from the Hugging Face Hub, and error messages that say why there is no file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gptbigcode_cpu.common import progress
from gptbigcode_cpu.common.sizes import human_bytes
from gptbigcode_cpu.errors import DiskSpaceError, ModelNotFoundError
from gptbigcode_cpu.hub.names import not_found
from gptbigcode_cpu.hub.source import Source


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """The progress bars of the Hub client, or none; HF_HUB_DISABLE_PROGRESS_BARS decides first."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled() or "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ:
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def fetch(name: str, source: Source, patterns: Iterable[str], *, shows_progress: bool = True) -> Path:
    """The directory of files of a repository, which are downloaded if need be.

    Args:
        name: Of the repository, ``owner/name``.
        source: Where in the repository they are, and how it is reached.
        patterns: Names of the files, with ``*``.
        shows_progress: Draw bars where there is a terminal for them.

    Raises:
        ModelNotFoundError: The message says whether repository, revision, access or connection was the trouble.
    """
    import huggingface_hub

    inside = [f"{source.subfolder}/{pattern}" if source.subfolder else pattern for pattern in patterns]
    with _explained(name, source), _bars(shows_progress and progress.drawn()):
        snapshot = huggingface_hub.snapshot_download(
            name,
            allow_patterns=inside,
            revision=source.revision,
            token=source.token,
            cache_dir=source.cache_dir,
            local_files_only=source.local_files_only,
            force_download=source.force_download,
        )
    return Path(snapshot) / source.subfolder


def check_room(name: str, source: Source, directory: Path, alternatives: Sequence[Sequence[str]]) -> None:
    """Refuse a download that the disk has no room for. Nothing is refused where the Hub does not say how large the files are.

    Args:
        name: Of the repository, ``owner/name``.
        source: Where in the repository the files are, and how it is reached.
        directory: Where they will be.
        alternatives: Patterns of files that hold the same. The first ones of which there are files are downloaded.

    Raises:
        DiskSpaceError: The file system of `directory` has less room than the files need.
    """
    if source.local_files_only:
        return
    try:
        import huggingface_hub

        revision = source.revision or "main"
        listed = huggingface_hub.model_info(name, revision=revision, token=source.token, files_metadata=True).siblings
    except Exception:  # of the HTTP library; the download will say what is wrong
        return
    sizes = {path: file.size or 0 for file in listed or () if (path := Path(file.rfilename)).parent == Path(source.subfolder)}
    for patterns in alternatives:
        wanted = [size for path, size in sizes.items() if any(path.match(pattern) for pattern in patterns)]
        needed, free = sum(wanted), shutil.disk_usage(directory).free
        if needed > free:
            have = f"have {human_bytes(needed)}, but the file system of {directory} has {human_bytes(free)} left"
            raise DiskSpaceError(f"the weights of {name!r} {have}; nothing was downloaded; HF_HOME names another place")
        if wanted:
            return


@contextmanager
def _explained(name: str, source: Source) -> Iterator[None]:
    from huggingface_hub import errors as hub_errors

    where = described(name, source)
    try:
        yield
    except hub_errors.HFValidationError as error:
        raise ModelNotFoundError(f"{not_found(name)}; nor is it a valid id on the Hub") from error
    except hub_errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"{where} is gated: accept its terms on {_page(name)}, then run `hf auth login` or set HF_TOKEN"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{where} does not exist: the repository has no such branch, tag or commit") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{where} is neither a directory here nor a repository on the Hub that this token may read"
        ) from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise ModelNotFoundError(
            f"{where} is no directory here and not in the local cache, and {_not_reached(error, source.local_files_only)}"
        ) from error
    except Exception as error:  # of the HTTP library, which the Hub client has changed more than once
        raise ModelNotFoundError(f"{where} could not be downloaded: {' '.join(str(error).split())}") from error


def described(name: str, source: Source) -> str:
    """A repository and its revision, for messages."""
    return f"{name!r}" + (f" at revision {source.revision!r}" if source.revision else "")


def _not_reached(error: Exception, local_files_only: bool) -> str:
    """Why the Hub was not asked, or gave no answer."""
    if local_files_only:
        return "local_files_only=True forbids to download it"
    cause = error.__cause__
    if cause is None or type(cause).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE forbids to download it"
    return f"the Hub was not reached ({' '.join(str(cause).split())}); check the connection, or HF_ENDPOINT if it is set"


def _page(name: str) -> str:
    return f"{os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'}/{name}"
