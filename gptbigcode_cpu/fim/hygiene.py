"""Find out which part of the generated text belongs between prefix and suffix."""

from __future__ import annotations

import re
from bisect import bisect_left

# A repetition of the suffix counts only if the repeated lines have this many characters besides white space: a closing bracket
# or ``else:`` may well occur twice.
_MIN_REPEATED = 6
_MAX_REPEATED = 200
# A blank line, and the indentation of the next line that is not blank.
_AFTER_BLANK = re.compile(r"\n(?:[ \t]*\n)+([ \t]*)(?=\S)")


class MiddleFilter:
    """Passes generated text on until the text leaves the gap.

    The middle ends where the text starts to repeat the suffix, or at a blank line that is followed by a line with less
    indentation than the gap. Text that may be the start of such an end is held back until this is certain.

    LF, CRLF and CR all count as one line break, also if they are mixed. The text keeps its line ends.

    Args:
        prefix: The text before the gap.
        suffix: The text after the gap.

    Attributes:
        done: Whether the end of the middle was reached. Further text is dropped.
    """

    def __init__(self, prefix: str, suffix: str) -> None:
        self.done = False
        prefix, suffix = _with_lf(prefix), _with_lf(suffix)
        # All decisions use `_text`, which has LF only. `_crlf` lists the places of line breaks in `_text` that were CRLF.
        self._raw = ""
        self._text = ""
        self._crlf: list[int] = []
        self._released = 0
        cursor_line = prefix[prefix.rfind("\n") + 1 :]
        self._lead = cursor_line if not cursor_line.strip() else None
        self._indentation = _width(cursor_line)
        # If the cursor's line goes on after the gap, keep the newline, so that the rest of that line stays on its own line.
        self._keep_newline = bool(suffix.strip(" \t")) and not suffix.lstrip(" \t").startswith("\n")
        space = suffix[: len(suffix) - len(suffix.lstrip())]
        self._whole_lines = "\n" in space
        self._cursor_line = cursor_line
        self._repeated = _first_lines(suffix[space.rfind("\n") + 1 :])

    def push(self, piece: str) -> str:
        """Add a piece of generated text; return the text that now certainly belongs into the gap."""
        if self.done:
            return ""
        self._append(piece)
        return self._release(final=False)

    def flush(self) -> str:
        """Return the text that was held back; call this at the end of the generated text."""
        if self.done:
            return ""
        self._append("", final=True)
        return self._release(final=True)

    def _release(self, final: bool) -> str:
        ends = [end for end in (self._dedent(), self._repetition(final)) if end is not None]
        if ends:
            self.done = True
        stop = min(ends) if ends else len(self._text) if final else self._settled()
        start, self._released = self._released, max(self._released, stop)
        return self._raw[self._raw_place(start) : self._raw_place(self._released)]

    def _append(self, piece: str, final: bool = False) -> None:
        """Add a piece. A CR at its end waits for the next piece, because it may be the first half of a CRLF."""
        self._raw += piece
        new = self._raw[self._raw_place(len(self._text)) :]
        if new.endswith("\r") and not final:
            new = new[:-1]
        *lines, rest = new.split("\r\n")
        for line in lines:
            self._text += _with_lf(line)
            self._crlf.append(len(self._text))
            self._text += "\n"
        self._text += _with_lf(rest)

    def _raw_place(self, place: int) -> int:
        """Convert a place in `_text` to a place in `_raw`."""
        return place + bisect_left(self._crlf, place)

    def _dedent(self) -> int | None:
        """The start of a blank line that is followed by a line outside the gap's block; None if there is none."""
        limit = self._indentation
        if self._lead is not None:
            first = self._text.lstrip("\n")
            limit = max(limit, _width(self._lead + first if len(first) == len(self._text) else first))
        for match in _AFTER_BLANK.finditer(self._text, self._released):
            if _width(match.group(1) + "x") < limit and self._text[: match.start()].strip():
                return match.start() + self._keep_newline
        return None

    def _repetition(self, final: bool) -> int | None:
        """The place where the text starts to repeat the first lines of the suffix; None if it does not."""
        wanted, text = self._repeated, self._text
        if not wanted:
            return None
        position = text.find(wanted, self._released)
        while position >= 0:
            after = position + len(wanted)
            ends = text[after : after + 1] == "\n" or (final and after == len(text)) or len(wanted) == _MAX_REPEATED
            if ends and self._may_begin(position):
                return self._end_before(position)
            position = text.find(wanted, position + 1)
        partial = self._partial() if final else None
        if partial is not None and _solid(text[partial:]) >= _MIN_REPEATED:
            return self._end_before(partial)
        return None

    def _settled(self) -> int:
        """The length of the text that certainly belongs into the gap."""
        settled = _blank_lines(self._text)
        partial = self._partial()
        return settled if partial is None else min(settled, self._end_before(partial))

    def _partial(self) -> int | None:
        """The place from which the end of the text may be the start of a repetition; None if there is none."""
        wanted, text = self._repeated, self._text
        for position in range(max(self._released, len(text) - len(wanted)), len(text)):
            if wanted.startswith(text[position:]) and self._may_begin(position):
                return position
        return None

    def _may_begin(self, position: int) -> bool:
        """Whether a repetition may start at `position`: only nothing, or white space as before the cursor, may precede it."""
        line = self._text[self._text.rfind("\n", 0, position) + 1 : position]
        before = line if "\n" in self._text[:position] else self._cursor_line + line
        if self._whole_lines:
            return before == ""
        return self._lead is None or not before.strip()

    def _end_before(self, position: int) -> int:
        """The end of the middle before a repetition. Blank lines before a repetition of whole lines are dropped as well."""
        return _blank_lines(self._text[:position]) if self._whole_lines else position


def _with_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _width(line: str) -> int:
    """Width of a line's indentation in columns."""
    first = line.partition("\n")[0].expandtabs(8)
    return len(first) - len(first.lstrip())


def _blank_lines(text: str) -> int:
    """The start of the line break and blank lines at the end of a text; the end of the text if there are none."""
    solid = len(text.rstrip())
    newline = text.find("\n", solid)
    return len(text) if newline < 0 else newline


def _solid(text: str) -> int:
    return sum(not character.isspace() for character in text)


def _first_lines(text: str) -> str:
    """The first lines that together have `_MIN_REPEATED` characters; empty if the text is too short."""
    taken = ""
    for line in text.splitlines(keepends=True):
        taken += line
        if _solid(taken) >= _MIN_REPEATED:
            return taken.rstrip("\n")[:_MAX_REPEATED]
    return ""
