"""Guessed tokens, and what guesses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Draft:
    """Guessed tokens of a row.

    Attributes:
        tokens: int32 ``[n]``.
        probabilities: For tokens drawn at random, the distribution of each, float64 ``[vocab]``.
    """

    tokens: NDArray[np.int32]
    probabilities: Sequence[NDArray[np.float64]] | None = None


NO_DRAFT = Draft(np.zeros(0, dtype=np.int32))
