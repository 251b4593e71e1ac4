"""Every kernel set returns the bits that the scalar one returns, for any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.arrays import Floats, assert_same_bits, random_floats
from oracle.kernel_sets import OTHERS, compares_kernel_sets, every_isa

from gptbigcode_cpu import _core

DTYPES = ["float32", "bfloat16", "int8", "int6", "int4"]
BLOCK = 128
SIZES = [*range(1, 34), 63, 64, 65, 97, 127, 128, 129, 257]
ROWS = [*range(1, 18), 33, 65]


def check_linear(weight: Floats, x: Floats, dtype: str, bias: Floats | None, num_threads: int = 1) -> None:
    packed = _core.pack_weight(weight, dtype)
    expected = _core.linear(packed, dtype, len(weight), x, bias, "scalar")
    assert np.isfinite(expected).all()
    for isa in OTHERS:
        what = f"{isa} {dtype} n={weight.shape[0]} k={weight.shape[1]} m={len(x)} threads={num_threads}"
        assert_same_bits(_core.linear(packed, dtype, len(weight), x, bias, isa, num_threads), expected, what)


@compares_kernel_sets
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_linear_bits_for_every_n_and_k(dtype: str, n: int) -> None:
    for k in SIZES:
        m = ROWS[(n * 7 + k) % len(ROWS)]
        bias = random_floats(3, n) if k % 2 else None
        check_linear(random_floats(n, n, k), random_floats(k, m, k), dtype, bias, num_threads=1 + k % 2)


@compares_kernel_sets
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", ROWS)
def test_linear_bits_for_every_m(dtype: str, m: int) -> None:
    for n, k in ((1, 1), (16, 128), (40, 300), (97, 513)):
        check_linear(random_floats(m, n, k), random_floats(n, m, k), dtype, random_floats(k, n))


@compares_kernel_sets
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [127, 128, 129, 134, 135, 257, 511, 512, 513, 518, 519])
def test_linear_bits_past_the_rows_of_a_panel(dtype: str, m: int) -> None:
    for n in (40, 300):  # items of a single tile, and of pairs
        check_linear(random_floats(m, n, 200), random_floats(1, m, 200), dtype, random_floats(2, n))


@compares_kernel_sets
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_threads", range(1, 9))
def test_linear_bits_for_every_thread_count(dtype: str, num_threads: int) -> None:
    for n, m in ((5, 1), (257, 1), (257, 33), (1100, 2)):
        check_linear(random_floats(n, n, 384), random_floats(m, m, 384), dtype, random_floats(1, n), num_threads)


@compares_kernel_sets
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k", "m"), [(384, 256, 5), (2304, 2048, 1), (512, 8192, 3), (768, 3072, 20)])
def test_linear_bits_at_real_shapes(dtype: str, n: int, k: int, m: int) -> None:
    check_linear(random_floats(n, n, k) / 40, random_floats(k, m, k), dtype, random_floats(m, n))


def extreme_matrices(rows: int, k: int) -> dict[str, Floats]:
    """Matrices that drive codes, sums and scales to their limits."""
    ones = np.ones((rows, k), np.float32)
    signs = np.where(np.arange(k) % 2, -1, 1).astype(np.float32)
    pairs = np.where(np.arange(k) // 2 % 2, -1, 1).astype(np.float32)
    outlier = np.full((rows, k), 1e-3, np.float32)
    outlier[:, k // 2] = 1000
    holes = random_floats(1, rows, k)
    holes[:, : k // 2] = 0
    holes[rows // 2] = 0
    return {
        "all +max": ones,
        "all -max": -ones,
        "alternating": ones * signs,
        "alternating pairs": ones * pairs,
        "rows of alternating sign": ones * np.where(np.arange(rows) % 2, -1, 1).astype(np.float32)[:, None],
        "zero": 0 * ones,
        "negative zero": -0.0 * ones,
        "zero groups": holes,
        "one outlier": outlier,
        "subnormal": 1e-41 * signs * ones,
        "tiny": 1e-34 * ones,
        "huge": np.float32(1e15) * signs * ones,
        "many sizes": random_floats(2, rows, k) * np.float32(10) ** np.linspace(-12, 6, k, dtype=np.float32),
    }


@compares_kernel_sets
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [32, 128, 200, 1024])
def test_linear_bits_at_extremes(dtype: str, k: int) -> None:
    for weight in extreme_matrices(35, k).values():
        for x in extreme_matrices(7, k).values():
            check_linear(weight, x, dtype, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_is_the_product_with_the_unpacked_weight(dtype: str) -> None:
    weight, x, bias = random_floats(1, 50, 300), random_floats(2, 9, 300), random_floats(3, 50)
    packed = _core.pack_weight(weight, dtype)
    result = _core.linear(packed, dtype, 50, x, bias, "scalar")
    exact = x.astype(np.float64) @ _core.unpack_weight(packed, dtype, 50, 300).astype(np.float64).T + bias
    if dtype in ("float32", "bfloat16"):
        np.testing.assert_allclose(result, exact, rtol=0, atol=1e-4)
    else:
        # Activations are rounded to one part in 127 of the largest of their block: at most half a step each.
        step = np.abs(np.pad(x, ((0, 0), (0, 84))).reshape(9, 3, BLOCK)).max(-1).repeat(BLOCK, 1)[:, :300] / 127
        bound = 0.51 * step.astype(np.float64) @ np.abs(_core.unpack_weight(packed, dtype, 50, 300)).T + 1e-4
        assert (np.abs(result - exact) <= bound).all()


def packed_bytes(dtype: str, n: int, k: int) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """A packed weight of zero bytes with row scales of 1/64, and where its parts are: views that can be written."""
    shape = tuple(_core.tile_shape(dtype, n, k))
    packed = np.zeros(shape, np.uint8)
    packed[:, -64:].view(np.float32)[:] = 1 / 64
    codes = {"int6": 1536, "int4": 1024}[dtype]
    blocks = packed[:, :-64].reshape(shape[0], -(-k // BLOCK), -1)
    return packed, {"codes": blocks[..., :codes], "multipliers": blocks[..., codes:]}


@compares_kernel_sets
@pytest.mark.parametrize("m", [1, 2, 3, 4, 8, 17])
@pytest.mark.parametrize("dtype", ["int6", "int4"])
def test_linear_bits_of_any_bytes(dtype: str, m: int) -> None:
    """Codes and multipliers that packing does not write, too."""
    random = np.random.default_rng(m)
    packed, parts = packed_bytes(dtype, 48, 640)
    for part in parts.values():
        part[:] = random.integers(0, 256, part.shape)
    for x in (random_floats(m, m, 640), np.sign(random_floats(m, m, 640))):
        expected = _core.linear(packed, dtype, 48, x, None, "scalar")
        exact = x.astype(np.float64) @ _core.unpack_weight(packed, dtype, 48, 640).astype(np.float64).T
        np.testing.assert_allclose(expected, exact, rtol=0, atol=0.02 * np.abs(exact).max())
        for isa in OTHERS:
            assert_same_bits(_core.linear(packed, dtype, 48, x, None, isa), expected, (isa, dtype, m))


@pytest.mark.parametrize("sign", [1, -1, "alternating"])
@pytest.mark.parametrize("code", [0, 255])
@pytest.mark.parametrize("multiplier", [0x7F, 0x81])
@pytest.mark.parametrize("dtype", ["int6", "int4"])
def test_linear_sums_at_their_limits(dtype: str, multiplier: int, code: int, sign: int | str) -> None:
    """The lowest or the highest code everywhere, the largest multipliers, and activations of 127 or -127."""
    packed, parts = packed_bytes(dtype, 32, 512)
    parts["codes"][:] = code
    parts["multipliers"][:] = multiplier
    weight = _core.unpack_weight(packed, dtype, 32, 512)
    level = (-32, 31)[code & 1] * (127, -127)[multiplier >> 7] if dtype == "int6" else None
    assert level is None or (weight == level / 64).all()
    for m in (1, 3, 4, 7):
        x = np.ones((m, 512), np.float32)
        if sign == "alternating":
            x[:, 1::2] = -1
        else:
            x *= int(sign)
        expected = x.astype(np.float64) @ weight.T
        for isa in _core.supported_kernel_names():
            np.testing.assert_allclose(_core.linear(packed, dtype, 32, x, None, isa), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int6", "int4"])
def test_a_zero_activation_row_gives_the_bias(dtype: str) -> None:
    packed = _core.pack_weight(random_floats(1, 33, 129), dtype)
    bias = random_floats(2, 33)
    for isa in _core.supported_kernel_names():
        assert_same_bits(_core.linear(packed, dtype, 33, np.zeros((2, 129), np.float32), bias, isa), np.stack([bias, bias]))


SPECIAL_FLOATS = np.array(
    [sign * x for sign in (1, -1) for x in (0.0, 1e-45, 1e-41, 1e-30, 0.5, 1, 3, 5.9, 6.1, 8, 10, 20, 88, 104, 1e4, 1e20)],
    np.float32,
)


@compares_kernel_sets
@pytest.mark.parametrize("name", _core.activation_names())
def test_activation_bits(name: str) -> None:
    for n in [*range(1, 70), 1000]:
        x = 4 * random_floats(n, n)
        for isa in OTHERS:
            assert_same_bits(_core.activate(name, x, isa), _core.activate(name, x, "scalar"), (isa, n))
    x = np.concatenate([SPECIAL_FLOATS, np.linspace(-110, 110, 100_001, dtype=np.float32)])
    for isa in OTHERS:
        assert_same_bits(_core.activate(name, x, isa), _core.activate(name, x, "scalar"), isa)


def reference_activation(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    import math

    def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(values >= 0, 1, np.exp(-np.abs(values))) / (1 + np.exp(-np.abs(values)))

    if name in ("gelu", "gelu_python", "gelu_10"):
        y = x * 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2))
        return np.clip(y, -10, 10) if name == "gelu_10" else y
    if name.startswith("gelu"):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return {
        "leaky_relu": lambda: np.where(x > 0, x, 0.01 * x),
        "linear": lambda: x,
        "mish": lambda: x * np.tanh(np.logaddexp(0, x)),
        "quick_gelu": lambda: x * sigmoid(1.702 * x),
        "relu": lambda: np.maximum(x, 0),
        "relu2": lambda: np.maximum(x, 0) ** 2,
        "relu6": lambda: np.clip(x, 0, 6),
        "sigmoid": lambda: sigmoid(x),
        "silu": lambda: x * sigmoid(x),
        "swish": lambda: x * sigmoid(x),
        "tanh": lambda: np.tanh(x),
    }[name]()


@pytest.mark.parametrize("name", _core.activation_names())
def test_activation_values(name: str) -> None:
    x = np.concatenate([np.linspace(-110, 110, 20_001), np.linspace(-6, 6, 20_001)]).astype(np.float32)
    expected = reference_activation(name, x.astype(np.float64))
    np.testing.assert_allclose(_core.activate(name, x, "scalar"), expected, rtol=3e-6, atol=2e-6)


@compares_kernel_sets
def test_layer_norm_bits() -> None:
    for k in [*SIZES, 256, 2048, 6144]:
        weight, bias = 1 + random_floats(1, k), random_floats(2, k)
        rows = [random_floats(k, 3, k), 100 + random_floats(k, 1, k), *extreme_matrices(2, k).values()]
        for x in rows:
            for epsilon in (1e-5, 1e-12):
                expected = _core.layer_norm(x, weight, bias, epsilon, "scalar")
                for isa in OTHERS:
                    assert_same_bits(_core.layer_norm(x, weight, bias, epsilon, isa), expected, (isa, k))


@pytest.mark.parametrize("k", [2, 15, 16, 17, 64, 256, 1000])
def test_layer_norm_values(k: int) -> None:
    x, weight, bias = 2 + 3 * random_floats(k, 4, k), random_floats(1, k), random_floats(2, k)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(_core.layer_norm(x, weight, bias, 1e-5, "scalar"), expected, rtol=1e-5, atol=1e-5)


# Arguments


def test_bad_arguments_are_value_errors() -> None:
    weight, x = random_floats(1, 20, 64), random_floats(2, 2, 64)
    packed = _core.pack_weight(weight, "int8")
    bad_calls: list[Any] = [
        lambda: _core.pack_weight(weight, "int3"),
        lambda: _core.pack_weight(weight[0], "int8"),
        lambda: _core.pack_weight(weight.T, "int8"),
        lambda: _core.pack_weight(weight[:, ::2], "int8"),
        lambda: _core.pack_weight(weight.astype(np.float64), "int8"),
        lambda: _core.pack_weight(weight.astype(np.int16), "int8"),
        lambda: _core.pack_weight(weight[:0], "int8"),
        lambda: _core.pack_weight(weight[:, :0], "int8"),
        lambda: _core.pack_weight(weight, "int8", -1),
        lambda: _core.unpack_weight(packed, "int8", 33, 64),
        lambda: _core.unpack_weight(packed, "int8", 20, 129),
        lambda: _core.unpack_weight(packed, "int8", 0, 64),
        lambda: _core.unpack_weight(packed, "int8", -5, 64),
        lambda: _core.unpack_weight(packed, "int4", 20, 64),
        lambda: _core.unpack_weight(packed.view(np.int8), "int8", 20, 64),
        lambda: _core.unpack_weight(packed[:, :, ::2], "int8", 20, 64),
        lambda: _core.linear(packed, "int8", 20, x[0], None),
        lambda: _core.linear(packed, "int8", 20, x[:0], None),
        lambda: _core.linear(packed, "int8", 33, x, None),
        lambda: _core.linear(packed, "int8", 20, random_floats(1, 2, 200), None),
        lambda: _core.linear(packed, "int8", 20, x, np.zeros(19, np.float32)),
        lambda: _core.linear(packed, "int8", 20, x, np.zeros((1, 20), np.float32)),
        lambda: _core.linear(packed, "int8", 20, x, None, "sse9"),
        lambda: _core.linear(packed, "int8", 20, x, None, "scalar", -1),
        lambda: _core.activate("swiglu", x),
        lambda: _core.activate("gelu", x, "sse9"),
        lambda: _core.layer_norm(x, x[0][:-1], x[0], 1e-5),
        lambda: _core.layer_norm(x, x[0], x, 1e-5),
        lambda: _core.layer_norm(x[0], x[0], x[0], 1e-5),
        lambda: _core.layer_norm(x[:, :0], x[0][:0], x[0][:0], 1e-5),
        lambda: _core.tile_shape("int8", 0, 4),
        lambda: _core.tile_shape("int9", 4, 4),
    ]
    accepted = []
    for i, call in enumerate(bad_calls):
        try:
            call()
        except ValueError:
            continue
        accepted.append(i)
    assert not accepted


# Choosing a kernel set


def test_names() -> None:
    names, supported = _core.kernel_names(), _core.supported_kernel_names()
    assert names[-1] == "scalar" == supported[-1]
    assert [name for name in names if name in supported] == supported
    assert len({*names}) == len(names)
    for name in supported:
        assert _core.select_kernel(name) == name


def run_python(code: str, isa: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"GPTBIGCODE_CPU_ISA": isa}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


def test_the_environment_variable_forces_a_kernel_set() -> None:
    code = "from gptbigcode_cpu import _core; print(_core.select_kernel(), _core.select_kernel('scalar'))"
    for name in _core.supported_kernel_names():
        assert run_python(code, name).stdout.split() == [name, "scalar"]
    assert run_python(code, "").stdout.split() == [_core.supported_kernel_names()[0], "scalar"]


def test_unknown_and_unsupported_kernel_sets_are_errors() -> None:
    failed = run_python("from gptbigcode_cpu import _core; _core.select_kernel()", "mmx")
    assert failed.returncode != 0
    assert "InputError" in failed.stderr
    assert "mmx" in failed.stderr
    for name in ("AVX2", "scalar ", "mmx", *({*_core.kernel_names()} - {*_core.supported_kernel_names()})):
        with pytest.raises(ValueError, match=name.strip()):
            _core.select_kernel(name)


@pytest.mark.parametrize("streams", [1, 2, 4, 8])
@every_isa
def test_reading_meets_every_element(isa: str, streams: int) -> None:
    random = np.random.default_rng(streams)
    for count in (1, 63, 64, 65, 8 * 64 - 1, 8 * 64, 8 * 64 + 17, 3000):
        x = random.uniform(-3, -2, count).astype(np.float32)
        x[random.integers(0, count, count // 8)] = np.nan
        for place in {*random.integers(0, count, 200).tolist(), 0, count - 1}:
            before, x[place] = x[place], -1.5
            assert _core.read(x, streams, isa) == -1.5
            x[place] = before
    assert _core.read(np.ones(0, np.float32), streams, isa) == -np.inf
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        _core.read(x, 3, isa)


def test_limits_of_the_machine_are_measured() -> None:
    memory = [np.ones(1 << 20, np.float32), np.ones(0, np.int8), np.ones((3, 7), np.uint8), np.ones(1 << 20, np.uint16)]
    assert min(_core.measure_read_bandwidth(memory, name, 2) for name in _core.supported_kernel_names()) > 1e7
    peaks = {name: _core.measure_int8_peak(name, 1) for name in _core.supported_kernel_names()}
    assert min(peaks.values()) > 1e7
    if "avx2" in peaks:
        assert peaks["avx2"] > 2 * peaks["scalar"]
    with pytest.raises(ValueError, match="nothing to read"):
        _core.measure_read_bandwidth([np.ones(0)])
    for array in (memory[0][::2], memory[2].reshape(-1)[1:]):
        with pytest.raises(ValueError, match="contiguous and 4-byte aligned"):
            _core.measure_read_bandwidth([array])
    with pytest.raises(ValueError, match="mmx"):
        _core.measure_int8_peak("mmx")
