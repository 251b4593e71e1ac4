"""Checks that the files of csrc include only what lies in their own folder or on a floor below it.

Usage: python csrc/check_includes.py [DIRECTORY]

Prints one line per wrong include; the exit status is 1 if there are any. `make lint` runs it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

# From the bottom up. Folders on one floor are independent of each other.
FLOORS = (
    ("base",),
    ("cpu",),
    ("kernels",),
    ("kernels/generic",),
    ("kernels/scalar", "kernels/x86", "kernels/arm"),
    ("model", "sampling"),
    ("bindings",),
)
_FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def errors(csrc: Path) -> Iterator[str]:
    for path in sorted(path for path in csrc.rglob("*") if path.suffix in {".h", ".cpp", ".inc"}):
        folder = path.parent.relative_to(csrc).as_posix()
        if folder not in _FLOOR_OF:
            yield f"{path}: the folder {folder} has no floor; add it to FLOORS in csrc/check_includes.py"
            continue
        for included in _INCLUDE.findall(path.read_text(encoding="utf-8")):
            other = Path(included).parent.as_posix()
            if not (csrc / included).is_file():
                yield f'{path}: "{included}" is not a path from csrc on'
            elif other != folder and _FLOOR_OF.get(other, len(FLOORS)) >= _FLOOR_OF[folder]:
                yield f'{path}: includes "{included}", and {other} is not below {folder}'


def main() -> None:
    csrc = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    found = list(errors(csrc))
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
