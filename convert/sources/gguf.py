"""GPTBigCode models in GGUF files, which llama.cpp calls ``starcoder``, and those of GPT-2: configuration and tensors.

A file has the names, the configuration and, without multi-query attention, the order of rows in ``c_attn`` that llama.cpp
computes with; here they get transformers' again. Block-quantised tensors are dequantised by the `gguf` package, some rows at a
time; which types there are is asked of it too.
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

from gptbigcode_cpu.common.gguf_header import GGUFError, GGUFFile, GGUFTensor, map_gguf
from gptbigcode_cpu.config import MODEL_TYPE, GPTBigCodeConfig
from gptbigcode_cpu.convert.sources.read import Rows, Shard, SourceTensor
from gptbigcode_cpu.errors import CheckpointError, ConfigError, MissingDependencyError
from gptbigcode_cpu.hub.paths import gguf_parts
from gptbigcode_cpu.store.tensor_file import NUMPY_TYPES

ARCHITECTURES = ("starcoder", "gpt2")
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
_EMBEDDING, _ATTENTION = "token_embd.weight", "blk.0.attn_qkv.weight"
_NO_TOKEN = (-1, 2**32 - 1)  # llama.cpp's LLAMA_TOKEN_NULL, signed and not
_TOKEN_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


@dataclass(frozen=True)
class GGUFModel:
    """A GGUF file, or the files that it is split into.

    Attributes:
        path: The first file.
        files: All of them.
        metadata: The key-value pairs, of the first file.
    """

    path: Path
    files: tuple[GGUFFile, ...]

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.files[0].metadata

    @property
    def architecture(self) -> str:
        """llama.cpp's name of it; it begins the names of what describes the model."""
        return str(self.get("general.architecture"))

    @property
    def tensors(self) -> dict[str, GGUFTensor]:
        return {name: tensor for file in self.files for name, tensor in file.tensors.items()}

    def get(self, key: str, default: Any = None) -> Any:
        """A number, string or truth value of the metadata.

        An array that says the same for every layer counts as one value, and a float without a fraction as a whole number:
        writers choose among the types that can hold a value.

        Raises:
            CheckpointError: It is an array of different values.
        """
        value = self.metadata.get(key, default)
        if isinstance(value, list | np.ndarray):
            if len(value) == 0 or any(item != value[0] for item in value):
                raise CheckpointError(f"{self.path}: {key} is an array of {len(value)}, it must be a single value")
            value = value[0].item() if isinstance(value, np.ndarray) else value[0]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def token_id(self, name: str) -> int | None:
        """The id of a special token: ``bos``, ``eos``, ``unknown``, ``padding``; None if there is none."""
        value = self.get(f"tokenizer.ggml.{name}_token_id")
        if value in _NO_TOKEN:
            return None
        if value is not None and (type(value) is not int or value < 0):
            raise CheckpointError(f"{self.path}: tokenizer.ggml.{name}_token_id must be a token id, not {value!r:.40}")
        return value


def open_gguf(path: Path) -> GGUFModel:
    """Parse the headers of a GGUF file and of the other parts of a split one.

    Raises:
        CheckpointError: A file is malformed, a part is missing, or it holds a model of another architecture.
        ModelNotFoundError: `path` is a part, but not the first.
    """
    files = []
    for part in gguf_parts(path):
        try:
            files.append(map_gguf(part))
        except GGUFError as error:
            raise CheckpointError(f"{part} is damaged: {error}") from error
        except OSError as error:
            raise CheckpointError(f"{part} cannot be read: {error.strerror}") from error
    model = GGUFModel(path, tuple(files))
    architecture = model.get("general.architecture")
    if architecture not in ARCHITECTURES:
        hint = "; StarCoder2 is another architecture" if architecture == "starcoder2" else ""
        supported = " or ".join(map(repr, ARCHITECTURES))
        raise CheckpointError(f"{path} holds a model of architecture {architecture!r:.40}, supported is {supported}{hint}")
    if (kind := model.get("general.type", "model")) != "model":
        raise CheckpointError(f"{path} holds no model: its general.type is {kind!r:.40}")
    count, names = model.get("split.count", 1), [name for file in files for name in file.tensors]
    if count not in (0, len(files)):  # 0 and 1 are what files have that are not split
        raise CheckpointError(f"{path} says it is one of {count!r:.40} parts, its name says {len(files)}")
    if len(names) != len(set(names)):
        raise CheckpointError(f"{path} and its other parts hold a tensor twice")
    return model


def read_config(model: GGUFModel) -> GPTBigCodeConfig:
    """The configuration of a model. llama.cpp computes the activation ``gelu_pytorch_tanh`` for both architectures.

    Raises:
        ConfigError: A value is missing, malformed or not supported.
        CheckpointError: There is no token embedding.
    """
    embedding = model.tensors.get(_EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{model.path} has no matrix {_EMBEDDING}")
    architecture = model.architecture
    required = {"n_positions": "context_length", "n_embd": "embedding_length", "n_layer": "block_count"}
    required |= {"n_head": "attention.head_count", "layer_norm_epsilon": "attention.layer_norm_epsilon"}
    content = {name: model.get(f"{architecture}.{key}") for name, key in required.items()}
    missing = [f"{architecture}.{key}" for name, key in required.items() if content[name] is None]
    if missing:
        raise ConfigError(f"{model.path} lacks {', '.join(missing)}")
    content |= {
        "model_type": MODEL_TYPE,
        "vocab_size": embedding.shape[0],
        "n_inner": model.get(f"{architecture}.feed_forward_length"),
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "multi_query": model.get(f"{architecture}.attention.head_count_kv", content["n_head"]) == 1,
        **{name: model.token_id(key) for name, key in _TOKEN_IDS.items()},
    }
    if isinstance(epsilon := content["layer_norm_epsilon"], float):
        content["layer_norm_epsilon"] = float(str(np.float32(epsilon)))  # 1e-05 and not what float32 makes of it
    try:
        config = GPTBigCodeConfig.from_dict(content)
    except ConfigError as error:
        raise ConfigError(f"{model.path}: {error}") from error
    _check_attention(model, config)
    return config


def _check_attention(model: GGUFModel, config: GPTBigCodeConfig) -> None:
    prefix = f"{model.architecture}.attention."
    kv_heads = model.get(f"{prefix}head_count_kv", config.n_head)
    if type(kv_heads) is not int or kv_heads != config.n_kv_head:
        raise ConfigError(f"{model.path} has head_count_kv {kv_heads!r:.40}; it must be 1 or head_count, {config.n_head}")
    for key in ("key_length", "value_length"):
        width = model.get(prefix + key, config.head_dim)
        if width != config.head_dim:
            raise ConfigError(f"{model.path} has {prefix}{key} {width!r:.40}; width and head_count make it {config.head_dim}")
    attention = model.tensors.get(_ATTENTION)
    if config.multi_query and config.n_head > 1 and attention is not None and attention.shape[0] == 3 * config.n_embd:
        raise ConfigError(
            f"{model.path} says head_count_kv 1, but {_ATTENTION} has keys and values for {config.n_head} heads: llama.cpp's "
            "converter writes models without multi-query attention like this, and llama.cpp does not run them; convert the "
            "original checkpoint"
        )


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
    """What the `gguf` package knows of a type; whether it can dequantise it shows when it is asked to."""
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
        """Which stored row each row is: ``[n_head, 3, head_dim]`` in transformers, ``[3, n_head, head_dim]`` in the file."""
        config = self._config
        if config.multi_query or ".attn.c_attn." not in name or count != 3 * config.n_embd:
            return None
        return np.arange(count).reshape(3, config.n_head, config.head_dim).transpose(1, 0, 2).reshape(-1)

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
