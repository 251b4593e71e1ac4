"""What the files of a GPTQ or AWQ checkpoint are called, and where and how they say how it was quantised."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from oracle.gptq_models import SMALL, expected_bytes, neighbours, pack_awq, pack_gptq, write_quantised, write_tensors

from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.sources.gptq_config import Method, method_of
from gptbigcode_cpu.errors import ConfigError, ModelNotFoundError
from gptbigcode_cpu.models.converted import packed_dir

MakeCheckpoint = Callable[..., Path]
GPTQ: dict[str, Any] = {"bits": 4, "group_size": 32, "desc_act": True, "sym": False}


@pytest.fixture
def quantised(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> tuple[Path, dict[str, NDArray[Any]], bytes]:
    """A checkpoint without quantization_config, its tensors, and the bytes of the model that it stands for, in float32."""
    source = make_checkpoint(tmp_path / "source", **SMALL)
    content = (source / "config.json").read_text()
    groups = neighbours(32)
    stored, values = write_quantised(source, lambda layer: pack_gptq(layer, 4), {"quant_method": "gptq"} | GPTQ, groups)
    (source / "config.json").write_text(content)
    return source, stored, expected_bytes(make_checkpoint, tmp_path, values, "float32")


def converted(source: Path, out: Path) -> bytes:
    convert(source, out, dtype="float32", num_threads=1)
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["gptq_model-4bit-32g.safetensors", "gptq_model-4bit--1g.safetensors", "model.safetensors"])
def test_files_of_autogptq(tmp_path: Path, quantised: tuple[Path, dict[str, NDArray[Any]], bytes], name: str) -> None:
    source, _, expected = quantised
    (source / "model.safetensors").rename(source / name)
    (source / "quantize_config.json").write_text(json.dumps(GPTQ | {"model_file_base_name": None, "damp_percent": 0.01}))
    assert converted(source, tmp_path / "out") == expected


def test_several_files_of_which_autogptq_names_one(
    tmp_path: Path, quantised: tuple[Path, dict[str, NDArray[Any]], bytes]
) -> None:
    source, _, expected = quantised
    (source / "model.safetensors").rename(source / "gptq_model-4bit-32g.safetensors")
    (source / "another.safetensors").write_bytes(b"")
    (source / "quantize_config.json").write_text(json.dumps(GPTQ | {"model_file_base_name": "gptq_model-4bit-32g"}))
    assert converted(source, tmp_path / "out") == expected
    (source / "quantize_config.json").write_text(json.dumps(GPTQ | {"model_file_base_name": "gptq_model"}))
    with pytest.raises(ModelNotFoundError, match="holds several weights files"):
        convert(source, tmp_path / "out2")


def test_the_cache_of_conversions_knows_files_of_autogptq(
    tmp_path: Path, quantised: tuple[Path, dict[str, NDArray[Any]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, stored, expected = quantised
    (source / "model.safetensors").unlink()
    (source / "quantize_config.json").write_text(json.dumps(GPTQ))
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    path = source / "gptq_model-4bit-32g.safetensors"
    write_tensors(path, stored)
    assert (packed_dir(source, "float32") / "model.safetensors").read_bytes() == expected
    write_tensors(path, stored | {"transformer.ln_f.bias": stored["transformer.ln_f.bias"] + 1})
    assert (packed_dir(source, "float32") / "model.safetensors").read_bytes() != expected


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files(tmp_path: Path, quantised: tuple[Path, dict[str, NDArray[Any]], bytes], legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    source, stored, expected = quantised
    (source / "model.safetensors").unlink()
    state = {name: torch.from_numpy(values) for name, values in stored.items()}
    torch.save(state, source / "gptq_model-4bit-32g.bin", _use_new_zipfile_serialization=not legacy)
    (source / "quantize_config.json").write_text(json.dumps(GPTQ))
    assert converted(source, tmp_path / "out") == expected


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_types_of_g_idx(tmp_path: Path, quantised: tuple[Path, dict[str, NDArray[Any]], bytes], dtype: str) -> None:
    source, stored, expected = quantised
    changed = {name: values.astype(dtype) if name.endswith("g_idx") else values for name, values in stored.items()}
    write_tensors(source / "model.safetensors", changed)
    (source / "quantize_config.json").write_text(json.dumps(GPTQ))
    assert converted(source, tmp_path / "out") == expected


def test_the_file_of_autoawq(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    content = (source / "config.json").read_text()
    _, values = write_quantised(source, pack_awq, {"quant_method": "awq", "group_size": 32}, neighbours(32))
    (source / "config.json").write_text(content)
    (source / "quant_config.json").write_text('{"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}')
    assert converted(source, tmp_path / "out") == expected_bytes(make_checkpoint, tmp_path, values, "float32")


def test_places_that_agree(tmp_path: Path, quantised: tuple[Path, dict[str, NDArray[Any]], bytes]) -> None:
    source, _, expected = quantised
    config = json.loads((source / "config.json").read_text())
    quantization = {"quant_method": "gptq", "bits": 4, "w_bit": 4, "group_size": 32, "q_group_size": 32}
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    (source / "quantize_config.json").write_text(json.dumps(GPTQ | {"checkpoint_format": "gptq", "format": "GPTQ"}))
    assert converted(source, tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "quantization_config in config.json says bits 4, but quantize_config.json says bits 8"),
        ({"w_bit": 3, "bits": None}, "says bits 4, but quantize_config.json says w_bit 3"),
        ({"q_group_size": 128}, "says group_size 32, but quantize_config.json says q_group_size 128"),
        ({"group_size": -1}, "says group_size 32, but quantize_config.json says group_size -1"),
        ({"desc_act": False}, "says desc_act True, but quantize_config.json says desc_act False"),
        ({"quant_method": "awq"}, "says quant_method 'gptq', but quantize_config.json says quant_method 'awq'"),
        ({"format": "gptq_v2"}, "says checkpoint_format 'gptq', but quantize_config.json says format 'gptq_v2'"),
        ({"is_marlin_format": True}, "says checkpoint_format 'gptq', but quantize_config.json says is_marlin_format 'marlin'"),
    ],
)
def test_places_that_contradict_each_other(
    tmp_path: Path, quantised: tuple[Path, dict[str, NDArray[Any]], bytes], change: dict[str, Any], message: str
) -> None:
    source, _, _ = quantised
    config = json.loads((source / "config.json").read_text())
    quantization = GPTQ | {"quant_method": "gptq", "checkpoint_format": "gptq"}
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    (source / "quantize_config.json").write_text(json.dumps(GPTQ | change))
    with pytest.raises(ConfigError, match=message):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantize_config_beside_plain_weights_says_nothing(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    expected = converted(source, tmp_path / "expected")
    (source / "quantize_config.json").write_text(json.dumps(GPTQ))
    assert converted(source, tmp_path / "out") == expected


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_a_quantize_config_that_is_none(
    tmp_path: Path, quantised: tuple[Path, dict[str, NDArray[Any]], bytes], content: str
) -> None:
    source, _, _ = quantised
    (source / "quantize_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"quantize_config\.json"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quant_method": "gptq", "bits": 3}, Method(False, 3, 128, 1, False)),
        ({"quant_method": "gptq", "wbits": 8, "groupsize": -1, "format": "gptq_v2"}, Method(False, 8, -1, 0, False)),
        # gptqmodel writes the version of the tool.
        ({"quant_method": "gptq", "bits": 4, "version": "1.2.0", "desc_act": True}, Method(False, 4, 128, 1, True)),
        ({"quant_method": "GPTQ", "bits": 4.0, "group_size": 32.0, "w_bit": 4}, Method(False, 4, 32, 1, False)),
        ({"quant_method": "awq"}, Method(True, 4, 128, 0, False)),
        # As transformers 5 writes it.
        ({"quant_method": "awq", "bits": 4, "format": "gemm", "version": "gemm"}, Method(True, 4, 128, 0, False)),
        ({"quant_method": "awq", "w_bit": 4, "checkpoint_format": "gptq", "version": "GEMM"}, Method(True, 4, 128, 0, False)),
    ],
)
def test_names_of_the_same_thing(settings: dict[str, Any], expected: Method) -> None:
    assert method_of([("config.json", settings)]) == expected


def test_a_contradiction_within_one_place() -> None:
    with pytest.raises(
        ConfigError, match=r"config\.json says bits 4, but config\.json says w_bit 3; correct the one that is wrong"
    ):
        method_of([("config.json", {"quant_method": "awq", "bits": 4, "w_bit": 3})])


def test_bits_that_are_a_truth_value() -> None:
    with pytest.raises(ConfigError, match=r"says bits 1, but config\.json says w_bit True"):
        method_of([("config.json", {"quant_method": "awq", "bits": 1, "w_bit": True})])
