"""Hostile JSON: one line that says what is wrong, in little time and memory."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu.common.json_files import MAX_BYTES, MAX_DEPTH, JSONError, parse_object, read_object
from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.common.regular_files import is_present, open_regular, read_regular
from gptbigcode_cpu.errors import ConfigError, ModelNotFoundError


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


NO_OBJECTS = [
    (b"", "is empty"),
    (b" \n\t", "is empty"),
    (b"\0\0\0\0", "is not UTF-8"),
    ('{"a": 1}'.encode("utf-16"), "looks like UTF-16; save it as UTF-8"),
    ('{"a": 1}'.encode("utf-32"), "looks like UTF-32; save it as UTF-8"),
    (b'{"a":\n "\xff"}', r"is not UTF-8 \(line 2, byte 0xff\)"),
    (b'{"a":\n 1,}', r"is not JSON: .* \(line 2, column \d+\)"),
    (b'{"a": 1} {}', "is not JSON: Extra data"),
    (b"[]", "must hold a JSON object, not a list"),
    (b"null", "must hold a JSON object, not null"),
    (b"true", "must hold a JSON object, not true or false"),
    (b'"a"', "must hold a JSON object, not a text"),
    (b"1e400", "must hold a JSON object, not a number"),
    (nested(MAX_DEPTH + 1), f"nested more than {MAX_DEPTH} deep"),
    (nested(100_000), f"nested more than {MAX_DEPTH} deep"),
    (b'{"a":' + b"[" * 1_000_000, f"nested more than {MAX_DEPTH} deep"),
    (b'{"a": ' + b"1" * 5000 + b"}", "a number of thousands of digits"),
    (rb'{"a": ["\ud800"]}', r"the lone surrogate \\ud800, which is no character"),
    (rb'{"\uDfFf": 1}', r"the lone surrogate \\udfff"),
]


@pytest.mark.parametrize(("content", "message"), NO_OBJECTS, ids=[message for _, message in NO_OBJECTS])
def test_what_is_no_object(content: bytes, message: str) -> None:
    with pytest.raises(JSONError, match=message) as error:
        parse_object(content)
    assert len(str(error.value)) < 200 and "\n" not in str(error.value)


def test_what_is_an_object() -> None:
    assert parse_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}  # a byte order mark says nothing
    assert parse_object(b'{"a": 1, "a": 2}') == {"a": 2}
    assert parse_object(rb'{"a": "\ud83d\ude00 \\ud800"}') == {"a": "\N{GRINNING FACE} \\ud800"}
    assert parse_object(b'{"a": Infinity, "b": 1e400}') == {"a": float("inf"), "b": float("inf")}
    assert parse_object(b'{"a": 1' + b"0" * 400 + b"}") == {"a": 10**400}
    assert parse_object(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))


def test_names_that_must_be_unique() -> None:
    with pytest.raises(JSONError, match="gives 'b' twice"):
        parse_object(b'{"a": {"b": 1, "b": 1}}', unique=True)
    assert parse_object(b'{"a": {"b": 1}, "b": 1}', unique=True) == {"a": {"b": 1}, "b": 1}


@given(content=st.binary(max_size=64) | st.text(max_size=64).map(lambda text: f'{{"a": {text}}}'.encode()))
def test_any_content_is_an_object_or_a_typed_error(content: bytes) -> None:
    try:
        json.dumps(parse_object(content), ensure_ascii=False).encode()
    except JSONError as error:
        assert str(error).isprintable()


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert read_object(path, ConfigError) is None
    path.write_bytes(b"[]")
    with pytest.raises(ConfigError, match=r"config\.json must hold a JSON object"):
        read_object(path, ConfigError)
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=r"config\.json cannot be read: it has more than the 16,777,216 bytes allowed"):
        read_object(path, ConfigError)
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelNotFoundError, match=r"config\.json cannot be read: Is a directory"):
        read_object(path, ConfigError, unreadable=ModelNotFoundError)


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    os.mkfifo("pipe")
    Path("file").write_bytes(b"content")
    Path("link").symlink_to("file")
    Path("dangling").symlink_to("nothing")
    Path("loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for name, message in [
            ("pipe", "it is a named pipe, not a regular file"),
            ("/dev/null", "it is a device, not a regular file"),
            ("/dev/zero", "it is a device, not a regular file"),
            ("socket", "No such device or address"),
            (".", "Is a directory"),
            ("loop", "Too many levels of symbolic links"),
            ("a\0b", "no file can have this name"),
            ("a\ud800b", "no file can have this name"),
            ("a" * 300, "File name too long"),
        ]:
            with pytest.raises(OSError, match=message) as error:
                open_regular(Path(name))
            assert error.value.strerror, name
    with pytest.raises(OSError, match="it is a symbolic link to 'nothing', which is not there") as error:
        open_regular(Path("dangling"))
    assert not isinstance(error.value, FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        open_regular(Path("nothing"))
    assert read_regular(Path("link"), 7) == b"content"
    with pytest.raises(OSError, match="more than the 6 bytes allowed"):
        read_regular(Path("link"), 6)
    names = ("link", "pipe", "dangling", "a\0b", "a" * 300)
    assert [name for name in names if is_present(Path(name))] == ["link", "pipe", "dangling"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (tmp_path, Path("/dev/null")):
        for _ in range(3):
            with pytest.raises(OSError, match=r"Is a directory|device"):
                open_regular(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_values_are_shown_short() -> None:
    texts = ("a\nb" * 10**6, "\ud800", b"\0")
    for value in (10**400, 10**9000, *texts, {"a": "b" * 10**6}, [[[[[[[[[["x"]]]]]]]]]], list(range(10**6))):
        assert shown(value).isprintable() and len(shown(value)) < 200
    assert shown("a") == "'a'" and shown(12) == "12" and shown([1, None]) == "[1, None]"


def test_foreign_text_is_one_line() -> None:
    assert one_line("a\n  b\x1b[31m\ud800") == r"a b\x1b[31m\ud800"
    assert one_line("a" * 300) == "a" * 200 + "..."
