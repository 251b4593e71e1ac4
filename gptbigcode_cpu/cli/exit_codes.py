"""Errors as the shell sees them: one exit code per class, one line of text."""

from __future__ import annotations

import re
from typing import Final

import click

from gptbigcode_cpu import errors

UNEXPECTED: Final = 1
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE: Final = 141  # 128 + SIGPIPE

_CODES: Final[tuple[tuple[type[Exception], int], ...]] = (
    (click.ClickException, 2),
    (errors.ModelNotFoundError, 3),
    (errors.CheckpointError, 4),
    (errors.ConfigError, 5),
    (errors.FormatError, 6),
    (errors.TokenizerError, 7),
    (errors.ContextLengthError, 8),
    (errors.InputError, 9),
    (errors.KernelError, 10),
    (errors.DiskSpaceError, 11),
    (errors.MissingDependencyError, 12),
    (OSError, 13),  # after the classes above that derive from it
    (errors.ThreadLimitError, 13),
    (errors.UnsupportedError, 14),
    (errors.ForkError, 15),
    (errors.PicklingError, 16),
    (errors.StoppedError, 17),
)

# Arguments of the library, and the options that stand for them where these have other names.
_RENAMED: Final = {
    "num_threads": "--threads",
    "local_files_only": "--offline",
    "extra_files": "--extra-file",
    "mark": "--cursor",
}
# Those that have an underscore, or are no English word, are never meant as words.
_ARGUMENTS: Final = (
    *("dtype", "kv_dtype", "prefill_threads", "max_new_tokens", "top_k", "top_p", "min_p", "repetition_penalty"),
    *(
        "repo_name",
        "target_size",
        "target_kld",
        "calibration_tokens",
        "cache_dir",
        "overwrite",
        "calibrate",
        "revision",
        "token",
    ),
    *("mode", "seed", "temperature", "context", "stride"),
)
_FLAGS: Final = {name: f"--{name.replace('_', '-')}" for name in _ARGUMENTS} | _RENAMED
_ALONE: Final = "|".join(name for name in _FLAGS if "_" in name or name == "dtype")
_KEYWORD: Final = re.compile(
    rf"(?<![\w./'\"`-])(?:(?P<name>{'|'.join(_FLAGS)})=(?P<value>'[^']*'|\"[^\"]*\"|[\w.]*)|(?P<alone>{_ALONE}))(?![\w./'\"`-])"
)


def exit_code(error: Exception) -> int:
    """The exit code that stands for an error's class."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), UNEXPECTED)


def describe(error: Exception) -> str:
    """The text after ``error:``, in one line."""
    if isinstance(error, click.ClickException):
        message = error.format_message()
        context = error.ctx if isinstance(error, click.UsageError) else None
        text = f"{message} (see: {context.command_path} --help)" if context else message
    elif isinstance(error, errors.GPTBigCodeError):
        text = in_words_of_the_shell(str(error))
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    else:
        text = f"{type(error).__name__}: {error} (--debug shows where)"
    return " ".join(text.splitlines())


def in_words_of_the_shell(message: str) -> str:
    """A message of the library, with options as the shell names them: ``--dtype int4`` for ``dtype='int4'``."""

    def replaced(found: re.Match[str]) -> str:
        if found["alone"]:
            return _FLAGS[found["alone"]]
        value = found["value"].strip("'\"")
        return _FLAGS[found["name"]] if value in ("True", "") else f"{_FLAGS[found['name']]} {value}"

    return _KEYWORD.sub(replaced, message)
