"""One softmax for the whole package: the bits of every type that it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from gptbigcode_cpu.common.softmax import divergence, log_softmax, softmax


@pytest.fixture
def scores() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    values = np.random.default_rng(0).normal(scale=20, size=(7, 1001)).astype(np.float32)
    values[2, :900] = -np.inf
    values[3] = 1e4
    return values


def test_probabilities(scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    doubles = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    assert np.array_equal(softmax(scores), (weights / weights.sum(-1, keepdims=True, dtype=np.float64)).astype(np.float32))
    assert np.array_equal(softmax(scores, sum_dtype=np.float32), weights / weights.sum(-1, keepdims=True))
    assert np.array_equal(softmax(scores, np.float64), doubles / doubles.sum(-1, keepdims=True))
    assert np.array_equal(softmax(scores[2], np.float64), softmax(scores, np.float64)[2])
    assert softmax(scores).dtype == np.float32


def test_log_probabilities(scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    shifted = scores - scores.max(-1, keepdims=True)
    expected = (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64))).astype(np.float32)
    assert np.array_equal(log_softmax(scores), expected)
    doubles = scores.astype(np.float64)
    doubles -= doubles.max(axis=1, keepdims=True)
    assert np.array_equal(log_softmax(scores, np.float64), doubles - np.log(np.exp(doubles).sum(axis=1, keepdims=True)))


def test_divergence() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 3, 50)).astype(np.float32)
    expected, actual = (log_softmax(each, np.float64) for each in logits)
    assert not divergence(expected, expected).any()
    assert (divergence(expected, actual) > 0).all()
