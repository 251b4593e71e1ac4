"""Checkpoints of GPT-2 and of the original SantaCoder: the same network as GPTBigCode, stored otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.gpt2_models import gpt2_state, write_gpt2
from oracle.random_models import full_config, random_state, write_safetensors

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, GPTBigCodeConfig, pipeline
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import CheckpointError, ConfigError

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 2}
DTYPES = ["float32", "int8", "int4"]


def converted_bytes(source: Path, out: Path, dtype: str) -> bytes:
    convert(source, out, dtype=dtype)
    return (out / "model.safetensors").read_bytes()


@pytest.fixture
def same(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Callable[..., None]:
    """Assert that a GPT-2 checkpoint and the GPTBigCode one of the same network convert to the same file."""

    def check(source: Path, dtype: str = "float32", **config: Any) -> None:
        expected = converted_bytes(make_checkpoint(tmp_path / "gpt_bigcode", **config), tmp_path / "expected", dtype)
        assert converted_bytes(source, tmp_path / "out", dtype) == expected
        written = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("expected", "out")]
        changed = {key for key in written[0].keys() | written[1].keys() if written[0].get(key) != written[1].get(key)}
        assert changed <= {"n_ctx", "dtype"}

    return check


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("tied", [False, True])
def test_gpt2(tmp_path: Path, same: Callable[..., None], dtype: str, prefix: str, tied: bool) -> None:
    config = SMALL | {"multi_query": False, "tie_word_embeddings": tied}
    same(write_gpt2(tmp_path / "source", prefix=prefix, **config), dtype, **config)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_santacoder(tmp_path: Path, same: Callable[..., None], dtype: str, split: bool, prefix: str) -> None:
    same(write_gpt2(tmp_path / "source", split=split, prefix=prefix, **SMALL), dtype, **SMALL)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("multi_query", [False, True])
def test_types_of_16_bits(tmp_path: Path, same: Callable[..., None], storage: str, multi_query: bool) -> None:
    config = SMALL | {"multi_query": multi_query, "storage": storage}
    same(write_gpt2(tmp_path / "source", **config), **config)


@pytest.mark.parametrize("multi_query", [False, True])
def test_weights_of_many_chunks(
    tmp_path: Path, same: Callable[..., None], monkeypatch: pytest.MonkeyPatch, multi_query: bool
) -> None:
    monkeypatch.setattr("gptbigcode_cpu.convert.quantize.packing._CHUNK_BYTES", 3000)
    config = SMALL | {"multi_query": multi_query}
    same(write_gpt2(tmp_path / "source", **config), **config)


@pytest.mark.parametrize(
    ("architecture", "labels"),
    [("GPTBigCodeForSequenceClassification", 3), ("GPTBigCodeForTokenClassification", 4), ("GPTBigCodeModel", 2)],
)
def test_other_classes(tmp_path: Path, same: Callable[..., None], architecture: str, labels: int) -> None:
    config = SMALL | {"multi_query": False, "architectures": [architecture], "num_labels": labels}
    same(write_gpt2(tmp_path / "source", **config), **config)


@pytest.mark.parametrize("multi_query", [False, True])
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_scores_divided_by_the_number_of_the_layer(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, multi_query: bool, storage: str
) -> None:
    config = SMALL | {"multi_query": multi_query, "n_layer": 3, "n_positions": 30}
    source = write_gpt2(tmp_path / "source", storage=storage, **config)
    content = json.loads((source / "config.json").read_text()) | {"scale_attn_by_inverse_layer_idx": True}
    (source / "config.json").write_text(json.dumps(content))
    convert(source, tmp_path / "out", dtype="float32")
    assert "scale_attn_by_inverse_layer_idx" not in (tmp_path / "out" / "config.json").read_text()

    expected = make_checkpoint(tmp_path / "expected", **config)
    state = random_state(full_config(**config))
    if storage == "bfloat16":
        state = {name: rounded(values) for name, values in state.items()}
    for layer in range(3):
        for kind in ("weight", "bias"):
            values = state[f"transformer.h.{layer}.attn.c_attn.{kind}"]
            queries = values[:36] if multi_query else values.reshape(3, 3, 12, *values.shape[1:])[:, 0]
            queries /= np.float32(layer + 1)
    write_safetensors(expected / "model.safetensors", state)
    assert (
        converted_bytes(expected, tmp_path / "expected-out", "float32") == (tmp_path / "out" / "model.safetensors").read_bytes()
    )


def rounded(values: Any) -> Any:
    from oracle.random_models import to_bfloat16

    return (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)


def test_a_directory_opens_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    source = write_gpt2(tmp_path / "source", **SMALL | {"multi_query": False, "n_positions": 40})
    model = AutoModelForCausalLM.from_pretrained(source, num_threads=1)
    assert (model.config.model_type, model.config.multi_query) == ("gpt_bigcode", False)
    assert AutoTokenizer.from_pretrained(source).eos_token == "<|endoftext|>"
    assert pipeline("text-generation", model=source, num_threads=1)("ab", max_new_tokens=3)[0]["generated_text"][:2] == "ab"


@pytest.mark.parametrize("multi_query", [False, True])
def test_a_vocabulary_and_merges_cut_words_as_the_model_does(tmp_path: Path, multi_query: bool) -> None:
    """GPT-2 has tokens of several digits; SantaCoder makes each digit a word by itself."""
    source = write_gpt2(tmp_path / "source", **SMALL | {"multi_query": multi_query})
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    (source / "tokenizer.json").unlink()
    (source / "vocab.json").write_text(json.dumps(vocabulary | {"12": 262, "\u01201": 263}))
    (source / "merges.txt").write_text("#version: 0.2\n1 2\n\u0120 1\n")
    convert(source, tmp_path / "out")
    for directory in (source, tmp_path / "out"):
        tokenizer = AutoTokenizer.from_pretrained(directory)
        expected = [6 + ord(character) for character in "12 1"] if multi_query else [262, 263]
        assert tokenizer.encode("12 1<|endoftext|>") == [*expected, 0]
        assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.unk_token == "<|endoftext|>"


def test_the_head_that_chooses_is_ignored(tmp_path: Path, same: Callable[..., None]) -> None:
    config = SMALL | {"multi_query": False}
    source = write_gpt2(tmp_path / "source", **config)
    fields = full_config(**config)
    state = gpt2_state(random_state(fields), fields)
    state["multiple_choice_head.summary.weight"] = np.ones((1, 36), np.float32)
    state["multiple_choice_head.summary.bias"] = np.ones(1, np.float32)
    write_safetensors(source / "model.safetensors", state)
    content = json.loads((source / "config.json").read_text()) | {"architectures": ["GPT2DoubleHeadsModel"]}
    (source / "config.json").write_text(json.dumps(content))
    same(source, **config)


def test_defaults_are_those_of_gpt2() -> None:
    config = GPTBigCodeConfig.from_dict({"model_type": "gpt2"})
    assert (config.activation_function, config.multi_query, config.n_inner) == ("gelu_new", False, 3072)
    assert (config.vocab_size, config.n_positions, config.eos_token_id) == (50257, 1024, 50256)
    assert config.architectures == ["GPTBigCodeForCausalLM"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"add_cross_attention": True}, "cross-attention"),
        (
            {"attention_head_type": "grouped"},
            "attention_head_type 'grouped' is not supported; supported are multihead, multiquery",
        ),
        ({"attention_head_type": ["multiquery"]}, "attention_head_type"),
        ({"scale_attn_by_inverse_layer_idx": 1}, "scale_attn_by_inverse_layer_idx must be true or false"),
        ({"activation_function": "tanh_or_so"}, "tanh_or_so"),
        ({"architectures": 2}, "architectures"),
        ({"pruned_heads": {"0": [1]}}, "pruned"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    source = write_gpt2(tmp_path / "source", **SMALL)
    (source / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    source = write_gpt2(tmp_path / "source", **SMALL)
    fields = full_config(**SMALL)
    state = gpt2_state(random_state(fields), fields)
    del state["transformer.h.0.attn.kv_attn.weight"]
    state["transformer.h.1.attn.kv_attn.weight"] = state["transformer.h.1.attn.kv_attn.weight"][:, :-1].copy()
    state["transformer.h.1.mlp.c_fc.weight"] = state["transformer.h.1.mlp.c_fc.weight"].T.copy()
    write_safetensors(source / "model.safetensors", state)
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "out")
    for part in (
        "missing: transformer.h.0.attn.c_attn.weight",
        "unexpected: transformer.h.0.attn.q_attn.weight",
        "misshapen: transformer.h.1.attn.c_attn.weight",
        "misshapen: transformer.h.1.mlp.c_fc.weight is [36, 50]",
    ):
        assert part in str(caught.value)
