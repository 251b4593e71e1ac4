"""``gptbigcode-cpu completion``: TAB completion for bash, zsh and fish."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete, add_completion_class

from gptbigcode_cpu.cli.options import debug_option
from gptbigcode_cpu.common.regular_files import checked_path

PROGRAM: Final = "gptbigcode-cpu"
COMPLETE_VARIABLE: Final = "_GPTBIGCODE_CPU_COMPLETE"

# Beside click's kinds of answers (plain, file, dir) these know `path`: a file or directory that the program found itself. Where
# there is no answer, file names are completed as without this.
_BASH = """\
%(complete_func)s() {
    local kind value
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            plain) COMPREPLY+=("$value") ;;
            path) COMPREPLY+=("$value"); compopt -o filenames ;;
            dir) compopt -o dirnames ;;
        esac
    done < <(IFS=$'\\n'; COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o bashdefault -o default -o nosort -F %(complete_func)s %(prog_name)s
"""
_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a answers names described paths
    local kind value help other=1
    (( ! $+commands[%(prog_name)s] )) && return 1
    local -x COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete
    answers=("${(@f)$(%(prog_name)s 2>/dev/null)}")
    for kind value help in $answers; do
        case $kind in
            plain) other=0; [[ $help == _ ]] && names+=("$value") || described+=("$value:$help") ;;
            path) other=0; paths+=("$value") ;;
            dir) other=0; _path_files -/ ;;
        esac
    done
    (( $#paths )) && compadd -U -f -V paths -a paths
    (( $#names )) && compadd -U -V names -a names
    (( $#described )) && _describe -V described described -U
    (( other )) && _files
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""
_FISH = """\
function %(complete_func)s
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -t)
    set -lx %(complete_var)s fish_complete
    set -l answers (%(prog_name)s 2>/dev/null)
    set -l other 1
    for answer in $answers
        set -l parts (string split -m 1 "," -- $answer)
        switch $parts[1]
            case plain
                set other 0
                echo $parts[2]
            case path
                set other 0
                if test -d (string replace -r '^~' $HOME -- $parts[2])
                    echo (string trim -r -c / -- $parts[2])/
                else
                    echo $parts[2]
                end
            case dir
                set other 0
                __fish_complete_directories (commandline -ct)
        end
    end
    test $other = 1; and __fish_complete_path (commandline -ct)
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""

# What reads a user's completion files in bash; a package of its own, which small systems lack.
_BASH_LOADERS: Final = tuple(
    f"{prefix}/share/bash-completion/bash_completion"
    for prefix in ("/usr", "/usr/local", "/opt/homebrew", "/home/linuxbrew/.linuxbrew")
)


class _Bash(BashComplete):
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        arguments, incomplete = super().get_completion_args()
        # bash takes --model=name for three words.
        return [word for word in arguments if word != "="], "" if incomplete == "=" else incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value}"


class _Zsh(ZshComplete):
    source_template = _ZSH


class _Fish(FishComplete):
    source_template = _FISH

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value}" + (f"\t{item.help}" if item.help else "")


_SHELLS: Final = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}
for _name, _class in _SHELLS.items():
    add_completion_class(_class, _name)


def _install_path(shell: str) -> Path:
    """Where the shell looks for a user's completion files."""
    data = checked_path(os.environ.get("XDG_DATA_HOME") or "~/.local/share", "the directory of completion files")
    config = checked_path(os.environ.get("XDG_CONFIG_HOME") or "~/.config", "the directory of completion files")
    return {
        "bash": data / "bash-completion" / "completions" / PROGRAM,
        "zsh": data / "zsh" / "site-functions" / f"_{PROGRAM}",
        "fish": config / "fish" / "completions" / f"{PROGRAM}.fish",
    }[shell]


def _script(shell: str, command: click.Command) -> str:
    # Not `source()`: for bash that runs the shell to read its version, and a script can be made where no bash is.
    completer = _SHELLS[shell]
    return completer.source_template % completer(command, {}, PROGRAM, COMPLETE_VARIABLE).source_vars()


@click.command(short_help="Install TAB completion for your shell.")
@click.argument("shell", type=click.Choice([*_SHELLS]), required=False)
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
    if shell not in _SHELLS:
        raise click.UsageError(f"Completion exists for {', '.join(_SHELLS)}; name one of them.", ctx)
    script = _script(shell, ctx.find_root().command)
    if not install:
        click.echo(script)
        return
    from gptbigcode_cpu.common.files import write_file

    path = _install_path(shell)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path.resolve(), script)  # which may be a link to the user's own collection of such files
    click.echo(f"wrote {path}; it takes effect in a new shell")
    if shell == "bash" and not any(Path(loader).is_file() for loader in _BASH_LOADERS):
        click.echo(f"the package bash-completion is not installed; without it, bash needs this line in ~/.bashrc:\n  . {path}")
    if shell == "zsh":
        click.echo(f"zsh also needs this line in ~/.zshrc, before compinit:\n  fpath=({path.parent} $fpath)")
