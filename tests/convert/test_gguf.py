"""Models in GGUF files: values, names, configuration, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as GGMLType
from numpy.typing import NDArray
from oracle.gguf_models import Tensors, gguf_bytes, model_pairs, model_tensors
from oracle.random_models import full_config, random_state, write_safetensors

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.config import read_config
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.sources import gguf as gguf_files
from gptbigcode_cpu.convert.sources.read import read_checkpoint
from gptbigcode_cpu.errors import (
    CheckpointError,
    ConfigError,
    GPTBigCodeError,
    InputError,
    MissingDependencyError,
    ModelNotFoundError,
)
from gptbigcode_cpu.hub.paths import resolve
from gptbigcode_cpu.models.converted import packed_dir

MakeCheckpoint = Callable[..., Path]
# A row has a whole number of blocks of 256.
SMALL: dict[str, Any] = {"n_embd": 256, "n_head": 4, "n_inner": 512, "n_positions": 7, "vocab_size": 270, "n_layer": 1}
QUANTISED = [
    kind for kind in GGMLType if kind.name.startswith(("Q", "IQ", "TQ", "MX")) and kind.name not in ("Q8_1", "Q8_K", "Q1_0")
]


def write_model(path: Path, encode: Any = None, change: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    """Write a random model; returns its state."""
    fields = full_config(**SMALL | config)
    state = random_state(fields)
    pairs = model_pairs(fields) | (change or {})
    tensors = model_tensors(fields, state, encode) if encode else model_tensors(fields, state)
    path.write_bytes(gguf_bytes({key: value for key, value in pairs.items() if value is not None}, tensors))
    return state


def blocks(kind: GGMLType, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    """Random blocks of a type, with values of moderate size: what is random is not always a finite float16."""
    values, nbytes = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.RandomState(seed)
    data = random.randint(0, 256, (shape[0], shape[1] // values, nbytes)).astype(np.uint8)
    if kind == GGMLType.MXFP4:
        data[..., 0] = random.randint(120, 130, data.shape[:-1])
        return data.reshape(shape[0], -1)
    for offset in range(0, nbytes - 1, 2):  # wherever a float16 scale may lie, make its exponent small
        data[..., offset + 1] &= 0xBF
    return data.reshape(shape[0], -1)


def all_tensors(path: Path) -> dict[str, NDArray[Any]]:
    values = {}
    for name, tensor in read_checkpoint(path).items():
        with tensor.open() as view:
            values[name] = np.array(view[:])
    return values


def converted_bytes(source: Path, out: Path, dtype: str = "int8") -> bytes:
    convert(source, out, dtype=dtype)
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_is_the_same_model_as_the_checkpoint(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, multi_query: bool, tied: bool
) -> None:
    change = {"multi_query": multi_query, "tie_word_embeddings": tied, "n_layer": 2}
    source = make_checkpoint(tmp_path / "source", **SMALL | change)
    write_model(tmp_path / "model.gguf", **change)
    for dtype in ("int8", "float32"):
        expected = converted_bytes(source, tmp_path / f"expected-{dtype}", dtype)
        assert converted_bytes(tmp_path / "model.gguf", tmp_path / f"out-{dtype}", dtype) == expected
    expected_config, config = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("expected-int8", "out-int8")
    )
    assert config == {key: expected_config[key] for key in config}
    assert config["layer_norm_epsilon"] == 1e-5
    files = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "out-int8").iterdir()} == files


@pytest.mark.parametrize("says_kv_heads", [True, False])
def test_gpt2_is_the_same_model_under_another_name(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, says_kv_heads: bool
) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL, multi_query=False)
    fields = full_config(**SMALL, multi_query=False)
    pairs = {
        key.replace("starcoder.", "gpt2."): "gpt2" if key == "general.architecture" else value
        for key, value in model_pairs(fields).items()
    }
    if not says_kv_heads:
        del pairs["gpt2.attention.head_count_kv"]
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(pairs, model_tensors(fields, random_state(fields))))
    assert converted_bytes(tmp_path / "model.gguf", tmp_path / "out") == converted_bytes(source, tmp_path / "expected")


@pytest.mark.parametrize("number", [1, 30])
def test_half_precision_is_handed_out_as_it_is(tmp_path: Path, make_checkpoint: MakeCheckpoint, number: int) -> None:
    from oracle.random_models import to_bfloat16

    def encode(_name: str, values: NDArray[np.float32]) -> tuple[int, bytes]:
        return number, (values.astype("<f2") if number == 1 else to_bfloat16(values)).tobytes()

    write_model(tmp_path / "model.gguf", encode)
    source = make_checkpoint(tmp_path / "source", storage="float16" if number == 1 else "bfloat16", **SMALL)
    assert {tensor.dtype for tensor in read_checkpoint(tmp_path / "model.gguf").values()} == {"F16" if number == 1 else "BF16"}
    expected = converted_bytes(source, tmp_path / "expected", "float32")
    assert converted_bytes(tmp_path / "model.gguf", tmp_path / "out", "float32") == expected


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_every_type_of_the_gguf_package(tmp_path: Path, kind: GGMLType) -> None:
    expected: dict[str, NDArray[Any]] = {}

    def encode(name: str, values: NDArray[np.float32]) -> tuple[int, bytes]:
        if values.ndim == 1:
            expected[name] = values
            return 0, values.tobytes()
        data = blocks(kind, values.shape, seed=len(name))
        with np.errstate(all="ignore"):
            expected[name] = gguf.dequantize(data, kind)
        return int(kind), data.tobytes()

    write_model(tmp_path / "model.gguf", encode)
    found = all_tensors(tmp_path / "model.gguf")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name], values, equal_nan=True), name
    assert np.isfinite(expected["transformer.wte.weight"]).mean() > 0.9


@pytest.mark.parametrize("multi_query", [True, False])
def test_quantised_values_reach_the_converted_model(tmp_path: Path, make_checkpoint: MakeCheckpoint, multi_query: bool) -> None:
    kinds = {"wte": GGMLType.Q8_0, "c_attn": GGMLType.Q4_0, "c_fc": GGMLType.Q5_1, "c_proj": GGMLType.Q4_1}
    stored: dict[str, NDArray[np.float32]] = {}

    def encode(name: str, values: NDArray[np.float32]) -> tuple[int, bytes]:
        kind = next((kind for part, kind in kinds.items() if part in name), GGMLType.F32) if values.ndim == 2 else GGMLType.F32
        data = gguf.quantize(values, kind)
        stored[name] = gguf.dequantize(data, kind)
        return int(kind), data.tobytes()

    config = SMALL | {"multi_query": multi_query}
    write_model(tmp_path / "model.gguf", encode, multi_query=multi_query)
    source = make_checkpoint(tmp_path / "source", **config)
    if not multi_query:  # quantised in the order of the file, expected in that of the checkpoint
        width = SMALL["n_embd"]
        for name in [name for name in stored if ".c_attn." in name]:
            parts = stored[name].reshape(3, SMALL["n_head"], -1, *stored[name].shape[1:])
            stored[name] = np.ascontiguousarray(np.swapaxes(parts, 0, 1)).reshape(3 * width, *stored[name].shape[1:])
    write_safetensors(source / "model.safetensors", stored)
    expected = converted_bytes(source, tmp_path / "expected", "float32")
    assert converted_bytes(tmp_path / "model.gguf", tmp_path / "out", "float32") == expected


def test_rows_are_dequantised_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model.gguf", lambda name, values: (8, gguf.quantize(values, GGMLType.Q8_0).tobytes()))
    most = 0
    dequantise = gguf.dequantize

    def counting(data: NDArray[Any], kind: GGMLType) -> NDArray[Any]:
        nonlocal most
        most = max(most, len(data))
        return dequantise(data, kind)

    expected = converted_bytes(tmp_path / "model.gguf", tmp_path / "expected")
    monkeypatch.setattr(gguf, "dequantize", counting)
    monkeypatch.setattr("gptbigcode_cpu.convert.quantize.packing._CHUNK_BYTES", 64 << 10)
    assert converted_bytes(tmp_path / "model.gguf", tmp_path / "out") == expected
    assert most == 64  # rows of 256 float32


def test_from_pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "directory" / "model.gguf"
    path.parent.mkdir()
    write_model(path)
    (path.parent / "config.json").write_text("{}")  # as beside the GGUF files of many repositories; the file knows better
    assert resolve(path) == resolve(path.parent) == path
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    again = AutoModelForCausalLM.from_pretrained(path.parent, dtype="float32")
    assert np.array_equal(model([[5, 6, 7]]).logits, again([[5, 6, 7]]).logits)
    assert model.generation_config.eos_token_ids == (0,)
    assert len(list((tmp_path / "cache").glob("float32-*/config.json"))) == 1
    assert AutoTokenizer.from_pretrained(path).encode("a<fim_prefix>") == [6 + ord("a"), 1]
    first = packed_dir(path)
    write_model(path, change={"general.name": "another"})
    assert packed_dir(path) != first


@pytest.mark.parametrize("files", [["a.gguf", "b.gguf"], ["a.gguf", "b-00001-of-00002.gguf"]])
def test_a_directory_with_several_models(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ModelNotFoundError, match=rf"several GGUF models; name the file of one: {', '.join(files)}"):
        resolve(tmp_path)


def test_safetensors_win(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    (source / "model.gguf").write_bytes(b"damaged")
    assert resolve(source) == source


def write_split(directory: Path, count: int = 3) -> tuple[Path, Tensors]:
    fields = full_config(**SMALL)
    tensors = model_tensors(fields, random_state(fields))
    names = list(tensors)
    for i in range(count):
        pairs = (model_pairs(fields) if i == 0 else {}) | {
            "split.no": i,
            "split.count": count,
            "split.tensors.count": len(names),
        }
        part = {name: tensors[name] for name in names[i::count]}
        (directory / f"model-{i + 1:05d}-of-{count:05d}.gguf").write_bytes(gguf_bytes(pairs, part))
    return directory / f"model-00001-of-{count:05d}.gguf", tensors


def test_split_files(tmp_path: Path) -> None:
    (tmp_path / "split").mkdir()
    first, _ = write_split(tmp_path / "split")
    write_model(tmp_path / "model.gguf")
    assert resolve(tmp_path / "split") == first
    assert converted_bytes(first, tmp_path / "out") == converted_bytes(tmp_path / "model.gguf", tmp_path / "expected")


def test_split_files_that_are_not_complete(tmp_path: Path) -> None:
    first, tensors = write_split(tmp_path)
    second = tmp_path / "model-00002-of-00003.gguf"
    with pytest.raises(ModelNotFoundError, match=r"not the first, model-00001-of-00003\.gguf"):
        convert(second, tmp_path / "out")
    name = next(iter(tensors))
    content = second.read_bytes()
    second.write_bytes(gguf_bytes({}, {name: tensors[name]}))
    with pytest.raises(CheckpointError, match="hold a tensor twice"):
        convert(first, tmp_path / "out")
    second.write_bytes(content)
    second.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFoundError, match=r"lacks 1 of its 3 parts: model-00002-of-00003\.gguf"):
        convert(first, tmp_path / "out")
    shutil.copyfile(first, tmp_path / "whole.gguf")
    with pytest.raises(CheckpointError, match="one of 3 parts, its name says 1"):
        convert(tmp_path / "whole.gguf", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"general.architecture": "llama"}, CheckpointError, "architecture 'llama', supported is 'starcoder' or 'gpt2'"),
        ({"general.type": "adapter"}, CheckpointError, "holds no model: its general.type is 'adapter'"),
        ({"general.architecture": "starcoder2"}, CheckpointError, "StarCoder2 is another architecture"),
        ({"general.architecture": None}, CheckpointError, "architecture None"),
        (
            {"starcoder.block_count": None, "starcoder.context_length": None},
            ConfigError,
            r"context_length, starcoder\.block_count",
        ),
        ({"starcoder.block_count": "two"}, ConfigError, "n_layer must be a whole number"),
        ({"starcoder.block_count": [1, 2]}, CheckpointError, "block_count is an array of 2"),
        ({"starcoder.attention.head_count": 0}, ConfigError, "n_head is 0"),
        ({"starcoder.attention.head_count_kv": 2}, ConfigError, "head_count_kv 2; it must be 1 or head_count, 4"),
        ({"general.architecture": ["a", "b"]}, CheckpointError, "general.architecture is an array"),
        ({"starcoder.attention.key_length": 32}, ConfigError, r"key_length 32; width and head_count make it 64"),
        ({"starcoder.attention.layer_norm_epsilon": 2.0}, ConfigError, "layer_norm_epsilon"),
        ({"starcoder.block_count": 2}, CheckpointError, r"(?s)missing: transformer\.h\.1\.ln_1\.weight"),
        ({"starcoder.feed_forward_length": 128}, CheckpointError, r"misshapen: transformer\.h\.0\.mlp\.c_fc\.weight"),
        ({"tokenizer.ggml.eos_token_id": "0"}, CheckpointError, "eos_token_id must be a token id"),
        ({"general.alignment": 33}, CheckpointError, "power of two"),
        ({"split.count": "two"}, CheckpointError, "one of 'two' parts"),
    ],
)
def test_metadata_that_fit_no_model(tmp_path: Path, change: dict[str, Any], error: type[GPTBigCodeError], message: str) -> None:
    write_model(tmp_path / "model.gguf", change=change)
    with pytest.raises(error, match=message):
        convert(tmp_path / "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_has_llama_cpps_defaults(tmp_path: Path) -> None:
    keys = ("starcoder.feed_forward_length", "starcoder.attention.head_count_kv", "tokenizer.ggml.eos_token_id")
    write_model(tmp_path / "model.gguf", change=dict.fromkeys(keys), multi_query=False, n_inner=None)
    config = read_config(tmp_path / "model.gguf")
    assert (config.n_inner, config.multi_query, config.bos_token_id, config.eos_token_id) == (1024, False, 0, None)


def test_interleaved_heads_are_refused_with_the_reason(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf", change={"starcoder.attention.head_count_kv": 1}, multi_query=False)
    with pytest.raises(ConfigError, match="converter writes models without multi-query attention like this"):
        convert(tmp_path / "model.gguf", tmp_path / "out")


def test_tensors_that_fit_no_model(tmp_path: Path) -> None:
    fields = full_config(**SMALL)
    tensors = model_tensors(fields, random_state(fields))
    tensors["blk.0.attn_q.weight"] = tensors.pop("blk.0.attn_qkv.weight")
    tensors["blk.00.ffn_up.weight"] = tensors["blk.0.ffn_up.weight"]
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(model_pairs(fields), tensors))
    message = r"(?s)missing: transformer\.h\.0\.attn\.c_attn\.weight.*unexpected: blk\.0\.attn_q.*unexpected: blk\.00\.ffn_up"
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "model.gguf", tmp_path / "out")
    del tensors["token_embd.weight"]
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(model_pairs(fields), tensors))
    with pytest.raises(CheckpointError, match=r"no matrix token_embd\.weight"):
        convert(tmp_path / "model.gguf", tmp_path / "out")


@pytest.mark.parametrize(("number", "name"), [(24, "I8"), (28, "F64"), (15, "Q8_K"), (4, "type 4"), (999_999, "type 999999")])
def test_types_that_the_gguf_package_does_not_dequantise(tmp_path: Path, number: int, name: str) -> None:
    write_model(tmp_path / "model.gguf", lambda tensor, values: (number if "c_fc.w" in tensor else 0, values.tobytes()))
    with pytest.raises(
        CheckpointError, match=rf"types that the gguf package does not dequantise: blk\.0\.ffn_up\.weight is {name}$"
    ):
        convert(tmp_path / "model.gguf", tmp_path / "out")


def test_another_version_of_the_block_formats(tmp_path: Path) -> None:
    def encode(_name: str, values: NDArray[np.float32]) -> tuple[int, bytes]:
        return 8, gguf.quantize(values, GGMLType.Q8_0).tobytes()

    write_model(tmp_path / "model.gguf", encode, {"general.quantization_version": 1})
    with pytest.raises(CheckpointError, match="quantization_version 1, the gguf package knows 2"):
        convert(tmp_path / "model.gguf", tmp_path / "out")
    write_model(tmp_path / "model.gguf", encode, {"general.quantization_version": 2})
    convert(tmp_path / "model.gguf", tmp_path / "out")


def test_the_gguf_package_is_needed_for_quantised_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf_files._package_type.cache_clear()
    write_model(tmp_path / "quantised.gguf", lambda name, values: (8, gguf.quantize(values, GGMLType.Q8_0).tobytes()))
    write_model(tmp_path / "plain.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    convert(tmp_path / "plain.gguf", tmp_path / "out")
    with pytest.raises(MissingDependencyError, match=re.escape("pip install 'gptbigcode-cpu[gguf]'")):
        convert(tmp_path / "quantised.gguf", tmp_path / "out2")


def test_damaged_scales_are_refused(tmp_path: Path) -> None:
    def encode(name: str, values: NDArray[np.float32]) -> tuple[int, bytes]:
        data = gguf.quantize(values, GGMLType.Q8_0)
        if "c_fc.w" in name:
            data[3, 1] = 0x7C  # infinite
        return 8, data.tobytes()

    write_model(tmp_path / "model.gguf", encode)
    with pytest.raises(CheckpointError, match=r"h\.0\.mlp\.c_fc\.weight has the value .* at \[3, "):
        convert(tmp_path / "model.gguf", tmp_path / "out")


def test_the_output_must_not_replace_the_source(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf")
    for out in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(InputError):
            convert(tmp_path / "model.gguf", out, overwrite=True)


def cli(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gptbigcode_cpu", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_the_commands_take_gguf_files(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, change={"tokenizer.ggml.pre": None}, n_positions=64)
    found = json.loads(cli("info", path, "--json").stdout)["model"]
    assert (found["n_embd"], found["n_positions"], found["converted"]) == (256, 64, False)
    done = cli("convert", path, tmp_path / "out", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert "note: model.gguf does not name its pre-tokenizer" in done.stderr
    assert (
        found["bytes_if_converted"]["float32"] == json.loads(cli("info", tmp_path / "out", "--json").stdout)["model"]["bytes"]
    )
    options = ("--new-only", "--max-new-tokens", "8", "--dtype", "float32", "a")
    texts = [cli("generate", "-m", model, *options, GPTBIGCODE_CPU_CACHE=str(tmp_path)) for model in (path, tmp_path / "out")]
    assert texts[0].stdout == texts[1].stdout != "", texts[0].stderr
    path.write_bytes(path.read_bytes()[:-1])
    assert cli("convert", path, tmp_path / "out2").returncode == 4
    path.write_bytes(path.read_bytes()[:1000])
    refused = cli("info", path)
    assert (refused.returncode, refused.stderr.count("\n")) == (4, 1)
    assert "is damaged" in refused.stderr


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    write_model(tmp_path / "model.gguf")
    before = len(list(Path("/proc/self/fd").iterdir()))
    converted_bytes(tmp_path / "model.gguf", tmp_path / "out")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
