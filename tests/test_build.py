"""What the compiler made of the kernels."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OBJECTS = sorted((ROOT / ".venv" / "build").glob("**/kernels/x86_*.o"))


@pytest.mark.skipif(not OBJECTS or shutil.which("nm") is None, reason="no object files of the kernels here, or no nm")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_a_kernel_file_defines_only_its_record(path: Path) -> None:
    """A weak symbol compiled for a newer CPU might be kept by the linker for everybody."""
    nm = subprocess.run(["nm", "--defined-only", "-C", path], capture_output=True, text=True, check=True)
    kinds = [line.split(maxsplit=2)[1:] for line in nm.stdout.splitlines()]
    visible = [name for kind, name in kinds if kind.isupper() or kind in "uvw"]
    assert len(visible) == 1 and visible[0].startswith("gptbigcode::k"), visible
