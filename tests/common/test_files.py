"""Locks, and files that appear complete or not at all."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gptbigcode_cpu.common import files
from gptbigcode_cpu.common.files import Lock, remove_unused, replacing, write_file

OTHER_PROCESS = """
import sys
from pathlib import Path
from gptbigcode_cpu.common.files import Lock
try:
    Lock(Path(sys.argv[1]), shared=sys.argv[2] == "shared", wait=False)
except BlockingIOError:
    print("held")
else:
    print("free")
"""


def seen_by_another_process(path: Path, kind: str) -> str:
    command = [sys.executable, "-c", OTHER_PROCESS, str(path), kind]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_who_may_hold_a_lock_at_a_time(tmp_path: Path) -> None:
    with Lock(tmp_path, shared=True):
        assert seen_by_another_process(tmp_path, "shared") == "free"
        assert seen_by_another_process(tmp_path, "exclusive") == "held"
    lock = Lock(tmp_path)
    assert seen_by_another_process(tmp_path, "shared") == "held"
    lock.release()
    lock.release()
    assert seen_by_another_process(tmp_path, "exclusive") == "free"


def test_a_lock_on_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "file")
    with Lock(tmp_path / "file", create=True):
        assert seen_by_another_process(tmp_path / "file", "exclusive") == "held"
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "no" / "file", create=True)


def wait_for(path: Path, *, create: bool) -> tuple[threading.Thread, list[Lock | OSError]]:
    """A thread that waits for a lock, and what came of it."""
    results: list[Lock | OSError] = []

    def run() -> None:
        try:
            results.append(Lock(path, create=create))
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    return thread, results


@pytest.mark.parametrize("create", [False, True])
def test_a_name_that_stands_for_another_file_after_waiting(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "file"
    path.touch()
    first = Lock(path)
    waiting, results = wait_for(path, create=create)
    path.unlink()
    if not create:
        path.touch()
    first.release()
    waiting.join(10)
    (second,) = results
    assert isinstance(second, Lock)
    with pytest.raises(BlockingIOError):
        Lock(path, wait=False)
    second.release()


def test_a_file_that_is_removed_while_somebody_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    first = Lock(path)
    waiting, results = wait_for(path, create=False)
    path.unlink()
    first.release()
    waiting.join(10)
    assert isinstance(results[0], FileNotFoundError)


def test_only_what_nobody_holds_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "file").touch()
    with Lock(directory):
        remove_unused(directory)
        assert (directory / "file").exists()
    with monkeypatch.context() as without:
        without.setattr(files, "fcntl", None)
        with Lock(directory), Lock(directory, wait=False) as lock:
            lock.touch()
        with pytest.raises(FileNotFoundError):
            Lock(tmp_path / "none")
        remove_unused(directory)
        assert (directory / "file").exists(), "nobody knows whether it is used"
    remove_unused(directory)
    remove_unused(directory)
    assert not directory.exists()


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_file(path, "first ä\n")
    assert path.read_bytes() == "first ä\n".encode()
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_bytes() == "first ä\n".encode()
    with replacing(path) as temporary:
        temporary.write_bytes(b"second")
        assert path.read_bytes() != b"second"
    assert path.read_bytes() == b"second"
    assert [*tmp_path.iterdir()] == [path]
    (tmp_path / "ordinary").touch()
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "stored").write_text("old")
    (tmp_path / "link").symlink_to("stored")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "stored").read_text() == "old"
    assert not (tmp_path / "link").is_symlink()
