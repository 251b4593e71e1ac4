"""Files from the Hugging Face Hub, and what to say where there are none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptbigcode_cpu.common import progress
from gptbigcode_cpu.errors import ModelNotFoundError
from gptbigcode_cpu.hub.names import not_found


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


def fetch(
    name: str, options: dict[str, Any], patterns: Iterable[str], subfolder: str = "", *, shows_progress: bool = True
) -> Path:
    """The directory of files of a repository, which are downloaded if need be.

    Args:
        name: Of the repository, ``owner/name``.
        options: Arguments of ``huggingface_hub.snapshot_download``.
        patterns: Names of the files, with ``*``.
        subfolder: Where in the repository they are.
        shows_progress: Draw bars where there is a terminal for them.

    Raises:
        ModelNotFoundError: The message says whether repository, revision, access or connection was the trouble.
    """
    import huggingface_hub

    inside = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
    with _explained(name, options), _bars(shows_progress and progress.drawn()):
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=inside, **options)) / subfolder


@contextmanager
def _explained(name: str, options: dict[str, Any]) -> Iterator[None]:
    from huggingface_hub import errors as hub_errors

    where = described(name, options)
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
            f"{where} is no directory here and not in the local cache, and {_not_reached(error, options['local_files_only'])}"
        ) from error
    except Exception as error:  # of the HTTP library, which the Hub client has changed more than once
        raise ModelNotFoundError(f"{where} could not be downloaded: {' '.join(str(error).split())}") from error


def described(name: str, options: dict[str, Any]) -> str:
    """A repository and its revision, for messages."""
    revision = options.get("revision")
    return f"{name!r}" + (f" at revision {revision!r}" if revision else "")


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
