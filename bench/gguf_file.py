"""A GPTBigCode checkpoint as a GGUF file, for llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np


def write_gguf(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint's bfloat16 weights, biases and norms in float32, and no tokenizer.

    Args:
        checkpoint: Directory with one ``model.safetensors``, multi-query attention and a tied head.
        out: The file to write; it appears when it is complete.
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
    writer.add_tokenizer_model("none")  # token ids go in and come out; no text is needed
    writer.add_vocab_size(config["vocab_size"])

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
