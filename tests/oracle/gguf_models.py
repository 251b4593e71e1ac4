"""GGUF files byte by byte, so that they can be right, and wrong in any way."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.random_models import byte_level_tokenizer

Tensors = dict[str, tuple[int, tuple[int, ...], bytes]]
"""Number of the GGML type, shape as numpy has it, data."""
Encode = Callable[[str, NDArray[np.float32]], tuple[int, bytes]]
"""Name and values of a tensor -> number of the GGML type, data."""

_BLOCK_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def float32(_name: str, values: NDArray[np.float32]) -> tuple[int, bytes]:
    """Everything as it is."""
    return 0, values.astype("<f4").tobytes()


def gguf_bytes(pairs: Mapping[str, Any], tensors: Tensors, *, version: int = 3, alignment: int = 32) -> bytes:
    """A file. Values may be bool, int (written as uint32), float (float32), str, lists of str or int, or ``(type, bytes)``."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    for key, value in pairs.items():
        head += _string(key) + _value(value)
    data = b""
    for name, (kind, shape, content) in tensors.items():
        data += bytes(-len(data) % alignment)
        head += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, len(data))
        data += content
    return head + bytes(-len(head) % alignment) + data


def model_pairs(config: Mapping[str, Any], *, tokenizer: bool = True) -> dict[str, Any]:
    """The key-value pairs of a model with the tokenizer of `byte_level_tokenizer`."""
    pairs: dict[str, Any] = {
        "general.architecture": "starcoder",
        "starcoder.context_length": config["n_positions"],
        "starcoder.embedding_length": config["n_embd"],
        "starcoder.feed_forward_length": config["n_inner"] or 4 * config["n_embd"],
        "starcoder.block_count": config["n_layer"],
        "starcoder.attention.head_count": config["n_head"],
        "starcoder.attention.head_count_kv": 1 if config["multi_query"] else config["n_head"],
        "starcoder.attention.layer_norm_epsilon": config["layer_norm_epsilon"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }
    if tokenizer:
        vocab = byte_level_tokenizer()["model"]["vocab"]
        fill = [f"[PAD{i}]" for i in range(len(vocab), config["vocab_size"])]
        pairs |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "starcoder",
            "tokenizer.ggml.tokens": [*vocab, *fill],
            "tokenizer.ggml.token_type": [3] * 6 + [1] * (len(vocab) - 6) + [5] * len(fill),
            "tokenizer.ggml.merges": [],
        }
    return pairs


def model_tensors(config: Mapping[str, Any], state: Mapping[str, NDArray[np.float32]], encode: Encode = float32) -> Tensors:
    """The tensors of a model. Without multi-query attention, queries, keys and values of all heads follow each other."""
    tensors: Tensors = {}
    for name, values in state.items():
        if ".c_attn." in name and not config["multi_query"]:
            heads = values.reshape(config["n_head"], 3, -1, *values.shape[1:])
            values = np.concatenate([heads[:, part].reshape(-1, *values.shape[1:]) for part in range(3)])
        kind, data = encode(name, values)
        tensors[gguf_name(name)] = kind, values.shape, data
    return tensors


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    stem, kind = name.removeprefix("transformer.").rsplit(".", 1)
    outer = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
    if stem in outer:
        return f"{outer[stem]}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{_BLOCK_NAMES[part]}.{kind}"


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    match value:
        case (int(kind), bytes(data)):
            return struct.pack("<I", kind) + data
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
        case list():
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    raise TypeError(f"{value!r}")
