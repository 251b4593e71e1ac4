"""The examples that --help shows: all are understood, and those that need nothing but the demo model run as pasted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gptbigcode_cpu.cli import cli
from gptbigcode_cpu.cli.options import Settings

PROGRAM = "gptbigcode-cpu"


def commands(group: click.Group) -> Iterator[click.Command]:
    yield group
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield command


def examples() -> list[str]:
    found = []
    for command in commands(cli):
        shown = (command.help or "").partition("Examples:\n")[2].replace("\\\n", " ")
        found += [line.strip() for line in shown.splitlines() if PROGRAM in line]
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the examples name."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code.py").write_text("def add(a, b):\n    return a + b\n" * 60)
    (tmp_path / "draft.py").write_text("def double(x):\n    return <cursor>\n")
    (tmp_path / "utils.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "held_out.jsonl").write_text('{"text": "x = 1"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_every_command_has_examples() -> None:
    for command in commands(cli):
        assert PROGRAM in (command.help or "").partition("Examples:")[2], command.name


@pytest.mark.parametrize("line", examples())
def test_examples_are_understood(line: str, place: Path) -> None:
    words = shlex.split(re.sub(r"\$'", "'", line.split("$(")[-1].split(')"')[0]).partition(f"{PROGRAM} ")[2])
    words = [word.replace("*.py", "code.py") for word in words]  # as the shell does
    words = words[: min((words.index(end) for end in ("<", ">", "|") if end in words), default=len(words))]
    command: click.Command = cli
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    with command.make_context(PROGRAM, words, obj=Settings()):
        pass


RUN = [
    line
    for line in examples()
    if re.search(r"generate|info|cache|evaluate demo", line) and not re.search(r"starcoder|octo|cache delete|finetune", line)
]


@pytest.mark.parametrize("line", RUN)
def test_examples_run_as_pasted(line: str, place: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", line], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "--fill" in line and "--extra-file" not in line:
        filled = (place / "complete.py").read_text() if "complete.py" in line else done.stdout
        assert "\n    return" in filled, "an end of line was not one"


def test_some_examples_run() -> None:
    assert len(RUN) >= 9
