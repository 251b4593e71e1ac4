"""Text files to measure models on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gptbigcode_cpu.common.json_files import JSONError, parse
from gptbigcode_cpu.common.regular_files import open_regular
from gptbigcode_cpu.errors import InputError


def read_texts(paths: Iterable[str | Path]) -> list[str]:
    """The texts of files: the ``text`` of every line of a ``.jsonl`` file, or the whole of any other file.

    Args:
        paths: UTF-8 files. Blank lines of a ``.jsonl`` file are skipped.

    Raises:
        InputError: A file is not UTF-8 or has no text, or a line of a ``.jsonl`` file is no object with a ``text`` that is a
            string and not empty; the message names file and line.
        OSError: A file cannot be read.
    """
    return [text for path in map(Path, paths) for text in _texts(path)]


def _texts(path: Path) -> Iterator[str]:
    content = _content(path)
    if not content.strip():
        raise InputError(f"{path} holds no text")
    if path.suffix != ".jsonl":
        yield _decoded(content, path)
        return
    # Bytes are split, not text: str.splitlines would cut at line separators inside of strings, too.
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except JSONError as error:
            raise InputError(f"{path}, line {number} {error}") from error
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text:
            found = "an empty text" if text == "" else 'no field "text" that is a string'
            raise InputError(f'{path}, line {number} has {found}; each line must be like {{"text": "..."}}')
        yield text


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        number = 1 + content.count(b"\n", 0, error.start)
        wrong = content[error.start]
        raise InputError(f"{path}, line {number} is not UTF-8 (byte 0x{wrong:02x}); convert the file to UTF-8") from error
