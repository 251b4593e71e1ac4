"""A GPTBigCode checkpoint as a GGUF file, for llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def write_gguf(checkpoint: Path, out: Path, *, tokenizer: bool = False) -> None:
    """Write a checkpoint's bfloat16 weights, biases and norms in float32.

    Args:
        checkpoint: Directory with one ``model.safetensors``, multi-query attention and a tied head.
        out: The file to write; it appears when it is complete.
        tokenizer: Write the tokenizer too; without it token ids go in and come out.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.STARCODER, config["n_layer"])
    temporary = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(temporary, "starcoder")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_head_count_kv(1)
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config["vocab_size"])
    if tokenizer:
        _add_tokenizer(writer, json.loads((checkpoint / "tokenizer.json").read_text()), config)
    else:
        writer.add_tokenizer_model("none")

    weights = checkpoint / "model.safetensors"
    with weights.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{name} is {entry['dtype']}; this benchmark reads BF16 checkpoints in one file")
        start, _ = entry["data_offsets"]
        bits = np.memmap(weights, np.uint16, "r", 8 + header_size + start, tuple(entry["shape"]))
        target = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        if len(entry["shape"]) == 1 or name == "transformer.wpe.weight":
            writer.add_tensor(target, (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(target, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.rename(out)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """Write a byte-level BPE tokenizer the way llama.cpp's converter does."""
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    by_id = {i: token for token, i in tokenizer["model"]["vocab"].items()} | {i: added[i]["content"] for i in added}
    types = []
    for i in range(config["vocab_size"]):
        if i in added:
            types.append(gguf.TokenType.CONTROL if added[i]["special"] else gguf.TokenType.USER_DEFINED)
        else:
            types.append(gguf.TokenType.NORMAL if i in by_id else gguf.TokenType.UNUSED)
    digits = "Digits" in json.dumps(tokenizer["pre_tokenizer"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("starcoder" if digits else "gpt-2")
    writer.add_token_list([by_id.get(i, f"[PAD{i}]") for i in range(config["vocab_size"])])
    writer.add_token_types(types)
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
