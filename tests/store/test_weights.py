"""Opening converted models: one test for each way in which a file can be damaged."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptbigcode_cpu import _core
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import ConfigError, FormatError, InputError, KernelError, ModelNotFoundError
from gptbigcode_cpu.hub import paths as hub
from gptbigcode_cpu.store.kernel_set import slow_because
from gptbigcode_cpu.store.tensor_file import MAX_HEADER_BYTES, TensorFileError, map_tensor_file, parse_header
from gptbigcode_cpu.store.weights import PackedModel, load_core, open_packed

MakeCheckpoint = Callable[..., Path]
Header = dict[str, Any]
LINEAR = "transformer.h.0.attn.c_attn.query.weight"
BIAS = "transformer.h.0.attn.c_attn.bias"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint) -> Path:
    """A converted model whose sizes make fillers necessary."""
    directory = tmp_path_factory.mktemp("good")
    source = make_checkpoint(directory / "source", n_embd=36, n_head=3, n_positions=5, vocab_size=300, n_layer=1)
    convert(source, directory / "packed", dtype="int8")
    return directory / "packed"


@pytest.fixture
def model(good: Path, tmp_path: Path) -> Path:
    """A copy of `good` to be damaged."""
    return shutil.copytree(good, tmp_path / "model")


def read(model: Path) -> tuple[Header, bytes]:
    content = (model / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(model: Path, header: Header | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def expect_damage(model: Path, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        open_packed(model)
    assert "model.safetensors" in str(caught.value)


def test_a_good_model_opens(good: Path) -> None:
    packed = open_packed(good)
    assert (packed.dtype, packed.scheme.overrides) == ("int8", {})
    assert not any(name.startswith("__pad__") for name in packed.tensors)
    assert packed.nbytes == sum(array.nbytes for array in packed.tensors.values())
    for array in packed.tensors.values():
        assert array.ctypes.data % 64 == 0
        assert not array.flags.writeable
        assert array.base is not None


def test_the_safetensors_library_reads_it_too(good: Path) -> None:
    numpy_reader = pytest.importorskip("safetensors.numpy")
    theirs = numpy_reader.load_file(good / "model.safetensors")
    ours = open_packed(good).tensors
    assert all(name in ours or name.startswith("__pad__.") for name in theirs)
    for name, array in ours.items():
        assert theirs[name].dtype == array.dtype
        assert np.array_equal(theirs[name], array)


def test_the_core_takes_it(good: Path) -> None:
    model = load_core(open_packed(good), num_threads=1)
    assert model.num_threads == 1


def test_an_unknown_kernel_is_a_kernel_error(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTBIGCODE_CPU_ISA", "z80")
    with pytest.raises(KernelError, match="z80"):
        load_core(open_packed(good))


@pytest.mark.parametrize("num_threads", [-1, 1025, 1.5, True])
def test_a_bad_number_of_threads_is_the_callers_error(good: Path, num_threads: Any) -> None:
    with pytest.raises(InputError, match="num_threads must be an integer"):
        load_core(open_packed(good), num_threads)
    with pytest.raises(InputError, match="prefill_threads must be an integer"):
        load_core(open_packed(good), prefill_threads=num_threads)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a directory"):
        open_packed(tmp_path / "nothing")


def test_a_file_instead_of_a_directory(good: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not a directory"):
        open_packed(good / "model.safetensors")


def test_no_config(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        open_packed(model)


def test_no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        open_packed(model)


def test_weights_that_cannot_be_read(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").mkdir()
    with pytest.raises(ModelNotFoundError, match="cannot be read: Is a directory"):
        open_packed(model)


def test_a_plain_checkpoint(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(FormatError, match="not a converted model"):
        open_packed(make_checkpoint(tmp_path / "plain"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format version 3"),
        ({"format_version": None}, "format version None"),
        ({"dtype": "int3"}, "unknown dtype 'int3'"),
        ({"dtype": ["int8"]}, "unknown dtype"),
        ({"overrides": None}, "overrides that are no object"),
        ({"overrides": {"transformer.wte.weight": "int3"}}, "unknown dtype 'int3'"),
        ({"overrides": {"transformer.wte.weight": 4}}, "unknown dtype 4"),
        ({"overrides": {"transformer.wte.weight": "float32"}}, "expected F32"),
        ({"overrides": {"transformer.h.9.mlp.c_fc.weight": "int8"}}, "has an override, but is no packed tensor"),
        ({"overrides": {"transformer.wpe.weight": "int8"}}, "has an override, but is no packed tensor"),
        ({"quant_method": "gptq"}, "not a converted model"),
        ({"dtype": "int4"}, "expected U8"),
    ],
)
def test_wrong_quantization_config(model: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] |= change
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=message):
        open_packed(model)


def test_config_of_another_size(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 400, "n_layer": 2}))
    expect_damage(model, r"does not fit.*transformer\.h\.1\..*is missing")


def test_config_with_an_unknown_activation(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"activation_function": "sine"}))
    with pytest.raises(ConfigError, match="sine"):
        open_packed(model)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_too_short_for_a_length(model: Path, size: int) -> None:
    (model / "model.safetensors").write_bytes(b"\0" * size)
    expect_damage(model, "too few")


def test_header_longer_than_the_file(model: Path) -> None:
    (model / "model.safetensors").write_bytes((1000).to_bytes(8, "little") + b"{}")
    expect_damage(model, "claims 1000 bytes")


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, (1 << 64) - 1])
def test_header_over_the_cap(model: Path, length: int) -> None:
    with (model / "model.safetensors").open("r+b") as file:
        file.write(length.to_bytes(8, "little"))
    expect_damage(model, "more than")


@pytest.mark.parametrize(
    "text", [b"", b"[]", b" {}", b"{", b'{"a": }', b"{\xff}", b'{"a":' * 50_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_header_that_is_not_json(model: Path, text: bytes) -> None:
    write(model, text, b"")
    expect_damage(model, "header|must have")


def test_the_same_name_twice(model: Path) -> None:
    entry = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    write(model, f'{{"a":{entry},"a":{entry}}}'.encode(), b"x")
    expect_damage(model, "'a' twice")


def test_truncated_anywhere(good: Path, model: Path) -> None:
    content = (good / "model.safetensors").read_bytes()
    for size in [*range(0, len(content), len(content) // 40), len(content) - 1]:
        (model / "model.safetensors").write_bytes(content[:size])
        expect_damage(model, "bytes|truncated")


def test_trailing_bytes(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    expect_damage(model, "belong to no tensor")


def damaged_entry(model: Path, name: str, **change: Any) -> None:
    header, data = read(model)
    header[name] |= change
    write(model, header, data)


def test_unknown_dtype(model: Path) -> None:
    damaged_entry(model, LINEAR, dtype="F13")
    expect_damage(model, "F13")


def test_wrong_dtype(model: Path) -> None:
    header, data = read(model)
    header[BIAS]["dtype"] = "I32"
    write(model, header, data)
    expect_damage(model, rf"{BIAS} is I32 \[60\], expected F32 \[60\]")


def test_wrong_shape_of_the_right_size(model: Path) -> None:
    damaged_entry(model, LINEAR, shape=[1, 3, 2080])
    expect_damage(model, rf"{LINEAR} is U8 \[1, 3, 2080\], expected U8 \[3, 1, 2080\]")


def test_shape_that_does_not_fill_its_bytes(model: Path) -> None:
    damaged_entry(model, LINEAR, shape=[4, 1, 2080])
    expect_damage(model, "does not fill")


@pytest.mark.parametrize(
    "shape", [[-4, -1, 2080], [4.0, 1, 2080], [True, 4, 2080], "4", None, [1] * 9, [1 << 60, 1 << 60], [[4]]]
)
def test_hostile_shapes(model: Path, shape: object) -> None:
    damaged_entry(model, LINEAR, shape=shape)
    expect_damage(model, "shape")


def test_a_shape_whose_product_wraps_around_64_bits(model: Path) -> None:
    damaged_entry(model, LINEAR, shape=[1 << 32, 1 << 32, 8320])
    expect_damage(model, "does not fill")


@pytest.mark.parametrize("offsets", [[8, 0], [-8, 8312], [0], [0, 1, 2], [0.0, 8.0], None, ["0", "8"], [1 << 70, 1 << 71]])
def test_hostile_offsets(model: Path, offsets: object) -> None:
    damaged_entry(model, LINEAR, data_offsets=offsets)
    expect_damage(model, "data_offsets")


def test_offsets_beyond_the_end(model: Path) -> None:
    begin, end = read(model)[0][LINEAR]["data_offsets"]
    damaged_entry(model, LINEAR, data_offsets=[begin + (1 << 40), end + (1 << 40)])
    expect_damage(model, "hole|truncated")


def test_overlapping_tensors(model: Path) -> None:
    header, data = read(model)
    first, second = sorted(header.values(), key=lambda entry: entry["data_offsets"])[:2]
    second["data_offsets"] = [offset - 64 for offset in second["data_offsets"]]
    assert first["data_offsets"][1] > second["data_offsets"][0]
    write(model, header, data)
    expect_damage(model, "overlaps")


def test_a_hole_between_tensors(model: Path) -> None:
    header, data = read(model)
    del header["__pad__.0"]
    write(model, header, data)
    expect_damage(model, "hole")


def test_extra_keys_of_a_tensor(model: Path) -> None:
    damaged_entry(model, LINEAR, strides=[1])
    expect_damage(model, "nothing else")


def test_metadata_that_is_not_strings(model: Path) -> None:
    header, data = read(model)
    write(model, {"__metadata__": {"a": 1}} | header, data)
    expect_damage(model, "__metadata__")


def test_missing_tensors_are_all_named(model: Path) -> None:
    header, data = read(model)
    header["__pad__.1000"] = header.pop(BIAS)
    header["__pad__.1001"] = header.pop("transformer.ln_f.bias")
    for name in ("__pad__.1000", "__pad__.1001"):
        header[name] |= {"dtype": "U8", "shape": [header[name]["shape"][0] * 4]}
    write(model, header, data)
    expect_damage(model, rf"{BIAS} is missing; transformer\.ln_f\.bias is missing")


def test_an_unexpected_tensor(model: Path) -> None:
    header, data = read(model)
    header["__pad__.0"], header["extra"] = header.pop("transformer.ln_f.bias"), header["__pad__.0"]
    write(model, header, data)
    expect_damage(model, "'extra' is unexpected")


def test_misaligned_tensors(model: Path) -> None:
    header, data = read(model)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    expect_damage(model, "not a multiple of 64")


def test_a_filler_that_hides_more_than_a_gap(model: Path) -> None:
    header, data = read(model)
    header["__pad__.1000"] = {"dtype": "U8", "shape": [64], "data_offsets": [len(data), len(data) + 64]}
    write(model, header, data + bytes(64))
    expect_damage(model, r"__pad__\.1000")


def with_flipped_bit(good: Path, damaged: Path, position: int, bit: int) -> Path:
    """A copy of a model in which one bit of the weights file is another."""
    content = bytearray((good / "model.safetensors").read_bytes())
    content[position] ^= 1 << bit
    damaged.mkdir(exist_ok=True)
    shutil.copyfile(good / "config.json", damaged / "config.json")
    (damaged / "model.safetensors").unlink(missing_ok=True)
    (damaged / "model.safetensors").write_bytes(content)
    return damaged


def assert_same_tensors(found: PackedModel, expected: PackedModel) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, array in expected.tensors.items():
        assert np.array_equal(found.tensors[name], array)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(position=st.integers(0, 4095), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_never_crashes_and_never_changes_a_tensor(
    good: Path, tmp_path: Path, position: int, bit: int
) -> None:
    length = 8 + int.from_bytes((good / "model.safetensors").read_bytes()[:8], "little")
    damaged = with_flipped_bit(good, tmp_path / "flipped", position % length, bit)
    try:
        packed = open_packed(damaged)
    except FormatError:
        return
    assert_same_tensors(packed, open_packed(good))


def test_a_flipped_bit_in_the_name_of_a_filler_changes_nothing(good: Path, tmp_path: Path) -> None:
    """These are the flips that a file survives; random ones hardly ever hit them."""
    names = [match.end() for match in re.finditer(rb'"__pad__\.', (good / "model.safetensors").read_bytes())]
    assert len(names) > 3
    opened = 0
    for position in names:  # of the first digit of a number
        with contextlib.suppress(FormatError):  # the number may be that of another filler
            assert_same_tensors(open_packed(with_flipped_bit(good, tmp_path / "flipped", position, 0)), open_packed(good))
            opened += 1
    assert opened > 0


SIZES = st.integers(-3, 70) | st.integers(1 << 31, 1 << 66)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "BF16", "F99", 3]),
        "shape": st.lists(SIZES, max_size=4),
        "data_offsets": st.lists(SIZES, min_size=1, max_size=3),
    }
)


@given(header=st.dictionaries(st.text(max_size=3), ENTRY, max_size=4), size=st.integers(0, 200))
def test_any_header_is_refused_if_it_does_not_describe_the_file(header: Header, size: int) -> None:
    try:
        entries = parse_header(json.dumps(header).encode(), 100, 100 + size)
    except TensorFileError:
        return
    assert sum(entry.end - entry.begin for entry in entries.values()) == size


SHIFTS = st.sampled_from([0] * 12 + [-1, 1, 8])


@given(shapes=st.lists(st.lists(st.integers(1, 5), max_size=3), max_size=4), data=st.data())
def test_a_header_is_accepted_exactly_if_no_number_is_wrong(shapes: list[list[int]], data: st.DataObject) -> None:
    header, position, shifts = {}, 0, []
    for number, shape in enumerate(shapes):
        begin, position = position, position + 4 * math.prod(shape)
        shifts += [data.draw(SHIFTS), data.draw(SHIFTS)]
        offsets = [begin + shifts[-2], position + shifts[-1]]
        header[f"tensor {number}"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    shifts.append(data.draw(SHIFTS))
    try:
        entries = parse_header(json.dumps(header).encode(), 100, 100 + position + shifts[-1])
    except TensorFileError:
        assert any(shifts)
        return
    assert not any(shifts)
    assert [list(entry.shape) for entry in entries.values()] == shapes
    assert [entry.begin for entry in entries.values()] == [100 + each["data_offsets"][0] for each in header.values()]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_map(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    with contextlib.suppress(TensorFileError, OSError):  # OSError: hypothesis knows how a pointer of Git LFS begins
        assert map_tensor_file(path).entries == {}


def test_every_stored_shape_is_that_of_the_core(good: Path) -> None:
    packed = open_packed(good)
    assert packed.tensors[LINEAR].shape == _core.tile_shape("int8", 36, 36)
    assert packed.tensors["transformer.wpe.weight"].dtype == np.float16


@pytest.fixture
def slow_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that lacks every instruction set with fast kernels."""
    monkeypatch.delenv("GPTBIGCODE_CPU_ISA", raising=False)
    monkeypatch.setattr(_core, "supported_kernel_names", lambda: ["scalar"])
    monkeypatch.setattr("gptbigcode_cpu.store.kernel_set._warned", False)


@pytest.mark.usefixtures("slow_cpu")
def test_a_cpu_without_fast_kernels_is_warned_about_once() -> None:
    packed = open_packed(hub.resolve("demo"))
    with pytest.warns(UserWarning, match=r"lacks AVX2 and FMA.*a hundred times slower") as caught:
        load_core(packed, num_threads=1)
        load_core(packed, num_threads=1)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


@pytest.mark.usefixtures("slow_cpu")
def test_an_architecture_without_fast_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "kernel_names", lambda: ["scalar"])
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert (slow_because() or "").startswith("there are no fast kernels for aarch64 CPUs yet: ")


def test_no_warning_where_kernels_are_fast_or_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (slow_because() is None) == (_core.supported_kernel_names() != ["scalar"])
    monkeypatch.setattr(_core, "supported_kernel_names", lambda: ["scalar"])
    monkeypatch.setenv("GPTBIGCODE_CPU_ISA", "scalar")
    assert slow_because() is None


@pytest.mark.usefixtures("slow_cpu")
def test_info_tells_of_a_slow_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    from gptbigcode_cpu.cli import run

    assert run(["info"]) == 0
    assert "\nslow               this CPU lacks AVX2 and FMA" in capsys.readouterr().out
