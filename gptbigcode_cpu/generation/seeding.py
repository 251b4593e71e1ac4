"""Where a sampled call takes its seed from, if it names none."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    import random

# Of set_seed, as long as torch is not there; None: nobody has called it.
_own: random.Random | None = None


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Make sampling repeatable: after the same call, sampled calls without a `seed` of their own draw the same texts.

    Seeds the modules `random` and `numpy.random`, and torch if it has been imported, as transformers' function of this name.

    Args:
        seed: 0 <= seed < 2**32.
        deterministic: Make torch choose deterministic algorithms. This package has no others.

    Raises:
        InputError: `seed` is no such number.
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
    """The seed of a sampled call that names none, 0 <= seed < 2**64.

    It comes from torch's global generator if torch has been imported, so that ``torch.manual_seed`` does here what it does in
    transformers; without torch from the generator of `set_seed`, or from the operating system.
    """
    if _own is not None:
        return _own.getrandbits(64)
    if (torch := _torch()) is not None:
        return int(torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu"))
    return int.from_bytes(os.urandom(8), "little")


def _torch() -> Any:
    """torch, if somebody has imported all of it."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "manual_seed") and hasattr(torch, "randint") else None
