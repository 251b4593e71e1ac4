"""Which storage type each part of a model gets, so that a file of a given size loses least, or a given loss takes least.

What a part loses in int4 is measured: the KL divergence of the int8 model's next-token distributions when this part alone is in
int4, on sample text. In a finer type it loses as much less as the squared error of its weights is smaller, since a divergence
grows with the square of a small disturbance. What several parts lose adds up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu import _core
from gptbigcode_cpu.convert.checkpoint import Checkpoint
from gptbigcode_cpu.convert.quantize import column_scales, packed_chunks, stored_rows
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.evaluation import divergence, log_softmax
from gptbigcode_cpu.progress import Progress
from gptbigcode_cpu.tensors import Scheme
from gptbigcode_cpu.weights import PackedModel, load_core

CHOICES = ("int4", "int6", "int8")  # from the smallest on
SAMPLE_TOKENS = 1024  # that every part is measured on; half of them are scored
# Rows of a matrix whose errors are compared.
_ROWS = 128


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
    """What was chosen.

    Attributes:
        dtypes: Name of a part -> storage type.
        nbytes: Bytes of all parts.
        loss: KL divergence that is expected, in nats.
    """

    dtypes: Mapping[str, str]
    nbytes: int
    loss: float


class Sensitivity:
    """What the parts of a model lose in each storage type."""

    def __init__(self, checkpoint: Checkpoint, scheme: Scheme, keep: Iterable[str]) -> None:
        """
        Args:
            checkpoint: The model.
            scheme: The storage types of the tensors that are not to be chosen for.
            keep: Patterns for the names of these.
        """
        self._checkpoint, self._config = checkpoint, checkpoint.work.config
        self._packed = {
            stored.name: (stored, source)
            for stored, source in checkpoint.work.stored(Scheme(CHOICES[0]))
            if stored.dtype is not None
        }
        patterns = list(keep)
        self._fixed = {
            name: scheme.dtype_of(name) for name in self._packed if any(fnmatchcase(name, pattern) for pattern in patterns)
        }
        sizes: dict[str, dict[str, dict[str, int]]] = {}
        for dtype in CHOICES:
            for stored, _ in checkpoint.work.stored(self._uniform(dtype)):
                if stored.dtype is not None and stored.name not in self._fixed:
                    sizes.setdefault(_part_of(stored.name), {}).setdefault(stored.name, {})[dtype] = stored.nbytes
        self.parts = [
            Part(name, tuple(tensors), {dtype: sum(each[dtype] for each in tensors.values()) for dtype in CHOICES})
            for name, tensors in sizes.items()
        ]

    @property
    def reference(self) -> Scheme:
        """The scheme of the model that the others are compared with: all in the finest type."""
        return self._uniform(CHOICES[-1])

    def check(self, target_size: int | None) -> None:
        """Refuse a size that nothing meets.

        Raises:
            InputError: It is smaller than the smallest file.
        """
        smallest = self._file_bytes({part.name: CHOICES[0] for part in self.parts})
        if target_size is not None and target_size < smallest:
            raise InputError(
                f"a file of {target_size:,} bytes is out of reach: with all parts in {CHOICES[0]} it has {smallest:,}"
            )

    def choose(
        self, losses: Mapping[str, Mapping[str, float]], target_size: int | None, target_kld: float | None
    ) -> tuple[Scheme, str]:
        """The scheme that meets a target, and what was chosen in words.

        Args:
            losses: As `measure` gives them.
            target_size: Bytes of the weights file at most, or
            target_kld: what may be lost.

        Raises:
            InputError: No choice meets it.
        """
        if target_size is None:
            choice = choose(self.parts, losses, max_loss=target_kld)
        else:
            self.check(target_size)
            coarsest = {part.name: CHOICES[0] for part in self.parts}
            room = target_size - self._file_bytes(coarsest) + sum(part.nbytes[CHOICES[0]] for part in self.parts)
            choice = choose(self.parts, losses, max_bytes=room)
            while (excess := self._file_bytes(choice.dtypes) - target_size) > 0:  # what fills up to multiples of 64 bytes
                room -= excess
                choice = choose(self.parts, losses, max_bytes=room)
        counts = ", ".join(f"{list(choice.dtypes.values()).count(dtype)} parts {dtype}" for dtype in CHOICES)
        return self._scheme(choice.dtypes), f"chosen: {counts}; expected KL divergence from int8 {choice.loss:.2g}"

    def measure(
        self, reference: PackedModel, windows: NDArray[np.int32], num_threads: int, progress: Progress | None = None
    ) -> dict[str, dict[str, float]]:
        """KL divergence of every part in every type, in nats.

        Args:
            reference: A model of the scheme `reference`.
            windows: Sample text, ``[n_windows, n_tokens]``; the second half of each window is scored.
            num_threads: 0 = default.
            progress: Called with the name of a part, the parts done and their number.
        """
        scales = column_scales(self._config, {spec.name: source for spec, source in self._checkpoint.work.tensors})
        expected = list(_log_probabilities(reference, windows, num_threads))
        losses = {}
        for number, part in enumerate(self.parts):
            if progress is not None:
                progress(f"measuring {part.name}", number, len(self.parts))
            coarse = {name: self._pack(name, scales, num_threads) for name in part.tensors}
            overrides = {name: dtype for name, dtype in reference.scheme.overrides.items() if name not in part.tensors}
            model = replace(
                reference, tensors={**reference.tensors, **coarse}, scheme=Scheme(CHOICES[0], MappingProxyType(overrides))
            )
            found = _log_probabilities(model, windows, num_threads)
            loss = float(np.mean([divergence(theirs, ours).mean() for theirs, ours in zip(expected, found, strict=True)]))
            errors = {dtype: sum(self._error(name, dtype, scales) for name in part.tensors) for dtype in CHOICES}
            losses[part.name] = {
                dtype: loss * errors[dtype] / errors[CHOICES[0]] if errors[CHOICES[0]] else 0.0 for dtype in CHOICES
            }
        return losses

    def _uniform(self, dtype: str) -> Scheme:
        return _without_default(dict.fromkeys(self._packed, dtype))

    def _scheme(self, dtypes: Mapping[str, str]) -> Scheme:
        return _without_default(
            self._fixed | {name: dtypes[part.name] for part in self.parts for name in part.tensors if part.name in dtypes}
        )

    def _file_bytes(self, dtypes: Mapping[str, str]) -> int:
        return self._checkpoint.header(self._scheme(dtypes))[1]

    def _pack(self, name: str, scales: Mapping[str, NDArray[np.float32]], num_threads: int) -> NDArray[Any]:
        stored, source = self._packed[name]
        return np.concatenate(list(packed_chunks(self._config, stored, source, num_threads, scales.get(name))))

    def _error(self, name: str, dtype: str, scales: Mapping[str, NDArray[np.float32]]) -> float:
        """Mean squared error of some rows, times the number of all."""
        stored, source = self._packed[name]
        assert stored.rows is not None
        first, last = stored.rows
        rows = stored_rows(self._config, source, np.linspace(first, last - 1, min(last - first, _ROWS)).astype(np.intp))
        scale = scales.get(name)
        scaled = rows if scale is None else rows / scale
        found = _core.unpack_weight(_core.pack_weight(scaled, dtype), dtype, *rows.shape)
        return float(np.square(found - scaled).mean() * (last - first) * rows.shape[1])


def choose(
    parts: Sequence[Part],
    losses: Mapping[str, Mapping[str, float]],
    *,
    max_bytes: int | None = None,
    max_loss: float | None = None,
) -> Choice:
    """Start with the smallest types and make that part finer which gains most per byte, as often as needed.

    Args:
        parts: The parts.
        losses: What each loses in each type.
        max_bytes: Bytes that all parts may take; as little as possible is lost.
        max_loss: What may be lost; as few bytes as possible are taken.

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
    return Choice(dtypes, nbytes, max(loss, 0.0))


def _part_of(tensor: str) -> str:
    """Keys and values of a block, the rest of its attention, and its MLP are parts; any other tensor is one of its own."""
    found = re.fullmatch(r"transformer\.(h\.\d+)\.(?:attn\.c_attn\.(key_value)|(attn|mlp)\.[a-z_.]+)\.weight", tensor)
    return tensor.removesuffix(".weight") if found is None else f"{found[1]}.{found[2] or found[3]}"


def _without_default(dtypes: Mapping[str, str]) -> Scheme:
    return Scheme(CHOICES[0], MappingProxyType({name: dtype for name, dtype in dtypes.items() if dtype != CHOICES[0]}))


def _log_probabilities(model: PackedModel, windows: NDArray[np.int32], num_threads: int) -> Iterator[NDArray[np.float64]]:
    core = load_core(model, num_threads)
    for window in windows:
        yield log_softmax(core.forward([_core.KVCache(core)], [window], [len(window) // 2]))
