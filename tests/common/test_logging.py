"""Log levels, set by the functions of transformers' logging module."""

from __future__ import annotations

import io
import logging as python_logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gptbigcode_cpu import logging


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    library = logging.get_logger()
    before = library.level, list(library.handlers), library.propagate
    yield
    library.level, library.handlers, library.propagate = before
    logging.enable_progress_bar()


def test_levels(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("debug", "info", "warning", "error"):
        getattr(logging, f"set_verbosity_{name}")()
        assert logging.get_verbosity() == getattr(logging, name.upper()) == getattr(python_logging, name.upper())
    logging.get_logger("gptbigcode_cpu.some").warning("careful")
    assert caplog.messages == []  # a warning, and only errors are shown
    logging.set_verbosity(logging.WARNING)
    logging.get_logger("gptbigcode_cpu.some").warning("careful")
    assert caplog.messages == ["careful"]


def test_handlers() -> None:
    text = io.StringIO()
    handler = python_logging.StreamHandler(text)
    logging.add_handler(handler)
    logging.enable_explicit_format()
    logging.get_logger("gptbigcode_cpu.some").warning("one")
    assert "[WARNING|test_logging.py:" in text.getvalue()
    logging.reset_format()
    logging.get_logger().warning("two")
    assert text.getvalue().splitlines()[1:] == ["two"]
    logging.remove_handler(handler)
    logging.get_logger().warning("three")
    assert "three" not in text.getvalue()
    assert logging.get_logger("mine").name == "mine"


def test_propagation(caplog: pytest.LogCaptureFixture) -> None:
    logging.disable_propagation()
    logging.get_logger().warning("hidden")
    logging.enable_propagation()
    logging.get_logger().warning("shown")
    assert caplog.messages == ["shown"]


def test_what_is_asked_for_is_shown() -> None:
    code = "from gptbigcode_cpu import logging; logging.set_verbosity_info(); logging.get_logger().info('hello')"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (shown.stderr, shown.stdout) == ("hello\n", "")


def test_progress_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    from gptbigcode_cpu.common.progress import progress_bar

    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    logging.disable_progress_bar()
    assert not logging.is_progress_bar_enabled()
    with progress_bar() as progress:
        progress("weights", 1, 2)
    assert terminal.getvalue() == ""
    logging.enable_progress_bar()
    with progress_bar() as progress:
        progress("weights", 1, 2)
    assert "weights" in terminal.getvalue()
