"""Errors as the shell sees them: one exit code per class, one line of text."""

from __future__ import annotations

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
)


def exit_code(error: Exception) -> int:
    """The exit code that stands for an error's class."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), UNEXPECTED)


def describe(error: Exception) -> str:
    """What the user reads after ``error:``."""
    if isinstance(error, click.ClickException):
        message = error.format_message()
        context = error.ctx if isinstance(error, click.UsageError) else None
        return f"{message} (see: {context.command_path} --help)" if context else message
    if isinstance(error, errors.GPTBigCodeError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error} (--debug shows where)"
