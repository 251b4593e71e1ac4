"""Arrays to compute with, and their comparison."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def random_floats(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def assert_same_bits(actual: Floats, expected: Floats, what: object = "") -> None:
    different = actual.view(np.uint32) != expected.view(np.uint32)
    if different.any():
        at = tuple(np.argwhere(different)[0])
        message = f"{what}: {different.sum()} of {different.size} differ, first at {at}: {actual[at]!r} != {expected[at]!r}"
        raise AssertionError(message)
