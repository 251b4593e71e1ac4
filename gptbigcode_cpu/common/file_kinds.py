"""Recognises by its first bytes a file that has the wrong name."""

from __future__ import annotations

from collections.abc import Mapping

N_BYTES = 64
"""How many bytes of a file `described` looks at."""

_BEGINNINGS: Mapping[bytes, str] = {
    b"PK\x03\x04": "a file of torch.save, whose name ends in .bin",
    b"\x80\x02": "a file of torch.save, whose name ends in .bin",
    b"GGUF": "a GGUF file, whose name ends in .gguf",
    b"\x89HDF": "weights of TensorFlow; save the model with PyTorch",
    b"\x1f\x8b": "compressed with gzip; unpack it",
    b"<!doctype": "a web page, so it was not downloaded",
    b"<html": "a web page, so it was not downloaded",
    b"<?xml": "an answer of a server, so it was not downloaded",
}


def described(start: bytes) -> str:
    """A half-sentence that says what a file is, or nothing.

    Args:
        start: Its first bytes, `N_BYTES` of them.
    """
    if not start:
        return "; it is empty"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "; it looks like a safetensors file, whose name ends in .safetensors"
    if not start.strip(b"\0"):
        return "; it begins with zeros, as a download that was interrupted"
    text = start.lstrip()
    for beginning, kind in _BEGINNINGS.items():
        if text.startswith(beginning) or text.lower().startswith(beginning):
            return f"; it looks like {kind}"
    return ""
