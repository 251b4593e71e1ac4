"""The headers of GPTBigCode and GPT-2 models in GGUF files, and the configuration that they describe.

llama.cpp calls the architectures ``starcoder`` and ``gpt2``. The tensors are read by `gptbigcode_cpu.convert.sources.gguf`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gptbigcode_cpu.common.gguf_header import GGUFError, GGUFFile, GGUFTensor, map_gguf
from gptbigcode_cpu.config.checks import MODEL_TYPE
from gptbigcode_cpu.errors import CheckpointError, ConfigError
from gptbigcode_cpu.hub.paths import gguf_parts

ARCHITECTURES = ("starcoder", "gpt2")
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
        """llama.cpp's name of the architecture. The keys that describe the model begin with it."""
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


def config_content(model: GGUFModel) -> dict[str, Any]:
    """The content of the ``config.json`` that the model would have.

    llama.cpp computes the activation ``gelu_pytorch_tanh`` for both architectures.

    Raises:
        ConfigError: A value is missing.
        CheckpointError: There is no token embedding, or an array stands where a single value must.
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
        content["layer_norm_epsilon"] = float(str(np.float32(epsilon)))  # 1e-05, not 9.999999747378752e-06
    return content


class AttentionShape(Protocol):
    """The values of a configuration that describe attention."""

    @property
    def n_embd(self) -> int: ...
    @property
    def n_head(self) -> int: ...
    @property
    def n_kv_head(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def multi_query(self) -> bool: ...


def check_attention(model: GGUFModel, config: AttentionShape) -> None:
    """Refuse a model whose heads are not those of GPTBigCode.

    Args:
        model: The headers.
        config: The checked configuration, made from `config_content`.

    Raises:
        ConfigError: The number of key heads or the width of a head is another one.
    """
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
