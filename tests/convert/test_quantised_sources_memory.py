"""Reading checkpoints that are quantised already keeps the converter's promise: four times the largest tensor, and 300 MB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from oracle.gguf_models import gguf_bytes, gguf_name, model_pairs
from oracle.random_models import full_config

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.output.write import header_bytes
from gptbigcode_cpu.store.tensors import decoder_tensors

# Two matrices of 64 million values each, 256 MB as float32 and 36 MB as they are stored.
FIELDS = full_config(n_embd=1024, n_head=8, n_inner=65536, n_layer=1, n_positions=8, vocab_size=262)
LARGEST = 37 << 20

SCRIPT = """
    import sys
    from gptbigcode_cpu.convert import convert
    convert(sys.argv[1], sys.argv[2], num_threads=1)
    # Not getrusage's ru_maxrss: a child inherits that from the process that started it, here the whole test run.
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def sparse_gguf(path: Path) -> Path:
    """Q4_0 blocks of zeros that take no room on disk."""
    tensors = {}
    for spec in decoder_tensors(GPTBigCodeConfig.from_dict(FIELDS)):
        tensors[gguf_name(spec.name)] = 2 if len(spec.shape) == 2 else 0, spec.shape, b""
    sizes = {
        name: shape[0] * shape[1] // 32 * 18 if len(shape) == 2 else 4 * shape[0] for name, (_, shape, _) in tensors.items()
    }
    header = bytearray(gguf_bytes(model_pairs(FIELDS), tensors))
    position = 0
    for name, (kind, shape, _) in tensors.items():  # the offsets, which follow the types
        text = name.encode()
        place = header.index(len(text).to_bytes(8, "little") + text) + 8 + len(text) + 4 + 8 * len(shape)
        assert header[place] == kind
        header[place + 4 : place + 12] = position.to_bytes(8, "little")
        position += -(-sizes[name] // 32) * 32
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + position)
    return path


def sparse_gptq(directory: Path) -> Path:
    """4-bit codes, likewise."""
    tensors: list[tuple[str, str, tuple[int, ...]]] = []
    for spec in decoder_tensors(GPTBigCodeConfig.from_dict(FIELDS)):
        if len(spec.shape) != 2 or ".h." not in spec.name:
            tensors.append((spec.name, "F32", spec.shape))
            continue
        (n, k), prefix = spec.shape, spec.name.removesuffix("weight")
        tensors += [(f"{prefix}qweight", "I32", (k // 8, n)), (f"{prefix}qzeros", "I32", (k // 128, n // 8))]
        tensors.append((f"{prefix}scales", "F16", (k // 128, n)))
    directory.mkdir()
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (directory / "config.json").write_text(json.dumps(FIELDS | {"quantization_config": quantization}))
    header, size = header_bytes(tensors)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(size)
    return directory


@pytest.mark.parametrize("kind", ["gguf", "gptq"])
def test_memory_is_bounded(tmp_path: Path, kind: str) -> None:
    source = sparse_gguf(tmp_path / "model.gguf") if kind == "gguf" else sparse_gptq(tmp_path / "source")
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 4 * LARGEST + 300e6
