"""What the build makes, and what `make` says."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ROOT / ".venv" / "build" / "compile_commands.json"
KERNELS = ROOT / "csrc" / "kernels"
X86 = sorted((KERNELS / "x86").glob("*.cpp"))


def test_the_kernel_files_are_found() -> None:
    """Without them, the next test would check nothing."""
    assert KERNELS / "x86" / "avx2.cpp" in X86


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these files are compiled on x86 only")
@pytest.mark.skipif(not COMMANDS.exists() or shutil.which("nm") is None, reason="reads the object files of make with nm")
@pytest.mark.parametrize("source", X86, ids=lambda path: path.name)
def test_a_kernel_file_defines_only_its_record(source: Path) -> None:
    """A weak symbol compiled for a newer CPU might be kept by the linker for everybody."""
    (command,) = (each for each in json.loads(COMMANDS.read_text(encoding="utf-8")) if Path(each["file"]).resolve() == source)
    path = Path(command["directory"]) / command["output"]
    nm = subprocess.run(["nm", "--defined-only", "-C", path], capture_output=True, text=True, check=True)
    kinds = [line.split(maxsplit=2)[1:] for line in nm.stdout.splitlines()]
    visible = [name for kind, name in kinds if kind.isupper() or kind in "uvw"]
    assert len(visible) == 1 and visible[0].startswith("gptbigcode::k"), visible


def check_includes(csrc: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "csrc" / "check_includes.py", csrc]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("place", "includes", "says"),
    [
        ("base/error.h", "cpu/features.h", "cpu is not below base"),
        ("kernels/pack.cpp", "kernels/generic/record.h", "kernels/generic is not below kernels"),
        ("kernels/x86/avx2.cpp", "kernels/scalar/scalar.cpp", "kernels/scalar is not below kernels/x86"),
        ("sampling/sampler.cpp", "model/model.h", "model is not below sampling"),
        ("model/forward.cpp", "bindings/bindings.h", "bindings is not below model"),
        ("model/forward.cpp", "linear.h", "not a path from csrc on"),
        ("server/http.h", "base/error.h", "the folder server has no floor"),
    ],
)
def test_an_include_of_a_floor_above_is_found(tmp_path: Path, place: str, includes: str, says: str) -> None:
    csrc = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", csrc)
    assert check_includes(csrc).returncode == 0
    file = csrc / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'#include "{includes}"\n' + (file.read_text(encoding="utf-8") if file.exists() else ""), encoding="utf-8")
    found = check_includes(csrc)
    assert found.returncode == 1
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"{file}: ") and says in line


@pytest.mark.skipif(shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ and its flags for x86")
def test_every_header_can_be_read_alone() -> None:
    """As clangd does. A header that needs its includer to define something first is one that nobody can read."""
    headers = sorted(path for path in (ROOT / "csrc").rglob("*.h") if path.parent.name != "bindings")
    features = [
        "avx2",
        "fma",
        "f16c",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
        "amx-tile",
        "amx-int8",
    ]
    flags = ["-std=c++20", "-fsyntax-only", "-w", f"-I{ROOT / 'csrc'}", *(f"-m{feature}" for feature in features)]
    read = subprocess.run(["g++", *flags, "-x", "c++", *headers], capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="runs make, which is not installed here")
def test_make_alone_lists_every_target() -> None:
    shown = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True).stdout
    (targets,) = re.findall(r"^\.PHONY: help (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"^make (\w+)", shown, re.MULTILINE)) == sorted(targets.split())
