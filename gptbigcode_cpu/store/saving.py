"""Copies of an opened model: in a directory, and on the Hub."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptbigcode_cpu.config import CONFIG_NAME, GPTBigCodeConfig
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.config import CONFIG_NAME as GENERATION_CONFIG_NAME
from gptbigcode_cpu.store.weights import WEIGHTS_NAME, PackedModel


def save_model(
    packed: PackedModel, config: GPTBigCodeConfig, generation_options: Mapping[str, Any] | None, directory: Path
) -> None:
    """Write weights, configuration and generation options into a directory; every file appears complete or not at all.

    Args:
        packed: The model; its weights are hard-linked, or copied where that is not possible.
        config: What ``config.json`` is to say.
        generation_options: What ``generation_config.json`` is to say; None: there is none.
        directory: Created if need be. Other files there stay.

    Raises:
        InputError: `directory` is a file.
        OSError: It cannot be written.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; a model is saved in a directory")
    directory.mkdir(parents=True, exist_ok=True)
    source, target = packed.path / WEIGHTS_NAME, directory / WEIGHTS_NAME
    if not (target.exists() and target.samefile(source)):
        with _appearing(target) as temporary:
            try:
                temporary.hardlink_to(source.resolve())
            except OSError:  # another file system, or one without links
                import shutil

                shutil.copyfile(source, temporary)
    if generation_options is not None:
        _write_json(directory / GENERATION_CONFIG_NAME, generation_options)
    _write_json(directory / CONFIG_NAME, config.to_dict())  # last: without it a directory is no model


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with _appearing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """The name of a file that takes the place of `path` when the block ends, and vanishes when it fails."""
    import secrets  # which loads OpenSSL; opening a model needs nothing of it

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def push_model(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
) -> str:
    """Upload what `save` writes into a directory.

    Args:
        save: Writes the model.
        repo_id: As in `PreTrainedModel.push_to_hub`, like all that follows.
        commit_message: See there.
        private: See there.
        token: See there.
        revision: See there.
        create_pr: See there.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        InputError: The Hub refused or was not reached.
    """
    import tempfile

    import huggingface_hub

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        save(directory)
        api = huggingface_hub.HfApi(token=token)
        try:
            repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None and not create_pr:
                api.create_branch(repository, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=directory,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        except Exception as error:  # of the HTTP library, which the Hub client has changed more than once
            raise InputError(f"{repo_id!r} could not be uploaded: {error}") from error
    return str(commit.pr_url or commit.commit_url)
