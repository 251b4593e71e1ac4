"""What of the generated text belongs between prefix and suffix."""

from __future__ import annotations

import re
from bisect import bisect_left

# Characters that are no space which the first lines of the suffix must have before a repetition of them counts as one:
# a closing bracket or ``else:`` may well be written again.
_MIN_REPEATED = 6
_MAX_REPEATED = 200
# A blank line, and the indentation of the next line that is not blank.
_AFTER_BLANK = re.compile(r"\n(?:[ \t]*\n)+([ \t]*)(?=\S)")


class MiddleFilter:
    """Passes text on until it leaves the gap that it is to fill.

    It ends where the text begins to repeat the suffix, and at a blank line after which a line is indented less than the gap
    is. What may be the beginning of such an end is held back.

    Lines may end as on Unix (LF), on Windows (CRLF) or as on old Macs (CR), in the file and in the generated text, also mixed:
    all count as one line break. The text keeps the line ends that it has.

    Args:
        prefix: The text before the gap.
        suffix: The text after it.

    Attributes:
        done: Whether the end was reached; further text is not passed on.
    """

    def __init__(self, prefix: str, suffix: str) -> None:
        self.done = False
        prefix, suffix = _with_lf(prefix), _with_lf(suffix)
        # Everything is decided on a text with LF only. `_crlf` has the places of the line breaks in it that were CRLF.
        self._raw = ""
        self._text = ""
        self._crlf: list[int] = []
        self._released = 0
        cursor_line = prefix[prefix.rfind("\n") + 1 :]
        self._lead = cursor_line if not cursor_line.strip() else None
        self._indentation = _width(cursor_line)
        # The newline stays where the rest of the cursor's line follows, which must not join another.
        self._keep_newline = bool(suffix.strip(" \t")) and not suffix.lstrip(" \t").startswith("\n")
        space = suffix[: len(suffix) - len(suffix.lstrip())]
        self._whole_lines = "\n" in space
        self._cursor_line = cursor_line
        self._repeated = _first_lines(suffix[space.rfind("\n") + 1 :])

    def push(self, piece: str) -> str:
        """The text that is certain to belong into the gap after this piece."""
        if self.done:
            return ""
        self._append(piece)
        return self._release(final=False)

    def flush(self) -> str:
        """What is left at the end of the generated text."""
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
        """Take in a piece. A CR at its end waits for the next piece, which tells whether it is half of a CRLF."""
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
        """The place in the generated text of a place in `_text`."""
        return place + bisect_left(self._crlf, place)

    def _dedent(self) -> int | None:
        """Where a blank line begins that is followed by a line outside the gap's block."""
        limit = self._indentation
        if self._lead is not None:
            first = self._text.lstrip("\n")
            limit = max(limit, _width(self._lead + first if len(first) == len(self._text) else first))
        for match in _AFTER_BLANK.finditer(self._text, self._released):
            if _width(match.group(1) + "x") < limit and self._text[: match.start()].strip():
                return match.start() + self._keep_newline
        return None

    def _repetition(self, final: bool) -> int | None:
        """Where the text begins to repeat the first lines of the suffix."""
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
        """Up to where the text is certain to stay."""
        settled = _blank_lines(self._text)
        partial = self._partial()
        return settled if partial is None else min(settled, self._end_before(partial))

    def _partial(self) -> int | None:
        """Where the end of the text may be the beginning of a repetition."""
        wanted, text = self._repeated, self._text
        for position in range(max(self._released, len(text) - len(wanted)), len(text)):
            if wanted.startswith(text[position:]) and self._may_begin(position):
                return position
        return None

    def _may_begin(self, position: int) -> bool:
        """Whether what stands before a repetition allows it: nothing, or white space as before the cursor, in its line."""
        line = self._text[self._text.rfind("\n", 0, position) + 1 : position]
        before = line if "\n" in self._text[:position] else self._cursor_line + line
        if self._whole_lines:
            return before == ""
        return self._lead is None or not before.strip()

    def _end_before(self, position: int) -> int:
        """A repetition of whole lines takes the blank lines before it along."""
        return _blank_lines(self._text[:position]) if self._whole_lines else position


def _with_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _width(line: str) -> int:
    """Columns of the indentation of a line."""
    first = line.partition("\n")[0].expandtabs(8)
    return len(first) - len(first.lstrip())


def _blank_lines(text: str) -> int:
    """Where the line break and the blank lines at the end of a text begin; its end if there are none."""
    solid = len(text.rstrip())
    newline = text.find("\n", solid)
    return len(text) if newline < 0 else newline


def _solid(text: str) -> int:
    return sum(not character.isspace() for character in text)


def _first_lines(text: str) -> str:
    """The first lines that together are long enough to be recognised; empty if all of them are not."""
    taken = ""
    for line in text.splitlines(keepends=True):
        taken += line
        if _solid(taken) >= _MIN_REPEATED:
            return taken.rstrip("\n")[:_MAX_REPEATED]
    return ""
