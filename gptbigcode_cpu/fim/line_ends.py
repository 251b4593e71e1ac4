"""Line ends: text that is inserted into a file uses the line ends of the file."""

from __future__ import annotations

import re
from typing import Literal

LineEnd = Literal["\n", "\r\n", "\r"]
_LINE_END = re.compile(r"\r\n|\n|\r")


def line_end(prefix: str, suffix: str) -> LineEnd | None:
    """The line end around a gap: the last one before the gap, or else the first one after it; None if there is none."""
    last = max(prefix.rfind("\n"), prefix.rfind("\r"))
    found = _LINE_END.search(prefix, max(0, last - 1)) if last >= 0 else _LINE_END.search(suffix)
    match found[0] if found else None:
        case "\n":
            return "\n"
        case "\r\n":
            return "\r\n"
        case "\r":
            return "\r"
    return None


def with_line_end(text: str, end: LineEnd | None) -> str:
    """`text` with `end` in place of every LF and CRLF; None changes nothing. A lone CR stays, since it may be intended."""
    return text if end is None else text.replace("\r\n", "\n").replace("\n", end)
