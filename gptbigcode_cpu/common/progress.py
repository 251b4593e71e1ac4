"""Progress of long tasks: one line on a terminal that is redrawn every second, or a line in the log now and then."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much is done of how much in all."""

logger = logging.getLogger(__name__)

_BAR = 24  # characters at most
_REDRAW = 0.1  # seconds between drawings at least, unless something else is being done
_FIRST_LOG, _LOG = 10.0, 60.0  # seconds until the first line of a log, and between them

_enabled = True


def enabled() -> bool:
    """Whether progress bars are drawn."""
    return _enabled


def enable(shown: bool) -> None:
    """Draw progress bars, or none."""
    global _enabled
    _enabled = shown


def drawn() -> bool:
    """Whether progress is drawn: it is `enabled`, and stderr is a terminal that can take a line back."""
    return _enabled and sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def status_line() -> Iterator[Callable[[str], None] | None]:
    """A function that shows a text in one line of stderr, in place of the text before; None if nothing is `drawn`.

    The line is cut to the width of the terminal, and cleared in the end, however that comes, and before a message of the log.
    """
    if not drawn():
        yield None
        return
    stream = sys.stderr

    def show(text: str) -> None:
        stream.write("\r\x1b[K" + text[: _line_width()])
        stream.flush()

    def make_way(_record: logging.LogRecord) -> bool:
        show("")
        return True

    handlers = _handlers()
    for handler in handlers:
        handler.addFilter(make_way)
    try:
        yield show
    finally:
        for handler in handlers:
            handler.removeFilter(make_way)
        show("")


def _handlers() -> list[logging.Handler]:
    """The log handlers that get messages of the package."""
    found = [] if logging.lastResort is None else [logging.lastResort]
    source: logging.Logger | None = logging.getLogger("gptbigcode_cpu")
    while source is not None:
        found += source.handlers
        source = source.parent if source.propagate else None
    return found


def _line_width() -> int:
    """Columns for a line that is redrawn: all but those in which the terminal shows ``^C``, lest that begins another line."""
    return max(terminal_width() - 3, 1)


def terminal_width() -> int:
    """Columns of the terminal that stderr is; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A `Progress` that draws a bar and the time that is left; where stderr is not a terminal, it writes to the log, seldom.

    The bar appears with the first report, so that a conversion that does not take place shows nothing.
    """
    with status_line() as show:
        meter, ended, drawing = Meter(time.monotonic()), threading.Event(), threading.Lock()
        last, thread = 0.0, None

        def draw() -> None:
            nonlocal last
            assert show is not None
            with drawing:
                show(meter.line(_line_width(), time.monotonic()))
                last = time.monotonic()

        def keep_drawing() -> None:
            while not ended.wait(1):
                draw()

        def update(what: str, done: int, total: int) -> None:
            nonlocal last, thread
            now = time.monotonic()
            is_new = meter.report(what, done, total, now)
            if show is None:
                if now - max(last, meter.began + _FIRST_LOG - _LOG) > _LOG:
                    last = now
                    logger.info("%s: %s", meter.what, meter.in_words(now))
                return
            if is_new or now - last > _REDRAW:
                draw()
            if thread is None:
                thread = threading.Thread(target=keep_drawing, daemon=True)
                thread.start()

        try:
            yield update
        finally:
            ended.set()
            if thread is not None:
                thread.join()


@dataclass
class Meter:
    """How far something is, and how long the rest will take at the speed so far."""

    began: float  # seconds, of the clock whose times the methods take
    what: str = ""
    done: int = 0
    total: int = 0
    _first: int = 0
    _since: float = 0.0
    _at: float = 0.0

    def report(self, what: str, done: int, total: int, now: float) -> bool:
        """Take a report at a time in seconds; say whether something else is being done than before."""
        is_new = bool(what) and what != self.what
        if total != self.total or done < self.done:
            # What was done before the first report, by an interrupted conversion, says nothing about the speed.
            self._first, self._since = done, now
        self.what, self.done, self.total, self._at = what or self.what, done, total, now
        return is_new

    def seconds_left(self, now: float) -> float | None:
        """None as long as that cannot be said."""
        elapsed, worked = self._at - self._since, self.done - self._first
        if worked <= 0 or elapsed < 1:
            return None
        return max((self.total - self.done) * elapsed / worked - (now - self._at), 1.0)

    def in_words(self, now: float) -> str:
        """``34 %, 0:32 left``"""
        left = self.seconds_left(now)
        return f"{self._share():.0%}".replace("%", " %") + ("" if left is None else f", {clock(left)} left")

    def line(self, width: int, now: float) -> str:
        """``calibrating block 2 of 4 [####----] 0:32 left``, in at most `width` columns."""
        left = self.seconds_left(now)
        end = f"{self._share():.0%}" if left is None else f"{clock(left)} left"
        cells = min(_BAR, width - len(self.what) - len(end) - 4)
        if cells < 4:
            return f"{self.what[: max(width - len(end) - 1, 0)]} {end}".strip()[:width]
        full = round(cells * self._share())
        return f"{self.what} [{'#' * full}{'-' * (cells - full)}] {end}"

    def _share(self) -> float:
        return min(self.done / self.total, 1.0) if self.total else 0.0


def clock(seconds: float) -> str:
    """``0:32``, ``12:05`` or ``1:02:00``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
