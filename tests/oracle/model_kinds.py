"""A small model of every kind that is opened: checkpoints new and old, GPTQ, GGUF, converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.gguf_models import gguf_bytes, model_pairs, model_tensors
from oracle.gpt2_models import write_gpt2
from oracle.random_models import full_config, random_state, write_checkpoint, write_safetensors

SIZES: dict[str, Any] = {"n_embd": 32, "n_head": 2, "n_inner": 32, "n_positions": 32, "vocab_size": 270, "n_layer": 1}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def write_models(directory: Path) -> list[Path]:
    """Write them into directories of their own."""
    return [
        write_checkpoint(directory / "plain", **SIZES),
        write_old(directory / "old"),
        write_gpt2(directory / "gpt2", **SIZES),
        write_detailed(directory / "detailed"),
        write_gptq(directory / "gptq"),
        write_gguf(directory / "gguf"),
        write_converted(directory / "converted"),
        write_adapted(directory / "adapted"),
    ]


def write_old(directory: Path) -> Path:
    """Shards, and a tokenizer in the files of transformers' slow tokenizers."""
    write_checkpoint(directory, shards=2, **SIZES)
    vocab = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"] | {"ab": 262}
    (directory / "tokenizer.json").unlink()
    (directory / "merges.txt").write_text("#version: 0.2\na b\n")
    contents: dict[str, Any] = {
        "vocab.json": vocab,
        "added_tokens.json": {"<x>": 263, "<y>": 264},
        "special_tokens_map.json": {
            "bos_token": "<|endoftext|>",
            "eos_token": {"content": "<|endoftext|>", **FLAGS},
            "additional_special_tokens": ["<x>", "<fim_prefix>"],
        },
        "chat_template.json": {"chat_template": TEMPLATE},
    }
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content))
    return directory


def write_detailed(directory: Path) -> Path:
    """Every file says as much as it can."""
    write_checkpoint(directory, **SIZES, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}, quantization_config=None)
    end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    more: dict[str, Any] = {
        "tokenizer_config.json": {
            "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True, **FLAGS}},
            "padding_side": "left",
            "pad_token": {"content": "<fim_pad>", "__type": "AddedToken"},
            "chat_template": TEMPLATE,
            "clean_up_tokenization_spaces": True,
            "extra_special_tokens": {"a": "<filename>"},
            "add_bos_token": True,
            "model_input_names": ["input_ids"],
        },
        "generation_config.json": {
            "_from_model_config": True,
            "eos_token_id": [0, 1],
            "pad_token_id": 0,
            "temperature": 0.2,
            "top_p": 0.9,
            "top_k": 5,
            "do_sample": True,
            "max_length": 20,
            "transformers_version": "4.40.0",
            "repetition_penalty": 1.1,
            "suppress_tokens": [1],
            "bad_words_ids": [[1, 2]],
        },
        "tokenizer.json": {
            "normalizer": {"type": "NFC"},
            "truncation": {"direction": "Right", "max_length": 10, "strategy": "LongestFirst", "stride": 0},
            "padding": {
                "strategy": "BatchLongest",
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "<|endoftext|>",
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [end, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
            },
        },
    }
    for name, content in more.items():
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | content))
    return directory


def write_gptq(directory: Path) -> Path:
    """Linear layers of random 4-bit codes, in one group."""
    write_checkpoint(directory, **SIZES)
    random = np.random.RandomState(0)
    tensors: dict[str, NDArray[Any]] = {}
    for name, values in random_state(full_config(**SIZES)).items():
        if ".h." not in name or values.ndim != 2:
            tensors[name] = values
            continue
        n, k = values.shape
        prefix = name.removesuffix("weight")
        tensors[f"{prefix}qweight"] = random.randint(-(2**31), 2**31, (k // 8, n)).astype(np.int32)
        tensors[f"{prefix}qzeros"] = random.randint(-(2**31), 2**31, (1, n // 8)).astype(np.int32)
        tensors[f"{prefix}scales"] = random.uniform(0.01, 0.1, (1, n)).astype(np.float16)
        tensors[f"{prefix}g_idx"] = np.zeros(k, np.int32)
    header, data = {}, b""
    for name, values in tensors.items():
        dtype = {"float32": "F32", "float16": "F16", "int32": "I32"}[str(values.dtype)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    config = directory / "config.json"
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": False, "sym": True}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": quantization}))
    return directory


def write_adapted(directory: Path) -> Path:
    """A checkpoint, and in the same directory a LoRA adapter for it."""
    write_checkpoint(directory, **SIZES)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": 2,
        "lora_alpha": 4,
        "rank_pattern": {"c_fc": 2},
        "alpha_pattern": {"c_fc": 8},
        "target_modules": ["c_fc", "c_proj"],
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    random = np.random.RandomState(0)
    matrices = {}
    for module in ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        prefix = f"base_model.model.transformer.h.0.{module}.lora"
        matrices[f"{prefix}_A.weight"] = random.standard_normal((2, 32)).astype(np.float32)
        matrices[f"{prefix}_B.weight"] = random.standard_normal((32, 2)).astype(np.float32)
    write_safetensors(directory / "adapter_model.safetensors", matrices)
    return directory


def write_gguf(directory: Path) -> Path:
    """A GGUF file in a directory."""
    directory.mkdir()
    config = full_config(**SIZES)
    (directory / "model.gguf").write_bytes(gguf_bytes(model_pairs(config), model_tensors(config, random_state(config))))
    return directory


def write_converted(directory: Path) -> Path:
    """A converted model."""
    from gptbigcode_cpu.convert import convert

    convert(write_checkpoint(directory.with_name("converted-from"), **SIZES), directory, dtype="int4")
    return directory
