"""Uploads to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gptbigcode_cpu.errors import InputError


def upload(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
) -> str:
    """Upload the files that `save` writes into a directory.

    Args:
        save: Writes the files into the directory that it is given.
        repo_id: ``owner/name``, or a name of the token's owner. The repository is created if need be.
        commit_message: The message of the commit.
        private: Whether a new repository is private; None: as the owner's account says.
        token: Access token; None: the stored one.
        revision: Branch to commit to; it is created if need be.
        create_pr: Open a pull request instead.

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
