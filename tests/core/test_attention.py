"""Attention over every type of KV cache: near the exact one, the same bits from every kernel set and any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.kernel_sets import OTHERS, compares_kernel_sets

from gptbigcode_cpu import _core

KV_DTYPES = ["int8", "bfloat16", "float16", "float32"]

Floats = NDArray[np.float32]


def assert_same_bits(actual: Floats, expected: Floats, what: object = "") -> None:
    different = actual.view(np.uint32) != expected.view(np.uint32)
    assert not different.any(), f"{what}: {different.sum()} of {different.size} differ, first at {np.argwhere(different)[0]}"


def random_floats(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def random_qkv(seed: int, tokens: int, n_head: int, n_kv_head: int, head_dim: int) -> Floats:
    return random_floats(seed, tokens, n_head + 2 * n_kv_head, head_dim)


def exact_attention(qkv: Floats, n_kv_head: int, scale: float, n_queries: int) -> NDArray[np.float64]:
    x = qkv.astype(np.float64)
    n_head = x.shape[1] - 2 * n_kv_head
    out = np.empty((n_queries, n_head, x.shape[2]))
    for i, last in enumerate(range(len(x) - n_queries, len(x))):
        for head in range(n_head):
            kv_head = head // (n_head // n_kv_head)
            keys, values = x[: last + 1, n_head + kv_head], x[: last + 1, n_head + n_kv_head + kv_head]
            scores = keys @ x[last, head] * scale
            weights = np.exp(scores - scores.max())
            out[i, head] = weights @ values / weights.sum()
    return out


def check_bits(qkv: Floats, n_kv_head: int, kv_dtype: str, scale: float, n_queries: int, bias: Floats | None = None) -> Floats:
    expected = _core.attention(qkv, n_kv_head, kv_dtype, scale, n_queries, bias, "scalar")
    assert np.isfinite(expected).all()
    for isa in OTHERS:
        for num_threads in (1, 3):
            what = f"{isa} {kv_dtype} {qkv.shape} queries={n_queries} threads={num_threads}"
            assert_same_bits(
                _core.attention(qkv, n_kv_head, kv_dtype, scale, n_queries, bias, isa, num_threads), expected, what
            )
    return expected


# Root mean square of the error, for values of standard deviation 1.
TOLERANCES = {"int8": 0.01, "bfloat16": 4e-3, "float16": 4e-4, "float32": 1e-6}


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize(("tokens", "n_queries"), [(1, 1), (64, 64), (600, 3), (1300, 1), (1100, 90)])
def test_attention_is_near_the_exact_one(kv_dtype: str, tokens: int, n_queries: int) -> None:
    for n_head, n_kv_head, head_dim, scale in ((6, 1, 64, 0.3), (3, 3, 40, 1.0)):
        qkv = random_qkv(tokens, tokens, n_head, n_kv_head, head_dim)
        result = _core.attention(qkv, n_kv_head, kv_dtype, scale, n_queries)
        error = np.sqrt(np.mean((result - exact_attention(qkv, n_kv_head, scale, n_queries)) ** 2))
        assert error < TOLERANCES[kv_dtype] * (3 if scale == 1 else 1)  # large scores make rounding them matter more


@compares_kernel_sets
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("head_dim", [1, 3, 16, 24, 40, 80, 96, 128, 130])
def test_bits_for_every_head_dim(kv_dtype: str, head_dim: int) -> None:
    for n_head, n_kv_head in ((5, 1), (2, 2)):
        check_bits(random_qkv(head_dim, 100, n_head, n_kv_head, head_dim), n_kv_head, kv_dtype, head_dim**-0.5, 3)


@compares_kernel_sets
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("n_head", [*range(1, 18), 130])
def test_bits_for_every_number_of_rows(kv_dtype: str, n_head: int) -> None:
    for n_queries in (1, 2, 7, 40):
        check_bits(random_qkv(n_head, 75, n_head, 1, 20), 1, kv_dtype, 0.2, n_queries)


@compares_kernel_sets
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 63, 64, 65, 128, 511, 512, 513, 1024, 1025, 1100])
def test_bits_at_every_depth(kv_dtype: str, tokens: int) -> None:
    qkv = random_qkv(tokens, tokens, 4, 1, 16)
    for n_queries in {1, min(5, tokens), min(66, tokens)}:
        check_bits(qkv, 1, kv_dtype, 0.25, n_queries)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("num_threads", range(1, 9))
def test_results_depend_on_neither_threads_nor_the_grouping_of_tokens(kv_dtype: str, num_threads: int) -> None:
    """A few tokens are split by chunks of the cache, many by tokens; both at once must agree."""
    qkv = random_qkv(1, 1150, 12, 1, 32)
    expected = _core.attention(qkv, 1, kv_dtype, 0.2, 100)
    many = _core.attention(qkv, 1, kv_dtype, 0.2, 100, num_threads=num_threads)
    assert_same_bits(many, expected)
    for n_queries in (1, 2, 32, 33):
        assert_same_bits(_core.attention(qkv, 1, kv_dtype, 0.2, n_queries, num_threads=num_threads), expected[-n_queries:])
    for past in (1149, 1100):  # the same query with fewer tokens after it
        assert_same_bits(_core.attention(qkv[:past], 1, kv_dtype, 0.2, 1, num_threads=num_threads)[0], expected[past - 1151])


def extreme_inputs(tokens: int, heads: int, head_dim: int) -> dict[str, Floats]:
    base = random_floats(1, tokens, heads, head_dim)
    outlier = base * np.float32(1e-3)
    outlier[tokens // 2, :, 0] = 1000
    zero_keys = base.copy()
    zero_keys[:, -2] = 0
    zero_values = base.copy()
    zero_values[::2, -1] = 0
    sizes = np.float32(10) ** np.linspace(-12, 6, tokens, dtype=np.float32)
    alike = np.broadcast_to(base[:1], base.shape).copy()
    return {
        "zero": 0 * base,
        "negative zero": -0.0 * np.abs(base),
        "equal tokens": alike,
        "zero keys": zero_keys,
        "zero values": zero_values,
        "huge": base * np.float32(1e4),
        "tiny": base * np.float32(1e-18),
        "subnormal": base * np.float32(1e-41),
        "one outlier": outlier,
        "one sign": np.abs(base),
        "largest codes": np.sign(base),
        "many sizes": base * sizes[:, None, None],
        "many sizes backwards": base * sizes[::-1, None, None],
    }


@compares_kernel_sets
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("head_dim", [8, 128])
def test_bits_at_extremes(kv_dtype: str, head_dim: int) -> None:
    for qkv in extreme_inputs(150, 5, head_dim).values():
        if kv_dtype == "float16":
            np.clip(qkv, -65504, 65504, out=qkv)  # it refuses more
        for scale in (0.1, 1.0, 100.0):
            check_bits(qkv, 1, kv_dtype, scale, 20)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_equal_tokens_give_their_common_value(kv_dtype: str) -> None:
    qkv = np.broadcast_to(random_floats(1, 1, 5, 32), (700, 5, 32)).copy()
    result = _core.attention(qkv, 1, kv_dtype, 0.2, 1)[0]
    tolerance = {"int8": 0.02, "bfloat16": 0.01, "float16": 1e-3, "float32": 1e-5}[kv_dtype]
    np.testing.assert_allclose(result, np.broadcast_to(qkv[0, 4], (3, 32)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_biases_are_taken_out_and_put_back(kv_dtype: str) -> None:
    bias = random_floats(2, 8, 48) * 20
    qkv = random_qkv(3, 300, 6, 1, 48) + bias
    result = check_bits(qkv, 1, kv_dtype, 0.05, 4, bias)
    expected = exact_attention(qkv, 1, 0.05, 4)
    error = np.abs(result - expected).max()
    # Without the bias what is stored is twenty times smaller, and so is the error of rounding it.
    assert error < {"int8": 0.3, "bfloat16": 0.1, "float16": 0.02, "float32": 1e-4}[kv_dtype]
    if kv_dtype != "float32":
        assert error < np.abs(_core.attention(qkv, 1, kv_dtype, 0.05, 4) - expected).max() / 2


@pytest.mark.parametrize("bits", [range(0x8000)])
def test_float16_keeps_every_float16(bits: range) -> None:
    """One token's attention is its value: every finite float16, and the values between, round as numpy rounds them."""
    exact = np.array(bits, np.uint16).view(np.float16).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    between = ((exact[1:].astype(np.float64) + exact[:-1]) / 2).astype(np.float32)
    for values in (exact, -exact, between, np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(1e9))):
        padded = np.zeros((len(values) + 63) // 64 * 64, np.float32)
        padded[: len(values)] = values
        for row in padded.reshape(-1, 64 * 64 if len(padded) % 4096 == 0 else 64):
            qkv = np.stack([0 * row, 0 * row, row])[None]
            assert_same_bits(_core.attention(qkv, 1, "float16", 1.0, 1)[0, 0], row.astype(np.float16).astype(np.float32) + 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"n_kv_head": 0},
        {"n_kv_head": 3},
        {"n_kv_head": 2},
        {"kv_dtype": "int4"},
        {"n_queries": 0},
        {"n_queries": 6},
        {"bias": np.zeros((7, 9), np.float32)},
        {"qkv": np.zeros((5, 7), np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_bad_arguments_are_value_errors(change: dict[str, Any]) -> None:
    good = {"qkv": random_qkv(1, 5, 5, 1, 8), "n_kv_head": 1, "kv_dtype": "int8", "scale": 1.0, "n_queries": 2}
    _core.attention(**good)
    with pytest.raises(ValueError):
        _core.attention(**(good | change))
