"""The sampler: what it may choose, how often, and that seeds repeat."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle.arrays import random_floats
from oracle.kernel_sets import every_other_isa

from gptbigcode_cpu import InputError, _core

NONE = np.zeros(0, np.int32)


def logits_of(*probabilities: float) -> NDArray[np.float32]:
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, np.float64)).astype(np.float32)


def draws(logits: NDArray[np.float32], count: int, context: NDArray[np.int32] = NONE, **options: Any) -> NDArray[np.int64]:
    sampler = _core.Sampler(**({"temperature": 1.0} | options))
    return np.array([sampler.sample(logits, context) for _ in range(count)])


def support(logits: NDArray[np.float32], **options: Any) -> set[int]:
    """The tokens that a sampler ever chooses, with logits flat enough to see all of them in 600 draws."""
    return {*draws(logits, 600, **options).tolist()}


def reference_weights(
    logits: NDArray[np.float32],
    context: NDArray[np.int32] = NONE,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    logit_bias: dict[int, float] | None = None,
) -> NDArray[np.float64]:
    """Probabilities by the rules of transformers' processors, written plainly."""
    scores = logits.astype(np.float64)
    for token, bias in (logit_bias or {}).items():
        scores[token] += bias
    for token in {*context.tolist()}:
        scores[token] = scores[token] / repetition_penalty if scores[token] > 0 else scores[token] * repetition_penalty
    scores /= temperature
    order = np.argsort(-scores, kind="stable")
    if top_k:
        scores[order[top_k:]] = -np.inf
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    if top_p < 1:
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[(before >= top_p) & (np.arange(len(order)) > 0)]] = 0
        weights /= weights.sum()
    weights[weights < min_p * weights.max()] = 0
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def test_greedy_takes_the_best_and_the_first_of_equals() -> None:
    sampler = _core.Sampler()
    assert sampler.sample(np.array([1, 3, 2], np.float32), NONE) == 1
    assert sampler.sample(np.array([-5, -1, -1, -9], np.float32), NONE) == 1
    assert sampler.sample(np.array([7], np.float32), NONE) == 0
    assert sampler.sample(np.array([-np.inf, -3, -np.inf], np.float32), NONE) == 1


@pytest.mark.parametrize("size", [1, 2, 17, 300, 49152])
def test_greedy_equals_argmax(size: int) -> None:
    for seed in range(20):
        logits = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
        assert _core.Sampler(seed=seed).sample(logits, NONE) == logits.argmax()


def test_top_k() -> None:
    logits = logits_of(0.3, 0.1, 0.25, 0.2, 0.15)
    for k, expected in (
        (1, {0}),
        (2, {0, 2}),
        (3, {0, 2, 3}),
        (4, {0, 2, 3, 4}),
        (5, {0, 1, 2, 3, 4}),
        (99, {0, 1, 2, 3, 4}),
        (0, {0, 1, 2, 3, 4}),
    ):
        assert support(logits, top_k=k) == expected
    assert support(np.zeros(6, np.float32), top_k=3) == {0, 1, 2}


def test_top_p() -> None:
    logits = logits_of(0.3, 0.1, 0.25, 0.2, 0.15)
    for p, expected in (
        (1e-6, {0}),
        (0.29, {0}),
        (0.31, {0, 2}),
        (0.6, {0, 2, 3}),
        (0.8, {0, 2, 3, 4}),
        (0.95, {0, 1, 2, 3, 4}),
    ):
        assert support(logits, top_p=p) == expected, p


def test_min_p() -> None:
    logits = logits_of(0.4, 0.02, 0.28, 0.2, 0.1)
    for p, expected in ((0.9, {0}), (0.6, {0, 2}), (0.4, {0, 2, 3}), (0.2, {0, 2, 3, 4}), (1.0, {0})):
        assert support(logits, min_p=p) == expected, p


def test_filters_work_one_after_the_other() -> None:
    logits = logits_of(0.3, 0.1, 0.25, 0.2, 0.15)
    # Of the three kept by top_k, 0.4, 0.33 and 0.27, top_p counts the renormalised ones.
    assert support(logits, top_k=3, top_p=0.72) == {0, 2}
    assert support(logits, top_k=3, top_p=0.74) == {0, 2, 3}
    assert support(logits, top_k=4, min_p=0.7) == {0, 2}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 12),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    st.integers(0, 14),
    st.sampled_from([0.05, 0.3, 0.6, 0.9, 1.0]),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    st.sampled_from([0.5, 1.0, 1.3]),
)
def test_only_tokens_of_the_reference_are_drawn(
    size: int, seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal(size).astype(np.float32)
    context = random.integers(0, size, 3).astype(np.int32)
    options: dict[str, Any] = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": penalty, "logit_bias": {0: 1.5, size - 1: -0.5},
    }  # fmt: skip
    weights = reference_weights(logits, context, **options)
    chosen = draws(logits, 400, context, seed=seed, **options)
    counts = np.bincount(chosen, minlength=size)
    assert not counts[weights == 0].any()
    assert counts[weights > 0.05].all()


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.6}, {"temperature": 1.7}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.2}, {"logit_bias": {3: 1.0}}],
    ids=str,
)
def test_frequencies(options: dict[str, Any]) -> None:
    logits = np.random.default_rng(8).standard_normal(12).astype(np.float32)
    probabilities = reference_weights(logits, **options)
    counts = np.bincount(draws(logits, 20_000, seed=11, **options), minlength=12)
    kept = probabilities > 0
    assert not counts[~kept].any()
    # Eleven degrees of freedom at most: above 31.3 once in a thousand; the seed is fixed.
    assert chi_square(counts[kept], probabilities[kept]) < 31.3


# Scores with many ties, excluded and extreme ones; a vocabulary from one token to a few groups of the passes over it.
SCORES = st.lists(
    st.sampled_from([-np.inf, -3e38, -50.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.25, 3e38]), min_size=1, max_size=300
)


@settings(max_examples=300, deadline=None)
@given(
    SCORES,
    st.integers(0, 2**64 - 1),
    st.sampled_from([0.2, 1.0, 1e-300, 1e300]),
    st.sampled_from([0, 1, 2, 5, 70, 500]),
    st.sampled_from([1e-9, 0.35, 0.9, 1.0]),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_ties_exclusions_and_extremes(
    scores: list[float], seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.array(scores, np.float32)
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    if np.isneginf(logits).all():
        with pytest.raises(ValueError, match="every token is excluded"):
            draws(logits, 1, seed=seed, **options)
        return
    assert _core.Sampler().sample(logits, NONE) == logits.argmax()
    chosen = draws(logits, 20, seed=seed, **options)
    assert np.isfinite(logits[chosen]).all()
    if temperature == 1e300:  # everything that is not excluded weighs the same; transformers keeps the first of equals
        return
    scaled = logits.astype(np.float64) / max(temperature, 1e-30)
    weights = reference_weights(scaled, top_k=top_k, top_p=top_p, min_p=min_p)
    assert (weights[chosen] > 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.data(), st.sampled_from([{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 3}]))
def test_nan_is_refused_wherever_it_is(size: int, data: st.DataObject, options: dict[str, Any]) -> None:
    logits = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    logits[data.draw(st.integers(0, size - 1))] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        _core.Sampler(**options).sample(logits, NONE)


@pytest.mark.parametrize("top_k", [1, 50, 768, 769, 5000])
def test_top_k_of_a_large_vocabulary(top_k: int) -> None:
    """The best tokens are those of a stable sort, wherever they lie; coarse scores make ties at the border."""
    for spread, seed in itertools.product([2.0, 400.0], range(3)):
        logits = np.round(spread * np.random.default_rng(seed).standard_normal(49152)).astype(np.float32)
        best = np.argsort(-logits, kind="stable")[:top_k]
        # At this temperature all kept tokens are as likely.
        chosen = draws(logits, 300, temperature=1e30, top_k=top_k, seed=seed)
        assert np.isin(chosen, best).all()
        assert len({*chosen.tolist()}) > min(top_k, 200) / 2


def test_frequencies_of_a_large_vocabulary() -> None:
    logits = (2 * np.random.default_rng(4).standard_normal(5001)).astype(np.float32)
    sets: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"top_p": 0.2}, {"min_p": 0.01}, {"top_k": 60, "top_p": 0.8}]
    for options in sets:
        probabilities = reference_weights(logits, **options)
        counts = np.bincount(draws(logits, 20_000, seed=12, **options), minlength=len(logits))
        assert not counts[probabilities == 0].any()
        # In bins of about equal probability, so that each expects many draws.
        order = np.argsort(-probabilities, kind="stable")
        bins = np.minimum(np.floor(12 * (np.cumsum(probabilities[order]) - probabilities[order])), 11).astype(int)
        expected, found = (np.bincount(bins, values[order], minlength=12) for values in (probabilities, counts))
        kept = expected > 0
        assert chi_square(found[kept].astype(np.int64), expected[kept] / expected[kept].sum()) < 31.3


@every_other_isa
def test_every_kernel_set_draws_the_same(isa: str) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"top_p": 0.9},
        {"top_p": 0.3},
        {"min_p": 0.02},
        {"top_k": 50, "top_p": 0.95},
        {"repetition_penalty": 1.3},
    ]
    for size, spread, option in itertools.product((1, 63, 3000, 49152), (0.5, 3), options):
        logits = (spread * np.random.default_rng(size).standard_normal(size)).astype(np.float32)
        context = np.arange(size // 2, dtype=np.int32)
        samplers = [_core.Sampler(temperature=0.8, seed=size, isa=name, **option) for name in (isa, "scalar")]
        drawn, expected = ([sampler.sample(logits, context) for _ in range(30)] for sampler in samplers)
        assert drawn == expected, (size, spread, option)


def test_an_unknown_kernel_set_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kernel set 'none'"):
        _core.Sampler(isa="none")


def test_successive_draws_are_independent() -> None:
    chosen = draws(np.zeros(4, np.float32), 32_000, seed=3)
    pairs = np.bincount(4 * chosen[:-1:2] + chosen[1::2], minlength=16)
    assert chi_square(pairs, np.full(16, 1 / 16)) < 37.7


def test_seeds_repeat_and_differ() -> None:
    logits = np.random.default_rng(1).standard_normal(300).astype(np.float32)
    runs = {seed: draws(logits, 40, seed=seed).tolist() for seed in (0, 1, 2, 2**63, 2**64 - 1)}
    for seed, run in runs.items():
        assert draws(logits, 40, seed=seed).tolist() == run
    for left, right in itertools.combinations(runs.values(), 2):
        assert left != right


def test_the_first_draws_of_neighbouring_seeds_are_spread() -> None:
    first = [int(draws(np.zeros(10, np.float32), 1, seed=seed)[0]) for seed in range(5000)]
    assert chi_square(np.bincount(first, minlength=10), np.full(10, 0.1)) < 27.9


def test_repetition_penalty() -> None:
    context = np.array([0, 2, 2, 2], np.int32)
    logits = np.array([4, 3, -1, -1.5], np.float32)
    assert _core.Sampler(repetition_penalty=1.2).sample(logits, context) == 0
    # Positive logits are divided, negative multiplied, once however often the token occurred.
    assert _core.Sampler(repetition_penalty=1.5).sample(logits, context) == 1
    assert _core.Sampler(repetition_penalty=1.2).sample(np.array([-9, -9, -1, -1.5], np.float32), context) == 2
    assert _core.Sampler(repetition_penalty=2.0).sample(np.array([-9, -9, -1, -1.5], np.float32), context) == 3
    assert _core.Sampler(repetition_penalty=0.5).sample(np.array([2, 3, 0, 0], np.float32), context) == 0


def test_logit_bias() -> None:
    logits = np.array([1, 2, 3], np.float32)
    assert _core.Sampler(logit_bias={0: 5.0}).sample(logits, NONE) == 0
    assert _core.Sampler(logit_bias={2: -float("inf")}).sample(logits, NONE) == 1
    assert support(logits, logit_bias={2: -float("inf")}) == {0, 1}


def test_the_logits_are_left_alone_and_need_not_be_writable() -> None:
    logits = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    before = logits.copy()
    logits.flags.writeable = False
    draws(logits, 10, np.array([1, 2], np.int32), repetition_penalty=2.0, logit_bias={1: 3.0}, top_k=5, top_p=0.5)
    np.testing.assert_array_equal(logits, before)


def test_extreme_logits() -> None:
    huge = np.array([3e38, -3e38, 2.9e38], np.float32)
    assert support(huge) == {0}
    assert support(np.array([-np.inf, 0, -np.inf], np.float32)) == {1}
    assert support(np.array([np.inf, 0], np.float32)) == {0}
    assert support(np.array([-1e30, -1e30], np.float32)) == {0, 1}
    assert support(logits_of(0.4, 0.3, 0.3), temperature=1e-6) == {0}


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")},
        {"top_k": -1}, {"top_p": 0.0}, {"top_p": -0.5}, {"top_p": 1.01}, {"top_p": float("nan")},
        {"min_p": -0.01}, {"min_p": 1.01}, {"min_p": float("nan")},
        {"repetition_penalty": 0.0}, {"repetition_penalty": -1.0}, {"repetition_penalty": float("nan")},
        {"repetition_penalty": float("inf")}, {"logit_bias": {-1: 1.0}}, {"logit_bias": {1: float("nan")}},
    ],
    ids=str,
)  # fmt: skip
def test_bad_parameters(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        _core.Sampler(**options)


def test_bad_calls() -> None:
    logits = np.zeros(5, np.float32)
    bad_calls: dict[str, Any] = {
        "empty": lambda: _core.Sampler().sample(logits[:0], NONE),
        "matrix": lambda: _core.Sampler().sample(logits[None], NONE),
        "context matrix": lambda: _core.Sampler().sample(logits, NONE[None]),
        "nan": lambda: _core.Sampler().sample(np.array([0, np.nan], np.float32), NONE),
        "all excluded": lambda: _core.Sampler().sample(np.full(3, -np.inf, np.float32), NONE),
        "bias outside": lambda: _core.Sampler(logit_bias={5: 1.0}).sample(logits, NONE),
        "context outside": lambda: _core.Sampler(repetition_penalty=2.0).sample(logits, np.array([5], np.int32)),
        "context negative": lambda: _core.Sampler(repetition_penalty=2.0).sample(logits, np.array([-1], np.int32)),
    }
    for what, call in bad_calls.items():
        try:
            call()
        except ValueError:
            continue
        raise AssertionError(f"accepted: {what}")
    with pytest.raises(TypeError):
        _core.Sampler(heat=1.0)


def test_numbers_of_any_size() -> None:
    logits, context = random_floats(1, 100), np.zeros(0, np.int32)

    def tokens(**options: Any) -> list[int]:
        sampler = _core.Sampler(temperature=1.0, seed=2**64 - 1, **options)
        return [sampler.sample(logits, context) for _ in range(50)]

    assert tokens(top_k=2**63) == tokens(top_k=2**200) == tokens(top_k=np.int64(100)) == tokens()
    for seed in (-1, 2**64):
        with pytest.raises(InputError, match="outside 0"):
            _core.Sampler(seed=seed)
    for top_k in (-1, -(2**70), 1.5):
        with pytest.raises(InputError, match="top_k must be"):
            _core.Sampler(top_k=top_k)  # type: ignore[arg-type]
    index = _core.SuffixIndex()
    index.extend(np.array([1, 2, 1, 2], np.int32))
    assert index.match(2**70) == index.match(4) == (2, 2)
    with pytest.raises(InputError, match="max_length"):
        index.match(-(2**70))
