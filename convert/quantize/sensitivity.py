"""Measures the loss of each part of a model in each storage type, and chooses the types that meet a target.

What a part loses in int4 is the KL divergence of the int8 model's next-token distributions when this part alone is in int4, on
sample text. In a finer type it is taken to lose as much less as the squared error of its weights is smaller, since a divergence
grows with the square of a small disturbance, and several parts to lose the sum. A choice made from that is measured in turn.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu import _core
from gptbigcode_cpu.common.progress import Progress, clock
from gptbigcode_cpu.common.softmax import divergence, log_softmax
from gptbigcode_cpu.convert.checkpoint import Checkpoint
from gptbigcode_cpu.convert.quantize.choose import CHOICES, Choice, Part, choose
from gptbigcode_cpu.convert.quantize.packing import column_scales, packed_chunks, stored_rows
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.store.tensors import Scheme
from gptbigcode_cpu.store.weights import PackedModel, load_core

logger = logging.getLogger(__name__)

SAMPLE_TOKENS = 1024  # that every part is measured on; half of them are scored
# Rows of a matrix whose errors are compared.
_ROWS = 128
# A measured loss between this share of what is allowed and all of it ends the search, as does this number of choices.
_CLOSE, _AIM = 0.9, 0.95
_TRIES = 8


class Sensitivity:
    """The loss of each part of a model in each storage type."""

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
            for stored, _ in checkpoint.work.stored(_without_default(dict.fromkeys(self._packed, dtype))):
                if stored.dtype is not None and stored.name not in self._fixed:
                    sizes.setdefault(_part_of(stored.name), {}).setdefault(stored.name, {})[dtype] = stored.nbytes
        self.parts = [
            Part(name, tuple(tensors), {dtype: sum(each[dtype] for each in tensors.values()) for dtype in CHOICES})
            for name, tensors in sizes.items()
        ]

    @cached_property
    def _scales(self) -> dict[str, NDArray[np.float32]]:
        """Of columns, by name of their tensor; reads these tensors, which a dry run does without."""
        return column_scales(self._config, {spec.name: source for spec, source in self._checkpoint.work.tensors})

    @property
    def reference(self) -> Scheme:
        """The scheme of the reference model, in which every part that has a choice has the finest type."""
        return self._scheme({part.name: CHOICES[-1] for part in self.parts})

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
        self,
        reference: PackedModel,
        windows: NDArray[np.int32],
        *,
        target_size: int | None,
        target_kld: float | None,
        num_threads: int,
        progress: Progress | None = None,
    ) -> tuple[Scheme, str]:
        """The scheme that meets a target, and a sentence about it for the report.

        Args:
            reference: A model of the scheme `reference`.
            windows: Sample text, ``[n_windows, n_tokens]``; the second half of each window is scored.
            target_size: Bytes of the weights file at most, or
            target_kld: what may be lost on the sample text, in nats.
            num_threads: 0 = default.
            progress: Called with the name of a part, the parts done and their number.

        Raises:
            InputError: No choice meets it.
        """
        count, began = len(self.parts), time.monotonic()
        meter = _Meter(self, reference, windows, num_threads)
        about = clock((time.monotonic() - began) * (count + 1))
        logger.info(
            "measuring what each of %d parts of the model loses in %s, on %d tokens of text; takes about %s or more",
            *(count, CHOICES[0], windows.size, about),
        )
        losses = {}
        for number, part in enumerate(self.parts):
            if progress is not None:
                progress(f"measuring part {number + 1} of {count} ({part.name})", number, count)
            losses[part.name] = self._losses(part, meter.loss({part.name: CHOICES[0]}))
        if progress is not None:
            progress("measuring the choice", count, count)
        if target_size is None:
            assert target_kld is not None
            choice, loss = self._least_bytes(losses, target_kld, meter)
        else:
            choice = self._least_loss(losses, target_size)
            loss = meter.loss(choice.dtypes)
        counts = ", ".join(f"{list(choice.dtypes.values()).count(dtype)} parts {dtype}" for dtype in CHOICES)
        return self._scheme(choice.dtypes), f"chosen: {counts}; KL divergence from int8 on the sample text {loss:.2g}"

    def of_tensors(self, dtypes: Mapping[str, str]) -> dict[str, str]:
        """Storage types of parts -> those of their tensors."""
        return {name: dtypes[part.name] for part in self.parts if part.name in dtypes for name in part.tensors}

    def pack(self, dtypes: Mapping[str, str], num_threads: int) -> dict[str, NDArray[Any]]:
        """Tensors in types of their own: name -> bytes as in the file.

        Args:
            dtypes: Name -> storage type.
            num_threads: 0 = default.
        """
        packed = {}
        for name, dtype in dtypes.items():
            stored, source = self._packed[name]
            pieces = packed_chunks(self._config, replace(stored, dtype=dtype), source, num_threads, self._scales.get(name))
            packed[name] = np.concatenate(list(pieces))
        return packed

    def _least_bytes(self, losses: Mapping[str, Mapping[str, float]], target_kld: float, meter: _Meter) -> tuple[Choice, float]:
        """The smallest choice found whose loss is at most `target_kld`, and its loss.

        What is predicted is out by a factor that changes little from one choice to the next, so it is corrected by it, and the
        interval halved where that leads out of what is known.
        """
        finest = choose(self.parts, losses, max_bytes=sum(part.nbytes[CHOICES[-1]] for part in self.parts))
        best = finest, 0.0  # it is the reference
        low, high = finest.loss, math.inf  # predictions that led to less and to more than what is allowed
        predicted = target_kld
        for _ in range(_TRIES):
            choice = choose(self.parts, losses, max_loss=predicted)
            loss = meter.loss(choice.dtypes)
            if loss <= target_kld and choice.nbytes < best[0].nbytes:
                best = choice, loss
            nothing_left = loss == 0 or set(choice.dtypes.values()) == {CHOICES[0]}  # to gain from another choice
            if loss <= target_kld and (nothing_left or loss >= _CLOSE * target_kld):
                break
            if loss <= target_kld:
                low = max(low, predicted)
            else:
                high = min(high, predicted)
            predicted *= _AIM * target_kld / loss
            if not low < predicted < high:
                predicted = (low + high) / 2 if high < math.inf else 2 * low
        return best

    def _least_loss(self, losses: Mapping[str, Mapping[str, float]], target_size: int) -> Choice:
        coarsest = {part.name: CHOICES[0] for part in self.parts}
        room = target_size - self._file_bytes(coarsest) + sum(part.nbytes[CHOICES[0]] for part in self.parts)
        choice = choose(self.parts, losses, max_bytes=room)
        while (excess := self._file_bytes(choice.dtypes) - target_size) > 0:  # what fills up to multiples of 64 bytes
            room -= excess
            choice = choose(self.parts, losses, max_bytes=room)
        return choice

    def _losses(self, part: Part, measured: float) -> dict[str, float]:
        """The loss of a part in every type, predicted from its measured loss in the coarsest."""
        errors = {dtype: sum(self._error(name, dtype) for name in part.tensors) for dtype in CHOICES}
        return {dtype: measured * error / errors[CHOICES[0]] if errors[CHOICES[0]] else 0.0 for dtype, error in errors.items()}

    def _error(self, name: str, dtype: str) -> float:
        """Mean squared error of some rows, times the number of all."""
        stored, source = self._packed[name]
        assert stored.rows is not None
        first, last = stored.rows
        rows = stored_rows(self._config, source, np.linspace(first, last - 1, min(last - first, _ROWS)).astype(np.intp))
        scale = self._scales.get(name)
        scaled = rows if scale is None else rows / scale
        found = _core.unpack_weight(_core.pack_weight(scaled, dtype), dtype, *rows.shape)
        return float(np.square(found - scaled).mean() * (last - first) * rows.shape[1])

    def _scheme(self, dtypes: Mapping[str, str]) -> Scheme:
        return _without_default(self._fixed | self.of_tensors(dtypes))

    def _file_bytes(self, dtypes: Mapping[str, str]) -> int:
        return self._checkpoint.header(self._scheme(dtypes))[1]


class _Meter:
    """Measures the loss of choices of storage types."""

    def __init__(self, sensitivity: Sensitivity, reference: PackedModel, windows: NDArray[np.int32], num_threads: int) -> None:
        self._sensitivity, self._reference, self._windows, self._num_threads = sensitivity, reference, windows, num_threads
        self._expected = list(self._log_probabilities(reference))

    def loss(self, dtypes: Mapping[str, str]) -> float:
        """KL divergence from the reference in nats, with some of its parts in other types."""
        changed = {
            name: dtype
            for name, dtype in self._sensitivity.of_tensors(dtypes).items()
            if dtype != self._reference.scheme.dtype_of(name)
        }
        model = replace(
            self._reference,
            tensors={**self._reference.tensors, **self._sensitivity.pack(changed, self._num_threads)},
            scheme=_without_default({**self._reference.scheme.overrides, **changed}),
        )
        found = self._log_probabilities(model)
        return float(np.mean([divergence(theirs, ours).mean() for theirs, ours in zip(self._expected, found, strict=True)]))

    def _log_probabilities(self, model: PackedModel) -> Iterator[NDArray[np.float64]]:
        core = load_core(model, self._num_threads)
        for window in self._windows:
            yield log_softmax(core.forward([_core.KVCache(core)], [window], [len(window) // 2]), np.float64)


def _part_of(tensor: str) -> str:
    """Keys and values of a block, the rest of its attention, and its MLP are parts; any other tensor is one of its own."""
    found = re.fullmatch(r"transformer\.(h\.\d+)\.(?:attn\.c_attn\.(key_value)|(attn|mlp)\.[a-z_.]+)\.weight", tensor)
    return tensor.removesuffix(".weight") if found is None else f"{found[1]}.{found[2] or found[3]}"


def _without_default(dtypes: Mapping[str, str]) -> Scheme:
    return Scheme(CHOICES[0], MappingProxyType({name: dtype for name, dtype in dtypes.items() if dtype != CHOICES[0]}))
