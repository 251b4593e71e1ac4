"""``generate --fill``: line ends of the file, and marks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = "def add(a, b):\n    return a + b\n\n\ndef twice(a):\n    <cursor>\n\n\nprint(add(1, 2))\n"


@pytest.fixture(scope="module")
def model(converted: Callable[..., Path]) -> Path:
    return converted("int8")


def filled(model: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gptbigcode_cpu", "generate", "-m", str(model), "-n", "24", "--fill", *arguments, "-"]
    return subprocess.run(command, input=source.encode(), capture_output=True, timeout=240, check=False)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_keeps_its_line_ends(model: Path, end: str) -> None:
    shown = filled(model, SOURCE.replace("\n", end), "--top-k", "200", "--seed", "1", "--repetition-penalty", "1.3")
    assert shown.returncode == 0, shown.stderr
    text = shown.stdout.decode()
    before, after = SOURCE.replace("\n", end).split("<cursor>")
    assert text.startswith(before)
    assert text.endswith(after)
    assert text.count("\n") == text.count(end)


def test_another_mark(model: Path) -> None:
    source = SOURCE.replace("add(1, 2)", "'<cursor>'")
    refused = filled(model, source)
    assert refused.returncode == 9
    assert refused.stderr.decode().startswith("error: the text must contain the mark <cursor> once")
    assert "--cursor" in refused.stderr.decode()
    marked = source.replace("<cursor>", "|", 1)
    shown = filled(model, marked, "--cursor", "|")
    assert shown.returncode == 0, shown.stderr
    before, after = marked.split("|")
    assert shown.stdout.decode().startswith(before)
    assert shown.stdout.decode().endswith(after)
    assert filled(model, source, "--cursor", "").returncode == 9
