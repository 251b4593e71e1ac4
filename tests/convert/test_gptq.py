"""Checkpoints quantised with GPTQ and AWQ: every weight is what the codes say, exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.gptq_models import (
    SMALL,
    Layer,
    MakeCheckpoint,
    expected_bytes,
    neighbours,
    pack_awq,
    pack_gptq,
    write_quantised,
    write_tensors,
)
from oracle.random_models import to_bfloat16

from gptbigcode_cpu import AutoModelForCausalLM
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.sources.gptq import dequantised
from gptbigcode_cpu.convert.sources.gptq_config import Method, method_of
from gptbigcode_cpu.convert.sources.read import read_checkpoint
from gptbigcode_cpu.convert.sources.tensors import SourceTensor
from gptbigcode_cpu.errors import CheckpointError, ConfigError


@pytest.mark.parametrize(
    ("bits", "given", "multi_query"),
    [(2, None, True), (3, "gptq", False), (3, "gptq_v2", True), (4, None, False), (4, "gptq_v2", True), (8, "gptq", True)],
)
def test_gptq(tmp_path: Path, make_checkpoint: MakeCheckpoint, bits: int, given: str | None, multi_query: bool) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL, multi_query=multi_query)
    quantization = {"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": False, "sym": False}
    if given:
        quantization["checkpoint_format"] = given
    offset = 0 if given == "gptq_v2" else 1
    _, values = write_quantised(
        source, lambda layer: pack_gptq(layer, bits, offset), quantization, neighbours(32), multi_query=multi_query
    )
    for dtype in ("float32", "int8"):
        convert(source, tmp_path / dtype, dtype=dtype, num_threads=1)
        expected = expected_bytes(make_checkpoint, tmp_path, values, dtype, multi_query=multi_query)
        assert (tmp_path / dtype / "model.safetensors").read_bytes() == expected
    assert (
        json.loads((tmp_path / "int8" / "config.json").read_text())["quantization_config"]["quant_method"] == "gptbigcode-cpu"
    )


@pytest.mark.parametrize("size", [-1, 32, 48, 128])
def test_group_sizes(tmp_path: Path, make_checkpoint: MakeCheckpoint, size: int) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": size}
    _, values = write_quantised(source, lambda layer: pack_gptq(layer, 4), quantization, neighbours(size))
    convert(source, tmp_path / "out", dtype="float32", num_threads=1)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected_bytes(make_checkpoint, tmp_path, values, "float32")


def test_groups_of_scattered_inputs(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True}

    def group_of(k: int, seed: int) -> NDArray[Any]:
        return np.random.RandomState(seed).permutation(np.arange(k) // 16)

    _, values = write_quantised(source, lambda layer: pack_gptq(layer, 4), quantization, group_of)
    convert(source, tmp_path / "out", dtype="float32", num_threads=1)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected_bytes(make_checkpoint, tmp_path, values, "float32")


@pytest.mark.parametrize("names", [("bits", "group_size"), ("w_bit", "q_group_size")])
def test_awq(tmp_path: Path, make_checkpoint: MakeCheckpoint, names: tuple[str, str]) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    quantization = {"quant_method": "awq", names[0]: 4, names[1]: 32, "zero_point": True, "version": "GEMM"}
    _, values = write_quantised(source, pack_awq, quantization, neighbours(32))
    for dtype in ("float32", "int8"):
        convert(source, tmp_path / dtype, dtype=dtype, num_threads=1)
        assert (tmp_path / dtype / "model.safetensors").read_bytes() == expected_bytes(make_checkpoint, tmp_path, values, dtype)


def test_awq_scales_of_activations_are_divided_out(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 32}
    stored, values = write_quantised(source, pack_awq, quantization, neighbours(32))
    for layer in range(SMALL["n_layer"]):
        scales = np.random.RandomState(layer).uniform(0.5, 2, SMALL["n_inner"]).astype(np.float16)
        stored[f"transformer.h.{layer}.mlp.act.scales"] = scales
        values[f"transformer.h.{layer}.mlp.c_proj.weight"] /= scales.astype(np.float32)
    write_tensors(source / "model.safetensors", stored)
    convert(source, tmp_path / "out", dtype="float32", num_threads=1)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected_bytes(make_checkpoint, tmp_path, values, "float32")
    name = "transformer.h.0.mlp.act.scales"
    write_tensors(source / "model.safetensors", stored | {name: stored[name][:5]})
    with pytest.raises(
        CheckpointError, match=r"act\.scales \[5\] must be numbers for the 96 inputs of transformer\.h\.0\.mlp\.c_proj"
    ):
        convert(source, tmp_path / "out2", num_threads=1)


def test_half_precision_scales_of_both_kinds(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    stored, _ = write_quantised(source, lambda layer: pack_gptq(layer, 4), quantization, neighbours(32))
    name = "transformer.h.0.mlp.c_fc."
    stored[f"{name}scales"] = to_bfloat16(stored[f"{name}scales"].astype(np.float32))
    write_tensors(source / "model.safetensors", stored)
    with read_checkpoint(source)[f"{name}weight"].open() as view:
        bfloat16 = view[np.array([3, 1])]
    stored[f"{name}scales"] = (stored[f"{name}scales"].astype(np.uint32) << 16).view(np.float32)
    write_tensors(source / "model.safetensors", stored)
    with read_checkpoint(source)[f"{name}weight"].open() as view:
        assert np.array_equal(view[:][[3, 1]], bfloat16)
        assert view.shape == (96, 64)


def test_a_zero_of_nought_wraps_around_in_the_first_format(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32}

    def pack(layer: Layer) -> Layer:
        return pack_gptq(layer | {"zeros": np.zeros_like(layer["zeros"])}, 4)

    stored, _ = write_quantised(source, pack, quantization, neighbours(32))
    assert (stored["transformer.h.0.mlp.c_fc.qzeros"] == -1).all()
    with read_checkpoint(source)["transformer.h.0.mlp.c_fc.weight"].open() as view:
        assert view[:].min() == 0


def test_layers_that_are_not_quantised_stay_as_they_are(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL, tie_word_embeddings=False)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32, "dynamic": {"-:.*c_fc": {}}}
    stored, values = write_quantised(
        source, lambda layer: pack_gptq(layer, 4), quantization, neighbours(32), tie_word_embeddings=False
    )
    for part in ("qweight", "qzeros", "scales"):
        del stored[f"transformer.h.1.mlp.c_fc.{part}"]
    stored["transformer.h.1.mlp.c_fc.weight"] = values["transformer.h.1.mlp.c_fc.weight"].astype(np.float16)
    values["transformer.h.1.mlp.c_fc.weight"] = stored["transformer.h.1.mlp.c_fc.weight"]
    write_tensors(source / "model.safetensors", stored)
    convert(source, tmp_path / "out", dtype="float32", num_threads=1)
    expected = expected_bytes(make_checkpoint, tmp_path, values, "float32", tie_word_embeddings=False)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


def test_rows_are_dequantised_a_few_at_a_time(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    write_quantised(
        source, lambda layer: pack_gptq(layer, 4), {"quant_method": "gptq", "bits": 4, "group_size": 32}, neighbours(32)
    )
    convert(source, tmp_path / "whole", num_threads=1)
    monkeypatch.setattr("gptbigcode_cpu.convert.quantize.packing._CHUNK_BYTES", 64 * 4 * 16)
    convert(source, tmp_path / "pieces", num_threads=1)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (tmp_path / "pieces" / "model.safetensors").read_bytes()


def test_a_configuration_that_does_not_say_how(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    content = (source / "config.json").read_text()
    write_quantised(source, pack_awq, {"quant_method": "awq", "group_size": 32}, neighbours(32))
    (source / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"no quantization_config; put the content of quantize_config.json there"):
        convert(source, tmp_path / "out", num_threads=1)


def test_from_pretrained(tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    source = make_checkpoint(tmp_path / "source", **SMALL)
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 32}
    _, values = write_quantised(source, pack_awq, quantization, neighbours(32))
    plain = make_checkpoint(tmp_path / "plain", **SMALL)
    write_tensors(plain / "model.safetensors", values)
    logits = [AutoModelForCausalLM.from_pretrained(path, dtype="float32")([[1, 2, 3]]).logits for path in (source, plain)]
    assert np.array_equal(*logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "quantised with 'bitsandbytes'; supported are 'gptq' and 'awq'"),
        ({"quant_method": None}, "quantised with None"),
        ({"bits": 5}, "GPTQ is supported with 2, 3, 4, 8 bits, not with 5"),
        ({"bits": None}, "not with None"),
        ({"bits": [4]}, r"not with \[4\]"),
        ({"group_size": 0}, "group_size must be -1 or positive"),
        ({"group_size": "128"}, "group_size must be -1 or positive"),
        ({"checkpoint_format": "marlin"}, "GPTQ's format 'marlin'; supported are gptq, gptq_v2"),
        ({"checkpoint_format": ["gptq"]}, "GPTQ's format"),
        ({"is_marlin_format": True}, "GPTQ's format 'marlin'"),
        ({"dynamic": {"+:.*": {"bits": 8}}}, "dynamic gives layers settings of their own"),
        ({"quant_method": "awq", "version": "gemv"}, "AWQ's version 'gemv'"),
        ({"quant_method": "awq", "version": "marlin"}, "AWQ's version 'marlin'"),
        ({"quant_method": "awq", "version": "exllama"}, "AWQ's version 'exllama'"),
        ({"quant_method": "awq", "bits": 8}, "AWQ is supported with 4 bits"),
        ({"quant_method": "awq", "zero_point": False}, "zero points"),
    ],
)
def test_quantisations_that_are_not_supported(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method_of([("config.json", {"quant_method": "gptq", "bits": 4, "group_size": 128} | change)])


def tensor(name: str, values: NDArray[Any] | None, dtype: str = "I32", shape: tuple[int, ...] = ()) -> SourceTensor:
    class Shard:
        def array(self, _name: str) -> NDArray[Any]:
            assert values is not None
            return values

        def release(self, _name: str) -> None:
            pass

    return SourceTensor(name, dtype, shape if values is None else values.shape, Shard())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": None, "qzeros": None}, "a.b: missing: qzeros, scales"),
        ({"g_idx": None}, "a.b: missing: g_idx"),
        ({"qweight": ("I64", (8, 32))}, r"qweight is I64 \[8, 32\], it must be I32 or U32 of rank 2"),
        ({"qweight": ("I32", (8,))}, r"qweight is I32 \[8\]"),
        ({"scales": ("I32", (4, 32))}, "scales is I32 .*, it must be F64 or F32 or F16 or BF16"),
        ({"qweight": ("I32", (8, 31))}, "does not hold whole words"),
        ({"qweight": ("I32", (0, 32))}, "does not hold whole words"),
        ({"qweight": ("I32", (9, 32))}, r"qzeros is \[4, 4\], with groups of 16 it must be \[5, 4\]"),
        ({"scales": ("F16", (4, 24))}, r"scales is \[4, 24\].*must be \[4, 32\]"),
        ({"g_idx": ("I32", (65,))}, r"g_idx is \[65\].*must be \[64\]"),
        ({"g_idx": np.full(64, 4, np.int32)}, r"g_idx has groups 4\.\.4, there are 4"),
        ({"g_idx": np.full(64, -1, np.int32)}, r"g_idx has groups -1\.\.-1"),
        ({"weight": ("F16", (32, 64))}, "a.b has a weight and a qweight"),
    ],
)
def test_parts_that_do_not_fit_together(change: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {"qweight": ("I32", (8, 32)), "qzeros": ("I32", (4, 4)), "scales": ("F16", (4, 32))}
    parts["g_idx"] = np.zeros(64, np.int32)
    tensors = {}
    for part, value in (parts | change).items():
        if isinstance(value, np.ndarray):
            tensors[f"a.b.{part}"] = tensor(f"a.b.{part}", value)
        elif value is not None:
            tensors[f"a.b.{part}"] = tensor(f"a.b.{part}", None, *value)
    with pytest.raises(CheckpointError, match=message):
        dequantised(tensors, Method(awq=False, bits=4, group_size=16, zero_offset=1, needs_g_idx=True))


def test_a_checkpoint_that_is_not_quantised_after_all(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    content = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(content | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(CheckpointError, match="no tensor is called qweight"):
        convert(source, tmp_path / "out", num_threads=1)
