"""LoRA adapters of PEFT, merged when a model is converted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import hostile
from oracle.adapters import PREFIX, added, eighths, pair, write_adapter
from oracle.gpt2_models import write_gpt2
from oracle.random_models import full_config, random_state, write_safetensors

from gptbigcode_cpu import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from gptbigcode_cpu.convert import ConversionReport, convert
from gptbigcode_cpu.errors import CheckpointError, ConfigError, ModelNotFoundError

MakeCheckpoint = Callable[..., Path]
State = dict[str, NDArray[np.float32]]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 2}
ATTENTION, UP, DOWN, HEAD = "transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc", "transformer.h.1.mlp.c_proj", "lm_head"
WTE = "transformer.wte"


def converted_bytes(source: Path, out: Path, dtype: str = "float32", **options: Any) -> bytes:
    convert(source, out, dtype=dtype, **options)
    return (out / "model.safetensors").read_bytes()


@pytest.fixture
def same(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Callable[..., None]:
    """Assert that a base model with adapters converts to the same file as a checkpoint with these weights."""

    def check(adapter: Any, state: State, dtype: str = "float32", base: Path | None = None, **config: Any) -> None:
        base = base or make_checkpoint(tmp_path / "base", **SMALL | config)
        untied = {"tie_word_embeddings": False} if "lm_head.weight" in state else {}
        vocabulary = {"vocab_size": len(state["transformer.wte.weight"])}
        expected = make_checkpoint(tmp_path / "expected", **SMALL | config | untied | vocabulary)
        write_safetensors(expected / "model.safetensors", state)
        wanted = converted_bytes(expected, tmp_path / "expected-out", dtype)
        assert converted_bytes(base, tmp_path / "out", dtype, adapter=adapter) == wanted
        contents = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "expected-out")]
        theirs, ours = ({key: content[key] for key in content.keys() - {"n_ctx", "dtype"}} for content in contents)
        assert theirs == ours

    return check


def state_of(**config: Any) -> State:
    return random_state(full_config(**SMALL | config))


@pytest.mark.parametrize("dtype", ["float32", "int4"])
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16"])
def test_linear_layers(tmp_path: Path, same: Callable[..., None], dtype: str, storage: str) -> None:
    tensors = pair(ATTENTION, 36 + 24, 36) | pair(UP, 50, 36, seed=1) | pair(DOWN, 36, 50, seed=2)
    state = state_of()
    for module in (ATTENTION, UP, DOWN):
        state[f"{module}.weight"] = added(state, tensors, module, 8 / 2)
    same(write_adapter(tmp_path / "adapter", tensors, storage=storage), state, dtype)


def test_heads_that_are_not_shared(tmp_path: Path, same: Callable[..., None]) -> None:
    tensors, state = pair(ATTENTION, 108, 36), state_of(multi_query=False)
    state[f"{ATTENTION}.weight"] = added(state, tensors, ATTENTION, 4.0)
    same(write_adapter(tmp_path / "adapter", tensors), state, multi_query=False)


def test_many_chunks(tmp_path: Path, same: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptbigcode_cpu.convert.quantize.packing._CHUNK_BYTES", 3000)
    tensors, state = pair(UP, 50, 36), state_of()
    state[f"{UP}.weight"] = added(state, tensors, UP, 4.0)
    same(write_adapter(tmp_path / "adapter", tensors), state)


@pytest.mark.parametrize(
    ("config", "rank", "scale"),
    [
        ({"lora_alpha": 16}, 2, 8.0),
        ({"lora_alpha": 0.5}, 2, 0.25),
        ({"r": 4, "use_rslora": True}, 4, 4.0),
        ({"r": 4}, 4, 2.0),
        ({"r": 64, "rank_pattern": {"c_fc": 4}}, 4, 2.0),
        ({"r": 64, "rank_pattern": {"c_f": 8, r"h\.\d+\.mlp\.c_fc": 4}}, 4, 2.0),
        ({"alpha_pattern": {"h.1.mlp.c_fc": 32}}, 2, 16.0),
        ({"alpha_pattern": {"h.0.mlp.c_fc": 32}}, 2, 4.0),
        ({"rank_pattern": {"c_fc": 4}, "alpha_pattern": {"transformer.h.1.mlp.c_fc": 16}, "use_rslora": True}, 4, 8.0),
        ({"fan_in_fan_out": True, "lora_dropout": 0.1, "bias": "none", "inference_mode": True, "future_key": {"a": 1}}, 2, 4.0),
        ({"modules_to_save": None, "rank_pattern": None, "init_lora_weights": "gaussian", "loftq_config": {}}, 2, 4.0),
    ],
)
def test_scales(tmp_path: Path, same: Callable[..., None], config: dict[str, Any], rank: int, scale: float) -> None:
    tensors, state = pair(UP, 50, 36, rank), state_of()
    state[f"{UP}.weight"] = added(state, tensors, UP, scale)
    same(write_adapter(tmp_path / "adapter", tensors, **config), state)


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("bare", [True, False])
def test_names_with_and_without_prefix(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, same: Callable[..., None], prefix: str, bare: bool
) -> None:
    tensors, state = pair(UP, 50, 36), state_of()
    state[f"{UP}.weight"] = added(state, tensors, UP, 4.0)
    if bare:
        tensors = {name.removeprefix("transformer."): values for name, values in tensors.items()}
    base = make_checkpoint(tmp_path / "base", prefix=prefix, **SMALL)
    same(write_adapter(tmp_path / "adapter", tensors), state, base=base)


def test_names_with_the_name_of_the_adapter(tmp_path: Path, same: Callable[..., None]) -> None:
    tensors, state = pair(UP, 50, 36), state_of()
    state[f"{UP}.weight"] = added(state, tensors, UP, 4.0)
    named = {name.replace(".weight", ".default.weight"): values for name, values in tensors.items()}
    state["transformer.ln_f.bias"] = named["transformer.ln_f.modules_to_save.default.bias"] = eighths(3, 36)
    same(write_adapter(tmp_path / "adapter", named), state)


@pytest.mark.parametrize("wrapped", [True, False])
def test_biases(tmp_path: Path, same: Callable[..., None], wrapped: bool) -> None:
    tensors, state = pair(UP, 50, 36), state_of()
    state[f"{UP}.weight"] = added(state, tensors, UP, 4.0)
    tensors[f"{UP}.base_layer.bias" if wrapped else f"{UP}.bias"] = state[f"{UP}.bias"] = eighths(5, 50)
    tensors["transformer.ln_f.bias"] = state["transformer.ln_f.bias"] = eighths(6, 36)
    same(write_adapter(tmp_path / "adapter", tensors, bias="all"), state)


def test_biases_of_the_adapter_itself(tmp_path: Path, same: Callable[..., None]) -> None:
    tensors, state = pair(UP, 50, 36), state_of()
    tensors[f"{UP}.lora_B.bias"] = eighths(7, 50)
    state[f"{UP}.weight"] = added(state, tensors, UP, 4.0)
    state[f"{UP}.bias"] = state[f"{UP}.bias"] + 4 * tensors[f"{UP}.lora_B.bias"]
    same(write_adapter(tmp_path / "adapter", tensors, lora_bias=True), state)


def test_dora(tmp_path: Path, same: Callable[..., None]) -> None:
    tensors, state = pair(UP, 50, 36), state_of()
    tensors[f"{UP}.lora_magnitude_vector"] = 1 + np.abs(eighths(8, 50))
    summed = state[f"{UP}.weight"] + 4.0 * (tensors[f"{UP}.lora_B.weight"] @ tensors[f"{UP}.lora_A.weight"]).astype(np.float64)
    lengths = np.linalg.norm(summed, axis=1)
    state[f"{UP}.weight"] = (summed * (tensors[f"{UP}.lora_magnitude_vector"] / lengths)[:, None]).astype(np.float32)
    same(write_adapter(tmp_path / "adapter", tensors, use_dora=True), state)


def test_a_tied_head_becomes_a_matrix_of_its_own(tmp_path: Path, same: Callable[..., None]) -> None:
    tensors, state = pair(HEAD, 270, 36), state_of()
    state[f"{HEAD}.weight"] = state["transformer.wte.weight"]
    tensors[f"{HEAD}.base_layer.weight"] = state[f"{HEAD}.weight"]  # PEFT writes it
    state[f"{HEAD}.weight"] = added(state, tensors, HEAD, 4.0)
    same(write_adapter(tmp_path / "adapter", tensors), state)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings(tmp_path: Path, same: Callable[..., None], tied: bool) -> None:
    state = state_of()
    tensors = {f"{WTE}.lora_embedding_A": eighths(1, 2, 270), f"{WTE}.lora_embedding_B": eighths(2, 36, 2)}
    if tied:  # PEFT writes the same change of the head
        tensors[f"{HEAD}.lora_A.weight"] = np.ascontiguousarray(tensors[f"{WTE}.lora_embedding_B"].T)
        tensors[f"{HEAD}.lora_B.weight"] = np.ascontiguousarray(tensors[f"{WTE}.lora_embedding_A"].T)
    else:
        state[f"{HEAD}.weight"] = state[f"{WTE}.weight"]
    product = 4 * (tensors[f"{WTE}.lora_embedding_B"] @ tensors[f"{WTE}.lora_embedding_A"]).T.astype(np.float64)
    state[f"{WTE}.weight"] = (state[f"{WTE}.weight"] + product).astype(np.float32)
    same(write_adapter(tmp_path / "adapter", tensors), state)


@pytest.mark.parametrize("indices", [[3, 269, 0], {"wte": [3, 269, 0]}, {"transformer.wte": [3, 269, 0]}])
@pytest.mark.parametrize("stored_twice", [True, False])
def test_tokens_that_were_trained(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, same: Callable[..., None], indices: Any, stored_twice: bool
) -> None:
    state, base = state_of(), make_checkpoint(tmp_path / "base", **SMALL)
    if stored_twice:
        write_safetensors(base / "model.safetensors", state | {"lm_head.weight": state[f"{WTE}.weight"]})
    rows = eighths(9, 3, 36)
    state[f"{WTE}.weight"][[3, 269, 0]] = rows
    tensors = {f"{WTE}.token_adapter.trainable_tokens_delta": rows}
    same(write_adapter(tmp_path / "adapter", tensors, trainable_token_indices=indices), state, base=base)


def test_saved_modules(tmp_path: Path, same: Callable[..., None]) -> None:
    tensors, state = pair(UP, 50, 36), state_of()
    state[f"{UP}.weight"] = added(state, tensors, UP, 4.0)
    for name in ("transformer.h.0.attn.c_proj.weight", "transformer.ln_f.weight"):
        tensors[name] = state[name] = eighths(10, *state[name].shape)
    tensors[f"{WTE}.weight"] = state[f"{WTE}.weight"] = eighths(11, 280, 36)
    tensors[f"{HEAD}.weight"] = state[f"{HEAD}.weight"] = eighths(12, 280, 36)
    same(write_adapter(tmp_path / "adapter", tensors, modules_to_save=["c_proj", "ln_f", "wte", "lm_head"]), state)


def test_a_saved_embedding(tmp_path: Path, same: Callable[..., None]) -> None:
    state, tensors = state_of(), {f"{WTE}.weight": eighths(11, 270, 36)}
    state[f"{HEAD}.weight"] = state[f"{WTE}.weight"]
    state[f"{WTE}.weight"] = tensors[f"{WTE}.weight"]
    same(write_adapter(tmp_path / "adapter", tensors), state)


def test_a_larger_vocabulary_stays_tied_and_brings_its_tokenizer(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, same: Callable[..., None]
) -> None:
    state, rows = state_of(), eighths(11, 275, 36)
    adapter = write_adapter(tmp_path / "adapter", pair(UP, 50, 36) | {f"{WTE}.weight": rows, f"{HEAD}.weight": rows})
    state[f"{UP}.weight"], state[f"{WTE}.weight"] = added(state, pair(UP, 50, 36), UP, 4.0), rows
    tokenizer = AutoTokenizer.from_pretrained(make_checkpoint(tmp_path / "any", **SMALL))
    tokenizer.add_tokens(["<|user|>"])
    tokenizer.save_pretrained(adapter)
    same(adapter, state)
    notes = convert(tmp_path / "base", tmp_path / "again", adapter=adapter).notes
    assert notes[1:] == (f"the tokenizer is that of {adapter}",)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids("<|user|>") == 262


def test_a_classifier(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    tensors = pair(UP, 50, 36) | {"score.weight": eighths(4, 5, 36)}
    adapter = write_adapter(tmp_path / "adapter", tensors, task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    convert(make_checkpoint(tmp_path / "base", **SMALL), tmp_path / "out", dtype="float32", adapter=adapter)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", num_threads=1)
    hidden = model.transformer([[1, 2, 3]]).last_hidden_state[:, -1]
    np.testing.assert_allclose(model([[1, 2, 3]]).logits, hidden @ eighths(4, 5, 36).T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("multi_query", [True, False])
def test_gpt2(tmp_path: Path, same: Callable[..., None], multi_query: bool) -> None:
    """The adapter has the names and shapes of GPT-2's layers."""
    state, width = state_of(multi_query=multi_query), 36
    layers = {"q_attn": width, "kv_attn": 24} if multi_query else {"c_attn": 3 * width}
    modules = {f"transformer.h.0.attn.{name}": rows for name, rows in layers.items()}
    tensors: State = {}
    for seed, (module, rows) in enumerate(modules.items()):
        tensors |= pair(module, rows, width, seed=seed)
    products = [4 * (tensors[f"{m}.lora_B.weight"] @ tensors[f"{m}.lora_A.weight"]).astype(np.float64) for m in modules]
    product = np.concatenate(products)
    if not multi_query:
        product = product.reshape(3, 3, 12, width).transpose(1, 0, 2, 3).reshape(-1, width)
    state[f"{ATTENTION}.weight"] = (state[f"{ATTENTION}.weight"] + product).astype(np.float32)
    tensors[f"{DOWN}.weight"] = np.ascontiguousarray(eighths(3, 36, 50).T)  # saved as Conv1D
    state[f"{DOWN}.weight"] = eighths(3, 36, 50)
    base = write_gpt2(tmp_path / "gpt2", multi_query=multi_query, **SMALL)
    same(write_adapter(tmp_path / "adapter", tensors, fan_in_fan_out=True), state, base=base, multi_query=multi_query)


def test_several_are_merged_in_order(tmp_path: Path, same: Callable[..., None]) -> None:
    first, second, state = pair(UP, 50, 36), pair(UP, 50, 36, seed=3), state_of()
    state[f"{UP}.weight"] = added(state, first, UP, 4.0)
    state[f"{UP}.weight"] = added(state, second, UP, 8.0)
    first["transformer.ln_f.bias"] = eighths(1, 36)
    second["transformer.ln_f.bias"] = state["transformer.ln_f.bias"] = eighths(2, 36)
    adapters = [
        write_adapter(tmp_path / "first", first),
        write_adapter(tmp_path / "second", second, lora_alpha=16),
    ]
    same(adapters, state)


def test_a_bin_file(tmp_path: Path, make_checkpoint: MakeCheckpoint, same: Callable[..., None]) -> None:
    torch = pytest.importorskip("torch")
    tensors, state = pair(UP, 50, 36), state_of()
    adapter = write_adapter(tmp_path / "adapter", tensors)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"none of adapter_model\.safetensors, adapter_model\.bin"):
        convert(make_checkpoint(tmp_path / "base", **SMALL), tmp_path / "out", adapter=adapter)
    torch.save({PREFIX + name: torch.from_numpy(v).bfloat16() for name, v in tensors.items()}, adapter / "adapter_model.bin")
    state[f"{UP}.weight"] = added(state, tensors, UP, 4.0)
    same(adapter, state)


def report(tmp_path: Path, make_checkpoint: MakeCheckpoint, tensors: State, **config: Any) -> ConversionReport:
    base = make_checkpoint(tmp_path / "base", **SMALL)
    return convert(base, tmp_path / "out", adapter=write_adapter(tmp_path / "adapter", tensors, **config))


def test_the_report_names_the_adapter_and_its_base(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    notes = report(tmp_path, make_checkpoint, pair(UP, 50, 36)).notes
    assert notes == (f"merged the LoRA adapter {tmp_path / 'adapter'}, trained on owner/base",)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING'; only 'LORA' adapters are merged"),
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"peft_type": "ADALORA"}, "'ADALORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*merge_and_unload"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"layer_replication": [[0, 2]]}, "layer_replication.*repeats layers"),
        ({"use_qalora": True}, "use_qalora"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"target_parameters": ["c_fc.weight"]}, "target_parameters"),
        ({"r": 0}, "the rank r must be a positive whole number, not 0"),
        ({"r": "2"}, "the rank r"),
        ({"lora_alpha": "8"}, "lora_alpha must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"rank_pattern": {"(": 2}}, "not a regular expression"),
        ({"rank_pattern": [1]}, "rank_pattern must be an object"),
        ({"alpha_pattern": {"c_fc": None}}, "c_fc must be a number"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        ({"trainable_token_indices": [-1]}, "token ids"),
        ({"trainable_token_indices": {"wte": 3}}, "token ids"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        report(tmp_path, make_checkpoint, pair(UP, 50, 36), **config)
    assert "adapter_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (pair("transformer.h.2.mlp.c_fc", 50, 36), {}, "transformer.h.2.mlp.c_fc: the model has no matrix"),
        (pair("transformer.h.0.attn.q_attn", 36, 36), {}, "attn.q_attn: the model has no matrix"),
        (pair(UP, 50, 36, rank=3), {}, r"lora_A is \[3, 36\], rank and layer make it \[2, 36\]"),
        (pair(UP, 51, 36), {}, r"lora_B is \[51, 2\], rank and layer make it \[50, 2\]"),
        ({f"{UP}.lora_A.weight": eighths(1, 2, 36)}, {}, "lora_B is missing"),
        (pair(UP, 50, 36), {"use_dora": True}, "use_dora needs a lora_magnitude_vector of 50 values"),
        (pair("lm_head", 270, 36) | {"lm_head.lora_B.bias": eighths(1, 270)}, {}, "has no bias of this shape"),
        (
            {f"{WTE}.lora_embedding_A": eighths(1, 2, 270), f"{WTE}.lora_embedding_B": eighths(2, 36, 2)},
            {"use_dora": True},
            "use_dora is not supported for embeddings",
        ),
        ({f"{WTE}.token_adapter.trainable_tokens_delta": eighths(1, 2, 36)}, {}, "for 0 tokens"),
        (
            {f"{WTE}.token_adapter.trainable_tokens_delta": eighths(1, 2, 36)},
            {"trainable_token_indices": [5, 270]},
            "trainable_tokens_delta",
        ),
        (pair(UP, 50, 36) | {"transformer.ln_f.bias": eighths(1, 35)}, {}, r"misshapen: transformer.ln_f.bias is \[35\]"),
        (pair(UP, 50, 36) | {f"{UP}.lora_A.weight": np.full((2, 36), np.nan, np.float32)}, {}, "NaN or infinite"),
        ({}, {}, "holds no tensors"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, tensors: State, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        report(tmp_path, make_checkpoint, tensors, **config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_damaged_files(tmp_path: Path, make_checkpoint: MakeCheckpoint, name: str) -> None:
    base, adapter = make_checkpoint(tmp_path / "base", **SMALL), write_adapter(tmp_path / "adapter", pair(UP, 50, 36))
    content = (adapter / name).read_bytes()
    for damaged in (b"", b"[]", content[:-1], b"\xff" * 20):
        (adapter / name).write_bytes(damaged)
        with pytest.raises((ConfigError, CheckpointError), match=name):
            convert(base, tmp_path / "out", adapter=adapter)
    assert not (tmp_path / "out").exists()


def test_damaged_adapters_are_merged_or_refused_in_one_line(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, draws: Callable[..., Any]
) -> None:
    base = make_checkpoint(tmp_path / "base", **SMALL)
    tensors = pair(UP, 50, 36) | {f"{UP}.lora_B.bias": eighths(1, 50), f"{UP}.lora_magnitude_vector": eighths(2, 50)}
    tensors |= {f"{WTE}.token_adapter.trainable_tokens_delta": eighths(1, 2, 36), "transformer.ln_f.bias": eighths(1, 36)}
    settings = {
        "use_dora": True,
        "rank_pattern": {"c_attn": 4},
        "alpha_pattern": {"c_attn": 4},
        "trainable_token_indices": [1, 2],
    }
    right = write_adapter(tmp_path / "right", tensors, **settings)
    for number, random in enumerate(draws(60)):
        adapter, out = tmp_path / f"adapter{number}", tmp_path / f"out{number}"
        shutil.copytree(right, adapter)
        hostile.damage(adapter, hostile.Choose(int(random.integers(1 << 30))))
        assert hostile.problem(lambda adapter=adapter, out=out: convert(base, out, adapter=adapter)) is None
        assert hostile.problem(lambda adapter=adapter, out=out: convert(adapter, out)) is None
        assert not list(tmp_path.glob(".out*"))


def test_what_is_no_adapter(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    base = make_checkpoint(tmp_path / "base", **SMALL)
    for name in (base, base / "config.json", str(tmp_path / "nowhere")):
        with pytest.raises(ModelNotFoundError, match=r"adapter_config\.json|no such file or directory"):
            convert(base, tmp_path / "out", adapter=name)


def test_an_adapter_is_no_model_and_says_how_to_make_one(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", pair(UP, 50, 36))
    command = f"LoRA adapter of 'owner/base'.*gptbigcode-cpu convert owner/base OUT --adapter {adapter}"
    with pytest.raises(ModelNotFoundError, match=command):
        AutoModelForCausalLM.from_pretrained(adapter)
    with pytest.raises(ModelNotFoundError, match=command):
        convert(adapter, tmp_path / "out")
    (adapter / "config.json").write_text(json.dumps(full_config(**SMALL)))
    with pytest.raises(ModelNotFoundError, match=command):
        AutoModelForCausalLM.from_pretrained(adapter)
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": None}))
    with pytest.raises(ModelNotFoundError, match=f"LoRA adapter of another model.*convert BASE OUT --adapter {adapter}"):
        convert(adapter, tmp_path / "out")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    with pytest.raises(ModelNotFoundError, match="adapter of PEFT, of type 'PROMPT_TUNING'"):
        convert(adapter, tmp_path / "out")


def test_a_calibrated_conversion_goes_on_with_the_same_adapter_only(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gptbigcode_cpu.convert import _fingerprint

    base, adapter = make_checkpoint(tmp_path / "base", **SMALL), write_adapter(tmp_path / "adapter", pair(UP, 50, 36))
    prints: list[str] = []

    def record(*arguments: Any) -> str:
        prints.append(_fingerprint(*arguments))
        return prints[-1]

    monkeypatch.setattr("gptbigcode_cpu.convert._fingerprint", record)
    for adapters in ([], [adapter], [adapter]):
        convert(base, tmp_path / "out", dtype="int4", calibrate="builtin", adapter=adapters, dry_run=True)
    assert prints[0] != prints[1] == prints[2]
