"""TAB completion, typed into real shells."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
PREPARE = {
    "bash": "source ./script",
    "zsh": "autoload -Uz compinit; compinit -u -D; source ./script; unsetopt zle_bracketed_paste",
    "fish": "source ./script",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with models, and with what is none."""
    for directory in ("tiny-model", "models/inner one", "pictures/2026"):
        (tmp_path / directory).mkdir(parents=True)
    for directory in ("tiny-model", "models/inner one"):
        (tmp_path / directory / "config.json").write_text("{}")
    for file in ("model.Q8_0.gguf", "notes.txt", "pictures/2026/image.png"):
        (tmp_path / file).touch()
    conversion = tmp_path / "cache" / f"int8-{0:032x}"
    conversion.mkdir(parents=True)
    (conversion / "conversion.json").write_text(json.dumps({"name": "owner/converted"}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    return tmp_path


def typed(shell: str, place: Path, text: str) -> list[str]:
    """The words of a command line after some text and a TAB."""
    script = subprocess.run([BIN / "gptbigcode-cpu", "completion", shell], capture_output=True, check=True).stdout
    (place / "script").write_bytes(script)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "HOME": str(place), "PS1": "$ "}
    parent, child = pty.openpty()
    process = subprocess.Popen(
        START[shell],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment,
        cwd=place,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # fish runs only on its controlling terminal
    )
    os.close(child)
    try:
        # What is typed waits until the shell is done with what came before.
        os.write(parent, f"{PREPARE[shell]}; printf 're%s\\n' ady\n".encode())
        _until(parent, "ready")
        os.write(parent, f"gptbigcode-cpu {text}\t\x01printf '<%s>' \x05\necho e'nd'\n".encode())
        shown = _until(parent, "\nend")
    finally:
        process.kill()
        process.wait()
        os.close(parent)
    return re.findall(r"<([^>%]+)>", shown)[1:]


def _until(terminal: int, end: str) -> str:
    shown = ""
    deadline = time.monotonic() + 120
    while end not in shown.replace("\r", ""):
        ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
        assert ready, f"no {end!r} in {shown!r}"
        shown += os.read(terminal, 1 << 16).decode(errors="replace")
    return shown


LINES = [
    ("generate -m dem", ["generate", "-m", "demo"]),
    ("generate -m tiny-", ["generate", "-m", "tiny-model"]),
    ("generate -m mod", ["generate", "-m", "model"]),
    ("info models/", ["info", "models/inner one"]),
    ("info model.", ["info", "model.Q8_0.gguf"]),
    ("bench owner/", ["bench", "owner/converted"]),
    ("convert octo", ["convert", "octocoder"]),
    ("generate not", ["generate", "notes.txt"]),
    ("generate --extra-file not", ["generate", "--extra-file", "notes.txt"]),
    ("generate -m pict", ["generate", "-m", "pictures"]),
    ("convert demo pict", ["convert", "demo", "pictures"]),
    ("evaluate demo --text not", ["evaluate", "demo", "--text", "notes.txt"]),
    ("cache delete own", ["cache", "delete", "owner/converted"]),
    ("conv", ["convert"]),
    ("generate --max-new", ["generate", "--max-new-tokens"]),
]


def cases() -> Iterator[object]:
    """Every line in every shell that is installed; of another one only that it is skipped."""
    for shell in START:
        missing = shutil.which(shell) is None
        skip = pytest.mark.skipif(missing, reason=f"types into {shell}, which is not installed here")
        yield from (pytest.param(shell, text, words, marks=skip) for text, words in (LINES[:1] if missing else LINES))


@pytest.mark.parametrize(("shell", "text", "words"), [*cases()])
def test_tab(shell: str, place: Path, text: str, words: list[str]) -> None:
    # zsh takes the slash away again that it puts behind a directory.
    assert [word.rstrip("/") for word in typed(shell, place, text)] == words
