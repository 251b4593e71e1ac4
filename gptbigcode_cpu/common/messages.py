"""Content of strangers' files and calls as a part of an error message: on one line, printable, and short."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence


def shown(value: object, limit: int = 80) -> str:
    """A value as an error message shows it: on one line, cut to about `limit` characters."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = limit
    try:
        text = short.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; a nesting that Python cannot walk
        return f"a very large {type(value).__name__}"
    return one_line(text, 2 * limit)


def one_line(text: object, limit: int = 200) -> str:
    """Foreign text as a part of an error message: on one line, printable, cut to about `limit` characters."""
    line = " ".join(str(text)[: 4 * limit].split())
    line = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in line)
    return line if len(line) <= limit else f"{line[:limit]}..."


def listed(items: Sequence[str], separator: str = "; ", limit: int = 8) -> str:
    """Several problems or names in one line: the first of them, and how many more there are."""
    more = [f"and {len(items) - limit} more"] if len(items) > limit else []
    return separator.join([*map(one_line, items[:limit]), *more])
