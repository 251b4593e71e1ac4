"""The logits processors of sampling, with the names and results of transformers. They decide which tokens may be drawn.

Each keeps at least ``min_tokens_to_keep`` tokens; excluded tokens get the score ``filter_value``. Calls have the arguments and
results described in `processors`. A bad value raises an `InputError` that names the option.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.engine.logits.processors import Ids, LogitsProcessor, Scores, count, log_softmax, softmax
from gptbigcode_cpu.engine.options import is_bias, required
from gptbigcode_cpu.errors import InputError

TOP_H_CANDIDATES = 100


class _Filter(LogitsProcessor):
    """A processor that excludes tokens."""

    def __init__(self, filter_value: float, min_tokens_to_keep: int) -> None:
        value = plain(filter_value)
        if not is_bias(value):
            raise InputError(f"filter_value must be a number or -inf, not {shown(filter_value)}")
        self.filter_value = np.float32(value)
        self.min_tokens_to_keep = count("min_tokens_to_keep", min_tokens_to_keep, 1)

    def _without(self, scores: Scores, removed: NDArray[np.bool_]) -> Scores:
        return np.where(removed, self.filter_value, scores)


def _kth_best(scores: Scores, k: int) -> Scores:
    """The k-th largest score of each row, ``[rows, 1]``."""
    k = min(k, scores.shape[-1])
    return np.partition(scores, scores.shape[-1] - k, axis=-1)[:, -k, None]


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides the scores by the temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = float(required("temperature", temperature))

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return scores / np.float32(self.temperature)


class TopHLogitsWarper(_Filter):
    """Keeps the most probable tokens, up to the share ``top_h`` of the entropy of the 100 most probable tokens."""

    def __init__(self, top_h: float, filter_value: float = -np.inf) -> None:
        super().__init__(filter_value, 1)
        self.top_h = float(required("top_h", top_h))

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        order = np.argsort(-scores, axis=-1, kind="stable")[:, :TOP_H_CANDIDATES]
        log_probabilities = log_softmax(np.take_along_axis(scores, order, -1))
        # -p log p is 0 where p is 0.
        terms = -np.exp(log_probabilities) * np.where(np.isneginf(log_probabilities), np.float32(0), log_probabilities)
        entropy = np.cumsum(terms, axis=-1)
        keep = entropy <= entropy[:, -1:] * np.float32(self.top_h)
        keep[:, 0] = True
        removed = np.ones(scores.shape, dtype=np.bool_)
        np.put_along_axis(removed, order, ~keep, -1)
        return self._without(scores, removed)


class TopKLogitsWarper(_Filter):
    """Keeps the k best tokens, and further tokens with the same score as the k-th."""

    def __init__(self, top_k: int, filter_value: float = -np.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.top_k = max(count("top_k", top_k, 1), self.min_tokens_to_keep)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return self._without(scores, scores < _kth_best(scores, self.top_k))


class TopPLogitsWarper(_Filter):
    """Keeps the most probable tokens that together reach p."""

    def __init__(self, top_p: float, filter_value: float = -np.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.top_p = float(required("top_p", top_p))

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        order = np.argsort(scores, axis=-1, kind="stable")
        cumulative = np.cumsum(softmax(np.take_along_axis(scores, order, -1)), axis=-1)
        removed_in_order = cumulative <= np.float32(1 - self.top_p)
        removed_in_order[:, -self.min_tokens_to_keep :] = False
        removed = np.empty_like(removed_in_order)
        np.put_along_axis(removed, order, removed_in_order, -1)
        return self._without(scores, removed)


class MinPLogitsWarper(_Filter):
    """Keeps tokens with at least ``min_p`` times the best probability."""

    def __init__(self, min_p: float, filter_value: float = -np.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.min_p = float(required("min_p", min_p))

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        probabilities = softmax(scores)
        removed = probabilities < np.float32(self.min_p) * probabilities.max(-1, keepdims=True)
        best = np.argsort(-probabilities, axis=-1, kind="stable")[:, : self.min_tokens_to_keep]
        np.put_along_axis(removed, best, False, -1)
        return self._without(scores, removed)


class TypicalLogitsWarper(_Filter):
    """Keeps the tokens whose information is nearest to the entropy and that together reach ``mass``."""

    def __init__(self, mass: float = 0.9, filter_value: float = -np.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.mass = float(required("typical_p", mass))

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        log_probabilities = log_softmax(scores)
        probabilities = np.exp(log_probabilities)
        with np.errstate(invalid="ignore"):  # 0 * -inf, which is left out of the sum
            entropy = -np.nansum(log_probabilities * probabilities, axis=-1, keepdims=True)
        distance = np.abs(-log_probabilities - entropy)
        order = np.argsort(distance, axis=-1, kind="stable")
        in_order = np.take_along_axis(distance, order, -1)
        cumulative = np.cumsum(softmax(np.take_along_axis(scores, order, -1)), axis=-1)
        last = np.minimum((cumulative < np.float32(self.mass)).sum(-1, keepdims=True), scores.shape[-1] - 1)
        removed_in_order = in_order > np.take_along_axis(in_order, last, -1)
        removed_in_order[:, : self.min_tokens_to_keep] = False
        removed = np.empty_like(removed_in_order)
        np.put_along_axis(removed, order, removed_in_order, -1)
        return self._without(scores, removed)


class EpsilonLogitsWarper(_Filter):
    """Keeps tokens whose probability is at least ``epsilon``."""

    def __init__(self, epsilon: float, filter_value: float = -np.inf, min_tokens_to_keep: int = 1) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.epsilon = float(required("epsilon_cutoff", epsilon))

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        removed = softmax(scores) < np.float32(self.epsilon)
        return self._without(scores, removed & (scores < _kth_best(scores, self.min_tokens_to_keep)))


class EtaLogitsWarper(_Filter):
    """Keeps tokens whose probability reaches a cutoff: ``epsilon``, or less where the distribution is flat."""

    def __init__(self, epsilon: float, filter_value: float = -np.inf, min_tokens_to_keep: int = 1, device: Any = None) -> None:
        super().__init__(filter_value, min_tokens_to_keep)
        self.epsilon = np.float32(required("eta_cutoff", epsilon))

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        log_probabilities = log_softmax(scores)
        probabilities = np.exp(log_probabilities)
        terms = probabilities * np.where(np.isneginf(log_probabilities), np.float32(0), log_probabilities)
        eta = np.minimum(self.epsilon, np.sqrt(self.epsilon) * np.exp(terms.sum(-1, keepdims=True)))
        return self._without(scores, (probabilities < eta) & (scores < _kth_best(scores, self.min_tokens_to_keep)))
