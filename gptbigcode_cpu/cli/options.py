"""Options and output helpers that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from gptbigcode_cpu.common.dtypes import DTYPES, KV_DTYPES

PLOT_SUFFIXES = (".png", ".svg", ".pdf")

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass
class Settings:
    """Settings of the whole command line; commands find them as ``ctx.obj``."""

    debug: bool = field(default_factory=lambda: os.environ.get("GPTBIGCODE_CPU_DEBUG", "") not in ("", "0"))


def _set_debug(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    ctx.ensure_object(Settings).debug |= wanted


debug_option = click.option(
    "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_set_debug, help="Show the traceback of an error."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
load_dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", *DTYPES]),
    default="auto",
    show_default=True,
    help="How the weights are stored; auto = as converted, or int8 for a plain checkpoint.",
)

kv_dtype_option = click.option(
    "--kv-dtype",
    type=click.Choice(["auto", *KV_DTYPES]),
    default="auto",
    show_default=True,
    help="How the KV cache is stored; auto = int8 for int8, int6 and int4 weights, otherwise like the weights.",
)


def threads_option(function: _F) -> _F:
    """``--threads N``: 0 or absent means the library's default."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Number of threads.  [default: the performance cores this process may use]",
    )(function)


def prefill_threads_option(function: _F) -> _F:
    """``--prefill-threads N``: absent means as many as ``--threads``."""
    return click.option(
        "--prefill-threads",
        type=click.IntRange(min=1),
        help="Number of threads for prompts of more than 16 tokens.  [default: --threads]",
    )(function)


def _plot_path(_ctx: click.Context, _param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that could not be written, before anything is measured."""
    if path is None:
        return None
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise click.BadParameter(f"{path.name} must end in one of {', '.join(PLOT_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.parent}.")
    if not os.access(path.parent, os.W_OK):
        raise click.BadParameter(f"the directory {path.parent} cannot be written to.")
    return path


def plot_option(what: str) -> Callable[[_F], _F]:
    """``--plot FILE``: draw what the command measures."""
    return click.option(
        "--plot",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=_plot_path,
        metavar="FILE",
        help=f"Draw {what} into a .png, .svg or .pdf file.",
    )


def hub_options(function: _F) -> _F:
    """The options that say how a model is fetched from the Hugging Face Hub."""
    for option in (
        click.option("--offline", is_flag=True, help="Use only what has been downloaded before."),
        click.option(
            "--cache-dir", type=click.Path(file_okay=False), help="Where downloads are kept.  [default: the Hub's cache]"
        ),
        click.option("--token", help="Access token of the Hub.  [default: the stored login]"),
        click.option("--revision", help="Branch, tag or commit on the Hub.  [default: main]"),
    ):
        function = option(function)
    return function
