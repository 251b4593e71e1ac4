"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

from gptbigcode_cpu.common.messages import shown


def human_bytes(count: float) -> str:
    """A byte count for people, in powers of 1000: ``1.23 GB``."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.5 or unit == "TB":
            break
    return f"{count:.3g} {unit}"


def parse_bytes(text: str) -> int:
    """``620MB``, ``1.2GB``, ``600MiB`` or a number of bytes.

    Raises:
        ValueError: It is none of these; the message says so.
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?)b?\s*", text, re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{shown(text)} is no size; write 620MB, 1.2GB, 600MiB or a number of bytes")
    unit = 1024 if match[3] else 1000
    return int(float(match[1]) * unit ** " kmgt".index(match[2].lower() or " "))
