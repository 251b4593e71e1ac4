"""The cache of conversions: what it holds, what it says, and what is removed when its room is used up."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import AutoModelForCausalLM
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.models import conversions
from gptbigcode_cpu.models.converted import packed_dir
from gptbigcode_cpu.store.weights import FORMAT_VERSION

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 1}
PROGRAM = [sys.executable, "-m", "gptbigcode_cpu"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversions, "_in_use", {})
    return tmp_path / "cache"


@pytest.fixture
def make(cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Callable[..., Path]:
    """``make(seed, last_used, dtype="int8")``: a conversion, made by another process."""

    def convert(seed: int, last_used: int, dtype: str = "int8") -> Path:
        source = make_checkpoint(tmp_path / f"model-{seed}", seed=seed, **SMALL)
        code = "import sys; from gptbigcode_cpu.models.converted import packed_dir; print(packed_dir(sys.argv[1], sys.argv[2]))"
        done = subprocess.run([sys.executable, "-c", code, str(source), dtype], capture_output=True, text=True, check=True)
        path = Path(done.stdout.strip())
        os.utime(path, (last_used, last_used))
        return path

    return convert


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_a_first_use_says_what_it_did(
    cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    with caplog.at_level(logging.WARNING, "gptbigcode_cpu"):
        AutoModelForCausalLM.from_pretrained(source)
        (said,) = caplog.messages
        assert said.startswith(f"{source} was quantised to int8 and is kept in {cache}/int8-")
        assert said.endswith(" kB)")
        AutoModelForCausalLM.from_pretrained(source)
        assert len(caplog.messages) == 1
    shown = run("generate", "-m", str(source), "ab", "-n", "1", "--dtype", "int4")
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr.startswith(f"note: {source} was quantised to int4 and is kept in {cache}/int4-")
    assert shown.stderr.count("\n") == 1
    assert run("generate", "-m", str(source), "ab", "-n", "1", "--dtype", "int4").stderr == ""


def test_the_name_of_a_download_is_its_id(tmp_path: Path) -> None:
    assert conversions.name_of(Path("/x/models--owner--my-model/snapshots/abc")) == "owner/my-model"
    assert conversions.name_of(Path("/x/models--owner--a--b/snapshots/abc")) == "owner/a--b"
    assert conversions.name_of(tmp_path / "model.gguf") == str(tmp_path / "model.gguf")


def test_the_list(make: Callable[..., Path], tmp_path: Path, cache: Path) -> None:
    assert run("cache").stdout == f"no conversions in {cache}\n"
    first, second = make(1, 1_000_000), make(2, 2_000_000, "int4")
    assert [(each.path, each.dtype, each.last_used) for each in conversions.conversions()] == [
        (second, "int4", 2_000_000),
        (first, "int8", 1_000_000),
    ]
    assert conversions.names() == [str(tmp_path / "model-2"), str(tmp_path / "model-1")]
    shown = run("cache").stdout.splitlines()
    assert shown[0].split() == ["name", "dtype", "size", "last", "used"]
    assert shown[1].split()[:2] == [str(tmp_path / "model-2"), "int4"]
    assert shown[-1].startswith("2 conversions, ") and shown[-1].endswith(f" of at most 50 GB in {cache}")
    listed = json.loads(run("cache", "--json").stdout)
    assert [each["format_version"] for each in listed] == [FORMAT_VERSION] * 2
    assert run("cache", "list", "--json").stdout == json.dumps(listed) + "\n"
    assert listed[0]["nbytes"] == sum(file.stat().st_size for file in second.iterdir())
    packed_dir(tmp_path / "model-1")
    assert conversions.conversions()[0].path == first, "it was used last"


def test_deleting(make: Callable[..., Path], cache: Path, tmp_path: Path) -> None:
    first, second, third = make(1, 1), make(2, 2), make(2, 3, "int4")
    refused = run("cache", "delete", "--all")
    assert (refused.returncode, "--yes" in refused.stderr, first.exists()) == (2, True, True)
    assert run("cache", "delete").returncode == 2
    assert run("cache", "delete", "nothing", "--yes").returncode == 3
    shown = run("cache", "delete", str(tmp_path / "model-2"), "--dtype", "int4", "-y")
    assert shown.stdout.startswith("deleted 1 conversion, ")
    assert (first.exists(), second.exists(), third.exists()) == (True, True, False)
    assert run("cache", "delete", "--all", "--yes").returncode == 0
    assert [path.name for path in cache.iterdir()] == ["digests"]


@pytest.mark.parametrize(("answer", "remains"), [("n", True), ("y", False)])
def test_deleting_asks_on_a_terminal(make: Callable[..., Path], answer: str, remains: bool) -> None:
    path = make(1, 1)
    parent, child = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "cache", "delete", "--all"], stdin=child, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as asking:
        os.close(child)
        os.write(parent, f"{answer}\n".encode())
        stdout, stderr = asking.communicate(timeout=60)
    os.close(parent)
    assert b"delete this (" in stderr
    assert (path.exists(), b"nothing was deleted" in stdout) == (remains, remains)
    assert asking.returncode == 0, "a no is an answer"


def test_those_used_longest_ago_make_room(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old, older, older_format = make(1, 200), make(2, 100), make(3, 300)
    config = json.loads((older_format / "config.json").read_text())
    config["quantization_config"]["format_version"] = FORMAT_VERSION - 1
    (older_format / "config.json").write_text(json.dumps(config))
    sizes = {each.path: each.nbytes for each in conversions.conversions()}
    assert [each.path for each in conversions.make_room(sum(sizes.values()))] == []
    assert [each.path for each in conversions.make_room(sizes[old] + sizes[older])] == [older_format]
    assert [each.path for each in conversions.make_room(sizes[old])] == [older]
    assert old.exists()

    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE_SIZE", "1kB")
    new = make(4, 400)
    assert [each.path for each in conversions.conversions()] == [new], "what was just made is used"
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE_SIZE", "unlimited")
    make(5, 500)
    assert len(conversions.conversions()) == 2


def test_what_a_process_uses_stays(make: Callable[..., Path], tmp_path: Path) -> None:
    used, other = make(1, 1), make(2, 2)
    script = """
        import sys
        from gptbigcode_cpu import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
        print("open", flush=True)
        sys.stdin.read()
        print(model([[1, 2]]).logits.shape)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "model-1")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout
        assert user.stdout.readline() == "open\n"
        os.utime(used, (1, 1))
        assert [each.path for each in conversions.make_room(0)] == [other]
        (conversion,) = conversions.conversions()
        assert conversions.in_use(conversion)
        deleted = run("cache", "delete", "--all", "--yes")
        assert "a process is using" in deleted.stderr
        assert not used.exists()
        assert user.communicate(timeout=60)[0] == "(1, 2, 270)\n", "mapped files outlive their names"


def test_processes_that_make_room_for_each_other(cache: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    script = """
        import sys
        from gptbigcode_cpu import AutoModelForCausalLM
        for _ in range(3):
            for source in sys.argv[1:]:
                print(AutoModelForCausalLM.from_pretrained(source)([[1, 2]]).logits.argmax())
    """
    sources = [str(make_checkpoint(tmp_path / f"model-{seed}", seed=seed, **SMALL)) for seed in range(3)]
    environment = {**os.environ, "GPTBIGCODE_CPU_CACHE_SIZE": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), *order], stdout=subprocess.PIPE, text=True, env=environment
        )
        for order in (sources, sources)
    ]
    answers = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert answers[0] == answers[1]
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("text", "limit"), [("", 50_000_000_000), ("20GB", 20_000_000_000), ("1GiB", 1 << 30), ("unlimited", None)]
)
def test_the_limit(text: str, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE_SIZE", text)
    assert conversions.size_limit() == limit


def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE_SIZE", "much")
    with pytest.raises(InputError, match="GPTBIGCODE_CPU_CACHE_SIZE: 'much' is no size"):
        conversions.size_limit()
