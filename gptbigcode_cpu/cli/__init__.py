"""The ``gptbigcode-cpu`` command: convert, generate, info, bench, evaluate and completion.

Every command imports the library, and what else is slow to import and only it needs, inside its body: ``--help`` and shell
completion answer without loading numpy, and `generate` starts without what other commands need.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from gptbigcode_cpu.cli.bench import bench
from gptbigcode_cpu.cli.completion import COMPLETE_VARIABLE, PROGRAM, completion
from gptbigcode_cpu.cli.convert import convert
from gptbigcode_cpu.cli.evaluate import evaluate
from gptbigcode_cpu.cli.exit_codes import BROKEN_PIPE, INTERRUPTED, describe, exit_code
from gptbigcode_cpu.cli.generate import generate
from gptbigcode_cpu.cli.info import info
from gptbigcode_cpu.cli.options import Settings

_EPILOG = """\b
Exit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 model not found,
4 bad checkpoint, 5 bad config, 6 damaged model file, 7 tokenizer,
8 context too long, 9 wrong input, 10 kernel set not available, 11 disk too
small, 12 optional dependency missing, 13 operating system, 130 Ctrl-C."""


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"{PROGRAM} {version('gptbigcode-cpu')}")
        ctx.exit()


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version.")
def cli() -> None:
    """Run SantaCoder, StarCoder and other GPTBigCode models on the CPU.

    \b
    Examples:
      gptbigcode-cpu generate "def fibonacci(n):"
      gptbigcode-cpu convert bigcode/starcoderbase-1b starcoder-1b-int4 --dtype int4
      gptbigcode-cpu generate -m starcoder-1b-int4 "def fibonacci(n):"
    """


for _command in (generate, convert, info, bench, evaluate, completion):
    cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; errors become one message on stderr.

    Args:
        arguments: What follows the program's name.

    Returns:
        The exit code.
    """
    settings = Settings()
    try:
        try:
            with cli.make_context(PROGRAM, list(arguments), obj=settings) as ctx:
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
    sys.exit(run(sys.argv[1:]))
