"""Seeds for sampled calls that are given no `seed`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    import random

# The generator that set_seed made while torch was not imported; None if there is no such generator.
_own: random.Random | None = None


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Make sampling repeatable: after this call, sampled calls without `seed` give the same texts every time.

    Like transformers' function of the same name, this seeds `random`, `numpy.random`, and torch if it has been imported.

    Args:
        seed: 0 <= seed < 2**32.
        deterministic: Make torch use deterministic algorithms. The algorithms of this package always are.

    Raises:
        InputError: `seed` is not an integer in this range.
    """
    global _own
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed must be an integer from 0 to {2**32 - 1}, not {seed!r}")
    import random

    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    torch = _torch()
    if torch is None:
        _own = random.Random(seed)
        return
    _own = None
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)


def drawn_seed() -> int:
    """The seed of a sampled call that is given none, 0 <= seed < 2**64.

    If `set_seed` was called while torch was not imported, the seed comes from the generator of `set_seed`. Otherwise it comes
    from torch's global generator, so that ``torch.manual_seed`` works as in transformers, or, if torch is not imported, from
    the operating system.
    """
    if _own is not None:
        return _own.getrandbits(64)
    if (torch := _torch()) is not None:
        return int(torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu"))
    return int.from_bytes(os.urandom(8), "little")


def _torch() -> Any:
    """torch, if it has been imported completely; else None."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "manual_seed") and hasattr(torch, "randint") else None
