"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.logits.processors import Ids, LogitsProcessor, RowInfo, Scores, log_softmax

if TYPE_CHECKING:
    from gptbigcode_cpu import _core


class UnbatchedClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Moves log-probabilities away from those that the model computes after a negative prompt.

    Args:
        guidance_scale: How far to move the scores; 1 changes nothing.
        core: The model.
        negative_prompts: One per prompt, int32 ``[tokens]``; default: the last token of the prompt.
        copies: Number of rows per prompt.
    """

    def __init__(
        self, guidance_scale: float, core: _core.Model, negative_prompts: Sequence[NDArray[np.int32]] | None, copies: int
    ) -> None:
        self.guidance_scale = np.float32(guidance_scale)
        self._core, self._negative_prompts, self._copies = core, negative_prompts, copies
        self._caches: dict[int, _core.KVCache] = {}

    def for_rows(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        from gptbigcode_cpu import _core

        new: list[NDArray[np.int32]] = []
        for row, ids in zip(rows, input_ids, strict=True):
            if row.index not in self._caches:
                self._caches[row.index] = _core.KVCache(self._core)
                given = self._negative_prompts
                new.append(ids[-1:].astype(np.int32) if given is None else given[row.index // self._copies])
            else:
                new.append(ids[-1:].astype(np.int32))
        logits = self._core.forward([self._caches[row.index] for row in rows], new, [1] * len(rows))
        unconditional = log_softmax(logits)
        return self.guidance_scale * (log_softmax(scores) - unconditional) + unconditional
