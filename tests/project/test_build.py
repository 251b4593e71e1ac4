"""What the build makes, and what `make` says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = sorted((ROOT / ".venv" / "build").glob("**/kernels/x86/*.o"))


@pytest.mark.skipif(not OBJECTS or shutil.which("nm") is None, reason="reads the object files of a build by make, with nm")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_a_kernel_file_defines_only_its_record(path: Path) -> None:
    """A weak symbol compiled for a newer CPU might be kept by the linker for everybody."""
    nm = subprocess.run(["nm", "--defined-only", "-C", path], capture_output=True, text=True, check=True)
    kinds = [line.split(maxsplit=2)[1:] for line in nm.stdout.splitlines()]
    visible = [name for kind, name in kinds if kind.isupper() or kind in "uvw"]
    assert len(visible) == 1 and visible[0].startswith("gptbigcode::k"), visible


@pytest.mark.skipif(shutil.which("make") is None, reason="runs make, which is not installed here")
def test_make_alone_lists_every_target() -> None:
    shown = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True).stdout
    (targets,) = re.findall(r"^\.PHONY: help (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"^make (\w+)", shown, re.MULTILINE)) == sorted(targets.split())
