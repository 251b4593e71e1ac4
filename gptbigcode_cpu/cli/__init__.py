"""The ``gptbigcode-cpu`` command: generate, convert, info, cache, bench, evaluate and completion.

Every command imports the library, and what else is slow to import and only it needs, inside its body: ``--help`` and shell
completion answer without loading numpy, and `generate` starts without what other commands need.
"""

from __future__ import annotations

import codecs
import errno
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from gptbigcode_cpu.cli.bench import bench
from gptbigcode_cpu.cli.cache import cache
from gptbigcode_cpu.cli.completion import COMPLETE_VARIABLE, PROGRAM, completion
from gptbigcode_cpu.cli.convert import convert
from gptbigcode_cpu.cli.evaluate import evaluate
from gptbigcode_cpu.cli.exit_codes import BROKEN_PIPE, INTERRUPTED, describe, exit_code
from gptbigcode_cpu.cli.generate import generate
from gptbigcode_cpu.cli.info import info
from gptbigcode_cpu.cli.options import Settings
from gptbigcode_cpu.common.suggest import nearest
from gptbigcode_cpu.hub.names import SHORT_NAMES

_EPILOG = f"""MODEL is a directory, a .gguf file, an id on the Hugging Face Hub, demo (a tiny model that is in this package),
or the short name of a well-known one: {", ".join(SHORT_NAMES)}.

\b
Exit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 model not found,
4 bad checkpoint, 5 bad config, 6 damaged model file, 7 tokenizer,
8 context too long, 9 wrong input, 10 kernel set not available, 11 disk too
small, 12 optional dependency missing, 13 operating system, 14 not supported,
130 Ctrl-C, 143 ended by kill.
GPTBIGCODE_CPU_DEBUG=1 shows the traceback of every error."""


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"{PROGRAM} {version('gptbigcode-cpu')}")
        ctx.exit()


class _Commands(click.Group):
    """The commands, with a hint for those who expect that there is only one."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which one needs them

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            for name, command in self.commands.items():
                if any(error.option_name in each.opts for each in command.params):
                    text = f"{error.option_name} is an option of {name}, and such options follow its name."
                    raise click.UsageError(text, ctx) from error
            raise

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None:
            if name in ("demo", *SHORT_NAMES) or Path(name).exists():
                text = f"to use it as a model: {PROGRAM} generate -m {shlex.quote(name)} PROMPT"
            elif not name.replace("-", "").isalnum():
                text = f"to complete it: {PROGRAM} generate {shlex.quote(name)}"
            else:
                text = f"there are {', '.join(self.commands)}{nearest(name, self.commands)}"
            raise click.UsageError(f"{name!r} is no command; {text}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def cli() -> None:
    """Run SantaCoder, StarCoder and other GPTBigCode models on the CPU.

    \b
    Examples:
      gptbigcode-cpu generate "def fibonacci(n):"
      gptbigcode-cpu generate -m starcoderbase-1b "def fibonacci(n):"
      gptbigcode-cpu convert starcoderbase-1b starcoder-1b-int4 --dtype int4
      gptbigcode-cpu generate -m starcoder-1b-int4 "def fibonacci(n):"
    """


@click.command(short_help="Show this message, or that of a command.")
@click.argument(
    "command", required=False, shell_complete=lambda _ctx, _param, word: [n for n in cli.commands if n.startswith(word)]
)
@click.pass_context
def show_help(ctx: click.Context, command: str | None) -> None:
    """List the commands, or show how a COMMAND is used, like COMMAND --help.

    \b
    Examples:
      gptbigcode-cpu help
      gptbigcode-cpu help convert
    """
    parent = ctx.parent
    assert parent is not None
    if command is None:
        click.echo(parent.get_help())
        return
    _, found, _ = cli.resolve_command(parent, [command])
    assert found is not None
    with click.Context(found, info_name=command, parent=parent) as of_command:
        click.echo(found.get_help(of_command))


for _command in (generate, convert, info, cache, bench, evaluate, completion):
    cli.add_command(_command)
cli.add_command(show_help, "help")


class _Notes(logging.Handler):
    """Writes the log messages of the library in the form of the commands' own messages."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{'note: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}", err=True)


@contextmanager
def _notes_on_stderr() -> Iterator[None]:
    logger, notes = logging.getLogger("gptbigcode_cpu"), _Notes()
    level = logger.level
    logger.addHandler(notes)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(notes)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; errors become one message on stderr.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code.
    """
    settings = Settings()
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed; send it to a file or to /dev/null")
        try:
            with _notes_on_stderr(), cli.make_context(PROGRAM, list(arguments) or ["--help"], obj=settings) as ctx:
                cli.invoke(ctx)
        finally:
            sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except BrokenPipeError:
        # The reader has gone (``| head``). The interpreter flushes stdout once more at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        click.echo(err=True)
        return INTERRUPTED
    except Exception as error:
        if settings.debug:
            raise
        click.echo(f"error: {describe(error)}", err=True)
        return exit_code(error)
    return 0


def main() -> NoReturn:
    """Entry point of the ``gptbigcode-cpu`` script."""
    if COMPLETE_VARIABLE in os.environ:
        cli.main(prog_name=PROGRAM)  # a TAB in the shell: click answers and exits
    _take_standard_descriptors()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores one of them
            signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        # The locale C knows no more than ASCII; what models write is UTF-8.
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8")
    sys.exit(run(sys.argv[1:]))


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """End as by an exception, so that what was begun is removed; the same signal once more ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def _take_standard_descriptors() -> None:
    """Open /dev/null where stdin, stdout or stderr is closed, so that no file gets its number and what is printed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number, this one
