"""Mutated model files: whatever the bytes, a file is refused with an error of this package or it is safe to compute on."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gptbigcode_cpu import GPTBigCodeError, _core
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.store.weights import load_core, open_packed

SECONDS = float(os.environ.get("GPTBIGCODE_CPU_FUZZ_SECONDS", "3"))
DIGITS = b"0123456789"


def mutate(data: bytearray, header: int, choose: random.Random) -> bytearray:
    """One damaged copy: bytes, digits or length of the header, the end of the file, or the tensor data."""
    data = bytearray(data)
    kind = choose.randrange(6)
    if kind == 0:  # a size, an offset or a shape
        places = [i for i in range(8, header) if data[i] in DIGITS]
        data[choose.choice(places)] = choose.choice(DIGITS)
    elif kind == 1:
        for _ in range(choose.randrange(1, 8)):
            data[choose.randrange(8, header)] = choose.randrange(256)
    elif kind == 2:
        data[:8] = choose.choice([choose.randrange(2 * header), choose.randrange(2**64)]).to_bytes(8, "little")
    elif kind == 3:
        del data[choose.randrange(len(data)) :]
    elif kind == 4:
        data += bytes(choose.randrange(1, 4096))
    else:
        for _ in range(choose.randrange(1, 64)):
            data[choose.randrange(header, len(data))] = choose.randrange(256)
    return data


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_mutated_file_is_refused_or_safe(dtype: str, tmp_path: Path, make_checkpoint: Callable[..., Path]) -> None:
    original = tmp_path / "original"
    convert(make_checkpoint(tmp_path / "checkpoint"), original, dtype=dtype)
    damaged = tmp_path / "damaged"
    shutil.copytree(original, damaged)
    data = bytearray((original / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    choose = random.Random(0)
    opened = refused = 0
    end = time.monotonic() + SECONDS / 2
    while time.monotonic() < end:
        target = damaged / "model.safetensors"
        target.unlink()  # a new file: the one before it may still be mapped
        target.write_bytes(mutate(data, header, choose))
        try:
            model = load_core(open_packed(damaged), num_threads=1)
            model.forward([_core.KVCache(model)], [np.arange(3, dtype=np.int32)], [3])
            opened += 1
        except GPTBigCodeError:
            refused += 1
    assert opened, "damaged weights are still weights"
    assert refused > opened / 2, "most of the mutations must be noticed"
