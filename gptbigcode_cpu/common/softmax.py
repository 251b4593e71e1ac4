"""Softmax, its logarithm, and the divergence of two distributions."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@overload
def softmax(scores: Floats, *, sum_dtype: type[np.floating[Any]] = ...) -> Floats: ...
@overload
def softmax(scores: Floats, dtype: type[np.float64]) -> Doubles: ...
def softmax(scores: Floats, dtype: type[Any] = np.float32, *, sum_dtype: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
    """Probabilities along the last axis.

    Args:
        scores: Logits, float32.
        dtype: Type of the result, which exponentials are computed in.
        sum_dtype: Type that the exponentials are added up in.
    """
    weights = np.exp(_shifted(scores, dtype))
    return np.asarray(weights / weights.sum(-1, keepdims=True, dtype=sum_dtype), dtype=dtype)


@overload
def log_softmax(scores: Floats) -> Floats: ...
@overload
def log_softmax(scores: Floats, dtype: type[np.float64]) -> Doubles: ...
def log_softmax(scores: Floats, dtype: type[Any] = np.float32) -> NDArray[Any]:
    """Log-probabilities along the last axis. The exponentials are added up in float64.

    Args:
        scores: Logits, float32.
        dtype: Type of the result, which exponentials are computed in.
    """
    shifted = _shifted(scores, dtype)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64))
    return shifted


def divergence(expected: Doubles, actual: Doubles) -> Doubles:
    """Kullback-Leibler divergence of `actual` from `expected`, both log-probabilities ``[tokens, vocab]``; never negative."""
    sums: Doubles = (np.exp(expected) * (expected - actual)).sum(axis=1)
    return np.maximum(sums, 0)  # rounding can make it -1e-17 where the distributions are nearly equal


def _shifted(scores: Floats, dtype: type[Any]) -> NDArray[Any]:
    """The scores minus the largest, so that no exponential overflows."""
    shifted: NDArray[Any] = np.subtract(scores, scores.max(-1, keepdims=True), dtype=dtype)
    return shifted
