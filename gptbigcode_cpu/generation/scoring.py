"""Log-probabilities of given texts, and of the tokens that `generate` chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import is_torch, items_of, plain, to_int_array, to_torch
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.engine.logits.processors import log_softmax
from gptbigcode_cpu.engine.options import is_int, is_real
from gptbigcode_cpu.engine.prefill import text_logits
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.generation.foreign import to_numpy

if TYPE_CHECKING:
    from gptbigcode_cpu.generation.language_model import LanguageModel
    from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer

# Texts that run together: enough to fill the calls of the core, few enough for the memory of their caches.
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class TokenScores:
    """How probable the tokens of a text are, each after those before it.

    The first token has a log-probability only if there was a token before it, `prefix_token_id`; else it is NaN and not greedy.

    Attributes:
        token_ids: int32 ``[tokens]``.
        logprobs: Natural logarithms of the probabilities, float32 ``[tokens]``.
        is_greedy: Whether a token is the most probable one, bool ``[tokens]``.
        top_token_ids: The most probable tokens at each place, best first, int32 ``[tokens, top_logprobs]``; -1 at a first token
            that has no log-probability.
        top_logprobs: Their log-probabilities, float32 ``[tokens, top_logprobs]``. Where a token is greedy, the first of them is
            exactly that in `logprobs`.
        tokens: The text of each token, if there was a tokenizer. The pieces of a character that several tokens share are
            replacement characters.
        text_offsets: Where each token begins in the text, in characters, int64 ``[tokens]``, if there was a tokenizer.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    is_greedy: NDArray[np.bool_]
    top_token_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    tokens: tuple[str, ...] | None = None
    text_offsets: NDArray[np.int64] | None = None

    def loglikelihood(self, start: int = 0) -> tuple[float, bool]:
        """Of the tokens from `start` on the log-probability, and whether greedy decoding writes them.

        A first token without a log-probability does not count.

        Raises:
            InputError: `start` is outside the text.
        """
        if not 0 <= start < len(self.token_ids):
            raise InputError(f"start must be in 0..{len(self.token_ids) - 1}, not {start}")
        known = ~np.isnan(self.logprobs[start:])
        return float(self.logprobs[start:][known].sum(dtype=np.float64)), bool(self.is_greedy[start:][known].all())


def score(
    model: LanguageModel,
    texts: Any,
    tokenizer: GPTBigCodeTokenizer | None = None,
    top_logprobs: int = 0,
    prefix_token_id: int | None = None,
    add_special_tokens: bool = True,
) -> list[TokenScores]:
    """Log-probabilities of the tokens of given texts.

    Args:
        model: The model.
        texts: Strings, which need `tokenizer`, or lists of token ids; also one of them.
        tokenizer: Encodes strings, and gives tokens their texts.
        top_logprobs: How many of the most probable tokens to return at each place.
        prefix_token_id: A token before every text, so that its first token has a log-probability as well.
        add_special_tokens: Let the tokenizer add what its post-processor adds.

    Returns:
        One `TokenScores` per text.

    Raises:
        InputError: An empty text, an id outside the vocabulary, strings without a tokenizer, a bad number.
        ContextLengthError: A text is longer than ``n_positions``.
    """
    if tokenizer is not None:
        from gptbigcode_cpu.tokenizer import own_tokenizer

        tokenizer = own_tokenizer(tokenizer)
    vocab_size = model.config.vocab_size
    top_logprobs = plain(top_logprobs)
    if not is_int(top_logprobs) or not 0 <= top_logprobs <= vocab_size:
        raise InputError(f"top_logprobs must be an integer from 0 to {vocab_size}, not {shown(top_logprobs)}")
    if tokenizer is not None and getattr(tokenizer, "backend", None) is None:
        raise InputError(f"tokenizer must be a GPTBigCodeTokenizer, not {shown(tokenizer)}")
    rows = [model.prompt(ids) for ids in _token_ids(texts, tokenizer, add_special_tokens)]
    prefix = [] if prefix_token_id is None else [model.prompt([prefix_token_id])]
    inputs = [np.concatenate([*prefix, row]) for row in rows]
    for i, ids in enumerate(inputs):
        if len(ids) > model.config.n_positions:
            raise ContextLengthError(
                f"text {i} has {len(ids)} tokens with its prefix, the model {model.config.n_positions} positions; shorten it"
            )
    results: list[TokenScores] = []
    for first, stop in _batches(inputs):
        results += [_with_texts(it, tokenizer) for it in _scored(model, inputs[first:stop], len(prefix), top_logprobs)]
    return results


def _scored(model: LanguageModel, inputs: Sequence[NDArray[np.int32]], n_prefix: int, n_top: int) -> list[TokenScores]:
    """Scores of texts that run together; the first `n_prefix` tokens of each are not part of it."""
    results = [
        TokenScores(
            ids,
            np.full(len(ids), np.nan, dtype=np.float32),
            np.zeros(len(ids), dtype=np.bool_),
            np.full((len(ids), n_top), -1, dtype=np.int32),
            np.full((len(ids), n_top), np.nan, dtype=np.float32),
        )
        for ids in inputs
    ]
    for i, start, logits in text_logits(model.core, inputs):
        places = np.arange(start, min(start + len(logits), len(inputs[i]) - 1))  # the last token is followed by none
        if not len(places):
            continue
        of_all = log_softmax(logits[: len(places)])
        chosen, rows = inputs[i][places + 1], np.arange(len(places))
        result = results[i]
        result.logprobs[places + 1] = of_all[rows, chosen]
        result.is_greedy[places + 1] = of_all.argmax(axis=1) == chosen
        if n_top:
            best = np.argsort(-of_all, axis=1, kind="stable")[:, :n_top]
            result.top_token_ids[places + 1] = best
            result.top_logprobs[places + 1] = np.take_along_axis(of_all, best, 1)
    return [
        TokenScores(
            it.token_ids[n_prefix:],
            it.logprobs[n_prefix:],
            it.is_greedy[n_prefix:],
            it.top_token_ids[n_prefix:],
            it.top_logprobs[n_prefix:],
        )
        for it in results
    ]


def _with_texts(scores: TokenScores, tokenizer: GPTBigCodeTokenizer | None) -> TokenScores:
    if tokenizer is None:
        return scores
    from gptbigcode_cpu.tokenizer.incremental import IncrementalDecoder

    tokens = tuple(tokenizer.decode(token_id) for token_id in scores.token_ids.tolist())
    # Where a character is spread over tokens, those after the first begin where it does.
    decoder, offsets, written = IncrementalDecoder(tokenizer, skip_special_tokens=False), [], 0
    for token_id in scores.token_ids.tolist():
        offsets.append(written)
        written += len(decoder.push(token_id))
    return TokenScores(
        scores.token_ids,
        scores.logprobs,
        scores.is_greedy,
        scores.top_token_ids,
        scores.top_logprobs,
        tokens,
        np.array(offsets, dtype=np.int64),
    )


def _token_ids(texts: Any, tokenizer: GPTBigCodeTokenizer | None, add_special_tokens: bool) -> list[Any]:
    if isinstance(texts, str):
        texts = [texts]
    elif not is_torch(texts) and not isinstance(texts, np.ndarray):
        given = None if isinstance(texts, (bytes, Mapping)) else items_of(texts)
        if given is None:
            raise InputError(f"texts must be strings or lists of token ids, not {shown(texts)}")
        texts = given
        if texts and is_real(plain(texts[0])):
            texts = [texts]
    elif texts.ndim < 2:
        texts = [texts]
    rows = []
    for text in texts:
        if not isinstance(text, str):
            rows.append(text)
        elif tokenizer is None:
            raise InputError("texts that are strings need the tokenizer: pass tokenizer=, or token ids")
        else:
            rows.append(tokenizer.encode(text, add_special_tokens=add_special_tokens))
    return rows


def _batches(inputs: Sequence[NDArray[np.int32]]) -> list[tuple[int, int]]:
    """Neighbouring texts of up to `_BATCH_TOKENS` tokens together."""
    batches: list[tuple[int, int]] = []
    first = total = 0
    for i, ids in enumerate(inputs):
        if i > first and total + len(ids) > _BATCH_TOKENS:
            batches.append((first, i))
            first, total = i, 0
        total += len(ids)
    return [*batches, (first, len(inputs))] if inputs else []


def transition_scores(sequences: Any, scores: Sequence[Any], beam_indices: Any, normalize_logits: bool) -> Any:
    """The scores of the tokens that were chosen, from the result of `generate`.

    Args:
        sequences: int64 ``[rows, tokens]``.
        scores: float32 ``[rows or rows * num_beams, vocab]`` per step.
        beam_indices: The row of `scores` that each new token comes from, ``[rows, new tokens]``, -1 after the end; None without
            beams.
        normalize_logits: Make `scores` log-probabilities first.

    Returns:
        float32 ``[rows, new tokens]``, 0 after the end of a beam; a torch tensor if `sequences` is one.

    Raises:
        InputError: There are no scores.
    """
    if not scores:
        raise InputError("there are no scores: generate with return_dict_in_generate=True and output_scores=True")
    ids = to_int_array(sequences, "sequences")
    steps = np.stack([to_numpy(step) for step in scores])  # [steps, rows, vocab]
    if normalize_logits:
        steps = log_softmax(steps)
    if beam_indices is None:
        rows = np.repeat(np.arange(steps.shape[1])[:, None], len(steps), axis=1)
    else:
        rows = to_int_array(beam_indices, "beam_indices")
        rows = rows[:, : int((rows >= 0).sum(axis=1).max())]
    length = rows.shape[1]
    chosen = ids[:, ids.shape[1] - length :]
    result = steps[np.arange(length)[None], np.maximum(rows, 0), chosen]
    result = np.where(rows < 0, np.float32(0), result)
    return to_torch(result) if is_torch(sequences) else result
