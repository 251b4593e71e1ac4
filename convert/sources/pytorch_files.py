"""Checkpoints in files of ``torch.save``, read with ``weights_only``: a pickle that would run code is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.file_kinds import N_BYTES, described
from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.common.regular_files import open_regular
from gptbigcode_cpu.convert.sources.tensors import Shard
from gptbigcode_cpu.errors import CheckpointError, MissingDependencyError

logger = getLogger(__name__)

# Mapped bytes of a file that may be touched before it is mapped anew. A mapping costs some 10 ms with hundreds of tensors.
_RELOAD_BYTES = 64 << 20
# torch's names of types -> those of safetensors.
_TYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}


class PytorchShard(Shard):
    """A file of ``torch.save`` with a table of tensors by name.

    As in transformers, what else is in the table is ignored: numbers of a training, its settings, tables of other tensors.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: The file.

        Raises:
            CheckpointError: The file is damaged, would run code, or holds no tensor by its name.
            MissingDependencyError: torch is not installed.
        """
        self._path = path
        # Files of torch before 1.6 are no archives and cannot be mapped: they stay in memory as a whole.
        self._mapped = _is_archive(path)
        self._touched = 0
        self._tensors = self._load()
        self._signatures = {name: (_type_name(value), tuple(value.shape)) for name, value in self._tensors.items()}

    def signatures(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        return self._signatures

    def array(self, name: str) -> NDArray[Any]:
        tensor = (self._tensors or self._reload())[name].contiguous()
        self._touched += tensor.nbytes
        kind = _type_name(tensor)
        if kind == "BF16":
            import torch

            array: NDArray[Any] = tensor.view(torch.int16).numpy().view(np.uint16)
        elif kind.startswith("F8"):
            import torch

            array = tensor.view(torch.uint8).numpy()
        else:
            array = tensor.numpy()
        return array

    def release(self, name: str) -> None:
        # Pages of a private mapping cannot be dropped without unmapping it, which happens with the last tensor.
        if self._mapped and self._touched > _RELOAD_BYTES:
            self._tensors = {}
            self._touched = 0

    def _reload(self) -> dict[str, Any]:
        self._tensors = self._load()
        return self._tensors

    def _load(self) -> dict[str, Any]:
        try:
            import torch
        except ImportError as error:
            raise MissingDependencyError(
                f"reading {self._path.name} needs torch: pip install 'gptbigcode-cpu[convert]' (safetensors files need none)"
            ) from error
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True, mmap=self._mapped)
        except OSError as error:
            raise CheckpointError(f"{self._path} cannot be read: {error.strerror or error}") from error
        except Exception as error:  # on damaged files torch raises errors of many kinds
            raise CheckpointError(f"{self._path} cannot be read as weights: {_reason(error)}{_kind(self._path)}") from error
        if not isinstance(content, Mapping):
            raise CheckpointError(f"{self._path} holds a {type(content).__name__} instead of a table of tensors by name")
        tensors = {
            name: value.detach()  # of a Parameter, what it holds
            for name, value in content.items()
            if isinstance(name, str) and isinstance(value, torch.Tensor)
        }
        ignored = [shown(name) for name in content if name not in tensors]
        if not tensors:
            inner = [name for name, value in content.items() if isinstance(value, Mapping)]
            advice = f"; save what is in {shown(inner[0])} alone" if inner else ""
            raise CheckpointError(
                f"{self._path} does not hold a table of tensors by name: its entries are "
                f"{', '.join(ignored[:8]) or 'none'}{advice}"
            )
        if ignored:
            logger.debug("%s: ignored entries that are no tensors: %s", self._path, ", ".join(ignored))
        return tensors


def _is_archive(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return is_zipfile(file)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _type_name(tensor: Any) -> str:
    """The safetensors type of a tensor, or torch's name of it, if safetensors has no such type."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta or tensor.layout is not torch.strided:
        return "empty" if tensor.is_meta else f"sparse {name}"
    return _TYPES.get(name, name)


def _kind(path: Path) -> str:
    with open_regular(path) as file:
        start = file.read(N_BYTES)
    return "" if start.startswith((b"PK", b"\x80\x02")) else described(start)


def _reason(error: Exception) -> str:
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it refers to {found[1]}, which may run code when it is read; save its state_dict() alone"
    if "TorchScript" in text:
        return "it is a TorchScript archive; save the state_dict() of the model with torch.save"
    if "Weights only" in text:
        return "it is no file of torch.save with tensors, or was pickled with another protocol than torch's, 2"
    return one_line((text or type(error).__name__).splitlines()[0])
