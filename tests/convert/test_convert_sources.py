"""The files of a checkpoint: shards, indexes, .bin files, and damage in each of them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle.random_models import full_config, random_state

from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.sources.read import read_checkpoint
from gptbigcode_cpu.errors import CheckpointError, MissingDependencyError, ModelNotFoundError

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 2}


def converted_bytes(source: Path, out: Path, dtype: str = "int8") -> bytes:
    convert(source, out, dtype=dtype)
    return (out / "model.safetensors").read_bytes()


def write_bin(source: Path, state: dict[str, Any], shards: int = 1) -> None:
    """Replace the safetensors files of a checkpoint by ``.bin`` files."""
    import torch

    for path in source.glob("*.safetensors"):
        path.unlink()
    if shards == 1:
        torch.save(state, source / "pytorch_model.bin")
        return
    weight_map = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin"
        part = {name: state[name] for name in list(state)[shard::shards]}
        torch.save(part, source / file)
        weight_map |= dict.fromkeys(part, file)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def torch_state(dtype: str) -> dict[str, Any]:
    import torch

    return {
        name: torch.from_numpy(values).to(getattr(torch, dtype)) for name, values in random_state(full_config(**SMALL)).items()
    }


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16"])
def test_bin_files_give_the_same_model(tmp_path: Path, make_checkpoint: MakeCheckpoint, storage: str, shards: int) -> None:
    pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", storage=storage, **SMALL)
    expected = converted_bytes(source, tmp_path / "expected")
    state = torch_state(storage)
    # A state dict holds a tied head as a second name of the same storage, and the masks of old versions.
    state["lm_head.weight"] = state["transformer.wte.weight"]
    state["transformer.h.0.attn.bias"] = state["transformer.ln_f.bias"].bool()
    write_bin(source, state, shards)
    assert converted_bytes(source, tmp_path / "out") == expected


def test_bin_files_are_mapped_anew_to_bound_the_memory(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    expected = converted_bytes(source, tmp_path / "expected")
    write_bin(source, torch_state("float32"))
    monkeypatch.setattr("gptbigcode_cpu.convert.sources.pytorch_files._RELOAD_BYTES", 5000)
    assert converted_bytes(source, tmp_path / "out") == expected


def test_bin_without_torch_names_the_extra(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"gptbigcode-cpu\[convert\]"):
        convert(source, tmp_path / "out")


def test_safetensors_need_no_torch(tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    convert(make_checkpoint(tmp_path / "source", storage="bfloat16", **SMALL), tmp_path / "out")


class Hostile:
    """What a malicious pickle does: call something when it is read."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.victim,))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    write_bin(source, torch_state("float32") | {"evil": Hostile(tmp_path / "touched")})
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file" * 100, b"<!doctype html>"])
def test_bin_files_that_are_none(tmp_path: Path, make_checkpoint: MakeCheckpoint, content: bytes) -> None:
    pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        convert(source, tmp_path / "out")


def test_truncated_bin_files(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    write_bin(source, torch_state("float32"))
    content = (source / "pytorch_model.bin").read_bytes()
    for part in (0.1, 0.5, 0.99):
        (source / "pytorch_model.bin").write_bytes(content[: int(len(content) * part)])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
            convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a tensor", "holds a Tensor instead of a table of tensors by name"),
        ("a list", "holds a list instead"),
        ("nested", "its entries are 'state_dict', 'epoch'; save what is in 'state_dict' alone"),
        ("empty", "its entries are none"),
    ],
)
def test_bin_files_without_a_table_of_tensors(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, content: str, message: str
) -> None:
    torch = pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    tensor = torch.zeros(3)
    values = {"a tensor": tensor, "a list": [tensor], "nested": {"state_dict": {"a": tensor}, "epoch": 3}, "empty": {}}
    write_bin(source, values[content])
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "out")


def test_parameters_and_entries_that_are_no_tensors(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    """transformers takes what a Parameter holds, and ignores the rest."""
    torch = pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    expected = converted_bytes(source, tmp_path / "expected")
    state = {name: torch.nn.Parameter(value) for name, value in torch_state("float32").items()}
    state["transformer.ln_f.bias"].note = "an attribute of its own"
    others = {"epoch": 3, "note": None, "optimizer": {"state": [torch.zeros(2)]}, "type": torch.float16, 7: torch.zeros(2)}
    write_bin(source, others | state)
    assert converted_bytes(source, tmp_path / "out") == expected


@pytest.mark.parametrize("parameters", [False, True])
def test_bin_files_from_before_torch_1_6(tmp_path: Path, make_checkpoint: MakeCheckpoint, parameters: bool) -> None:
    torch = pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    expected = converted_bytes(source, tmp_path / "expected")
    state = torch_state("float32")
    if parameters:
        state = {name: torch.nn.Parameter(value) for name, value in state.items()}
    write_bin(source, state)
    torch.save(state, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert converted_bytes(source, tmp_path / "out") == expected
    write_bin(source, state | {"evil": Hostile(tmp_path / "touched")})
    torch.save(
        state | {"evil": Hostile(tmp_path / "touched")}, source / "pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    with pytest.raises(CheckpointError, match="which may run code when it is read"):
        convert(source, tmp_path / "out2")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float16", "int64"])
def test_buffers_and_tensors_of_no_part_of_the_model(tmp_path: Path, make_checkpoint: MakeCheckpoint, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    expected = converted_bytes(source, tmp_path / "expected")
    state = torch_state("float32")
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 7, 7).to(getattr(torch, dtype))
    state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4).to(getattr(torch, dtype))
    state["v_head.summary.weight"] = torch.zeros(1, 36, dtype=torch.complex64)
    state["sparse"] = torch.eye(3).to_sparse()
    write_bin(source, state)
    report = convert(source, tmp_path / "out")
    assert report.notes == (
        "ignored, as transformers does: tensors that are no part of the model, sparse, v_head.summary.weight",
    )
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


def test_names_with_a_prefix(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    """transformers finds no weight under such a name, and fills the model with random numbers."""
    source = make_checkpoint(tmp_path / "source", prefix="module.transformer.", **SMALL)
    with pytest.raises(CheckpointError, match=r"(?s)missing: transformer\.wte.*the names in the file begin with 'module\.'"):
        convert(source, tmp_path / "out")


def test_types_that_are_no_weights(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    torch = pytest.importorskip("torch")
    source = make_checkpoint(tmp_path / "source", **SMALL)
    state = torch_state("float32")
    state["transformer.wte.weight"] = state["transformer.wte.weight"].to_sparse()
    state["transformer.ln_f.weight"] = state["transformer.ln_f.weight"].to(torch.int64)
    state["transformer.ln_f.bias"] = state["transformer.ln_f.bias"].to(torch.complex64)
    write_bin(source, state)
    message = r"(?s)wte\.weight is sparse float32, supported are F64, F32.*ln_f\.weight is I64.*ln_f\.bias is complex64"
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "out")


def test_damaged_safetensors(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    path = source / "model.safetensors"
    content = path.read_bytes()
    for damaged in (b"", content[:100], content[:-1], content + b"x", b"\xff" * 8 + content[8:]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
            convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_at_odd_offsets(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    expected = converted_bytes(source, tmp_path / "expected")
    content = (source / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    shifted = (length + 1).to_bytes(8, "little") + content[8 : 8 + length] + b" " + content[8 + length :]
    (source / "model.safetensors").write_bytes(shifted)
    assert converted_bytes(source, tmp_path / "out") == expected


def rewrite_index(source: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = source / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def sharded(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(tmp_path / "source", shards=3, **SMALL)


def test_a_file_counts_before_an_index_and_safetensors_before_bin(
    sharded: Path, tmp_path: Path, make_checkpoint: MakeCheckpoint
) -> None:
    other = make_checkpoint(tmp_path / "other", seed=1, **SMALL)
    (sharded / "pytorch_model.bin").write_bytes(b"not read")
    expected = converted_bytes(sharded, tmp_path / "expected")
    assert expected != converted_bytes(other, tmp_path / "out-other")
    shutil.copy(other / "model.safetensors", sharded)
    assert converted_bytes(sharded, tmp_path / "out") == (tmp_path / "out-other" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "gptq_model-4bit-128g.safetensors", "weights.safetensors"])
def test_weights_under_another_name(tmp_path: Path, make_checkpoint: MakeCheckpoint, name: str) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    expected = converted_bytes(source, tmp_path / "expected")
    (source / "model.safetensors").rename(source / name)
    (source / "training_args.bin").write_bytes(b"no weights")
    (source / "adapter_model.safetensors").write_bytes(b"no weights of a model")
    assert converted_bytes(source, tmp_path / "out") == expected
    (source / f"a-{name}").write_bytes(b"which one?")
    with pytest.raises(ModelNotFoundError, match=rf"several weights files.*rename the one that you mean: a-{name}, {name}"):
        convert(source, tmp_path / "out2")


def test_a_directory_in_the_place_of_the_weights(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read: Is a directory"):
        convert(source, tmp_path / "out")


def test_missing_shards_are_all_named(sharded: Path, tmp_path: Path) -> None:
    (sharded / "model-00001-of-00003.safetensors").unlink()
    (sharded / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2 of 3 files: model-00001-of-.*, model-00003-of-"):
        convert(sharded, tmp_path / "out")


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/../../b.safetensors", "..", ""])
def test_shards_outside_the_directory(sharded: Path, tmp_path: Path, name: str) -> None:
    rewrite_index(sharded, lambda index: index["weight_map"].update({"transformer.wte.weight": name}))
    with pytest.raises(CheckpointError, match="not the name of a file beside"):
        convert(sharded, tmp_path / "out")


def test_an_index_that_promises_too_much(sharded: Path, tmp_path: Path) -> None:
    """Tools that drop the second name of a tied head from the files leave it in the index."""
    expected = converted_bytes(sharded, tmp_path / "expected")
    promised = dict.fromkeys(("extra", "lm_head.weight"), "model-00001-of-00003.safetensors")
    rewrite_index(sharded, lambda index: (index["weight_map"].update(promised), index.update(metadata={"total_size": "?"})))
    assert converted_bytes(sharded, tmp_path / "out") == expected
    rewrite_index(sharded, lambda index: [index["weight_map"].pop(name) for name in list(index["weight_map"])[::2]])
    assert converted_bytes(sharded, tmp_path / "fewer") == expected


def test_a_tensor_in_two_shards(sharded: Path, tmp_path: Path) -> None:
    first, second = sharded / "model-00001-of-00003.safetensors", sharded / "model-00002-of-00003.safetensors"
    second.write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match=r"both in model-00001-of-00003\.safetensors and in model-00002"):
        convert(sharded, tmp_path / "out")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_is_none(sharded: Path, tmp_path: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        convert(sharded, tmp_path / "out")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(position=st.integers(0, 1 << 20), value=st.integers(0, 255))
def test_any_changed_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint, position: int, value: int
) -> None:
    directory = tmp_path_factory.mktemp("changed")
    source = make_checkpoint(directory / "source", **SMALL | {"n_layer": 1, "vocab_size": 8})
    content = bytearray((source / "model.safetensors").read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    content[position % length] = value
    (source / "model.safetensors").write_bytes(content)
    try:
        convert(source, directory / "out")
    except CheckpointError:
        assert not (directory / "out").exists()


def test_tensors_are_views_until_they_are_used(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    tensors = read_checkpoint(make_checkpoint(tmp_path / "source", **SMALL))
    expected = random_state(full_config(**SMALL))
    assert {*tensors} == {*expected}
    for name, tensor in tensors.items():
        for _ in range(2):
            with tensor.open() as values:
                assert not values.flags.owndata
                assert np.array_equal(values, expected[name])
