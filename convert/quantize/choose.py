"""Which storage type each part of a model gets, so that a file of a given size loses least, or a given loss takes least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gptbigcode_cpu.errors import InputError

CHOICES = ("int4", "int6", "int8")  # from the smallest on


@dataclass(frozen=True)
class Part:
    """Tensors that get the same type.

    Attributes:
        name: Of the part.
        tensors: Their names in the file.
        nbytes: Storage type -> bytes of all.
    """

    name: str
    tensors: tuple[str, ...]
    nbytes: Mapping[str, int]


@dataclass(frozen=True)
class Choice:
    """A storage type for every part of a model.

    Attributes:
        dtypes: Name of a part -> storage type.
        nbytes: Bytes of all parts.
        loss: KL divergence that is expected, in nats.
    """

    dtypes: Mapping[str, str]
    nbytes: int
    loss: float


def choose(
    parts: Sequence[Part],
    losses: Mapping[str, Mapping[str, float]],
    *,
    max_bytes: int | None = None,
    max_loss: float | None = None,
) -> Choice:
    """Start with the smallest types and make that part finer which gains most per byte, as often as needed; where a loss is
    allowed, make coarser again what turned out not to be needed, that first which saves most bytes.

    Args:
        parts: The parts.
        losses: The loss of each part in each type.
        max_bytes: Bytes that all parts may take; as little as possible is lost.
        max_loss: The largest loss allowed; as few bytes as possible are taken.

    Raises:
        InputError: The smallest types take more, or the finest lose more.
    """
    dtypes = {part.name: CHOICES[0] for part in parts}
    nbytes, loss = sum(part.nbytes[CHOICES[0]] for part in parts), sum(losses[part.name][CHOICES[0]] for part in parts)
    if max_bytes is not None and nbytes > max_bytes:
        raise InputError(f"the smallest types take {nbytes - max_bytes:,} bytes more than there are")
    finest = sum(losses[part.name][CHOICES[-1]] for part in parts)
    if max_loss is not None and finest > max_loss:
        raise InputError(f"a KL divergence of {max_loss:g} is out of reach: all of it in {CHOICES[-1]} loses {finest:.2g}")
    while max_loss is None or loss > max_loss:
        steps = [
            ((losses[part.name][dtypes[part.name]] - losses[part.name][finer]) / cost, part, finer, cost)
            for part in parts
            for finer in CHOICES[CHOICES.index(dtypes[part.name]) + 1 :]
            if (cost := part.nbytes[finer] - part.nbytes[dtypes[part.name]]) > 0
            and (max_bytes is None or nbytes + cost <= max_bytes)
        ]
        gain, part, finer, cost = max(steps, key=lambda step: step[0], default=(0.0, None, "", 0))
        if part is None or gain <= 0:
            break
        loss -= gain * cost
        nbytes += cost
        dtypes[part.name] = finer
    while max_loss is not None:
        savings = [
            (saved, more, part, coarser)
            for part in parts
            for coarser in CHOICES[: CHOICES.index(dtypes[part.name])]
            if (saved := part.nbytes[dtypes[part.name]] - part.nbytes[coarser]) > 0
            and loss + (more := losses[part.name][coarser] - losses[part.name][dtypes[part.name]]) <= max_loss
        ]
        saved, more, part, coarser = max(savings, key=lambda saving: (saving[0], -saving[1]), default=(0, 0.0, None, ""))
        if part is None:
            break
        loss += more
        nbytes -= saved
        dtypes[part.name] = coarser
    return Choice(dtypes, nbytes, max(loss, 0.0))
