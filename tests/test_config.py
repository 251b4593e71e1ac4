"""Reading and checking of config.json."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu import _core
from gptbigcode_cpu.config import ALIASES, LIMITS, GPTBigCodeConfig
from gptbigcode_cpu.errors import ConfigError, ModelNotFoundError

MINIMAL = {"model_type": "gpt_bigcode"}


def test_defaults_are_those_of_transformers() -> None:
    config = GPTBigCodeConfig.from_dict(MINIMAL)
    assert config == GPTBigCodeConfig()
    assert (config.vocab_size, config.n_embd, config.n_layer, config.n_head, config.n_inner) == (50257, 768, 12, 12, 3072)


@pytest.mark.live
def test_every_field_has_the_default_of_the_real_class() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPTBigCodeConfig()
    for field in dataclasses.fields(GPTBigCodeConfig):
        if field.name not in ("n_inner", "architectures", "id2label", "quantization_config", "other"):
            assert getattr(GPTBigCodeConfig(), field.name) == getattr(theirs, field.name), field.name


def test_derived_sizes() -> None:
    one = GPTBigCodeConfig.from_dict(MINIMAL | {"n_embd": 96, "n_head": 6})
    assert (one.head_dim, one.n_kv_head, one.n_inner) == (16, 1, 384)
    assert one.attention_scale == 1 / math.sqrt(16)
    many = GPTBigCodeConfig.from_dict(
        MINIMAL | {"n_embd": 96, "n_head": 6, "multi_query": False, "scale_attn_weights": False, "n_inner": 100}
    )
    assert (many.n_kv_head, many.n_inner, many.attention_scale) == (6, 100, 1.0)


@pytest.mark.parametrize(("alias", "key"), ALIASES.items())
def test_other_names_are_understood(alias: str, key: str) -> None:
    assert getattr(GPTBigCodeConfig.from_dict(MINIMAL | {alias: 24}), key) == 24
    with pytest.raises(ConfigError, match=alias):
        GPTBigCodeConfig.from_dict(MINIMAL | {alias: 24, key: 36})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "gpt_bigcode-santacoder"),
        ({"model_type": "starcoder2"}, "StarCoder2"),
        ({"model_type": None}, "model_type"),
        ({"add_cross_attention": True}, "cross-attention"),
        ({"activation_function": "gelu_or_so"}, "gelu_or_so.*supported are"),
        ({"activation_function": None}, "activation_function"),
        ({"n_embd": 100, "n_head": 12}, "not a multiple of n_head"),
        ({"pruned_heads": {"0": [1]}}, "pruned"),
        ({"multi_query": "yes"}, "multi_query must be true or false"),
        ({"scale_attn_weights": 1}, "scale_attn_weights"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": True}, "layer_norm_epsilon"),
        ({"layer_norm_epsilon": "1e-5"}, "layer_norm_epsilon"),
        ({"eos_token_id": [0, "x"]}, "eos_token_id"),
        ({"bos_token_id": 1.0}, "bos_token_id"),
        ({"architectures": "GPTBigCodeForCausalLM"}, "architectures"),
        ({"id2label": {"a": "b"}}, "id2label"),
        ({"id2label": {"0": "b"}, "num_labels": 3}, "num_labels"),
        ({"num_labels": 0}, "num_labels"),
        ({"quantization_config": 4}, "quantization_config"),
    ],
)
def test_unsupported_values_are_refused_with_the_reason(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GPTBigCodeConfig.from_dict(MINIMAL | change)


@pytest.mark.parametrize("key", LIMITS)
@pytest.mark.parametrize("value", [0, -1, 1.0, "12", True, 1 << 40])
def test_absurd_sizes_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        GPTBigCodeConfig.from_dict(MINIMAL | {key: value})


@pytest.mark.parametrize("name", ["gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast", "relu", "silu"])
def test_the_usual_activations_are_supported(name: str) -> None:
    assert name in _core.activation_names()
    assert GPTBigCodeConfig.from_dict(MINIMAL | {"activation_function": name}).activation_function == name


def test_keys_without_meaning_here_survive() -> None:
    content = MINIMAL | {"attn_pdrop": 0.1, "transformers_version": "4.30", "custom": {"a": [1]}}
    written = GPTBigCodeConfig.from_dict(content).to_dict()
    assert {key: written[key] for key in content} == content


@given(
    n_head=st.integers(1, 64),
    head_dim=st.integers(1, 128),
    n_inner=st.integers(1, 1 << 20) | st.none(),
    switches=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    eos=st.none() | st.integers(0, 100) | st.lists(st.integers(0, 100)),
    labels=st.integers(1, 5),
)
def test_writing_and_reading_is_the_identity(
    n_head: int, head_dim: int, n_inner: int | None, switches: tuple[bool, ...], eos: object, labels: int
) -> None:
    content = MINIMAL | {
        "n_head": n_head,
        "n_embd": n_head * head_dim,
        "n_inner": n_inner,
        "eos_token_id": eos,
        "num_labels": labels,
    }
    content |= dict(zip(("multi_query", "scale_attn_weights", "tie_word_embeddings"), switches, strict=True))
    config = GPTBigCodeConfig.from_dict(content)
    assert GPTBigCodeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(GPTBigCodeConfig)] + list(ALIASES)), JSON))
def test_any_content_gives_a_configuration_or_a_config_error(content: dict[str, Any]) -> None:
    try:
        config = GPTBigCodeConfig.from_dict(MINIMAL | content)
    except ConfigError:
        return
    assert config.n_embd == config.n_head * config.head_dim


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        GPTBigCodeConfig.from_json_file(tmp_path / "config.json")
    (tmp_path / "directory" / "config.json").mkdir(parents=True)
    with pytest.raises(ModelNotFoundError, match="cannot be read: Is a directory"):
        GPTBigCodeConfig.from_json_file(tmp_path / "directory" / "config.json")
    path = tmp_path / "config.json"
    for text in (b"", b"{", b"[]", b"\xff\xfe{}", b'"x"', b"[" * 100_000):
        path.write_bytes(text)
        with pytest.raises(ConfigError, match=str(path)):
            GPTBigCodeConfig.from_json_file(path)
