"""Reading and checking of config.json."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu import _core
from gptbigcode_cpu.config import DEFAULTS, GPTBigCodeConfig
from gptbigcode_cpu.config.checks import LIMITS
from gptbigcode_cpu.errors import ConfigError, InputError, ModelNotFoundError

MINIMAL = {"model_type": "gpt_bigcode"}
ALIASES = {alias: key for alias, key in GPTBigCodeConfig.attribute_map.items() if key in LIMITS}


def test_defaults_are_those_of_transformers() -> None:
    config = GPTBigCodeConfig.from_dict(MINIMAL)
    assert config == GPTBigCodeConfig()
    assert (config.vocab_size, config.n_embd, config.n_layer, config.n_head, config.n_inner) == (50257, 768, 12, 12, 3072)


@pytest.mark.live
def test_every_field_has_the_default_of_the_real_class() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPTBigCodeConfig()
    ours = GPTBigCodeConfig()
    for key in DEFAULTS.keys() - {"n_inner", "architectures", "quantization_config"}:
        assert getattr(ours, key) == getattr(theirs, key), key
    for key in ("id2label", "label2id", "num_labels", "num_key_value_heads", "hidden_size", "model_type", "attribute_map"):
        value = getattr(ours, key)
        expected = getattr(theirs, key)
        assert value == expected or value.items() > expected.items(), key


@pytest.mark.live
def test_the_real_class_reads_what_is_written(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = GPTBigCodeConfig(n_embd=36, n_head=3, n_layer=1, num_labels=3, problem_type="regression", custom={"a": 1})
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.GPTBigCodeConfig.from_pretrained(tmp_path / "ours")
    for key in ("n_embd", "n_inner", "num_labels", "id2label", "label2id", "problem_type", "custom", "hidden_size"):
        assert getattr(theirs, key) == getattr(ours, key), key
    theirs.save_pretrained(tmp_path / "theirs")
    again = GPTBigCodeConfig.from_pretrained(tmp_path / "theirs")
    assert (again.n_embd, again.num_labels, again.problem_type, again.custom) == (36, 3, "regression", {"a": 1})


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
        ({"model_type": "gpt_neox"}, "'gpt_neox', this package runs 'gpt_bigcode' and 'gpt2' models"),
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
        ({"architectures": 4}, "architectures"),
        ({"id2label": {"a": "b"}}, "id2label"),
        ({"label2id": {"a": float("inf")}}, "label2id must have numbers"),
        ({"quantization_config": 4}, "quantization_config"),
        ({"sliding_window": 100}, "sliding_window is 100: attention within a window"),
        ({"sliding_window": True}, "sliding_window"),
        ({"attention_chunk_size": 8}, "attention_chunk_size is 8"),
        ({"is_causal": False}, "is_causal is false"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
        ({"layer_types": 3}, "layer_types is 3"),
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


KEYS = [*DEFAULTS, *GPTBigCodeConfig.attribute_map, "id2label", "label2id", "num_labels"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
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


def test_keywords_attributes_and_other_names() -> None:
    config = GPTBigCodeConfig(hidden_size=64, n_head=4, num_hidden_layers=3, torch_dtype="torch.bfloat16", whatever=[1])
    assert (config.n_embd, config.hidden_size, config.n_layer, config.n_inner) == (64, 64, 3, 256)
    assert (config.dtype, config.torch_dtype, config.whatever) == ("bfloat16", "bfloat16", [1])
    config.num_hidden_layers = 5
    config.pad_token_id = 7
    assert (config.n_layer, config.pad_token_id) == (5, 7)
    with pytest.raises(ConfigError, match="pad_token_id must be a token id"):
        config.pad_token_id = "7"  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="no 'nothing'"):
        _ = config.nothing
    assert not hasattr(config, "nothing")
    other = copy.deepcopy(config)
    assert other == config
    other.whatever.append(2)
    assert other != config


@pytest.mark.parametrize("key", ["to_dict", "__class__", "attribute_map", "from_dict"])
def test_a_key_cannot_take_the_place_of_a_method(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        GPTBigCodeConfig.from_dict(MINIMAL | {key: 1})


def test_labels() -> None:
    assert GPTBigCodeConfig(num_labels=3).label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    named = GPTBigCodeConfig(id2label={"0": "good", "1": "bad"})
    assert (named.id2label, named.label2id, named.num_labels) == ({0: "good", 1: "bad"}, {"good": 0, "bad": 1}, 2)
    named.num_labels = 2
    assert named.id2label[1] == "bad"
    named.num_labels = 1
    assert (named.id2label, named.label2id) == ({0: "LABEL_0"}, {"LABEL_0": 0})
    with pytest.raises(ConfigError, match="at least two labels"):
        GPTBigCodeConfig(num_labels=1, problem_type="single_label_classification")
    with pytest.raises(ConfigError, match="problem_type must be one of regression"):
        GPTBigCodeConfig(problem_type="guessing")


def test_what_is_written() -> None:
    config = GPTBigCodeConfig(n_layer=3, num_labels=4, extra=True, name_or_path="there")
    assert config.to_diff_dict() == {
        "model_type": "gpt_bigcode",
        "n_layer": 3,
        "extra": True,
        "id2label": {str(i): f"LABEL_{i}" for i in range(4)},
        "label2id": {f"LABEL_{i}": i for i in range(4)},
    }
    assert json.loads(config.to_json_string()) == config.to_diff_dict()
    assert json.loads(config.to_json_string(use_diff=False)) == config.to_dict()
    assert "name_or_path" not in config.to_dict()
    assert GPTBigCodeConfig(n_embd=64, n_head=4).to_diff_dict() == MINIMAL | {"n_embd": 64, "n_head": 4}


# What changes no token of a language model. Arguments with these values are errors.
IDLE: list[dict[str, Any]] = [
    {"output_attentions": None, "output_hidden_states": None, "return_dict": None, "use_cache": None},
    {"problem_type": "guessing", "num_labels": 0, "id2label": {}},
    {"architectures": "GPTBigCodeForCausalLM"},
]


@pytest.mark.parametrize("content", IDLE)
def test_what_changes_nothing_is_ignored_in_files(content: dict[str, Any]) -> None:
    assert GPTBigCodeConfig.from_dict(MINIMAL | content) == GPTBigCodeConfig()
    with pytest.raises(ConfigError):
        GPTBigCodeConfig(**content)


def test_limits_of_attention_that_limit_nothing() -> None:
    neutral = {"sliding_window": 1024, "attention_chunk_size": None, "is_causal": True, "layer_types": ["full_attention"] * 12}
    assert GPTBigCodeConfig.from_dict(MINIMAL | neutral).sliding_window == 1024
    with pytest.raises(ConfigError, match="sliding_window is 1024"):
        GPTBigCodeConfig.from_dict(MINIMAL | neutral | {"n_positions": 1025})


def test_files_that_say_a_thing_twice() -> None:
    read = GPTBigCodeConfig.from_dict(MINIMAL | {"torch_dtype": "float16", "dtype": "float32"})
    assert read.dtype == "float32"
    labels = {"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 2}
    assert GPTBigCodeConfig.from_dict(MINIMAL | labels).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    with pytest.raises(ConfigError, match="dtype is 'float32', but its other name torch_dtype says 'float16'"):
        GPTBigCodeConfig(torch_dtype="float16", dtype="float32")
    with pytest.raises(ConfigError, match="num_labels is 2, but id2label names 3"):
        GPTBigCodeConfig(**labels)


def test_the_loss_of_a_classifier_is_checked() -> None:
    with pytest.raises(ConfigError, match="problem_type must be one of regression"):
        GPTBigCodeConfig.from_dict(
            MINIMAL | {"architectures": ["GPTBigCodeForSequenceClassification"], "problem_type": "guessing"}
        )


@pytest.mark.live
@pytest.mark.parametrize(
    "content", [*IDLE[:2], {"torch_dtype": "float16", "dtype": "float32"}, {"id2label": {"0": "a"}, "num_labels": 2}]
)
def test_transformers_ignores_it_too(content: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    given = {key: value for key, value in content.items() if key != "use_cache"}
    ours, theirs = GPTBigCodeConfig.from_dict(MINIMAL | given), transformers.GPTBigCodeConfig.from_dict(dict(given))
    assert (theirs.n_embd, theirs.num_hidden_layers) == (ours.n_embd, ours.n_layer)
    if "dtype" in given:
        assert str(theirs.dtype) == f"torch.{ours.dtype}"
    if given.get("id2label"):
        assert theirs.id2label == ours.id2label


def test_saved_and_read_again(tmp_path: Path) -> None:
    config = GPTBigCodeConfig(n_layer=3, eos_token_id=[1, 2], extra={"a": None})
    config.save_pretrained(tmp_path / "new" / "directory")
    for where in (tmp_path / "new" / "directory", tmp_path / "new" / "directory" / "config.json"):
        again = GPTBigCodeConfig.from_pretrained(where, pad_token_id=5, hidden_size=48)
        assert (again.name_or_path, again.pad_token_id, again.n_embd) == (str(where), 5, 48)
        again.update({"pad_token_id": None, "n_embd": 768})
        assert again == config
    with pytest.raises(InputError, match="unknown option 'pad_token'; did you mean 'pad_token_id'"):
        GPTBigCodeConfig.from_pretrained(tmp_path / "new" / "directory", pad_token=5)
    with pytest.raises(ModelNotFoundError):
        GPTBigCodeConfig.from_pretrained(tmp_path / "nowhere")
