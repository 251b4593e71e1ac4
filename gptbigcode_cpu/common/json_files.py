"""The one reader of JSON: configurations, tokenizer settings, indexes, headers. All of it is input from strangers.

Size and depth are bounded, so that neither parsing nor copying what was parsed runs out of memory or stack. As in
transformers, the last of several equal names counts, and ``NaN`` and ``Infinity`` are numbers; what a value may be is for
those to check who know what it means.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.common.regular_files import read_regular

# The vocab.json of 256,000 tokens has 8 MB. Parsed, JSON takes up to thirty times its size.
MAX_BYTES = 16 << 20
# Published files have up to 15. copy.deepcopy, which takes several stack frames per level, reaches some 300.
MAX_DEPTH = 100

BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JSONError(ValueError):
    """The content is not a JSON object, or it is beyond a limit. The callers know which file it is and say so."""


def parse_object(content: bytes, *, unique: bool = False) -> dict[str, Any]:
    """A JSON object; arguments and errors are those of `parse`.

    Raises:
        JSONError: It is not JSON, or not an object.
    """
    value = parse(content, unique=unique)
    if not isinstance(value, dict):
        raise JSONError(f"must hold a JSON object, not {_name(value)}")
    return value


def parse(content: bytes, *, unique: bool = False) -> Any:
    """A JSON value.

    Args:
        content: UTF-8, with or without a byte order mark.
        unique: Refuse an object in which a name stands twice.

    Raises:
        JSONError: It is not; the message is a half-sentence such as "is not JSON: ...".
    """
    if not content.strip():
        raise JSONError("is empty")
    if (encoding := json.detect_encoding(content)) not in ("utf-8", "utf-8-sig"):
        raise JSONError(f"is not UTF-8, it looks like {encoding.upper()}; save it as UTF-8")
    try:
        text = content.removeprefix(BOM).decode("utf-8")
        value = json.loads(text, object_pairs_hook=_without_duplicates if unique else None)
    except JSONError:
        raise
    except UnicodeDecodeError as error:
        where = _line(content.count(b"\n", 0, error.start) + 1, content)
        raise JSONError(f"is not UTF-8 ({where}byte 0x{content[error.start]:02x}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        where = _line(error.lineno, content)
        raise JSONError(f"is not JSON: {error.msg} ({where}column {error.colno})") from error
    except RecursionError as error:
        raise JSONError(f"is nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:  # Python parses integers of up to 4,300 digits
        raise JSONError("holds a number of thousands of digits") from error
    _check_depth(value)
    if _SURROGATE.search(content):
        _check_surrogates(value)
    return value


def read_object(
    path: Path, error: Callable[[str], Exception], *, unreadable: Callable[[str], Exception] | None = None
) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file.

    Args:
        path: The file.
        error: Makes the exception for wrong content, from a message that names the file.
        unreadable: The same for a file that is there and cannot be read; default: `error`.

    Raises:
        Exception: Made by `error` or `unreadable`.
    """
    try:
        return parse_object(read_regular(path, MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as reason:
        raise (unreadable or error)(f"{path} cannot be read: {reason.strerror}") from reason
    except JSONError as reason:
        raise error(f"{path} {reason}") from reason


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise JSONError(f"gives {shown(name)} twice")
    return content


def _check_depth(value: Any) -> None:
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            inner += [part for part in (item.values() if isinstance(item, dict) else item) if isinstance(part, dict | list)]
        if not inner:
            return
        level = inner
    raise JSONError(f"is nested more than {MAX_DEPTH} deep")


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise JSONError(f"holds the lone surrogate \\u{code:04x}, which is no character") from error


def _line(number: int, content: bytes) -> str:
    return f"line {number}, " if b"\n" in content.strip() else ""


def _name(value: object) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """The content of a JSON file, written as the Hub's tools write it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
