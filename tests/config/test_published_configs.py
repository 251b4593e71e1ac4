"""The configurations of published models, as their authors wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle.gpt2_models import write_gpt2

from gptbigcode_cpu import AutoModelForCausalLM, GPTBigCodeConfig
from gptbigcode_cpu.convert import convert

# What BigCode's training code wrote besides the sizes.
_BIGCODE: dict[str, Any] = {
    "activation_function": "gelu",
    "architectures": ["GPTBigCodeForCausalLM"],
    "attention_softmax_in_fp32": True,
    "attn_pdrop": 0.1,
    "bos_token_id": 0,
    "embd_pdrop": 0.1,
    "eos_token_id": 0,
    "inference_runner": 0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "max_batch_size": None,
    "max_sequence_length": None,
    "model_type": "gpt_bigcode",
    "multi_query": True,
    "pad_key_length": True,
    "pre_allocate_kv_cache": False,
    "resid_pdrop": 0.1,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "torch_dtype": "float32",
    "transformers_version": "4.28.1",
    "use_cache": True,
    "validate_runner_input": True,
}
_GPT2: dict[str, Any] = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}


def _sizes(embd: int, head: int, layer: int, positions: int, vocab: int, inner: int | None = None) -> dict[str, Any]:
    sizes = {"n_embd": embd, "n_head": head, "n_layer": layer, "n_positions": positions, "vocab_size": vocab}
    return sizes if inner is None else sizes | {"n_inner": inner}


_TANH = {"activation_function": "gelu_pytorch_tanh"}
_15B = _BIGCODE | _sizes(6144, 48, 40, 8192, 49152, 24576)
PUBLISHED: dict[str, dict[str, Any]] = {
    "bigcode/starcoder": _15B,
    "bigcode/starcoderbase-1b": _BIGCODE | _TANH | _sizes(2048, 16, 24, 8192, 49152, 8192),
    "bigcode/tiny_starcoder_py": _BIGCODE | _TANH | _sizes(768, 12, 20, 8192, 49152, 3072),
    "bigcode/gpt_bigcode-santacoder": _BIGCODE
    | _TANH
    | _sizes(2048, 16, 24, 2048, 49280, 8192)
    | {"bos_token_id": 49152, "eos_token_id": 49152},
    "bigcode/octocoder": _15B | {"torch_dtype": "bfloat16", "_name_or_path": "bigcode/starcoder"},
    "HuggingFaceH4/starchat-alpha": _15B | {"vocab_size": 49156, "torch_dtype": "float16"},
    "HuggingFaceH4/starchat-beta": _15B | {"vocab_size": 49156, "torch_dtype": "bfloat16"},
    "WizardLMTeam/WizardCoder-15B-V1.0": _15B | {"vocab_size": 49153, "torch_dtype": "float16", "use_cache": False},
    "defog/sqlcoder": _15B | {"torch_dtype": "bfloat16", "use_cache": False, "_name_or_path": "defog/starcoder-finetune-v3"},
    "ibm-granite/granite-20b-code-base-8k": {
        key: value for key, value in _15B.items() if key not in ("inference_runner", "max_batch_size", "pad_key_length")
    }
    | {"n_layer": 52, "pad_token_id": 0, "torch_dtype": "bfloat16", "transformers_version": "4.39.3"},
    "bigcode/santacoder": {key: value for key, value in _GPT2.items() if key != "n_ctx"}
    | _sizes(2048, 16, 24, 2048, 49280, 8192)
    | {
        "activation_function": "gelu_fast",
        "architectures": ["GPT2LMHeadCustomModel"],
        "attention_head_type": "multiquery",
        "auto_map": {
            "AutoConfig": "configuration_gpt2_mq.GPT2CustomConfig",
            "AutoModelForCausalLM": "modeling_gpt2_mq.GPT2LMHeadCustomModel",
        },
        "bos_token_id": 49152,
        "eos_token_id": 49152,
        "reorder_and_upcast_attn": False,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "torch_dtype": "float32",
    },
    "openai-community/gpt2": _GPT2
    | _sizes(768, 12, 12, 1024, 50257)
    | {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}},
    "codeparrot/codeparrot": _GPT2
    | _sizes(1600, 25, 48, 1024, 32768)
    | {"n_inner": None, "reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": True},
    "microsoft/CodeGPT-small-py": _GPT2 | _sizes(768, 12, 12, 1024, 50001) | {"bos_token_id": 50000, "eos_token_id": 50000},
}  # fmt: skip
_KEPT = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "activation_function", "bos_token_id", "eos_token_id")


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_opens(tmp_path: Path, name: str) -> None:
    content = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(content))
    config = GPTBigCodeConfig.from_pretrained(tmp_path)
    assert {key: getattr(config, key) for key in _KEPT} == {key: content[key] for key in _KEPT}
    assert config.n_inner == content.get("n_inner") or 4 * content["n_embd"]
    assert config.multi_query == (content["model_type"] == "gpt_bigcode" or "attention_head_type" in content)
    assert (config.tie_word_embeddings, config.scale_attn_weights, config.architectures) == (
        True,
        True,
        ["GPTBigCodeForCausalLM"],
    )
    assert GPTBigCodeConfig.from_dict(json.loads(config.to_json_string())) == config


@pytest.mark.live
@pytest.mark.parametrize("name", PUBLISHED)
def test_transformers_reads_the_same(tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in PUBLISHED[name].items() if k != "auto_map"}))
    theirs, ours = transformers.AutoConfig.from_pretrained(tmp_path), GPTBigCodeConfig.from_pretrained(tmp_path)
    for key in (*_KEPT, "tie_word_embeddings", "scale_attn_weights", "layer_norm_epsilon", "use_cache", "pad_token_id"):
        assert getattr(ours, key) == getattr(theirs, key), key


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_small_model_like_it_runs(tmp_path: Path, make_checkpoint: Callable[..., Path], name: str) -> None:
    small = {
        "n_embd": 36,
        "n_head": 3,
        "n_layer": 2,
        "n_positions": 20,
        "vocab_size": 270,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    content = PUBLISHED[name] | small | {"n_inner": 50}
    gpt2 = content["model_type"] == "gpt2"
    write = write_gpt2 if gpt2 else make_checkpoint
    source = write(tmp_path / "source", **small, n_inner=50, multi_query=not gpt2 or "attention_head_type" in content)
    (source / "config.json").write_text(json.dumps(content))
    convert(source, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", num_threads=1)
    assert model.generate([[1, 2, 3]], max_new_tokens=4, min_new_tokens=4).shape == (1, 7)
