"""Line ends of a file: what is written into it ends its lines as the file does."""

from __future__ import annotations

import re
from typing import Literal

LineEnd = Literal["\n", "\r\n", "\r"]
_LINE_END = re.compile(r"\r\n|\n|\r")


def line_end(prefix: str, suffix: str) -> LineEnd | None:
    """How lines end around a gap: as the last line before it does, else as the first one after it; None without any."""
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
    """`text` with all of its LF and CRLF as `end`; None leaves it as it is. A CR alone stays, since it may be meant."""
    return text if end is None else text.replace("\r\n", "\n").replace("\n", end)
