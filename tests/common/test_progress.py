"""The progress line: how far a conversion is, and how long the rest takes."""

from __future__ import annotations

import logging
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable

import pytest

from gptbigcode_cpu.common import progress
from gptbigcode_cpu.common.progress import Meter, clock, progress_bar


def test_the_line() -> None:
    meter = Meter(0)
    assert meter.report("calibrating block 1 of 4", 100, 1100, now=10)
    assert meter.line(80, 10) == "calibrating block 1 of 4 [##----------------------] 9%"
    assert meter.report("calibrating block 2 of 4", 600, 1100, now=60)
    assert meter.line(60, 60) == "calibrating block 2 of 4 [#############----------] 0:50 left"
    assert meter.line(48, 60) == "calibrating block 2 of 4 [######-----] 0:50 left"
    assert meter.line(48, 80) == "calibrating block 2 of 4 [######-----] 0:30 left", "it counts down between reports"
    assert meter.line(48, 300).endswith(" 0:01 left")
    assert not meter.report("", 1100, 1100, now=110), "the name stays"
    assert "block 2 of 4" in meter.line(80, 110)


def test_the_line_fits() -> None:
    meter = Meter(0)
    for done, now in ((0, 0), (5, 3)):
        meter.report("measuring part 17 of 98", done, 10_000, now)
        for width in range(1, 200):
            assert len(meter.line(width, now)) <= width
            assert width < 30 or "measuring part" in meter.line(width, now)


def test_another_count_starts_another_clock() -> None:
    meter = Meter(0)
    meter.report("writing", 0, 1000, now=0)
    meter.report("writing", 1000, 1000, now=100)
    meter.report("measuring", 0, 10, now=100)
    assert meter.seconds_left(100) is None
    meter.report("measuring", 5, 10, now=110)
    assert meter.seconds_left(110) == 10
    assert meter.in_words(110) == "50 %, 0:10 left"


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 9.6, 59.9, 725, 3720)] == ["0:00", "0:10", "1:00", "12:05", "1:02:00"]


def test_a_log_gets_a_line_now_and_then(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds)
    with caplog.at_level(logging.INFO, "gptbigcode_cpu"), progress_bar() as report:
        for step in range(200):
            seconds = 1000.0 + step
            report(f"quantising block {step // 50 + 1} of 4", step, 200)
    assert caplog.messages == [
        "quantising block 1 of 4: 6 %, 3:09 left",
        "quantising block 2 of 4: 36 %, 2:08 left",
        "quantising block 3 of 4: 66 %, 1:07 left",
        "quantising block 4 of 4: 97 %, 0:06 left",
    ]


def on_a_terminal(
    code: str, columns: int, then: Callable[[subprocess.Popen[bytes]], None] = lambda _: None, **variables: str
) -> str:
    """What a terminal gets to see from Python code."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, columns))
    environment = {**os.environ, "TERM": "xterm", **variables}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=child, stdout=child, stderr=child, env=environment
    )
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 1 << 16):
            shown += piece
            if b"block" in shown:
                then(process)
    except OSError:  # how Linux says that the other end of a terminal is closed
        pass
    finally:
        os.close(parent)
    process.wait(60)
    return shown.decode()


LONG = """
    import time
    from gptbigcode_cpu.common.progress import progress_bar
    with progress_bar() as report:
        report("calibrating block 1 of 4", 0, 100)
        time.sleep(1.5)
        report("calibrating block 2 of 4", 50, 100)
        time.sleep(1.2)
    print("done")
"""


@pytest.mark.parametrize("columns", [80, 30, 12])
def test_a_terminal_sees_one_line_that_lives_and_goes_away(columns: int) -> None:
    shown = on_a_terminal(LONG, columns)
    states = shown.split("\r\x1b[K")
    assert states[-1] == "done\r\n"
    assert states[0] == ""
    assert all(len(state) <= columns - 3 for state in states[:-1]), "^C has room behind it"
    if columns > 20:
        assert any(re.search(r"0:0\d left$", state) for state in states)
        assert len(states) > 4, "it is redrawn while nothing is reported"


def test_a_message_does_not_stand_behind_the_bar() -> None:
    """Whatever shows the messages: Python itself, or a handler of the program."""
    code = """
        import logging, sys
        from gptbigcode_cpu.common.progress import progress_bar
        if HANDLER:
            logging.basicConfig(stream=sys.stderr, format="%(message)s")
        for _ in range(2):
            with progress_bar() as report:
                report("writing block 1 of 4", 0, 100)
                logging.getLogger("gptbigcode_cpu.models.conversions").warning("it is kept")
    """
    for handler in ("0", "1"):
        shown = on_a_terminal(code.replace("HANDLER", handler), 80)
        assert shown.count("\r\x1b[Kit is kept\r\n") == 2, shown


def test_a_dumb_terminal_gets_no_escape_codes() -> None:
    assert on_a_terminal(LONG, 80, TERM="dumb") == "done\r\n"


def test_ctrl_c_leaves_a_clean_line() -> None:
    sent: list[int] = []

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        if not sent:
            sent.append(process.pid)
            process.send_signal(signal.SIGINT)

    code = LONG.replace("time.sleep(1.5)", "time.sleep(60)")
    shown = on_a_terminal(f"{textwrap.dedent(code)}", 80, interrupt)
    assert shown.split("\r\x1b[K")[-1].startswith("Traceback"), "what follows begins at the start of a line"
