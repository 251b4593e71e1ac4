"""Source checkpoints: safetensors, files of ``torch.save`` or GGUF, in one file or several, tensor by tensor.

A tensor is handed out as a view on a mapped file, and its pages are given back after use: they would otherwise count as memory
of this process until the last tensor is done. Quantised weights are dequantised some rows at a time.
"""

from __future__ import annotations

import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.config import CONFIG_NAME, GPTBigCodeConfig
from gptbigcode_cpu.config.gpt2 import GPT2, has_layer_factor
from gptbigcode_cpu.errors import CheckpointError, ConfigError
from gptbigcode_cpu.hub.checkpoint_files import weights_files
from gptbigcode_cpu.hub.paths import is_gguf, read_config
from gptbigcode_cpu.store.tensor_file import NUMPY_TYPES, TensorFile, TensorFileError, map_tensor_file

if TYPE_CHECKING:
    from gptbigcode_cpu.convert.sources.lora import Adapter


class Rows:
    """A tensor whose rows are computed when they are asked for, so that it is never in memory as a whole.

    It is indexed along its first axis by a slice or an array of row numbers, as a numpy array is.
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[NDArray[np.intp]], NDArray[Any]]) -> None:
        """
        Args:
            shape: Of the tensor.
            read: Makes the rows of these numbers, ``[len(rows), *shape[1:]]``.
        """
        self.shape = shape
        self._read = read

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> NDArray[Any]:
        return self._read(np.arange(self.shape[0])[rows])


class Shard(ABC):
    """One file of a checkpoint, or what is made from tensors of several."""

    @abstractmethod
    def signatures(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Name -> safetensors type and shape of every tensor."""

    @abstractmethod
    def array(self, name: str) -> NDArray[Any] | Rows:
        """A view on one tensor, bfloat16 as uint16, or its dequantised rows."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Give the pages of a tensor back; views on it stay valid."""


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of a checkpoint, not read yet: safetensors type, shape, where it is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Shard

    @property
    def nbytes(self) -> int:
        """Bytes of the values that `open` gives; a quantised checkpoint stores fewer."""
        return math.prod(self.shape) * NUMPY_TYPES[self.dtype].itemsize

    @contextmanager
    def open(self) -> Iterator[NDArray[Any] | Rows]:
        """A view on the values for the length of a ``with`` block; bfloat16 as uint16."""
        try:
            yield self.shard.array(self.name)
        finally:
            self.shard.release(self.name)


def read_checkpoint(
    path: Path, config: GPTBigCodeConfig | None = None, adapters: Sequence[Adapter] = ()
) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint by transformers' names.

    Args:
        path: A directory, or a GGUF file.
        config: The configuration of the checkpoint; without one it is read.
        adapters: LoRA adapters to merge into the weights, one after the other.

    Raises:
        ModelNotFoundError: The directory holds no checkpoint.
        ConfigError: The configuration is malformed, or names a quantisation that is not supported.
        CheckpointError: A file is malformed, or the parts do not fit together.
        MissingDependencyError: The checkpoint is a ``.bin`` file and torch is not installed, or it is a quantised GGUF file and
            the gguf package is not.
    """
    config = read_config(path) if config is None else config
    if is_gguf(path):
        from gptbigcode_cpu.convert.sources.gguf import open_gguf, read_tensors

        return _adapted(read_tensors(open_gguf(path), config), config, adapters)
    tensors = _directory_tensors(path)
    content = read_object(path / CONFIG_NAME, ConfigError) or {}
    if content.get("model_type") != GPT2:
        return _adapted(_dequantised(path, tensors, config), config, adapters)
    from gptbigcode_cpu.convert.sources.gpt2 import as_gpt_bigcode, transposed

    # GPTQ stores the layers of GPT-2 as it stores those of other models.
    tensors = _dequantised(path, transposed(tensors), config)
    tensors = _adapted(tensors, config, [replace(adapter, saved=transposed(adapter.saved)) for adapter in adapters])
    return as_gpt_bigcode(tensors, config, layer_factor=has_layer_factor(content))


def read_file(path: Path) -> dict[str, SourceTensor]:
    """The tensors of one file by the names that they have there.

    Raises:
        CheckpointError: It is malformed.
        MissingDependencyError: It is no safetensors file and torch is not installed.
    """
    return _tensors({path.name: _open_shard(path)})


def _adapted(
    tensors: dict[str, SourceTensor], config: GPTBigCodeConfig, adapters: Sequence[Adapter]
) -> dict[str, SourceTensor]:
    for adapter in adapters:
        from gptbigcode_cpu.convert.sources.lora import merged

        tensors = merged(tensors, config, adapter)
    return tensors


def _dequantised(path: Path, tensors: dict[str, SourceTensor], config: GPTBigCodeConfig) -> dict[str, SourceTensor]:
    if config.quantization_config is None and not any(name.endswith(".qweight") for name in tensors):
        return tensors
    from gptbigcode_cpu.convert.sources.gptq import dequantised
    from gptbigcode_cpu.convert.sources.gptq_config import read_method

    return dequantised(tensors, read_method(path, config.quantization_config))


def _directory_tensors(directory: Path) -> dict[str, SourceTensor]:
    return _tensors({str(path.relative_to(directory)): _open_shard(path) for path in weights_files(directory)})


def _open_shard(path: Path) -> Shard:
    if path.suffix == ".safetensors":
        return _SafetensorsShard(path)
    from gptbigcode_cpu.convert.sources.pytorch_files import PytorchShard

    return PytorchShard(path)


class _SafetensorsShard(Shard):
    def __init__(self, path: Path) -> None:
        try:
            self._file: TensorFile = map_tensor_file(path)
        except TensorFileError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error

    def signatures(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        return {name: (entry.dtype, entry.shape) for name, entry in self._file.entries.items()}

    def array(self, name: str) -> NDArray[Any]:
        return self._file.array(self._file.entries[name])

    def release(self, name: str) -> None:
        entry = self._file.entries[name]
        begin = entry.begin - entry.begin % mmap.PAGESIZE
        if entry.end > begin:
            self._file.mapping.madvise(mmap.MADV_DONTNEED, begin, entry.end - begin)


def _tensors(shards: Mapping[str, Shard]) -> dict[str, SourceTensor]:
    tensors: dict[str, SourceTensor] = {}
    files: dict[str, str] = {}
    for file, shard in shards.items():
        for name, (dtype, shape) in shard.signatures().items():
            if name in tensors:
                raise CheckpointError(f"tensor {name} is both in {files[name]} and in {file}")
            tensors[name] = SourceTensor(name, dtype, shape, shard)
            files[name] = file
    return tensors
