"""The tensors of GPTBigCode and GPT-2 models in GGUF files. `gptbigcode_cpu.config.gguf` reads the headers.

A file has llama.cpp's names and, without multi-query attention, llama.cpp's order of the rows of ``c_attn``. Here the tensors
get transformers' names and order. The `gguf` package dequantises block-quantised tensors, some rows at a time, and says which
types there are.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.gguf_header import GGUFFile
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.config.gguf import GGUFModel
from gptbigcode_cpu.convert.sources.attention_rows import by_head
from gptbigcode_cpu.convert.sources.tensors import Rows, Shard, SourceTensor
from gptbigcode_cpu.errors import CheckpointError, MissingDependencyError
from gptbigcode_cpu.store.tensor_file import NUMPY_TYPES

# Types whose values are handed out as they are stored; the `gguf` package is needed for the others only.
_PLAIN = {0: "F32", 1: "F16", 30: "BF16"}

_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_BLOCK_NAMES = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_NAME = re.compile(r"(?:blk\.(?P<layer>0|[1-9]\d{0,5})\.)?(?P<stem>[a-z_]+)\.(?P<kind>weight|bias)")


def read_tensors(model: GGUFModel, config: GPTBigCodeConfig) -> dict[str, SourceTensor]:
    """The tensors of a model by transformers' names; unknown ones keep the name they have.

    Raises:
        CheckpointError: A tensor has an unsupported type, or its data does not lie within the file.
        MissingDependencyError: A tensor is block-quantised and the `gguf` package is not installed.
    """
    kinds = {(tensor.type_number, tensor.shape[-1]) for tensor in model.tensors.values()}
    blocks = {number: _block_type(number, model.path) for number, _ in kinds}
    problems = [
        f"{name} is {kind.name}" for name, tensor in model.tensors.items() if not (kind := blocks[tensor.type_number]).supported
    ]
    version = model.get("general.quantization_version")
    if any(number not in _PLAIN for number in blocks) and version is not None and not problems:
        from gguf import GGML_QUANT_VERSION

        if version != GGML_QUANT_VERSION:
            raise CheckpointError(
                f"{model.path} has quantization_version {version!r:.40}, the gguf package knows {GGML_QUANT_VERSION}; "
                "quantise the original again with a current llama.cpp"
            )
    if problems:
        raise CheckpointError(f"{model.path} has types that the gguf package does not dequantise: {'; '.join(problems[:8])}")
    sources = {}
    for file in model.files:
        _check_ranges(file, blocks)
        shard = _GGUFShard(file, blocks, config)
        for name, (dtype, shape) in shard.signatures().items():
            sources[name] = SourceTensor(name, dtype, shape, shard)
    return sources


@dataclass(frozen=True)
class _BlockType:
    """A type of GGML: so many values make a block of so many bytes."""

    name: str
    values: int = 1
    nbytes: int = 1
    supported: bool = True

    def size(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) // self.values * self.nbytes


def _block_type(number: int, path: Path) -> _BlockType:
    if number in _PLAIN:
        return _BlockType(_PLAIN[number], 1, NUMPY_TYPES[_PLAIN[number]].itemsize)
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"{path.name} is quantised; reading it needs the gguf package: pip install 'gptbigcode-cpu[gguf]'"
        ) from error
    return _package_type(number)


@lru_cache
def _package_type(number: int) -> _BlockType:
    """The properties of a type in the `gguf` package. A trial shows whether the package can dequantise it."""
    import gguf

    try:
        kind = gguf.GGMLQuantizationType(number)
        values, nbytes = gguf.GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        return _BlockType(f"type {number}", supported=False)
    try:
        _dequantise(np.zeros((1, nbytes), np.uint8), number)
    except NotImplementedError:
        return _BlockType(kind.name, supported=False)
    return _BlockType(kind.name, values, nbytes)


def _dequantise(blocks: NDArray[np.uint8], number: int) -> NDArray[np.float32]:
    import gguf

    with np.errstate(all="ignore"):  # scales that are NaN or infinite show as such values, which the converter refuses
        return np.asarray(gguf.dequantize(blocks, gguf.GGMLQuantizationType(number)), np.float32)


def _check_ranges(file: GGUFFile, blocks: Mapping[int, _BlockType]) -> None:
    end, before = 0, ""
    for name, tensor in sorted(file.tensors.items(), key=lambda item: item[1].begin):
        kind = blocks[tensor.type_number]
        if tensor.shape[-1] % kind.values:
            raise CheckpointError(
                f"{file.path} is damaged: {name} has rows of {tensor.shape[-1]} values in blocks of {kind.values} ({kind.name})"
            )
        if tensor.begin < end:
            raise CheckpointError(f"{file.path} is damaged: tensors {before} and {name} overlap")
        end, before = tensor.begin + kind.size(tensor.shape), name
        if end > len(file.mapping):
            raise CheckpointError(f"{file.path} is truncated: {name} ends at byte {end}, the file at {len(file.mapping)}")


class _GGUFShard(Shard):
    def __init__(self, file: GGUFFile, blocks: Mapping[int, _BlockType], config: GPTBigCodeConfig) -> None:
        self._file = file
        self._blocks = blocks
        self._config = config
        self._tensors = {_transformers_name(name): tensor for name, tensor in file.tensors.items()}

    def signatures(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        return {name: (_PLAIN.get(tensor.type_number, "F32"), tensor.shape) for name, tensor in self._tensors.items()}

    def array(self, name: str) -> NDArray[Any] | Rows:
        tensor = self._tensors[name]
        kind = self._blocks[tensor.type_number]
        stored: NDArray[Any]
        if tensor.type_number in _PLAIN:
            stored = np.ndarray(tensor.shape, NUMPY_TYPES[kind.name], buffer=self._file.mapping, offset=tensor.begin)
        else:
            shape = (*tensor.shape[:-1], tensor.shape[-1] // kind.values * kind.nbytes)
            stored = np.ndarray(shape, np.uint8, buffer=self._file.mapping, offset=tensor.begin)
            if len(shape) == 1:
                return _dequantise(stored[None], tensor.type_number).reshape(-1)
        order = self._row_order(name, tensor.shape[0])
        if tensor.type_number in _PLAIN and order is None:
            return stored

        def read(rows: NDArray[np.intp]) -> NDArray[Any]:
            values = stored[rows if order is None else order[rows]]
            return values if tensor.type_number in _PLAIN else _dequantise(values, tensor.type_number)

        return Rows(tensor.shape, read)

    def _row_order(self, name: str, count: int) -> NDArray[np.intp] | None:
        """Which row of the file each row is; None where they have the same order."""
        config = self._config
        if config.multi_query or ".attn.c_attn." not in name or count != 3 * config.n_embd:
            return None
        return by_head(config)

    def release(self, name: str) -> None:
        tensor = self._tensors[name]
        begin = tensor.begin - tensor.begin % mmap.PAGESIZE
        end = tensor.begin + self._blocks[tensor.type_number].size(tensor.shape)
        self._file.mapping.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def _transformers_name(name: str) -> str:
    found = _NAME.fullmatch(name)
    if found is None:
        return name
    layer, stem, kind = found["layer"], found["stem"], found["kind"]
    if layer is None:
        return f"{_NAMES[stem]}.{kind}" if stem in _NAMES else name
    return f"transformer.h.{layer}.{_BLOCK_NAMES[stem]}.{kind}" if stem in _BLOCK_NAMES else name
