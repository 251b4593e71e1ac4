"""Set which messages of the package are shown, with the functions of transformers' module of the same name.

The package logs to the logger ``gptbigcode_cpu`` of Python's `logging` module and prints nothing itself. Without any set-up,
Python shows warnings and errors on stderr.

    from gptbigcode_cpu import logging

    logging.set_verbosity_error()
"""

from __future__ import annotations

import logging
from logging import CRITICAL, DEBUG, ERROR, FATAL, INFO, NOTSET, WARN, WARNING

from gptbigcode_cpu.common import progress

__all__ = [
    "CRITICAL",
    "DEBUG",
    "ERROR",
    "FATAL",
    "INFO",
    "NOTSET",
    "WARN",
    "WARNING",
    "add_handler",
    "disable_default_handler",
    "disable_progress_bar",
    "disable_propagation",
    "enable_default_handler",
    "enable_explicit_format",
    "enable_progress_bar",
    "enable_propagation",
    "get_logger",
    "get_verbosity",
    "is_progress_bar_enabled",
    "remove_handler",
    "reset_format",
    "set_verbosity",
    "set_verbosity_debug",
    "set_verbosity_error",
    "set_verbosity_info",
    "set_verbosity_warning",
]

_LIBRARY = logging.getLogger("gptbigcode_cpu")
_HANDLER = logging.StreamHandler()
_EXPLICIT = logging.Formatter("[%(levelname)s|%(filename)s:%(lineno)s] %(asctime)s >> %(message)s")


def get_logger(name: str | None = None) -> logging.Logger:
    """The logger called `name`; without a name, the logger of the package."""
    return logging.getLogger(name) if name else _LIBRARY


def get_verbosity() -> int:
    """The lowest level of the package's messages that are shown, such as ``WARNING``."""
    return _LIBRARY.getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Show the package's messages of a level and above. If no handler is set up, they go to stderr.

    Args:
        verbosity: The level: ``DEBUG``, ``INFO``, ``WARNING``, ``ERROR`` or ``CRITICAL`` of this module.
    """
    _LIBRARY.setLevel(verbosity)
    if not _LIBRARY.hasHandlers():
        enable_default_handler()


def set_verbosity_debug() -> None:
    """Show all messages."""
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    """Show information, warnings and errors."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Show warnings and errors, which is the default."""
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    """Show errors only."""
    set_verbosity(ERROR)


def enable_default_handler() -> None:
    """Show messages on stderr."""
    add_handler(_HANDLER)


def disable_default_handler() -> None:
    """Undo `enable_default_handler`."""
    remove_handler(_HANDLER)


def add_handler(handler: logging.Handler) -> None:
    """Add a handler that receives the package's messages."""
    _LIBRARY.addHandler(handler)


def remove_handler(handler: logging.Handler) -> None:
    """Undo `add_handler`."""
    _LIBRARY.removeHandler(handler)


def enable_propagation() -> None:
    """Pass messages to the handlers of Python's root logger as well, which is the default."""
    _LIBRARY.propagate = True


def disable_propagation() -> None:
    """Do not pass messages to the handlers of Python's root logger."""
    _LIBRARY.propagate = False


def enable_explicit_format() -> None:
    """Show level, file, line and time with every message of the package's handlers."""
    for handler in _LIBRARY.handlers:
        handler.setFormatter(_EXPLICIT)


def reset_format() -> None:
    """Undo `enable_explicit_format`."""
    for handler in _LIBRARY.handlers:
        handler.setFormatter(None)


def is_progress_bar_enabled() -> bool:
    """Whether conversions show a progress bar if they run on a terminal."""
    return progress.enabled()


def enable_progress_bar() -> None:
    """Show progress bars of conversions and of downloads, which is the default."""
    _show_progress(True)


def disable_progress_bar() -> None:
    """Show no progress bars of conversions and downloads."""
    _show_progress(False)


def _show_progress(shown: bool) -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    progress.enable(shown)
    if shown:
        enable_progress_bars()
    else:
        disable_progress_bars()
