"""What a conversion writes: the right values in the right order under the right names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.kernel_sets import every_isa
from oracle.random_models import full_config, random_state, to_bfloat16, write_safetensors

from gptbigcode_cpu import _core
from gptbigcode_cpu.convert import ConversionReport, convert
from gptbigcode_cpu.errors import CheckpointError, ConfigError, InputError, ModelNotFoundError
from gptbigcode_cpu.store.tensors import Scheme
from gptbigcode_cpu.store.weights import PackedModel, open_packed

MakeCheckpoint = Callable[..., Path]
State = Mapping[str, NDArray[np.float32]]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 2}
C_ATTN = "transformer.h.1.attn.c_attn"


def stored(packed: PackedModel, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The float32 values that a tensor of a converted model stands for."""
    if name.endswith("attn.c_attn.weight"):
        stem, width = name.removesuffix("weight"), packed.config.n_embd
        parts = {"query": (width, width), "key_value": (shape[0] - width, width)}
        return np.concatenate([stored(packed, f"{stem}{part}.weight", size) for part, size in parts.items()])
    array = packed.tensors[name]
    if array.ndim == 3:
        return _core.unpack_weight(array, packed.scheme.dtype_of(name), *shape)
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def assert_holds(packed: PackedModel, state: State) -> None:
    parts = [name.replace("c_attn.weight", f"c_attn.{part}.weight") for name in state for part in ("query", "key_value")]
    assert packed.tensors.keys() == set(parts)
    for name, values in state.items():
        assert np.array_equal(stored(packed, name, values.shape), values), name


def opened(source: Path, out: Path, dtype: str = "float32") -> PackedModel:
    convert(source, out, dtype=dtype)
    return open_packed(out)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"tie_word_embeddings": False},
        {"scale_attn_weights": False, "activation_function": "relu", "layer_norm_epsilon": 1e-3},
        {"architectures": ["GPTBigCodeForSequenceClassification"], "num_labels": 3},
        {"architectures": ["GPTBigCodeForSequenceClassification"], "tie_word_embeddings": False},
        {"architectures": ["GPTBigCodeForTokenClassification"], "num_labels": 5},
        {"vocab_size": 1},
        {"n_embd": 1, "n_head": 1, "n_inner": 1},
    ],
    ids=str,
)
def test_float32_keeps_every_value(tmp_path: Path, make_checkpoint: MakeCheckpoint, config: dict[str, Any]) -> None:
    fields = SMALL | config
    packed = opened(make_checkpoint(tmp_path / "source", **fields), tmp_path / "out")
    assert_holds(packed, random_state(full_config(**fields)))
    for key, value in config.items():
        assert getattr(packed.config, key) == value


def test_rows_of_multi_head_attention_are_grouped(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    fields = SMALL | {"multi_query": False}
    packed = opened(make_checkpoint(tmp_path / "source", **fields), tmp_path / "out")
    state = random_state(full_config(**fields))
    for layer in range(2):
        for part in ("weight", "bias"):
            name = f"transformer.h.{layer}.attn.c_attn.{part}"
            rows = state[name]
            # [n_head, 3, head_dim] in the checkpoint; queries of all heads, then keys, then values in the result.
            heads = [rows[head * 36 : (head + 1) * 36] for head in range(3)]
            state[name] = np.concatenate([head[kind * 12 : (kind + 1) * 12] for kind in range(3) for head in heads])
            assert not np.array_equal(state[name], rows)
    assert_holds(packed, state)
    assert packed.config.n_kv_head == 3


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_half_precision_sources_lose_nothing(tmp_path: Path, make_checkpoint: MakeCheckpoint, storage: str) -> None:
    packed = opened(make_checkpoint(tmp_path / "source", storage=storage, **SMALL), tmp_path / "out")
    state = random_state(full_config(**SMALL))
    for name, values in state.items():
        if storage == "float16":
            state[name] = values.astype(np.float16).astype(np.float32)
        else:
            state[name] = (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    assert_holds(packed, state)


INT6_IN_INT4 = {
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "transformer.h.0.attn.c_proj.weight",
    "transformer.h.0.attn.c_attn.key_value.weight",
    "transformer.h.1.attn.c_attn.key_value.weight",
}


@pytest.mark.parametrize(("dtype", "in_int6"), [("int8", set()), ("int6", set()), ("int4", INT6_IN_INT4), ("bfloat16", set())])
def test_each_dtype_packs_what_the_core_packs(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, dtype: str, in_int6: set[str]
) -> None:
    packed = opened(make_checkpoint(tmp_path / "source", **SMALL), tmp_path / "out", dtype)
    assert (packed.dtype, packed.scheme.overrides) == (dtype, dict.fromkeys(in_int6, "int6"))
    state = random_state(full_config(**SMALL))
    for layer in range(2):
        name = f"transformer.h.{layer}.attn.c_attn."
        rows = state.pop(f"{name}weight")
        state[f"{name}query.weight"], state[f"{name}key_value.weight"] = rows[:36], rows[36:]
    scale = packed.tensors.get("transformer.wte.column_scale")
    assert packed.tensors.keys() == {*state, *(() if scale is None else ["transformer.wte.column_scale"])}
    for name, values in state.items():
        if name == "transformer.wpe.weight" and dtype in ("int8", "bfloat16"):
            expected = to_bfloat16(values) if dtype == "bfloat16" else values.astype(np.float16)
        elif values.ndim == 1:
            expected = values
        elif "wte" in name and scale is not None:
            expected = _core.pack_weight(values / scale, "int6" if name in in_int6 else dtype)
        else:
            expected = _core.pack_weight(values, "int6" if name in in_int6 else dtype)
        assert np.array_equal(packed.tensors[name], expected), name


KEEP = {"*.c_attn.*": "float32", "*.h.1.*": "bfloat16", "*.h.1.mlp.c_fc.weight": "int8", "transformer.w[tp]e.weight": "int4"}


def test_tensors_that_are_kept_otherwise(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    convert(source, tmp_path / "out", dtype="int4", keep=KEEP)
    packed = open_packed(tmp_path / "out")
    assert packed.scheme.overrides == {
        "transformer.h.0.attn.c_attn.query.weight": "float32",
        "transformer.h.0.attn.c_attn.key_value.weight": "float32",
        "transformer.h.0.attn.c_proj.weight": "int6",
        "transformer.h.1.attn.c_attn.query.weight": "bfloat16",
        "transformer.h.1.attn.c_attn.key_value.weight": "bfloat16",
        "transformer.h.1.attn.c_proj.weight": "bfloat16",
        "transformer.h.1.mlp.c_fc.weight": "int8",
        "transformer.h.1.mlp.c_proj.weight": "bfloat16",
    }
    state = random_state(full_config(**SMALL))
    name = "transformer.h.0.attn.c_attn.weight"
    assert np.array_equal(stored(packed, name, state[name].shape), state[name])


@every_isa
def test_a_model_of_many_types_computes_what_its_weights_say(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, core_model: Callable[..., Any], run_core: Callable[..., Any], isa: str
) -> None:
    """Each layer with queries, keys and values, and MLP matrices of all types mixed, beside float32."""
    fields = SMALL | {"n_layer": 5, "n_embd": 48}
    source = make_checkpoint(tmp_path / "source", **fields)
    dtypes = ["int8", "float32", "bfloat16", "int6", "int4"]
    parts = ["attn.c_attn.query", "attn.c_attn.key_value", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    keep = {
        f"transformer.h.{layer}.{part}.weight": dtypes[(layer + i) % 5] for layer in range(5) for i, part in enumerate(parts)
    }
    convert(source, tmp_path / "mixed", dtype="int8", keep=keep)
    convert(source, tmp_path / "float32", dtype="float32")
    tokens = np.arange(7, dtype=np.int32) * 31
    expected = run_core(core_model(tmp_path / "float32"), tokens)
    found = run_core(core_model(tmp_path / "mixed", isa, kv_dtype="float32"), tokens)
    assert np.abs(found - expected).max() < 0.15 * np.abs(expected).max()
    assert np.array_equal(found, run_core(core_model(tmp_path / "mixed", "scalar", 3, kv_dtype="float32"), tokens))


@pytest.mark.parametrize("packing", ["float32", "bfloat16", "int8", "int6", "int4"])
def test_positions_packed_in_any_type(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, core_model: Callable[..., Any], packing: str
) -> None:
    """Where they are packed at all: in models of few bits."""
    convert(make_checkpoint(tmp_path / "source", **SMALL), tmp_path / "out", dtype="int4", keep={"*.wpe.*": packing})
    packed, name = open_packed(tmp_path / "out"), "transformer.wpe.weight"
    values = random_state(full_config(**SMALL))[name]
    assert np.array_equal(packed.tensors[name], _core.pack_weight(values, packing))
    model, token = core_model(tmp_path / "out"), np.array([5, 5, 5], np.int32)
    states = model.forward([_core.KVCache(model)], [token], [0], hidden_states=True)[1]
    rows = _core.unpack_weight(packed.tensors[name], packing, *values.shape)
    assert np.array_equal(states[0], model.embed(token) + rows[:3])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"*.c_fc.weight": "int3"}, "cannot be kept in 'int3'; choose one of int8"),
        ({"*.c_fc": "int8"}, "no packed tensor matches '\\*.c_fc'; their names are like 'transformer.h.1.mlp.c_fc.weight'"),
        ({"*.bias": "int8"}, "no packed tensor matches"),
        ({"transformer.wpe.weight": "int6"}, "no packed tensor matches"),  # in an int8 model
    ],
)
def test_what_cannot_be_kept(tmp_path: Path, make_checkpoint: MakeCheckpoint, keep: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(make_checkpoint(tmp_path / "source", **SMALL), tmp_path / "out", keep=keep)
    assert not (tmp_path / "out").exists()


def test_large_matrices_are_packed_in_pieces(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint(tmp_path / "source", multi_query=False, **SMALL)
    convert(source, tmp_path / "whole")
    monkeypatch.setattr("gptbigcode_cpu.convert.quantize.packing._CHUNK_BYTES", 5000)
    convert(source, tmp_path / "pieces")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "pieces")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_do_not_change_the_result(tmp_path: Path, make_checkpoint: MakeCheckpoint, num_threads: int) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    convert(source, tmp_path / "default")
    convert(source, tmp_path / "threads", num_threads=num_threads)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("default", "threads")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "layout", [{"shards": 3}, {"prefix": ""}, {"prefix": "", "shards": 2, "tie_word_embeddings": False}], ids=str
)
def test_other_layouts_of_the_same_checkpoint(tmp_path: Path, make_checkpoint: MakeCheckpoint, layout: dict[str, Any]) -> None:
    packed = opened(make_checkpoint(tmp_path / "source", **SMALL, **layout), tmp_path / "out")
    fields = SMALL | {key: value for key, value in layout.items() if key == "tie_word_embeddings"}
    assert_holds(packed, random_state(full_config(**fields)))


def with_state(source: Path, state: State) -> Path:
    """Replace the weights of a checkpoint."""
    write_safetensors(source / "model.safetensors", state)
    return source


def test_causal_masks_of_old_checkpoints_are_dropped(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    state = random_state(full_config(**SMALL))
    masks = {"transformer.h.0.attn.bias": np.ones((1, 1, 7, 7), np.float32), "h.1.attn.masked_bias": np.array(-1e4, np.float32)}
    packed = opened(with_state(make_checkpoint(tmp_path / "source", **SMALL), state | masks), tmp_path / "out")
    assert_holds(packed, state)


def test_a_copy_of_a_tied_head_is_dropped(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    state = random_state(full_config(**SMALL))
    copied = state | {"lm_head.weight": state["transformer.wte.weight"]}
    source = with_state(make_checkpoint(tmp_path / "source", **SMALL), copied)
    report = convert(source, tmp_path / "out", dtype="float32")
    assert report.notes == ()
    assert_holds(open_packed(tmp_path / "out"), state)


def test_a_tied_matrix_under_the_name_of_the_head(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    state = random_state(full_config(**SMALL))
    renamed = {("lm_head.weight" if "wte" in name else name): values for name, values in state.items()}
    packed = opened(with_state(make_checkpoint(tmp_path / "source", **SMALL), renamed), tmp_path / "out")
    assert_holds(packed, state)


def test_a_head_that_is_not_the_embedding_unties_the_model(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    state = random_state(full_config(**SMALL))
    head = state["transformer.wte.weight"].copy()
    head[-1, -1] += 1
    different = state | {"lm_head.weight": head}
    report = convert(with_state(make_checkpoint(tmp_path / "source", **SMALL), different), tmp_path / "out", dtype="float32")
    assert "lm_head.weight differs" in report.notes[0]
    packed = open_packed(tmp_path / "out")
    assert packed.config.tie_word_embeddings is False
    assert_holds(packed, different)


def test_every_difference_is_listed_at_once(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    state = random_state(full_config(**SMALL))
    del state["transformer.ln_f.bias"], state[f"{C_ATTN}.weight"]
    state["transformer.h.7.ln_1.bias"] = np.zeros(36, np.float32)
    state["transformer.wte.weight"] = np.zeros((271, 36), np.float32)
    source = with_state(make_checkpoint(tmp_path / "source", **SMALL), state)
    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "out")
    assert str(caught.value) == "the checkpoint does not fit its configuration: " + "; ".join(
        [
            f"missing: {C_ATTN}.weight [60, 36]",
            "missing: transformer.ln_f.bias [36]",
            "unexpected: transformer.h.7.ln_1.bias [36]",
            "misshapen: transformer.wte.weight is [271, 36], the configuration makes it [270, 36]; "
            "set vocab_size to the rows of the matrix",
        ]
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("architecture", "missing"),
    [
        ("GPTBigCodeForCausalLM", "lm_head.weight"),
        ("GPTBigCodeForSequenceClassification", "score.weight"),
        ("GPTBigCodeForTokenClassification", "classifier.bias"),
    ],
)
def test_a_missing_head(tmp_path: Path, make_checkpoint: MakeCheckpoint, architecture: str, missing: str) -> None:
    fields = SMALL | {"architectures": [architecture], "tie_word_embeddings": False}
    state = random_state(full_config(**fields))
    del state[missing]
    with pytest.raises(CheckpointError, match=f"missing: {missing}"):
        convert(with_state(make_checkpoint(tmp_path / "source", **fields), state), tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["transformer.wte.weight", "transformer.wpe.weight", f"{C_ATTN}.bias", "transformer.h.0.mlp.c_fc.weight"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_values_that_are_not_finite(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, name: str, value: float, storage: str
) -> None:
    state = random_state(full_config(**SMALL))
    where = (np.s_[5, 3] if state[name].ndim == 2 else np.s_[5],)[0]
    state[name][where] = value
    source = make_checkpoint(tmp_path / "source", **SMALL)
    write_safetensors(source / "model.safetensors", state, storage)
    with pytest.raises(CheckpointError, match=rf"tensor {name} has the value {value} at \[5"):
        convert(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(("name", "row"), [("transformer.wte.weight", 201), ("transformer.h.1.mlp.c_fc.bias", 49)])
def test_the_place_of_a_bad_value_counts_from_the_start_of_the_tensor(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch, name: str, row: int
) -> None:
    monkeypatch.setattr("gptbigcode_cpu.convert.quantize.packing._CHUNK_BYTES", 100)
    state = random_state(full_config(**SMALL))
    state[name].reshape(len(state[name]), -1)[row, -1] = np.nan
    with pytest.raises(CheckpointError, match=rf"tensor {name} has the value nan at \[{row}\b"):
        convert(with_state(make_checkpoint(tmp_path / "source", **SMALL), state), tmp_path / "out")


def test_a_position_that_float16_cannot_hold(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    state = random_state(full_config(**SMALL))
    state["transformer.wpe.weight"][0, 0] = 1e6
    source = with_state(make_checkpoint(tmp_path / "source", **SMALL), state)
    with pytest.raises(CheckpointError, match="too large for F16"):
        convert(source, tmp_path / "out", dtype="int8")
    assert_holds(opened(source, tmp_path / "out"), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"add_cross_attention": True}, "cross-attention"),
        ({"activation_function": "snake"}, "snake"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised with 'bitsandbytes'"),
    ],
)
def test_unsupported_models_are_refused(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, change: dict[str, Any], message: str
) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ConfigError, match=message):
        convert(source, tmp_path / "out")


def test_a_converted_model_is_no_source(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    convert(make_checkpoint(tmp_path / "source", **SMALL), tmp_path / "out")
    with pytest.raises(CheckpointError, match="already converted"):
        convert(tmp_path / "out", tmp_path / "again")


def test_the_files_beside_the_weights(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    for name in ("special_tokens_map.json", "added_tokens.json"):
        (source / name).write_text("{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "README.md").write_text("of the original")
    convert(source, tmp_path / "out")
    copied = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"}
    copied |= {"generation_config.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == copied | {"config.json", "model.safetensors"}
    for name in copied:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_generation_defaults_come_from_the_configuration(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", eos_token_id=[3, 4], bos_token_id=2, **SMALL)
    (source / "generation_config.json").unlink()
    convert(source, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert content == {"_from_model_config": True, "bos_token_id": 2, "eos_token_id": [3, 4], "use_cache": True}


def test_a_tokenizer_is_made_from_vocabulary_and_merges(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    import tokenizers

    source = make_checkpoint(tmp_path / "source", **SMALL)
    vocab = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    vocab |= {"de": 262, "def": 263, "12": 264}
    (source / "tokenizer.json").unlink()
    (source / "vocab.json").write_text(json.dumps(vocab))
    (source / "merges.txt").write_text("#version: 0.2\nd e\nde f\n1 2\n")
    (source / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "<|endoftext|>", "additional_special_tokens": ["<fim_prefix>", {"content": "<new>"}]})
    )
    convert(source, tmp_path / "out")
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    encoding = tokenizer.encode("<fim_prefix>def 12é<new>")
    byte_ids = [6 + byte for byte in b" 12" + "é".encode()]
    assert encoding.ids == [1, 263, *byte_ids, len(vocab)]
    assert tokenizer.decode(encoding.ids) == "def 12é"


def test_damaged_vocabulary(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    (source / "tokenizer.json").unlink()
    (source / "vocab.json").write_text("[")
    (source / "merges.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_report_is_right_and_a_dry_run_writes_nothing(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    planned = convert(source, tmp_path / "deep" / "out", dtype="int4", dry_run=True)
    assert not (tmp_path / "deep").exists()
    done = convert(source, tmp_path / "deep" / "out", dtype="int4")
    assert isinstance(done, ConversionReport)
    assert (planned.output_bytes, planned.n_tensors) == (done.output_bytes, 28)
    assert planned.scheme == done.scheme == Scheme.default(open_packed(tmp_path / "deep" / "out").config, "int4")
    state = random_state(full_config(**SMALL))
    assert planned.n_parameters == sum(values.size for values in state.values())
    assert planned.source_bytes == 4 * planned.n_parameters
    written = sum(path.stat().st_size for path in (tmp_path / "deep" / "out").iterdir())
    assert written <= planned.output_bytes <= written + (64 << 10)


def test_progress_counts_up_to_the_end(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    calls: list[tuple[str, int, int]] = []
    convert(make_checkpoint(tmp_path / "source", **SMALL), tmp_path / "out", progress=lambda *call: calls.append(call))
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    names = list(dict.fromkeys(name for name, _, _ in calls if name))
    assert names[:2] == ["writing wte", "writing wpe"]
    assert names[2:4] == ["quantising block 1 of 2", "quantising block 2 of 2"]
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert calls[-1][1:] == (size, size)
    assert all(total == size for _, _, total in calls)


def test_a_conversion_prints_nothing(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    convert(make_checkpoint(tmp_path / "source", **SMALL), tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_no_checkpoint_in_the_directory(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    (source / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors.*pytorch_model\.bin"):
        convert(source, tmp_path / "out")
    shutil.rmtree(source)
    with pytest.raises(ModelNotFoundError, match="source"):
        convert(source, tmp_path / "out")
