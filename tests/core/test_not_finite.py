"""NaN, infinity and numbers near the limits: they stay in their row, come out as NaN, and every kernel set agrees.

What a kernel set makes of NaN is NaN; which of the many bit patterns of NaN is left open.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.arrays import Floats, assert_same_bits, random_floats

from gptbigcode_cpu import AutoModelForCausalLM, InputError, _core

ISAS = _core.supported_kernel_names()
DTYPES = ["float32", "bfloat16", "int8", "int6", "int4"]
KV_DTYPES = ["int8", "bfloat16", "float16", "float32"]
# NaN with every bit of its payload set, too: what an exponent was added to is no NaN any more.
NAN_BITS = np.array([0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
NOT_FINITE = [*NAN_BITS, np.float32(np.inf), np.float32(-np.inf)]
HUGE = [np.float32(x) for x in (3e38, -3e38, 1e30)]
TINY = [np.float32(x) for x in (1e-45, -1e-40, 1e-38)]


def assert_same_values(actual: Floats, expected: Floats, what: object = "") -> None:
    """The same bits, or NaN in both."""
    canonical = [np.where(np.isnan(x), np.float32(np.nan), x) for x in (actual, expected)]
    assert_same_bits(canonical[0], canonical[1], what)


@pytest.mark.parametrize("m", [1, 5, 20, 150])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_rows_stay_apart(dtype: str, m: int) -> None:
    n, k = 40, 300
    packed, bias, clean = _core.pack_weight(random_floats(1, n, k), dtype), random_floats(2, n), random_floats(3, m, k)
    expected = _core.linear(packed, dtype, n, clean, bias, "scalar")
    for i, value in enumerate((*NOT_FINITE, *HUGE, *TINY)):
        row, column = i * 7 % m, (0, 17, 131, 299)[i % 4]
        x = clean.copy()
        x[row, column] = value
        scalar = _core.linear(packed, dtype, n, x, bias, "scalar")
        assert not np.isfinite(scalar[row]).any() or np.isfinite(value)
        for isa in ISAS:
            found = _core.linear(packed, dtype, n, x, bias, isa, 1 + i % 2)
            assert_same_values(found, scalar, (isa, value))
            assert_same_bits(np.delete(found, row, 0), np.delete(expected, row, 0), (isa, value))


@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize(("tokens", "n_queries"), [(40, 40), (100, 20), (530, 40)])
def test_attention_of_earlier_tokens_does_not_see_later_ones(kv_dtype: str, part: str, tokens: int, n_queries: int) -> None:
    clean = random_floats(1, tokens, 5, 20)  # three query heads: rows of several tokens are worked on together
    heads = {"query": slice(0, 3), "key": slice(3, 4), "value": slice(4, 5)}[part]
    expected = _core.attention(clean, 1, kv_dtype, 0.2, n_queries, None, ISAS[0])
    for i, value in enumerate((*NOT_FINITE, *HUGE, *TINY)):
        token = tokens - 1 - i * 5 % n_queries
        row = token - (tokens - n_queries)
        qkv = clean.copy()
        qkv[token, heads, i % 20] = value
        if kv_dtype == "float16" and part != "query" and np.isfinite(value) and abs(value) > 65504:
            continue
        scalar = _core.attention(qkv, 1, kv_dtype, 0.2, n_queries, None, "scalar")
        for isa in ISAS:
            found = _core.attention(qkv, 1, kv_dtype, 0.2, n_queries, None, isa, 1 + i % 2)
            assert_same_values(found, scalar, (isa, value))
            others = slice(None, row) if part != "query" else np.arange(n_queries) != row
            assert_same_bits(found[others], expected[others], (isa, value))
        if np.isnan(value):  # from a key or a query everything, from a value its element
            lost = scalar[row] if part == "query" else scalar[row:]
            assert np.isnan(lost if part != "value" else lost[..., i % 20]).all(), value


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_score_of_minus_infinity_counts_nothing(kv_dtype: str) -> None:
    qkv = np.zeros((130, 3, 16), np.float32)
    qkv[:, 2] = np.arange(130)[:, None]
    qkv[:, 0, 0] = 3e38
    qkv[:, 1, 0] = -10  # times the query: less than any number
    qkv[100, 1, 0] = 0
    for isa in ISAS:
        assert_same_bits(_core.attention(qkv, 1, kv_dtype, 1.0, 20, None, isa), np.full((20, 1, 16), 100, np.float32), isa)


def test_float16_refuses_what_it_cannot_hold() -> None:
    for element, fits in ((65504, True), (65519, True), (65520, False), (-65520, False), (1e30, False), (np.inf, True)):
        for head in (1, 2):
            qkv = random_floats(1, 20, 3, 16)
            qkv[3, head, 5] = element
            if fits:
                _core.attention(qkv, 1, "float16", 1.0, 1)
            else:
                with pytest.raises(InputError, match='kv_dtype="float32" or "bfloat16"'):
                    _core.attention(qkv, 1, "float16", 1.0, 1)
    qkv[3, 2, 5] = 3.4e38
    with pytest.raises(InputError, match=r'kv_dtype="float32"$'):
        _core.attention(qkv, 1, "bfloat16", 1.0, 1)
    _core.attention(qkv, 1, "float32", 1.0, 1)


def test_layer_norm_and_activations() -> None:
    weight, bias = random_floats(1, 100), random_floats(2, 100)
    for value in (*NOT_FINITE, *HUGE, *TINY):
        x = random_floats(3, 3, 100)
        x[1, 70] = value
        scalar = _core.layer_norm(x, weight, bias, 1e-5, "scalar")
        assert np.isnan(scalar[1]).all() or np.isfinite(value)
        assert np.isfinite(scalar[[0, 2]]).all()
        for isa in ISAS:
            assert_same_values(_core.layer_norm(x, weight, bias, 1e-5, isa), scalar, isa)
            for name in _core.activation_names():
                found = _core.activate(name, x, isa)
                assert_same_values(found, _core.activate(name, x, "scalar"), (isa, name, value))
                assert np.isnan(found[1, 70]) or not np.isnan(value), (isa, name)
                assert np.isfinite(np.delete(found.reshape(-1), 170)).all(), (isa, name)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("not_finite") / "checkpoint")


@pytest.mark.parametrize("dtype", ["int8", "int4", "float32"])
def test_a_row_of_a_model_does_not_reach_earlier_ones_or_other_sequences(
    dtype: str, checkpoint: Path, converted: Callable[..., Path], core_model: Callable[..., Any]
) -> None:
    directory = converted(dtype, checkpoint)
    for isa in ISAS:
        core = core_model(directory, isa=isa, num_threads=2)
        embedded = [core.embed(np.arange(count, dtype=np.int32)) for count in (30, 20, 1)]
        keep = [30, 20, 1]

        def run(embedded: list[Floats], core: Any = core, keep: list[int] = keep) -> Floats:
            logits: Floats = core.forward([_core.KVCache(core) for _ in embedded], embedded, keep)
            return logits

        expected = run(embedded)
        for value in (np.nan, np.inf):
            poisoned = [x.copy() for x in embedded]
            poisoned[0][25, 3] = value
            found = run(poisoned)
            assert np.isnan(found[25:30]).all()
            others = np.r_[0:25, 30:51]
            assert_same_bits(found[others], expected[others], (isa, value))


def test_a_model_whose_keys_are_beyond_float16_says_so(
    make_checkpoint: Callable[..., Path], tmp_path: Path, core_model: Callable[..., Any]
) -> None:
    from safetensors.numpy import load_file, save_file

    path = make_checkpoint(tmp_path / "large")
    tensors = load_file(path / "model.safetensors")
    name = "transformer.h.0.attn.c_attn.weight"
    tensors[name] = tensors[name] * np.float32(1e7)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    for kv_dtype in ("float32", "bfloat16", "int8"):
        model = AutoModelForCausalLM.from_pretrained(path, dtype="float32", kv_dtype=kv_dtype, num_threads=1)
        assert np.isfinite(model([[1, 2, 3]]).logits).all()
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32", kv_dtype="float16", num_threads=1)
    cache = _core.KVCache(model.core)
    with pytest.raises(InputError, match="larger than kv_dtype"):
        model.core.forward([cache], [np.arange(20, dtype=np.int32)], [1])
    assert len(cache) == 0
    with pytest.raises(InputError, match="larger than kv_dtype"):
        model.generate([[1, 2, 3]], max_new_tokens=2)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the constants are those of x86")
@pytest.mark.parametrize("kv_dtype", ["int8", "float32"])
def test_the_rounding_of_the_calling_thread_changes_nothing(
    kv_dtype: str, checkpoint: Path, converted: Callable[..., Path], core_model: Callable[..., Any]
) -> None:
    libm = ctypes.CDLL("libm.so.6")
    upward, nearest = 0x800, 0
    directory, prompt = converted("int8", checkpoint), np.arange(40, dtype=np.int32)

    def results(core: Any) -> tuple[Floats, list[int]]:
        sampler = _core.Sampler(temperature=3.0, seed=1)
        logits = core.forward([_core.KVCache(core)], [prompt], [40])
        return logits, [sampler.sample(row, prompt) for row in logits]

    expected, tokens = results(core_model(directory, num_threads=1, kv_dtype=kv_dtype))
    libm.fesetround(upward)
    try:  # the second one's threads are started now
        found = [results(core_model(directory, num_threads=n, kv_dtype=kv_dtype)) for n in (1, 3)]
        kept = libm.fegetround()
    finally:
        libm.fesetround(nearest)
    assert kept == upward
    for logits, drawn in found:
        assert_same_bits(logits, expected)
        assert drawn == tokens
