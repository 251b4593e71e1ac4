"""Stopping criteria, which decide when a sequence ends: those of transformers, in numpy.

A criterion takes ``input_ids``, int64 ``[rows, tokens]``, and ``scores``, and returns which rows are finished, bool ``[rows]``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.logits.processors import Ids, count, token_list
from gptbigcode_cpu.engine.options import required

if TYPE_CHECKING:
    from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer

Finished = NDArray[np.bool_]


class StoppingCriteria:
    """Base class of stopping criteria."""

    def __call__(self, input_ids: Ids, scores: Any = None) -> Finished:
        """Which rows are finished.

        Args:
            input_ids: int64 ``[rows, tokens]``.
            scores: The processed scores of every step, if they are kept.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__")


class MaxLengthCriteria(StoppingCriteria):
    """Ends a sequence that has ``max_length`` tokens."""

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = count("max_length", max_length)

    def __call__(self, input_ids: Ids, scores: Any = None) -> Finished:
        return np.full(len(input_ids), input_ids.shape[1] >= self.max_length)


class MaxTimeCriteria(StoppingCriteria):
    """Ends all sequences ``max_time`` seconds after this object was made, or after ``initial_timestamp`` (from `time.time`)."""

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = float(required("max_time", max_time))
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: Ids, scores: Any = None) -> Finished:
        return np.full(len(input_ids), time.time() - self.initial_timestamp > self.max_time)


class EosTokenCriteria(StoppingCriteria):
    """Ends a sequence whose last token is an end token."""

    def __init__(self, eos_token_id: int | Iterable[int]) -> None:
        self.eos_token_id = token_list(eos_token_id)

    def __call__(self, input_ids: Ids, scores: Any = None) -> Finished:
        return np.isin(input_ids[:, -1], self.eos_token_id)


class StopStringCriteria(StoppingCriteria):
    """Ends a sequence whose last token completes a stop string.

    Tokens are compared as bytes, so a stop string may begin or end inside a token.
    """

    def __init__(self, tokenizer: GPTBigCodeTokenizer, stop_strings: str | Sequence[str]) -> None:
        checked_strings = required("stop_strings", stop_strings)
        texts = [checked_strings] if isinstance(checked_strings, str) else checked_strings
        self.stop_strings = tuple(texts)
        self._stops = [text.encode("utf-8") for text in texts]
        self._longest = max(map(len, self._stops))
        self._bytes_of = _token_bytes_of(tokenizer)

    def __call__(self, input_ids: Ids, scores: Any = None) -> Finished:
        return np.array([self._ends(ids) for ids in input_ids], dtype=np.bool_)

    def _ends(self, ids: NDArray[np.int64]) -> bool:
        last = self._bytes_of(int(ids[-1]))
        before = b""
        position = len(ids) - 2
        # A stop string ends in the last token, so at most its length minus one lies in earlier tokens.
        while position >= 0 and len(before) < self._longest - 1:
            before = self._bytes_of(int(ids[position])) + before
            position -= 1
        text = before + last
        return any(text.find(stop, max(0, len(before) - len(stop) + 1)) >= 0 for stop in self._stops)


class StoppingCriteriaList(list[Callable[..., Any]]):
    """A list of criteria. A sequence ends when one of them says so."""

    def __call__(self, input_ids: Ids, scores: Any = None) -> Finished:
        finished = np.zeros(len(input_ids), dtype=np.bool_)
        for criterion in self:
            finished |= criterion(input_ids, scores)
        return finished

    @property
    def max_length(self) -> int | None:
        """The `max_length` of the first `MaxLengthCriteria`; None if there is none."""
        return next((criterion.max_length for criterion in self if isinstance(criterion, MaxLengthCriteria)), None)


def _token_bytes_of(tokenizer: Any) -> Callable[[int], bytes]:
    """A function from token ids to bytes. The tokenizer may be of this package or of transformers."""
    from gptbigcode_cpu.tokenizer import backend_of
    from gptbigcode_cpu.tokenizer.incremental import token_bytes

    backend = backend_of(tokenizer)
    known: dict[int, bytes] = {}

    def bytes_of(token_id: int) -> bytes:
        if token_id not in known:
            token = backend.id_to_token(token_id)
            known[token_id] = b"" if token is None else token_bytes(token)
        return known[token_id]

    return bytes_of
