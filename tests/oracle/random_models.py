"""Small random GPTBigCode checkpoints, written with numpy only.

The weights come from a seed, so that committed reference answers need only name the seed and the configuration. numpy
promises that the stream of ``RandomState`` never changes, which it does not promise for ``Generator``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPECIAL_TOKENS = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>"]
"""Ids 0..5 of the byte-level tokenizer that comes with a random checkpoint; the 256 bytes follow."""

DEFAULT_CONFIG: dict[str, Any] = {
    "model_type": "gpt_bigcode",
    "architectures": ["GPTBigCodeForCausalLM"],
    "activation_function": "gelu_pytorch_tanh",
    "n_embd": 64,
    "n_head": 4,
    "n_inner": None,
    "n_layer": 2,
    "n_positions": 96,
    "vocab_size": 272,
    "layer_norm_epsilon": 1e-5,
    "multi_query": True,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def full_config(**overrides: Any) -> dict[str, Any]:
    """The default configuration with some fields replaced; ``n_inner`` None means 4 * n_embd, as in transformers."""
    return DEFAULT_CONFIG | overrides


def random_state(config: Mapping[str, Any], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights by transformers' names (``transformer.h.0.attn.c_attn.weight`` ...), float32, of about trained size.

    Biases are not zero and LayerNorm gains not one, so that a forgotten one shows.
    """
    random = np.random.RandomState(seed)
    embed = config["n_embd"]
    inner = config["n_inner"] or 4 * embed
    head_dim = embed // config["n_head"]
    kv_dim = head_dim * (1 if config["multi_query"] else config["n_head"])
    state: dict[str, NDArray[np.float32]] = {}

    def normal(name: str, shape: tuple[int, ...], std: float, mean: float = 0.0) -> None:
        state[name] = (mean + std * random.standard_normal(shape)).astype(np.float32)

    def linear(name: str, n: int, k: int) -> None:
        normal(f"{name}.weight", (n, k), k**-0.5)
        normal(f"{name}.bias", (n,), 0.1)

    def layer_norm(name: str) -> None:
        normal(f"{name}.weight", (embed,), 0.2, 1.0)
        normal(f"{name}.bias", (embed,), 0.1)

    normal("transformer.wte.weight", (config["vocab_size"], embed), 0.2)
    normal("transformer.wpe.weight", (config["n_positions"], embed), 0.1)
    for layer in range(config["n_layer"]):
        block = f"transformer.h.{layer}"
        layer_norm(f"{block}.ln_1")
        linear(f"{block}.attn.c_attn", embed + 2 * kv_dim, embed)
        linear(f"{block}.attn.c_proj", embed, embed)
        layer_norm(f"{block}.ln_2")
        linear(f"{block}.mlp.c_fc", inner, embed)
        linear(f"{block}.mlp.c_proj", embed, inner)
    layer_norm("transformer.ln_f")
    architecture = config["architectures"][0]
    if architecture == "GPTBigCodeForSequenceClassification":
        normal("score.weight", (config.get("num_labels", 2), embed), 0.2)
    elif architecture == "GPTBigCodeForTokenClassification":
        linear("classifier", config.get("num_labels", 2), embed)
    elif not config["tie_word_embeddings"]:
        normal("lm_head.weight", (config["vocab_size"], embed), 0.2)
    return state


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 (ties to even) of finite values."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, state: Mapping[str, NDArray[np.float32]], storage: str = "float32") -> None:
    """Write float32 arrays as ``float32``, ``float16`` or ``bfloat16``."""
    code = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[storage]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, values in state.items():
        stored: NDArray[Any] = to_bfloat16(values) if storage == "bfloat16" else values.astype(storage)
        start = len(data)
        data += stored.tobytes()
        header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def byte_level_tokenizer() -> dict[str, Any]:
    """A ``tokenizer.json`` whose tokens are the special tokens and the 256 bytes: no merges, every text round-trips."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    vocab = {token: i for i, token in enumerate(SPECIAL_TOKENS)}
    vocab |= {letters[byte]: len(SPECIAL_TOKENS) + byte for byte in range(256)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def write_checkpoint(
    directory: Path, *, seed: int = 0, storage: str = "float32", prefix: str = "transformer.", shards: int = 1, **config: Any
) -> Path:
    """Write a random Hugging Face checkpoint directory and return it.

    Args:
        directory: Made if needed.
        seed: Of the weights.
        storage: ``float32``, ``float16`` or ``bfloat16``.
        prefix: Replaces ``transformer.`` in tensor names; old checkpoints have none.
        shards: Number of safetensors files; more than one comes with an index.
        config: Fields that replace those of `DEFAULT_CONFIG`. ``vocab_size`` of 262 and more gets a tokenizer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    fields = full_config(**config)
    state = {
        (prefix + name.removeprefix("transformer.") if name.startswith("transformer.") else name): values
        for name, values in random_state(fields, seed).items()
    }
    (directory / "config.json").write_text(json.dumps(fields | {"dtype": storage}, indent=2))
    (directory / "generation_config.json").write_text(
        json.dumps({"bos_token_id": fields["bos_token_id"], "eos_token_id": fields["eos_token_id"]})
    )
    if shards == 1:
        write_safetensors(directory / "model.safetensors", state, storage)
    else:
        names = list(state)
        weight_map = {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            weight_map |= dict.fromkeys(names[i::shards], file)
            write_safetensors(directory / file, {name: state[name] for name in names[i::shards]}, storage)
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if fields["vocab_size"] >= len(SPECIAL_TOKENS) + 256:
        (directory / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer()))
        (directory / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "bos_token": "<|endoftext|>",
                    "eos_token": "<|endoftext|>",
                    "unk_token": "<|endoftext|>",
                    "model_max_length": fields["n_positions"],
                }
            )
        )
    return directory
