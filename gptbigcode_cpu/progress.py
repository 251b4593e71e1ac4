"""Progress bars of what takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much is done of how much in all."""


_enabled = True


def enabled() -> bool:
    """Whether progress bars are drawn."""
    return _enabled


def enable(shown: bool) -> None:
    """Draw progress bars, or none."""
    global _enabled
    _enabled = shown


@contextmanager
def progress_bar(unit: str = "B") -> Iterator[Progress]:
    """A `Progress` that draws on stderr, if that is a terminal and `enabled`; what is counted is called `unit`.

    The bar appears with the first report, so that a conversion that does not take place shows nothing.
    """
    with ExitStack() as stack:
        bar: Any = None

        def update(name: str, done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                from tqdm import tqdm

                hidden = not (_enabled and sys.stderr.isatty())
                # What was done before the first report, by an interrupted conversion, says nothing about the speed.
                bar = tqdm(desc=name, total=total, initial=done, unit=unit, unit_scale=True, leave=False, disable=hidden)
                stack.enter_context(bar)
            bar.set_description(name, refresh=False)
            bar.update(done - bar.n)

        yield update
