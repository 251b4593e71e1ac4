"""Where the test data is: a small trained checkpoint and text that it has not seen (tests/data/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"
CHECKPOINT = DATA / "python-8m"
HELD_OUT = DATA / "python_stdlib_held_out.jsonl"


def held_out_texts() -> list[str]:
    """The held-out Python files, in file order."""
    return [json.loads(line)["text"] for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
