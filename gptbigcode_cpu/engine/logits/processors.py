"""Logits processors in numpy, with the names and results of transformers. They change the scores before a token is chosen.

A processor takes ``input_ids``, int64 ``[rows, tokens]`` with padding on the left, and ``scores``, float32 ``[rows, vocab]``,
and returns new scores; it never changes its arguments. Processors that treat rows differently have a method `for_rows`, which
also takes a `RowInfo` per row. A bad argument raises an `InputError` that names it. ``device`` is ignored; it is accepted
because transformers accepts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import is_torch, items_of, plain, to_int_array, to_torch
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.common.softmax import log_softmax as log_softmax
from gptbigcode_cpu.common.softmax import softmax as softmax
from gptbigcode_cpu.engine.options import is_int, required, sequence_biases
from gptbigcode_cpu.errors import InputError

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]
EXCLUDED = np.float32(-np.inf)


class RowInfo(Protocol):
    """The information about a row that `for_rows` is given."""

    @property
    def index(self) -> int:
        """Number of the row in the call."""

    @property
    def pads(self) -> int:
        """Number of padding tokens at the beginning of the row."""

    @property
    def prompt_length(self) -> int:
        """Length of padding and prompt."""


class LogitsProcessor:
    """Base class of logits processors. Those of this package also take torch tensors, and then return one."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith("gptbigcode_cpu.") and "__call__" in vars(cls):
            cls.__call__ = _also_on_torch(cls.__call__)  # type: ignore[assignment,method-assign]

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        """New scores for the next token of every row.

        Args:
            input_ids: int64 ``[rows, tokens]``.
            scores: float32 ``[rows, vocab]``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__")


class LogitsProcessorList(list[Callable[..., Any]]):
    """A list of processors that are applied one after the other."""

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


def _also_on_torch(call: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Wrap a processor's `__call__` so that it takes torch tensors as well as numpy arrays."""

    @wraps(call)
    def either(self: Any, input_ids: Any, scores: Any) -> Any:
        if not is_torch(scores):
            return call(self, input_ids, scores)
        numbers = np.ascontiguousarray(scores.detach().float().cpu().numpy())
        return to_torch(call(self, to_int_array(input_ids, "input_ids"), numbers))

    return either


def count(name: str, value: Any, low: int = 0) -> int:
    """Check an argument that is a number of tokens.

    Raises:
        InputError: `value` is not an integer of at least `low`.
    """
    number = plain(value)
    if not is_int(number) or not low <= number < 2**63:
        raise InputError(f"{name} must be an integer from {low}, not {shown(value)}")
    return int(number)


def token_list(tokens: Any, name: str = "eos_token_id") -> list[int]:
    """One token id or several, as a list.

    Raises:
        InputError: `tokens` is not a token id or a list of token ids; the message names the argument `name`.
    """
    given = plain(tokens)
    ids = [given] if is_int(given) else items_of(given)
    if ids is None or not all(is_int(token) and 0 <= token < 2**31 for token in ids):
        raise InputError(f"{name} must be a token id or a list of them, not {shown(tokens)}")
    return ids


def excluded(scores: Scores, token_ids: Iterable[int]) -> Scores:
    """A copy of the scores in which the given tokens are excluded. Ids outside the vocabulary are ignored."""
    scores = scores.copy()
    scores[:, [token_id for token_id in token_ids if token_id < scores.shape[-1]]] = EXCLUDED
    return scores


def forced(scores: Scores, token_ids: Sequence[int]) -> Scores:
    """Scores that allow only the given tokens."""
    result = np.full_like(scores, EXCLUDED)
    result[:, list(token_ids)] = 0
    return result


class LogitBiasLogitsProcessor(LogitsProcessor):
    """Adds a bias to the logits of tokens."""

    def __init__(self, logit_bias: Mapping[int, float]) -> None:
        biases = required("logit_bias", logit_bias)
        self.logit_bias = {int(token_id): float(bias) for token_id, bias in biases.items()}

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        scores = scores.copy()
        for token_id, bias in self.logit_bias.items():
            scores[:, token_id] += np.float32(bias)
        return scores


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Adds a bias to the logits of tokens that complete a sequence."""

    def __init__(self, sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Any]) -> None:
        self.sequence_bias = sequence_biases(sequence_bias)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        bias = np.zeros_like(scores)
        for ids, value in self.sequence_bias.items():
            if max(ids) >= scores.shape[-1]:
                raise InputError(f"a biased sequence names token {max(ids)}; the vocabulary has {scores.shape[-1]}")
            if len(ids) > input_ids.shape[1] + 1:
                continue
            completes = (input_ids[:, input_ids.shape[1] - len(ids) + 1 :] == ids[:-1]).all(axis=1)
            bias[completes, ids[-1]] += np.float32(value)
        return scores + bias


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Excludes tokens that complete a forbidden sequence; an end token alone cannot be forbidden."""

    def __init__(self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: int | Iterable[int] | None = None) -> None:
        ends = [] if eos_token_id is None else token_list(eos_token_id)
        words = [tuple(ids) for ids in required("bad_words_ids", bad_words_ids)]
        self.sequence_bias = {ids: float("-inf") for ids in words if not (len(ids) == 1 and ids[0] in ends)}


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Divides the positive scores and multiplies the negative scores of earlier tokens by the penalty, padding excluded."""

    def __init__(self, penalty: float, prompt_ignore_length: int | None = None) -> None:
        self.penalty = np.float32(required("repetition_penalty", penalty))
        self.prompt_ignore_length = count("prompt_ignore_length", prompt_ignore_length or 0)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return penalised([ids[self.prompt_ignore_length :] for ids in input_ids], scores, self.penalty)

    def for_rows(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        texts = [ids[row.pads :] for row, ids in zip(rows, input_ids, strict=True)]
        return penalised(texts, scores, self.penalty)


def penalised(texts: Sequence[Ids], scores: Scores, penalty: np.float32) -> Scores:
    """A copy of the scores with the penalty on the tokens of each row: positive scores divided, negative ones multiplied."""
    scores = scores.copy()
    for row, ids in enumerate(texts):
        seen = np.unique(ids)
        score = scores[row, seen]
        scores[row, seen] = np.where(score < 0, score * penalty, score / penalty)
    return scores


class EncoderRepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """A penalty above 1 makes the tokens of the prompt more likely."""

    def __init__(self, penalty: float) -> None:
        self._inverse = np.float32(1 / required("encoder_repetition_penalty", penalty))

    def for_rows(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        prompts = [ids[row.pads : row.prompt_length] for row, ids in zip(rows, input_ids, strict=True)]
        return penalised(prompts, scores, self._inverse)


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Excludes tokens that would repeat a sequence of ``ngram_size`` tokens."""

    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = count("ngram_size", ngram_size, 1)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return self._without_repeats(input_ids, input_ids, scores)

    def _without_repeats(self, texts: Iterable[Ids], input_ids: Ids, scores: Scores) -> Scores:
        """Exclude tokens that would complete an n-gram of `texts`."""
        scores = scores.copy()
        for row, (text, ids) in enumerate(zip(texts, input_ids, strict=True)):
            if len(text) < self.ngram_size or len(ids) < self.ngram_size - 1:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(text, self.ngram_size)
            matches = (windows[:, :-1] == ids[len(ids) - self.ngram_size + 1 :]).all(axis=1)
            scores[row, windows[matches, -1]] = EXCLUDED
        return scores


class EncoderNoRepeatNGramLogitsProcessor(NoRepeatNGramLogitsProcessor):
    """Excludes tokens that would repeat a sequence of ``ngram_size`` tokens of the prompt."""

    def for_rows(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        prompts = [ids[: row.prompt_length] for row, ids in zip(rows, input_ids, strict=True)]
        return self._without_repeats(prompts, input_ids, scores)


class MinLengthLogitsProcessor(LogitsProcessor):
    """Excludes end tokens until there are ``min_length`` tokens."""

    def __init__(self, min_length: int, eos_token_id: int | Iterable[int], device: Any = None) -> None:
        self.min_length = count("min_length", min_length)
        self.eos_token_id = token_list(eos_token_id)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return excluded(scores, self.eos_token_id) if input_ids.shape[1] < self.min_length else scores


class MinNewTokensLengthLogitsProcessor(LogitsProcessor):
    """Excludes end tokens until there are ``min_new_tokens`` tokens after the prompt."""

    def __init__(
        self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: int | Iterable[int], device: Any = None
    ) -> None:
        self.prompt_length_to_skip = count("prompt_length_to_skip", prompt_length_to_skip)
        self.min_new_tokens = count("min_new_tokens", min_new_tokens)
        self.eos_token_id = token_list(eos_token_id)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        new_tokens = input_ids.shape[1] - self.prompt_length_to_skip
        return excluded(scores, self.eos_token_id) if new_tokens < self.min_new_tokens else scores


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Allows only the tokens that a function returns, given the number of the prompt and the tokens so far."""

    def __init__(self, prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]], num_beams: int) -> None:
        if not callable(prefix_allowed_tokens_fn):
            raise InputError(f"prefix_allowed_tokens_fn must be a function, not {shown(prefix_allowed_tokens_fn)}")
        self._allowed_after = prefix_allowed_tokens_fn
        self._num_beams = count("num_beams", num_beams, 1)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return self._constrained(range(len(input_ids)), input_ids, scores)

    def for_rows(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        return self._constrained([row.index for row in rows], input_ids, scores)

    def _constrained(self, numbers: Sequence[int], input_ids: Ids, scores: Scores) -> Scores:
        prompts = np.array([number // self._num_beams for number in numbers])
        mask = np.full_like(scores, EXCLUDED)
        for row, (prompt, ids) in enumerate(zip(prompts.tolist(), input_ids, strict=True)):
            mask[row, self._allowed(prompt, ids, scores.shape[1])] = 0
        result = scores + mask
        # If all allowed tokens of every beam of a prompt are already excluded, allow them again: the constraint wins.
        lost = np.isneginf(result.max(axis=-1))
        for prompt in np.unique(prompts):
            beams = prompts == prompt
            if lost[beams].all():
                result[beams] = mask[beams]
        return result

    def _allowed(self, prompt: int, ids: Ids, vocab_size: int) -> list[int]:
        """Call the function and check its result."""
        answer = plain(self._allowed_after(prompt, ids))
        allowed = None if isinstance(answer, (str, bytes)) else items_of(answer)
        if allowed is None:
            raise InputError(f"prefix_allowed_tokens_fn must return a list of token ids, not {shown(answer)}")
        if not allowed:
            raise InputError(f"prefix_allowed_tokens_fn allows no token for prompt {prompt}; it must allow at least one")
        if wrong := [token for token in allowed if not is_int(token) or not 0 <= token < vocab_size]:
            raise InputError(f"prefix_allowed_tokens_fn must return token ids below {vocab_size}, not {shown(wrong[0])}")
        return allowed


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """Allows only ``bos_token_id`` after a prompt of one token."""

    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = required("forced_bos_token_id", bos_token_id)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return forced(scores, [self.bos_token_id]) if input_ids.shape[1] == 1 else scores


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """Allows only end tokens at the last place before ``max_length``."""

    def __init__(self, max_length: int, eos_token_id: int | Iterable[int], device: Any = None) -> None:
        self.max_length = count("max_length", max_length)
        self.eos_token_id = token_list(eos_token_id)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return forced(scores, self.eos_token_id) if input_ids.shape[1] == self.max_length - 1 else scores


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """Replaces NaN by 0, and infinities by the largest and smallest float32."""

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return np.nan_to_num(scores, copy=True, nan=0.0)


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """Raises the scores of end tokens, exponentially more with every token after a start."""

    def __init__(
        self,
        exponential_decay_length_penalty: tuple[int, float],
        eos_token_id: int | Iterable[int],
        input_ids_seq_length: int,
    ) -> None:
        start, self.regulation_factor = required("exponential_decay_length_penalty", exponential_decay_length_penalty)
        self.regulation_start = start + count("input_ids_seq_length", input_ids_seq_length)
        self.eos_token_id = token_list(eos_token_id)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        beyond = input_ids.shape[1] - self.regulation_start
        if beyond <= 0:
            return scores
        ends = [token_id for token_id in self.eos_token_id if token_id < scores.shape[-1]]
        scores, of_ends = scores.copy(), scores[:, ends]
        penalty = np.abs(of_ends) * np.float32(np.float64(self.regulation_factor) ** beyond - 1)
        scores[:, ends] = of_ends + np.where(np.isfinite(of_ends), penalty, np.float32(0))
        return scores


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Excludes tokens everywhere."""

    def __init__(self, suppress_tokens: Iterable[int], device: Any = None) -> None:
        self.suppress_tokens = token_list(suppress_tokens, "suppress_tokens")

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return excluded(scores, self.suppress_tokens)


class SuppressTokensAtBeginLogitsProcessor(LogitsProcessor):
    """Excludes tokens at the beginning of the output, at place ``begin_index``."""

    def __init__(self, begin_suppress_tokens: Iterable[int], begin_index: int, device: Any = None) -> None:
        self.begin_suppress_tokens = token_list(begin_suppress_tokens, "begin_suppress_tokens")
        self.begin_index = count("begin_index", begin_index)

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return excluded(scores, self.begin_suppress_tokens) if input_ids.shape[1] == self.begin_index else scores


class LogitNormalization(LogitsProcessor):
    """Turns scores into log-probabilities."""

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return log_softmax(scores)
