"""How commands end when outputs are closed, signals come or disks fill up: one line on stderr, and no incomplete files."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from gptbigcode_cpu.cli import run

MakeCheckpoint = Callable[..., Path]
COMMAND = [sys.executable, "-m", "gptbigcode_cpu"]
# A conversion that has written its weights and then waits to be ended.
WAITING = """
import sys, time
from gptbigcode_cpu.cli import main
from gptbigcode_cpu.convert.output.weights_file import WeightsFile

def wait(self, file):
    print("ready", flush=True)
    time.sleep(60)

WeightsFile._finish = wait
main()
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "plain")


def shell(line: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``"$@"`` is the command and its arguments."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["info"], ["completion", "bash"], ["convert", "CHECKPOINT", "OUT"]]
)
def test_a_closed_stdout_is_refused_before_anything_is_done(tmp_path: Path, checkpoint: Path, arguments: list[str]) -> None:
    names = {"CHECKPOINT": str(checkpoint), "OUT": str(tmp_path / "out")}
    ended = shell('"$@" >&-', *(names.get(argument, argument) for argument in arguments))
    assert ended.returncode == 13
    assert ended.stderr == "error: standard output is closed; send it to a file or to /dev/null\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "2>&- <&-"])
def test_other_closed_descriptors_do_no_harm(tmp_path: Path, checkpoint: Path, closed: str) -> None:
    """No file gets the number of a closed one: what is printed would be in it."""
    assert shell(f'"$@" {closed}', "convert", checkpoint, tmp_path / "out").returncode == 0
    assert run(["convert", str(checkpoint), str(tmp_path / "right")]) == 0
    for path in (tmp_path / "right").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert shell(f'"$@" {closed}', "info", tmp_path / "nowhere").returncode == 3


def test_a_full_stdout(checkpoint: Path) -> None:
    ended = shell('"$@" > /dev/full', "info", checkpoint)
    assert (ended.returncode, ended.stderr) == (13, "error: No space left on device\n")


def test_a_reader_that_closes_the_pipe_early(checkpoint: Path) -> None:
    ended = shell('"$@" | true; exit ${PIPESTATUS[0]}', "completion", "bash")
    assert ended.returncode in (0, 141) and ended.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_an_ended_conversion_leaves_nothing(tmp_path: Path, checkpoint: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "convert", checkpoint, out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL) and None,  # nohup ignores SIGHUP, and children inherit that
    )
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None
    assert list(tmp_path.iterdir()), "the weights are being written"
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert errors == ("\n" if number == signal.SIGINT else "")  # what the shell says next stands on a line of its own
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk(tmp_path: Path, checkpoint: Path, overwrite: bool) -> None:
    out = tmp_path / "out"
    if overwrite:
        assert run(["convert", str(checkpoint), str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()} if overwrite else {}
    arguments = [*COMMAND, "convert", checkpoint, out, *(["--overwrite"] if overwrite else [])]
    for limit in (100, 50_000):  # in the first small file, and in the weights

        def limited(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        ended = subprocess.run(arguments, capture_output=True, text=True, check=False, preexec_fn=limited)
        assert ended.returncode == 11
        assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and "filled up" in ended.stderr
        assert [path.name for path in tmp_path.iterdir()] == (["out"] if overwrite else [])
    assert before == ({path.name: path.read_bytes() for path in out.iterdir()} if overwrite else {})


def environment(changes: Sequence[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in changes:
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ([("GPTBIGCODE_CPU_CACHE", "~nobody-of-that-name/x")], 9, "GPTBIGCODE_CPU_CACHE cannot be '~nobody-of-that-name/x'"),
        ([("GPTBIGCODE_CPU_CACHE", "/dev/null/x")], 13, "GPTBIGCODE_CPU_CACHE names another directory: /dev/null/x"),
        ([("GPTBIGCODE_CPU_CACHE", "/proc/x")], 13, "GPTBIGCODE_CPU_CACHE names another directory: /proc/x"),
        ([("GPTBIGCODE_CPU_CACHE", "x" * 300)], 13, "GPTBIGCODE_CPU_CACHE names another directory"),
        ([("GPTBIGCODE_CPU_CACHE_SIZE", "9" * 400)], 9, "GPTBIGCODE_CPU_CACHE_SIZE: '999"),
        ([("GPTBIGCODE_CPU_NUM_THREADS", "9" * 5000)], 9, "GPTBIGCODE_CPU_NUM_THREADS must be an integer from 1 to 1024, not"),
        ([("GPTBIGCODE_CPU_NUM_THREADS", "²")], 9, "GPTBIGCODE_CPU_NUM_THREADS must be an integer from 1 to 1024, not"),
        ([("GPTBIGCODE_CPU_ISA", "x")], 10, "unknown kernel set 'x'"),
    ],
)
def test_odd_environments(
    changes: list[tuple[str, str | None]],
    code: int,
    message: str,
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    environment(changes, monkeypatch)
    assert run(["generate", "-m", str(checkpoint), "--max-new-tokens", "1", "a"]) == code
    errors = capfd.readouterr().err
    assert message in errors and errors.count("\n") == 1 and len(errors) < 700


def test_a_cache_that_is_named_relative_to_the_current_directory(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptbigcode_cpu import AutoModelForCausalLM

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", "here")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model.save_pretrained("copy")
    assert AutoModelForCausalLM.from_pretrained("copy").num_parameters() == model.num_parameters()
    assert [path.name for path in tmp_path.iterdir() if path.name != "elsewhere"] == ["here"]


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptbigcode_cpu import InputError
    from gptbigcode_cpu.models import conversions

    def no_home(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("GPTBIGCODE_CPU_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(InputError, match=r"without GPTBIGCODE_CPU_CACHE, cannot be .*Could not determine home directory"):
        conversions.cache_directory()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert conversions.cache_directory() == tmp_path / "gptbigcode-cpu"


def test_a_damaged_conversion_in_the_cache_is_made_again(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptbigcode_cpu import AutoModelForCausalLM
    from gptbigcode_cpu.models import conversions

    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path))
    right = AutoModelForCausalLM.from_pretrained(checkpoint)([[1, 2]], return_dict=True).logits
    (kept,) = conversions.conversions()
    for name, content in [
        ("config.json", b"{"),
        ("config.json", b"[" * 100_000),
        ("conversion.json", b"[" * 100_000),
        ("model.safetensors", b""),
    ]:
        (kept.path / name).unlink()
        (kept.path / name).write_bytes(content)
        assert len(conversions.conversions()) == 1
        assert (AutoModelForCausalLM.from_pretrained(checkpoint)([[1, 2]], return_dict=True).logits == right).all()
