"""Source checkpoints of any kind, read as the tensors of a GPTBigCode model.

The files are safetensors, those of ``torch.save``, or GGUF. GPT-2's tensors get GPTBigCode's form, those of GPTQ and AWQ are
dequantised, and LoRA adapters are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gptbigcode_cpu.common.file_names import CONFIG
from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.config import GPTBigCodeConfig, read_config
from gptbigcode_cpu.config.gpt2 import GPT2, has_layer_factor
from gptbigcode_cpu.convert.sources.files import read_directory
from gptbigcode_cpu.convert.sources.tensors import SourceTensor
from gptbigcode_cpu.errors import ConfigError
from gptbigcode_cpu.hub.paths import is_gguf

if TYPE_CHECKING:
    from gptbigcode_cpu.convert.sources.lora import Adapter


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
        from gptbigcode_cpu.config.gguf import open_gguf
        from gptbigcode_cpu.convert.sources.gguf import read_tensors

        return _adapted(read_tensors(open_gguf(path), config), config, adapters)
    tensors = read_directory(path)
    content = read_object(path / CONFIG, ConfigError) or {}
    if content.get("model_type") != GPT2:
        return _adapted(_dequantised(path, tensors, config), config, adapters)
    from gptbigcode_cpu.convert.sources.gpt2 import as_gpt_bigcode, transposed

    # GPTQ stores the layers of GPT-2 as it stores those of other models.
    tensors = _dequantised(path, transposed(tensors), config)
    tensors = _adapted(tensors, config, [replace(adapter, saved=transposed(adapter.saved)) for adapter in adapters])
    return as_gpt_bigcode(tensors, config, layer_factor=has_layer_factor(content))


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
