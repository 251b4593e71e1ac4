"""Packing keeps its promises: what the bytes say, how far they are from the weights, and what is refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle.arrays import Floats, assert_same_bits, random_floats
from oracle.kernel_sets import every_isa
from oracle.random_models import to_bfloat16

from gptbigcode_cpu import _core

DTYPES = ["float32", "bfloat16", "int8", "int6", "int4"]
BLOCK = 128
GROUPS = {"int6": 32, "int4": 128}  # columns that share a multiplier
LARGEST_MULTIPLIER, LARGEST_LEVEL = {"int6": 127, "int4": 31}, {"int6": 32, "int4": 16}
CODEBOOK = np.array([-15, -13, -10, -8, -6, -4, -3, -1, 0, 1, 3, 5, 7, 9, 11, 14])
Integers = NDArray[np.int64]


def bfloat16_values(bits: NDArray[np.uint16]) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def round_trip(weight: Floats, dtype: str) -> Floats:
    return _core.unpack_weight(_core.pack_weight(weight, dtype), dtype, *weight.shape)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (15, 127), (16, 128), (17, 129), (40, 300)])
def test_float_packing_keeps_the_values(n: int, k: int) -> None:
    weight = random_floats(n, n, k)
    assert_same_bits(round_trip(weight, "float32"), weight)
    assert_same_bits(round_trip(weight, "bfloat16"), bfloat16_values(to_bfloat16(weight)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_takes_every_source_type(dtype: str) -> None:
    weight = random_floats(1, 20, 140)
    half, brain = weight.astype(np.float16), to_bfloat16(weight)
    for source, values in ((half, half.astype(np.float32)), (brain, bfloat16_values(brain))):
        np.testing.assert_array_equal(_core.pack_weight(source, dtype), _core.pack_weight(values, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_matches_tile_shape_and_rows_can_be_packed_in_parts(dtype: str) -> None:
    weight = random_floats(1, 75, 200)
    whole = _core.pack_weight(weight, dtype, 3)
    assert whole.shape == tuple(_core.tile_shape(dtype, 75, 200))
    parts = [_core.pack_weight(weight[begin : begin + 32], dtype, 1) for begin in range(0, 75, 32)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@every_isa
def test_every_kernel_set_packs_the_same_bytes(isa: str) -> None:
    for n, k in ((1, 1), (17, 129), (48, 512)):
        for weight in (random_floats(n, n, k), np.ones((n, k), np.float32), *odd_sizes(n, k)):
            for dtype in DTYPES:
                expected = _core.pack_weight(weight, dtype, 1, "scalar")
                np.testing.assert_array_equal(_core.pack_weight(weight, dtype, 2, isa), expected)


def odd_sizes(n: int, k: int) -> list[Floats]:
    """Zeros and sizes from 1e-42 to 1e30, in rows and within them."""
    sizes = np.float32(10) ** np.linspace(-42, 30, n * k, dtype=np.float32)
    holes = random_floats(1, n, k)
    holes[:, k // 2 :] = 0
    return [sizes.reshape(n, k), np.ascontiguousarray(sizes.reshape(k, n).T) * random_floats(2, n, k), holes]


class Int8Parts(NamedTuple):
    """Read as docs/format.md says, by other code than the core's; K in whole blocks, N in whole tiles."""

    codes: Integers  # [n, k]
    scales: Floats  # [n, k / 128]

    def values(self) -> Floats:
        return self.codes.astype(np.float32) * self.scales.repeat(BLOCK, 1)


def int8_parts(packed: NDArray[np.uint8]) -> Int8Parts:
    tiles, blocks, _ = packed.shape
    quads = packed[..., :2048].reshape(tiles, blocks, 32, 16, 4).astype(np.int64) - 128
    codes = quads.transpose(0, 3, 1, 2, 4).reshape(tiles * 16, blocks * BLOCK)
    scales = bfloat16_values(np.ascontiguousarray(packed[..., 2048:]).view(np.uint16))  # [tile, block, row]
    return Int8Parts(codes, scales.transpose(0, 2, 1).reshape(tiles * 16, blocks))


class GroupParts(NamedTuple):
    codes: Integers  # [n, k]
    multipliers: Integers  # [n, k / group]
    offsets: Integers  # [n, k / group]
    scales: Floats  # [n]
    group: int
    codebook: Integers
    zero: int  # the code of zero

    def levels(self) -> Integers:
        return self.codebook[self.codes] + self.offsets.repeat(self.group, 1)

    def values(self) -> Floats:
        return self.scales[:, None] * (self.multipliers.repeat(self.group, 1) * self.levels()).astype(np.float32)


def int4_parts(packed: NDArray[np.uint8]) -> GroupParts:
    tiles, tile_bytes = packed.shape
    blocks = packed[:, : tile_bytes - 64].reshape(tiles, -1, 1024 + 16)
    bytes_ = blocks[..., 1024:].transpose(0, 2, 1).reshape(tiles * 16, -1)
    multipliers, offsets = (bytes_.view(np.int8) >> 2).astype(np.int64), (bytes_ & 3).astype(np.int64) - 1
    return GroupParts(nibbles(blocks), multipliers, offsets, row_scales(packed), BLOCK, CODEBOOK, 8)


def int6_parts(packed: NDArray[np.uint8]) -> GroupParts:
    tiles, tile_bytes = packed.shape
    blocks = packed[:, : tile_bytes - 64].reshape(tiles, -1, 1024 + 512 + 64)
    twos = blocks[..., 1024:1536].reshape(tiles, -1, 8, 16, 4)  # [tile, block, group of 16, row, i]
    high = np.stack([twos >> 2 * quad & 3 for quad in range(4)], axis=3).astype(np.int64)  # [tile, block, group, quad, row, i]
    codes = nibbles(blocks) + 16 * high.transpose(0, 4, 1, 2, 3, 5).reshape(tiles * 16, -1)
    multipliers = blocks[..., 1536:].view(np.int8).reshape(tiles, -1, 16).transpose(0, 2, 1).reshape(tiles * 16, -1)
    multipliers = multipliers.astype(np.int64)
    return GroupParts(codes, multipliers, np.zeros_like(multipliers), row_scales(packed), 32, np.arange(-32, 32), 32)


def nibbles(blocks: NDArray[np.uint8]) -> Integers:
    """Of ``[tile, block, bytes]``, ``[n, k]``."""
    pairs = blocks[..., :1024].reshape(len(blocks), -1, 8, 2, 16, 4)  # [tile, block, group, j, row, i]
    halves = np.stack([pairs & 15, pairs >> 4], axis=3).astype(np.int64)  # [tile, block, group, half, j, row, i]
    return halves.transpose(0, 5, 1, 2, 3, 4, 6).reshape(len(blocks) * 16, -1)


def row_scales(packed: NDArray[np.uint8]) -> Floats:
    return np.ascontiguousarray(packed[:, -64:]).view(np.float32).reshape(-1)


def group_parts(weight: Floats, dtype: str) -> GroupParts:
    return {"int6": int6_parts, "int4": int4_parts}[dtype](_core.pack_weight(weight, dtype))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 128), (17, 129), (40, 300)])
def test_the_bytes_are_those_of_the_format(n: int, k: int) -> None:
    weight = random_floats(n, n, k)
    eight = int8_parts(_core.pack_weight(weight, "int8"))
    assert np.abs(eight.codes).max() <= 127
    assert not eight.codes[n:].any()
    assert not eight.codes[:, k:].any()
    assert_same_bits(round_trip(weight, "int8"), eight.values()[:n, :k])

    for dtype, group in GROUPS.items():
        parts = group_parts(weight, dtype)
        assert np.abs(parts.multipliers).max() <= LARGEST_MULTIPLIER[dtype]
        assert np.abs(parts.levels()).max() <= LARGEST_LEVEL[dtype]
        assert not parts.scales[n:].any()
        assert not parts.multipliers[:, -(-k // group) :].any()
        assert_same_bits(round_trip(weight, dtype), parts.values()[:n, :k])


def weights_to_pack() -> st.SearchStrategy[Floats]:
    element = st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e-40, 1e-31, 3e15])
    shape = st.tuples(st.integers(1, 4), st.sampled_from([1, 15, 16, 17, 31, 33, 128, 130, 256]))

    def build(args: tuple[tuple[int, int], list[float], int, bool]) -> Floats:
        (n, k), values, seed, constant = args
        random = np.random.default_rng(seed)
        if constant:
            return np.full((n, k), values[0], np.float32)
        weight = random.standard_normal((n, k), dtype=np.float32) * np.float32(values[0] if abs(values[0]) > 1e-30 else 1)
        spots = random.integers(0, n * k, len(values))
        weight.reshape(-1)[spots] = values
        return weight

    return st.tuples(shape, st.lists(element, min_size=1, max_size=6), st.integers(0, 2**32 - 1), st.booleans()).map(build)


@settings(max_examples=150, deadline=None)
@given(weights_to_pack())
def test_int8_error_and_round_trip(weight: Floats) -> None:
    n, k = weight.shape
    values = round_trip(weight, "int8")
    blocks = np.pad(np.abs(weight), ((0, 0), (0, -k % BLOCK))).reshape(n, -1, BLOCK).max(-1).repeat(BLOCK, 1)[:, :k]
    # Half a step of the absolute maximum / 127, the scale rounded up to 8 bits; what is below 1e-30 counts as zero.
    assert (np.abs(values - weight) <= blocks / 127 * (0.5 + 2**-7) * (1 + 1e-5) + 1e-30).all()
    assert not values[weight == 0].any()
    np.testing.assert_array_equal(round_trip(values, "int8"), values)


def group_errors(weight: Floats, dtype: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Largest error of each group, largest weight of each group, largest weight of its row."""
    n, k = weight.shape
    group = GROUPS[dtype]
    pad = ((0, 0), (0, -k % group))
    groups = np.pad(weight, pad).reshape(n, -1, group).astype(np.float64)
    errors = np.abs(np.pad(round_trip(weight, dtype), pad).reshape(n, -1, group) - groups)
    largest = np.abs(groups).max(-1)
    return errors.max(-1), largest, np.broadcast_to(largest.max(1, keepdims=True), largest.shape)


@settings(max_examples=150, deadline=None)
@given(weights_to_pack())
def test_int4_error(weight: Floats) -> None:
    error, largest, row = group_errors(weight, "int4")
    # Neighbours in the codebook are up to 3 apart, which is a fifth of its largest entry, and a group may be off by half a
    # multiplier: 1/62 of the largest scale of its row, up to 16 times.
    assert (error <= largest / 5 + row / 30 + 1e-29).all()


@settings(max_examples=150, deadline=None)
@given(weights_to_pack())
def test_int6_error(weight: Floats) -> None:
    error, largest, row = group_errors(weight, "int6")
    # A step is about 1/31 of the largest weight, and an error half of it, or one where it is clipped; besides half a
    # multiplier: 1/254 of the largest scale of its row, up to 32 times.
    assert (error <= largest / 31 + row / 240 + 1e-29).all()
    assert not round_trip(weight, "int6")[weight == 0].any()


def test_int6_keeps_what_it_can_hold() -> None:
    """Codes that use both ends, with multipliers of either sign: packing what was unpacked finds the same codes and values."""
    random = np.random.default_rng(1)
    codes = random.integers(-31, 32, (32, 512))
    codes[:, ::32] = -32
    multipliers = random.integers(64, 128, (32, 16)) * random.choice([-1, 1], (32, 16))
    multipliers[:, 3] = 127
    weight = (codes * multipliers.repeat(32, 1) * 2.0 ** random.integers(-9, 9, (32, 1))).astype(np.float32)
    parts = group_parts(weight, "int6")
    np.testing.assert_array_equal(parts.codes - 32, codes)
    np.testing.assert_array_equal(parts.multipliers, multipliers)
    np.testing.assert_allclose(round_trip(weight, "int6"), weight, rtol=1e-6)


@pytest.mark.parametrize("dtype", GROUPS)
def test_codes_are_the_nearest(dtype: str) -> None:
    weight = random_floats(1, 48, 512) * np.float32(10) ** random_floats(2, 48, 1)
    weight[:, ::37] *= 6
    parts = group_parts(weight, dtype)
    levels = parts.codebook + parts.offsets.repeat(parts.group, 1)[..., None]  # [n, k, codes]
    steps = parts.scales[:, None, None] * parts.multipliers.repeat(parts.group, 1)[..., None]
    distances = np.abs(steps * levels - weight[..., None])
    chosen = np.take_along_axis(distances, parts.codes[..., None], 2)
    assert (chosen[..., 0] <= distances.min(2) * (1 + 1e-4)).all()


@pytest.mark.parametrize("dtype", GROUPS)
def test_signs_and_offsets_are_the_best(dtype: str) -> None:
    weight = random_floats(1, 32, 512)
    parts = group_parts(weight, dtype)
    groups = weight.reshape(32, -1, parts.group, 1).astype(np.float64)
    importance = groups**2 + (groups**2).mean(2, keepdims=True)

    def errors(multipliers: Integers, offsets: Integers) -> NDArray[np.float64]:
        steps = parts.scales[:, None, None, None] * multipliers[..., None, None]
        levels = steps * (parts.codebook + offsets[..., None, None])
        return np.asarray((importance * np.square(levels - groups).min(3, keepdims=True)).sum((2, 3)))

    chosen = errors(parts.multipliers, parts.offsets)
    for sign in (1, -1):
        for offset in (-1, 0, 1, 2) if dtype == "int4" else (0,):
            assert (chosen <= errors(sign * parts.multipliers, np.full_like(parts.offsets, offset)) * (1 + 1e-3)).all()


@pytest.mark.parametrize("exponent", [-90, -60, 60, 100])
@pytest.mark.parametrize("dtype", GROUPS)
def test_groups_scale_with_the_weights(dtype: str, exponent: int) -> None:
    weight = random_floats(1, 32, 200)
    factor = np.float32(2.0**exponent)
    assert_same_bits(round_trip(weight * factor, dtype), round_trip(weight, dtype) * factor)


@pytest.mark.parametrize("size", [1e-29, 1e30])
@pytest.mark.parametrize("dtype", ["int8", *GROUPS])
def test_tiny_and_huge_weights_survive(dtype: str, size: float) -> None:
    weight = random_floats(1, 32, 200)
    error = np.square(round_trip(weight * np.float32(size), dtype) / np.float32(size) - weight).mean()
    assert error < 1.02 * np.square(round_trip(weight, dtype) - weight).mean()


@pytest.mark.parametrize("value", [1.0, -1.0, 0.3, -7e5, 2e-20, 1e30])
def test_constants_survive(value: float) -> None:
    weight = np.full((16, 256), value, np.float32)
    np.testing.assert_allclose(round_trip(weight, "int8"), weight, rtol=2**-7)
    for dtype in GROUPS:
        np.testing.assert_allclose(round_trip(weight, dtype), weight, rtol=1e-6)


def test_zero_rows_and_groups() -> None:
    weight = random_floats(1, 16, 512)
    weight[3] = 0
    weight[5, 128:256] = 0
    eight = int8_parts(_core.pack_weight(weight, "int8"))
    assert not eight.codes[3].any()
    assert not eight.scales[3].any()
    for dtype, group in GROUPS.items():
        parts = group_parts(weight, dtype)
        first = 128 // group
        assert parts.scales[3] == 0
        assert parts.multipliers[5, first] == 0
        for codes, offsets in ((parts.codes[3], parts.offsets[3]), (parts.codes[5, 128:256], parts.offsets[5, first])):
            assert (codes == parts.zero).all()
            assert not offsets.any()


@pytest.mark.parametrize("dtype", GROUPS)
def test_one_outlier_costs_its_row_only(dtype: str) -> None:
    weight = random_floats(1, 16, 512)
    before = round_trip(weight, dtype)
    weight[7, 100] = 1000
    after = round_trip(weight, dtype)
    assert_same_bits(np.delete(after, 7, 0), np.delete(before, 7, 0))
    assert abs(after[7, 100] - 1000) < 10


@pytest.mark.parametrize("dtype", GROUPS)
def test_groups_beat_plain_rounding(dtype: str) -> None:
    """Equal steps up to the largest weight of each group of as many columns, whose scale is a float."""
    weight = random_floats(1, 64, 512)
    weight[:, ::37] *= 6
    groups = weight.reshape(-1, GROUPS[dtype])
    step = np.abs(groups).max(1, keepdims=True) / {"int6": 31, "int4": 7}[dtype]
    plain = np.round(groups / step) * step
    error = np.square(round_trip(weight, dtype).reshape(groups.shape) - groups).mean()
    assert error < {"int6": 0.97, "int4": 0.8}[dtype] * np.square(plain - groups).mean()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16"])
def test_values_that_are_not_finite_are_refused_with_their_place(dtype: str, value: float, source: str) -> None:
    weight = random_floats(1, 40, 150)
    weight[33, 149] = value
    with np.errstate(all="ignore"):
        # Not to_bfloat16, whose rounding is for finite values.
        stored: Any = (weight.view(np.uint32) >> 16).astype(np.uint16) if source == "bfloat16" else weight.astype(source)
    with pytest.raises(ValueError, match=r"(NaN|infinite) element at row 33, column 149"):
        _core.pack_weight(stored, dtype, 3)
