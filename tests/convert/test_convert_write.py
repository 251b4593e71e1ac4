"""The output directory of a conversion: complete or not there at all, whatever goes wrong."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle.random_models import full_config

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.output.write import header_bytes, output_directory
from gptbigcode_cpu.errors import DiskSpaceError, InputError, KernelError
from gptbigcode_cpu.store.tensor_file import parse_header
from gptbigcode_cpu.store.tensors import decoder_tensors
from gptbigcode_cpu.store.weights import open_packed

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def source(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(tmp_path / "source")


@pytest.fixture
def existing(tmp_path: Path, source: Path) -> Path:
    """An earlier conversion, to int4."""
    out = tmp_path / "out"
    convert(source, out, dtype="int4")
    return out


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(["U8", "F16", "BF16", "F32"]), SHAPES), min_size=1, max_size=12))
def test_headers_align_every_tensor_and_fill_the_file(tensors: list[tuple[str, tuple[int, ...]]]) -> None:
    header, size = header_bytes((f"t{index}", dtype, shape) for index, (dtype, shape) in enumerate(tensors))
    assert len(header) % 64 == 0
    entries = parse_header(header[8:], len(header), size)
    for index, (dtype, shape) in enumerate(tensors):
        entry = entries.pop(f"t{index}")
        assert (entry.dtype, entry.shape, entry.begin % 64) == (dtype, shape, 0)
    assert all(name.startswith("__pad__.") and entry.end - entry.begin < 64 for name, entry in entries.items())


def test_an_empty_directory_is_filled(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out")
    assert open_packed(tmp_path / "out").dtype == "int8"
    assert names(tmp_path) == {"source", "out"}


def test_the_result_has_ordinary_permissions(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "out")
    (tmp_path / "ordinary").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_an_existing_model_is_not_replaced_unasked(source: Path, existing: Path) -> None:
    with pytest.raises(InputError, match="not empty"):
        convert(source, existing)
    assert open_packed(existing).dtype == "int4"


def test_an_existing_model_is_replaced_on_request(tmp_path: Path, source: Path, existing: Path) -> None:
    before = open_packed(existing)
    convert(source, existing, dtype="int8", overwrite=True)
    assert open_packed(existing).dtype == "int8"
    assert names(tmp_path) == {"source", "out"}
    # Whoever has the old model open keeps it.
    assert before.tensors["transformer.ln_f.bias"].shape == (64,)


def test_a_file_system_that_cannot_exchange_directories(
    tmp_path: Path, source: Path, existing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldKernel:
        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: OldKernel())
    convert(source, existing, dtype="int8", overwrite=True)
    assert open_packed(existing).dtype == "int8"
    assert names(tmp_path) == {"source", "out"}


def test_other_directories_are_never_replaced(tmp_path: Path, source: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    with pytest.raises(InputError, match="holds no converted model"):
        convert(source, precious, overwrite=True)
    assert (precious / "thesis.tex").read_text() == "years"


def test_files_are_never_replaced(tmp_path: Path, source: Path) -> None:
    (tmp_path / "out").write_text("data")
    with pytest.raises(InputError, match="is a file"):
        convert(source, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out").read_text() == "data"


def test_the_checkpoint_is_never_replaced(source: Path) -> None:
    before = names(source)
    for out in (source, source.parent):
        with pytest.raises(InputError, match="contains the checkpoint"):
            convert(source, out, overwrite=True)
    assert names(source) == before


def test_something_that_appears_during_the_conversion_is_left_alone(tmp_path: Path, source: Path) -> None:
    def intrude(*_: object) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "mine").touch()

    with pytest.raises(InputError, match="was created while"):
        convert(source, tmp_path / "out", progress=intrude)
    assert names(tmp_path) == {"source", "out"}
    assert names(tmp_path / "out") == {"mine"}


def test_bad_numbers_of_threads(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source")
    for num_threads in (-1, 5000):
        with pytest.raises(InputError, match="num_threads must be an integer"):
            convert(source, tmp_path / "out", num_threads=num_threads)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("dtype", ["int3", "", "INT8"])
def test_unknown_dtypes(tmp_path: Path, source: Path, dtype: str) -> None:
    with pytest.raises(InputError, match="choose one of int8, int6, int4, bfloat16, float32"):
        convert(source, tmp_path / "out", dtype=dtype)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, source: Path, existing: Path, failure: type[BaseException]
) -> None:
    def fail(name: str, *_: int) -> None:
        if name == "writing ln_f":
            raise failure

    with pytest.raises(failure):
        convert(source, existing, dtype="int8", overwrite=True, progress=fail)
    assert names(tmp_path) == {"source", "out"}
    assert open_packed(existing).dtype == "int4"


def test_a_disk_that_is_too_small_is_noticed_first(
    tmp_path: Path, source: Path, existing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = convert(source, tmp_path / "other", dry_run=True).output_bytes
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr("gptbigcode_cpu.convert.output.write.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskSpaceError, match=f"needs {needed:,} bytes.*has {needed - 1:,} left"):
        convert(source, existing, overwrite=True)
    assert names(tmp_path) == {"source", "out"}
    assert open_packed(existing).dtype == "int4"


def in_child(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_disk_that_fills_up(tmp_path: Path, source: Path, existing: Path) -> None:
    script = """
        import sys
        from gptbigcode_cpu.convert import convert
        from gptbigcode_cpu.errors import DiskSpaceError
        try:
            convert(sys.argv[1], sys.argv[2], overwrite=True)
        except DiskSpaceError as error:
            print(error)
    """
    # A limit on the size of a file fails the write in the middle, as a full disk does.
    child = in_child(script, source, existing, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)))
    output, errors = child.communicate(timeout=60)
    assert "filled up" in output, errors
    assert names(tmp_path) == {"source", "out"}
    assert open_packed(existing).dtype == "int4"


STALLING = """
    import sys, time
    from gptbigcode_cpu.convert import convert
    def progress(name, done, total):
        if name == "writing ln_f":
            print("stalled", flush=True)
            time.sleep(60)
    convert(sys.argv[1], sys.argv[2], overwrite=True, progress=progress)
"""


@pytest.fixture
def stalled(source: Path, existing: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that hangs at the end of a conversion over `existing`."""
    child = in_child(STALLING, source, existing)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "stalled\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_killed_conversion_harms_nothing_and_is_cleaned_up(
    tmp_path: Path, source: Path, existing: Path, stalled: subprocess.Popen[str]
) -> None:
    stalled.send_signal(signal.SIGKILL)
    stalled.wait()
    (left,) = names(tmp_path) - {"source", "out"}
    assert left.startswith(".out.convert-")
    assert not (tmp_path / left / "config.json").exists()
    assert open_packed(existing).dtype == "int4"

    convert(source, existing, dtype="int8", overwrite=True)
    assert names(tmp_path) == {"source", "out"}
    assert open_packed(existing).dtype == "int8"


def test_a_conversion_at_work_is_not_cleaned_up(
    tmp_path: Path, source: Path, existing: Path, stalled: subprocess.Popen[str]
) -> None:
    convert(source, existing, dtype="int8", overwrite=True)
    assert stalled.poll() is None
    (temporary,) = names(tmp_path) - {"source", "out"}
    assert (tmp_path / temporary / "model.safetensors").exists()


def test_the_target_is_at_no_time_incomplete(tmp_path: Path, source: Path, existing: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from gptbigcode_cpu.store.weights import open_packed
        print("watching", flush=True)
        while not Path(sys.argv[2]).exists():
            open_packed(Path(sys.argv[1]))
        print("fine")
    """
    child = in_child(script, existing, tmp_path / "stop")
    assert child.stdout is not None
    assert child.stdout.readline() == "watching\n"
    for dtype in ("int8", "int4") * 5:
        convert(source, existing, dtype=dtype, overwrite=True)
    (tmp_path / "stop").touch()
    output, errors = child.communicate(timeout=60)
    # Between reading config.json and the weights a reader may see both models; it then says so, and never crashes.
    assert output == "fine\n" or "does not fit its config.json" in errors


def test_a_parent_that_cannot_be_written_to(tmp_path: Path, source: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OSError, match="file"):
        convert(source, blocked / "out")


def test_errors_of_the_file_system_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), output_directory(tmp_path / "out", overwrite=False):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(DiskSpaceError), output_directory(tmp_path / "out", overwrite=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == set()


def test_names_that_are_patterns(tmp_path: Path, source: Path) -> None:
    (tmp_path / ".x.convert-1").mkdir()
    convert(source, tmp_path / "[x]*")
    assert names(tmp_path) == {"source", "[x]*", ".x.convert-1"}


def test_an_unusable_kernel_set(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_ISA", "z80")
    with pytest.raises(KernelError, match="z80"):
        convert(source, tmp_path / "out")
    assert names(tmp_path) == {"source"}


def test_the_configuration_records_the_format(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "out", dtype="int4")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    recorded = config["quantization_config"]
    assert (recorded["quant_method"], recorded["format_version"], recorded["dtype"]) == ("gptbigcode-cpu", 4, "int4")
    assert recorded["overrides"]["transformer.wte.weight"] == "int6"


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    fields = {"n_embd": 1024, "n_head": 8, "n_inner": 4096, "n_layer": 12, "n_positions": 8, "vocab_size": 64}
    config = GPTBigCodeConfig.from_dict(full_config(**fields))
    # Half a gigabyte of zeros that take no room on disk; the largest tensor has 16 MiB.
    specs = list(decoder_tensors(config))
    header, size = header_bytes((spec.name, "F32", spec.shape) for spec in specs)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config.to_dict()))
    with (source / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(size)
    script = """
        import sys
        from gptbigcode_cpu.convert import convert
        convert(sys.argv[1], sys.argv[2])
        # Not getrusage's ru_maxrss: a child inherits that from the process that started it, here the whole test run.
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
    """
    output, errors = in_child(script, source, tmp_path / "out").communicate(timeout=120)
    assert size > 500e6, errors
    assert int(output) * 1024 < 4 * (16 << 20) + 300e6
