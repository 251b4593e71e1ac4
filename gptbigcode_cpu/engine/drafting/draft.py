"""The drafted tokens of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Draft:
    """The drafted tokens of a row.

    Attributes:
        tokens: int32 ``[n]``.
        probabilities: The distribution that each token was drawn from, float64 ``[vocab]``; None if none was drawn at random.
    """

    tokens: NDArray[np.int32]
    probabilities: Sequence[NDArray[np.float64]] | None = None


NO_DRAFT = Draft(np.zeros(0, dtype=np.int32))
