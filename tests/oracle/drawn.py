"""Random numbers that are new in every run of the suite, and that one environment variable repeats."""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator

import numpy as np

SEED_VARIABLE = "GPTBIGCODE_CPU_TEST_SEED"
SEED = int(os.environ.get(SEED_VARIABLE) or secrets.randbits(32))
# Below 1 in builds whose kernels are slow: .ci/run.
SHARE = float(os.environ.get("GPTBIGCODE_CPU_TEST_DRAWS", "1"))


def generators(name: str, count: int) -> Iterator[np.random.Generator]:
    """One generator per case, for `count` cases times `SHARE`; what the i-th draws depends on the seed, `name` and i alone."""
    for i in range(max(1, round(count * SHARE))):
        yield np.random.default_rng([SEED, zlib.crc32(name.encode()), i])
