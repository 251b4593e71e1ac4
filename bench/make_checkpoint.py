"""Write a random GPTBigCode checkpoint of a real model's shape: bfloat16 safetensors, streamed, without torch.

Speed does not depend on the values of weights, so a random checkpoint measures what the real one would; its text is noise.

    python bench/make_checkpoint.py starcoderbase-1b /tmp/starcoderbase-1b
    python bench/make_checkpoint.py starcoder /tmp/starcoder-4-layers --layers 4
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 22  # elements drawn at a time: 16 MB of float32 per thread
_SCALE = 0.02  # transformers' initializer_range


@dataclass(frozen=True)
class Shape:
    """What sets one model of the family apart from another."""

    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    vocab_size: int
    n_positions: int


SHAPES = {
    "tiny_starcoder_py": Shape(768, 20, 12, 3072, 49152, 8192),
    "santacoder": Shape(2048, 24, 16, 8192, 49280, 2048),
    "starcoderbase-1b": Shape(2048, 24, 16, 8192, 49152, 8192),
    "starcoderbase-3b": Shape(2816, 36, 22, 11264, 49152, 8192),
    "starcoderbase-7b": Shape(4096, 42, 32, 16384, 49152, 8192),
    "starcoder": Shape(6144, 40, 48, 24576, 49152, 8192),
    "granite-20b-code": Shape(6144, 52, 48, 24576, 49152, 8192),
}

SPECIAL_TOKENS = ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>")


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``GPTBigCodeForCausalLM``'s tensors, in file order (multi-query attention, tied head)."""
    head = shape.n_embd // shape.n_head
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (shape.vocab_size, shape.n_embd),
        "transformer.wpe.weight": (shape.n_positions, shape.n_embd),
    }

    def linear(name: str, n: int, k: int) -> None:
        shapes[f"{name}.weight"] = (n, k)
        shapes[f"{name}.bias"] = (n,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (shape.n_embd,)

    for layer in range(shape.n_layer):
        block = f"transformer.h.{layer}"
        norm(f"{block}.ln_1")
        linear(f"{block}.attn.c_attn", shape.n_embd + 2 * head, shape.n_embd)
        linear(f"{block}.attn.c_proj", shape.n_embd, shape.n_embd)
        norm(f"{block}.ln_2")
        linear(f"{block}.mlp.c_fc", shape.n_inner, shape.n_embd)
        linear(f"{block}.mlp.c_proj", shape.n_embd, shape.n_inner)
    norm("transformer.ln_f")
    return shapes


def config(shape: Shape) -> dict[str, object]:
    """The ``config.json`` of a shape."""
    return {
        "architectures": ["GPTBigCodeForCausalLM"],
        "model_type": "gpt_bigcode",
        "activation_function": "gelu_pytorch_tanh",
        "multi_query": True,
        "scale_attn_weights": True,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "dtype": "bfloat16",
        **shape.__dict__,
    }


def byte_level_tokenizer() -> dict[str, object]:
    """A ``tokenizer.json`` that knows the special tokens and the 256 bytes, and merges nothing."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    # GPT-2's alphabet: printable bytes stand for themselves, the others for the code points from 256 on.
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i, _ in enumerate(others)]
    special = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, token in enumerate(SPECIAL_TOKENS)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])},
            "merges": [],
        },
    }


def _draw(seed: np.random.SeedSequence, count: int, mean: float) -> NDArray[np.uint16]:
    """`count` bfloat16 values around `mean`, as their bits."""
    values = np.random.default_rng(seed).standard_normal(count, dtype=np.float32)
    values *= _SCALE
    values += mean
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _write_tensors(file: BinaryIO, shapes: dict[str, tuple[int, ...]], seed: int) -> Iterator[tuple[str, int]]:
    """Write the data section; yields each name and its bytes once it is written. The values do not depend on the CPU count."""
    seeds = np.random.SeedSequence(seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, shape in shapes.items():
            count = prod(shape)
            mean = 1.0 if ".ln_" in name and name.endswith(".weight") else 0.0
            sizes = [min(_CHUNK, count - start) for start in range(0, count, _CHUNK)]
            for values in pool.map(_draw, seeds.spawn(len(sizes)), sizes, [mean] * len(sizes)):
                file.write(values.data)
            yield name, 2 * count


def write_checkpoint(out: Path, shape: Shape, *, seed: int = 0, tokenizer: Path | None = None) -> int:
    """Write a checkpoint directory.

    Args:
        out: New directory.
        shape: Sizes of the model.
        seed: Of the weights.
        tokenizer: Directory whose tokenizer files are copied; without it a byte-level one is made.

    Returns:
        Bytes of ``model.safetensors``.
    """
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n", encoding="utf-8")
    if tokenizer:
        for file in tokenizer.glob("tokenizer*.json"):
            shutil.copy(file, out)
    else:
        (out / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(), ensure_ascii=False), encoding="utf-8")
        names = {f"{kind}_token": SPECIAL_TOKENS[0] for kind in ("bos", "eos", "unk")}
        settings = {"tokenizer_class": "GPT2TokenizerFast", "model_max_length": shape.n_positions, **names}
        (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    shapes = tensor_shapes(shape)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    total = 0
    for name, dims in shapes.items():
        end = total + 2 * prod(dims)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [total, end]}
        total = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    written = 0
    with (out / "model.safetensors").open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for name, size in _write_tensors(stream, shapes, seed):
            written += size
            if sys.stderr.isatty():
                print(f"\r{100 * written // total:3d} %  {name:40}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return 8 + len(head) + total


def main() -> None:
    """Read the command line and write one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path, help="directory to make")
    parser.add_argument("--layers", type=int, dest="n_layer", help="instead of the shape's own")
    parser.add_argument("--embd", type=int, dest="n_embd")
    parser.add_argument("--heads", type=int, dest="n_head")
    parser.add_argument("--inner", type=int, dest="n_inner")
    parser.add_argument("--vocab", type=int, dest="vocab_size")
    parser.add_argument("--positions", type=int, dest="n_positions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="copy this tokenizer instead of making a byte-level one")
    arguments = vars(parser.parse_args())
    own = {name: arguments[name] for name in Shape.__dataclass_fields__ if arguments[name] is not None}
    shape = replace(SHAPES[arguments["shape"]], **own)
    try:
        size = write_checkpoint(arguments["out"], shape, seed=arguments["seed"], tokenizer=arguments["tokenizer"])
    except FileExistsError:
        sys.exit(f"error: {arguments['out']} exists already")
    print(f"{arguments['out']}: {size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
