"""``gptbigcode-cpu cache``: list and delete the conversions that first uses of plain checkpoints left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gptbigcode_cpu.cli.model_name import cached_names
from gptbigcode_cpu.cli.options import debug_option, json_option
from gptbigcode_cpu.common.dtypes import DTYPES
from gptbigcode_cpu.common.regular_files import checked_path
from gptbigcode_cpu.common.sizes import human_bytes
from gptbigcode_cpu.hub.names import SHORT_NAMES

if TYPE_CHECKING:
    from gptbigcode_cpu.models.conversions import Conversion


@click.group(invoke_without_command=True, short_help="List and delete conversions that are kept.")
@json_option
@debug_option
@click.pass_context
def cache(ctx: click.Context, as_json: bool) -> None:
    """List the conversions that were made when plain checkpoints were first used.

    They are kept in the directory GPTBIGCODE_CPU_CACHE (default: ~/.cache/gptbigcode-cpu). Together they take at most
    GPTBIGCODE_CPU_CACHE_SIZE, such as 20GB or unlimited (default: 50GB). When a new one needs room, those of an older
    format are removed first, then those that were used longest ago. Conversions that a process is using stay.

    \b
    Examples:
      gptbigcode-cpu cache
      gptbigcode-cpu cache delete bigcode/starcoderbase-1b
      gptbigcode-cpu cache delete --all --yes
    """
    if ctx.invoked_subcommand is None:
        _print(as_json)


@cache.command("list")
@json_option
@debug_option
def list_command(as_json: bool) -> None:
    """List the conversions; the same as without a command.

    \b
    Examples:
      gptbigcode-cpu cache list
      gptbigcode-cpu cache list --json
    """
    _print(as_json)


def _print(as_json: bool) -> None:
    from gptbigcode_cpu.models import conversions

    found = conversions.conversions()
    if as_json:
        click.echo(json.dumps([{**asdict(each), "path": str(each.path)} for each in found]))
        return
    _list(found)
    limit = conversions.size_limit()
    count = f"{len(found)} conversion{'' if len(found) == 1 else 's'}" if found else "no conversions"
    size = f", {human_bytes(sum(each.nbytes for each in found))}" if found else ""
    room = "" if limit is None else f" of at most {human_bytes(limit)}"
    click.echo(f"{count}{size}{room if found else ''} in {conversions.cache_directory()}")


@cache.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=cached_names)
@click.option("--all", "everything", is_flag=True, help="Delete all of them.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Only conversions to this type.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@debug_option
def delete(names: tuple[str, ...], everything: bool, dtype: str | None, yes: bool) -> None:
    """Delete the conversions of NAMES, as the list shows them.

    The checkpoints stay where they are. The next use of one converts it again.

    \b
    Examples:
      gptbigcode-cpu cache delete bigcode/starcoderbase-1b --dtype int8
      gptbigcode-cpu cache delete --all
    """
    if everything == bool(names):
        raise click.UsageError("Name what to delete, or pass --all.")
    from gptbigcode_cpu.errors import ModelNotFoundError
    from gptbigcode_cpu.models import conversions

    found = [each for each in conversions.conversions() if dtype in (None, each.dtype)]
    chosen = found if everything else [each for each in found if any(_is_called(each, name) for name in names)]
    for name in names:
        if not any(_is_called(each, name) for each in chosen):
            raise ModelNotFoundError(f"the cache holds no conversion of {name}; gptbigcode-cpu cache lists them")
    if not chosen:
        click.echo("there is nothing to delete")
        return
    size = human_bytes(sum(each.nbytes for each in chosen))
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise click.UsageError("Deleting asks on a terminal; here pass --yes.")
        _list(chosen)
        if not click.confirm(f"delete {'this' if len(chosen) == 1 else 'these'} ({size})?", err=True):
            click.echo("nothing was deleted")
            return
    for each in chosen:
        used = conversions.in_use(each)
        conversions.remove(each)
        if used:
            click.echo(
                f"note: a process is using {each.name} ({each.dtype}); its disk space is freed when that process ends", err=True
            )
    click.echo(f"deleted {len(chosen)} conversion{'' if len(chosen) == 1 else 's'}, {size}")


def _is_called(conversion: Conversion, name: str) -> bool:
    names = (conversion.name, conversion.path.name)
    return name in names or SHORT_NAMES.get(name) in names or str(checked_path(name, "a model")) in names


def _list(found: Sequence[Conversion]) -> None:
    if not found:
        return
    from gptbigcode_cpu.store.weights import FORMAT_VERSION

    rows = [("name", "dtype", "size", "last used")]
    for each in found:
        old = "" if each.format_version == FORMAT_VERSION else "  (another format; cannot be used)"
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.last_used))
        rows.append((each.name, each.dtype, human_bytes(each.nbytes), used + old))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
