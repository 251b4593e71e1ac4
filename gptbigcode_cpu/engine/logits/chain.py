"""The logits processors of a row. The core's sampler does the work of some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gptbigcode_cpu.engine.logits import processors as p
from gptbigcode_cpu.engine.logits import warpers as w
from gptbigcode_cpu.engine.logits.processors import Ids, RowInfo, Scores
from gptbigcode_cpu.errors import InputError

# The processors that the core's sampler can replace, in its order, with the arguments that they become.
_NATIVE: dict[type, Callable[[Any], dict[str, Any]]] = {
    p.LogitBiasLogitsProcessor: lambda it: {"logit_bias": it.logit_bias},
    p.RepetitionPenaltyLogitsProcessor: lambda it: {"repetition_penalty": float(it.penalty)},
    w.TemperatureLogitsWarper: lambda it: {"temperature": it.temperature},
    w.TopKLogitsWarper: lambda it: {"top_k": it.top_k},
    w.TopPLogitsWarper: lambda it: {"top_p": it.top_p},
    w.MinPLogitsWarper: lambda it: {"min_p": it.min_p},
}
_NATIVE_WHEN_GREEDY = (p.LogitBiasLogitsProcessor, p.RepetitionPenaltyLogitsProcessor)
_ORDER = [*_NATIVE]


class Chain:
    """The processors of rows with the same prompt and output lengths.

    Attributes:
        sampler_options: Arguments of the core's sampler, which replaces the end of the chain, or all of it.
        is_native: Whether the sampler replaces the whole chain.
    """

    def __init__(self, processors: Sequence[p.LogitsProcessor], warpers: Sequence[p.LogitsProcessor], sampling: bool) -> None:
        """
        Args:
            processors: The processors that run first.
            warpers: The processors of sampling, which run last.
            sampling: Whether tokens are drawn at random.
        """
        everything = [*processors, *warpers]
        start = len(everything)
        while start > 0 and _goes_before(everything[start - 1], everything[start:], sampling):
            start -= 1
        self._everything, self._n_in_numpy = everything, start
        self._first_warper = warpers[0] if warpers else None
        self.is_native = start == 0
        self.sampler_options: dict[str, Any] = {"temperature": 1.0} if sampling else {}
        for processor in everything[start:]:
            self.sampler_options |= _NATIVE[type(processor)](processor)

    def before_sampler(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        """Run the part of the chain before the sampler; return the scores that the sampler is given."""
        return self._apply(self._everything[: self._n_in_numpy], rows, input_ids, scores)

    def instead_of_sampler(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        """Run in numpy the part of the chain that the sampler replaces; return the scores that it chooses from."""
        return self._apply(self._everything[self._n_in_numpy :], rows, input_ids, scores)

    def complete(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        """Run the whole chain in numpy."""
        return self._apply(self._everything, rows, input_ids, scores)

    def _apply(self, chosen: Sequence[p.LogitsProcessor], rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        # Scores that are too large for float32 become infinite; choosing a token raises the error if there is one.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for processor in chosen:
                if processor is self._first_warper and np.isneginf(scores.max(axis=-1)).any():
                    raise InputError("no token can be chosen: the logits processors exclude every token")
                if (for_rows := getattr(processor, "for_rows", None)) is not None:
                    scores = for_rows(rows, input_ids, scores)
                else:
                    scores = processor(input_ids, scores)
        return scores


def _goes_before(processor: object, rest: Sequence[object], sampling: bool) -> bool:
    """Whether the sampler can replace `processor` and runs it before all of `rest`, which it replaces as well."""
    # A sampler with a temperature draws at random, so in a greedy call it must not replace a caller's warper.
    native = _NATIVE if sampling else _NATIVE_WHEN_GREEDY
    if type(processor) not in native or getattr(processor, "min_tokens_to_keep", 1) > 1:
        return False
    if getattr(processor, "filter_value", p.EXCLUDED) != p.EXCLUDED:
        return False
    return not rest or _ORDER.index(type(processor)) < _ORDER.index(type(rest[0]))
