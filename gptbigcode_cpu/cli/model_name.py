"""Names of models on the command line, and their completion by TAB."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from gptbigcode_cpu.common.file_names import CONFIG
from gptbigcode_cpu.hub.names import SHORT_NAMES

_DEPTH = 3  # of directories in which models are looked for
_ENTRIES = 5000  # that are looked at before a directory is offered unseen; a TAB must not take long


class ModelName(click.ParamType[str]):
    """A directory, a GGUF file, an id on the Hub, a short name, or ``demo``."""

    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [*_paths(incomplete), *(CompletionItem(name) for name in _names() if name.startswith(incomplete))]


def cached_names(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Completes what `gptbigcode-cpu cache` lists."""
    from gptbigcode_cpu.models import conversions

    return [CompletionItem(name) for name in conversions.names() if name.startswith(incomplete)]


def _names() -> list[str]:
    from gptbigcode_cpu.models import conversions

    downloaded = [name for name in conversions.names() if not name.startswith("/")]
    return list(dict.fromkeys(["demo", *downloaded, *SHORT_NAMES]))


def _paths(incomplete: str) -> list[CompletionItem]:
    """Models, and directories with models in them, whose path begins so."""
    directory, _, beginning = incomplete.rpartition("/")
    shown = directory + "/" if "/" in incomplete else ""
    try:
        base = Path(shown or ".").expanduser()
        entries = sorted(os.scandir(base), key=lambda entry: entry.name)
    except (OSError, RuntimeError, ValueError):
        return []
    budget = [_ENTRIES]
    found = [
        CompletionItem(shown + entry.name, type="path")
        for entry in entries
        if entry.name.startswith(beginning)
        and beginning.startswith(".") == entry.name.startswith(".")
        and _leads_to_a_model(entry, _DEPTH, budget)
    ]
    if not found and not beginning and shown and _is_model(base):
        return [CompletionItem(shown, type="path")]  # it is complete
    return found


def _leads_to_a_model(entry: os.DirEntry[str], depth: int, budget: list[int]) -> bool:
    try:
        if not entry.is_dir():
            return entry.name.endswith(".gguf")
        if _is_model(Path(entry.path)):
            return True
        for below in os.scandir(entry.path):
            budget[0] -= 1
            if budget[0] < 0:
                return True
            if depth > 1 and not below.name.startswith(".") and _leads_to_a_model(below, depth - 1, budget):
                return True
    except OSError:  # it may not be read
        pass
    return False


def _is_model(directory: Path) -> bool:
    return (directory / CONFIG).is_file()
