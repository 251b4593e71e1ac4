"""``gptbigcode-cpu completion``: TAB completion for bash, zsh and fish."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from gptbigcode_cpu.cli.options import debug_option

PROGRAM: Final = "gptbigcode-cpu"
COMPLETE_VARIABLE: Final = "_GPTBIGCODE_CPU_COMPLETE"
SHELLS: Final = ("bash", "zsh", "fish")


def _install_path(shell: str) -> Path:
    """Where the shell looks for a user's completion files."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return {
        "bash": data / "bash-completion" / "completions" / PROGRAM,
        "zsh": data / "zsh" / "site-functions" / f"_{PROGRAM}",
        "fish": config / "fish" / "completions" / f"{PROGRAM}.fish",
    }[shell]


def _script(shell: str, command: click.Command) -> str:
    completer = get_completion_class(shell)
    assert completer is not None  # one of SHELLS
    # Not `source()`: for bash that runs the shell to read its version, and a script can be made where no bash is.
    return completer.source_template % completer(command, {}, PROGRAM, COMPLETE_VARIABLE).source_vars()


@click.command(short_help="Install TAB completion for your shell.")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.option("--install", is_flag=True, help="Write the script where the shell finds it, instead of printing it.")
@debug_option
@click.pass_context
def completion(ctx: click.Context, shell: str | None, install: bool) -> None:
    """Print or install the TAB completion script of a SHELL (default: yours).

    \b
    Examples:
      gptbigcode-cpu completion --install
      eval "$(gptbigcode-cpu completion bash)"
      gptbigcode-cpu completion fish | source
    """
    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS:
        raise click.UsageError(f"Completion exists for {', '.join(SHELLS)}; name one of them.", ctx)
    script = _script(shell, ctx.find_root().command)
    if not install:
        click.echo(script)
        return
    path = _install_path(shell)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding="utf-8")
    click.echo(f"wrote {path}; it takes effect in a new shell")
    if shell == "zsh":
        click.echo(f"zsh also needs this line in ~/.zshrc, before compinit:\n  fpath=({path.parent} $fpath)")
