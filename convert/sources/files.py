"""The tensors in safetensors files and in files of ``torch.save``, by the names that they have there."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gptbigcode_cpu.convert.sources.tensors import Shard, SourceTensor
from gptbigcode_cpu.errors import CheckpointError
from gptbigcode_cpu.hub.checkpoint_files import weights_files
from gptbigcode_cpu.store.tensor_file import TensorFile, TensorFileError, map_tensor_file


def read_file(path: Path) -> dict[str, SourceTensor]:
    """The tensors of one file by the names that they have there.

    Raises:
        CheckpointError: It is malformed.
        MissingDependencyError: It is no safetensors file and torch is not installed.
    """
    return _tensors({path.name: _open_shard(path)})


def read_directory(directory: Path) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint in safetensors or ``.bin`` files by the names that they have there.

    Raises:
        ModelNotFoundError: The directory holds no checkpoint.
        CheckpointError: A file is missing or malformed, or two files hold a tensor of the same name.
        MissingDependencyError: The checkpoint is a ``.bin`` file and torch is not installed.
    """
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
