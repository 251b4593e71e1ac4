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

# Maximum number of tokens that run together: enough for fast calls of the core, few enough for the memory of the kv caches.
_BATCH_TOKENS = 4096


@dataclass(frozen=True)
class TokenScores:
    """How probable each token of a text is after the tokens before it.

    The first token has a log-probability only with `prefix_token_id`; otherwise it has NaN and is not greedy.

    Attributes:
        token_ids: int32 ``[tokens]``.
        logprobs: Natural logarithms of the probabilities, float32 ``[tokens]``.
        is_greedy: Whether each token is the most probable one at its place, bool ``[tokens]``.
        top_token_ids: The most probable tokens at each place, best first, int32 ``[tokens, top_logprobs]``; -1 at a first token
            that has no log-probability.
        top_logprobs: The log-probabilities of `top_token_ids`, float32 ``[tokens, top_logprobs]``. If a token is greedy, its
            first entry equals the one in `logprobs` exactly.
        tokens: The text of each token; None without a tokenizer. Where several tokens share a character, each of them shows
            a replacement character.
        text_offsets: Where each token begins in the text, in characters, int64 ``[tokens]``; None without a tokenizer.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    is_greedy: NDArray[np.bool_]
    top_token_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]
    tokens: tuple[str, ...] | None = None
    text_offsets: NDArray[np.int64] | None = None

    def loglikelihood(self, start: int = 0) -> tuple[float, bool]:
        """The log-probability of the tokens from `start` on, and whether greedy decoding would choose all of them.

        A first token without a log-probability is left out of both.

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
        texts: One or several texts: strings, which need `tokenizer`, or lists of token ids.
        tokenizer: Encodes strings, and decodes `tokens` of the result.
        top_logprobs: How many of the most probable tokens to return at each place.
        prefix_token_id: A token to put before every text, so that its first token has a log-probability as well.
        add_special_tokens: Whether the tokenizer adds its special tokens to strings.

    Returns:
        One `TokenScores` per text.

    Raises:
        InputError: A text is empty, an id is outside the vocabulary, a string has no tokenizer, or a number is bad.
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
    """Score texts that run together. The first `n_prefix` tokens of each input are the prefix, not the text."""
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
        places = np.arange(start, min(start + len(logits), len(inputs[i]) - 1))  # no token follows the last one
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
    # Tokens that share a character all begin where the character begins.
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
    """Ranges of neighbouring texts that have up to `_BATCH_TOKENS` tokens together."""
    batches: list[tuple[int, int]] = []
    first = total = 0
    for i, ids in enumerate(inputs):
        if i > first and total + len(ids) > _BATCH_TOKENS:
            batches.append((first, i))
            first, total = i, 0
        total += len(ids)
    return [*batches, (first, len(inputs))] if inputs else []


def transition_scores(sequences: Any, scores: Sequence[Any], beam_indices: Any, normalize_logits: bool) -> Any:
    """The scores of the chosen tokens, from a result of `generate`.

    Args:
        sequences: int64 ``[rows, tokens]``.
        scores: One array per step, float32 ``[rows, vocab]``, or ``[batch * num_beams, vocab]`` with beams.
        beam_indices: The row of `scores` that each new token comes from, ``[rows, new tokens]``, -1 after the end; None without
            beams.
        normalize_logits: Turn `scores` into log-probabilities first.

    Returns:
        float32 ``[rows, new tokens]``, 0 after the end of a beam; a torch tensor if `sequences` is one.

    Raises:
        InputError: `scores` is empty.
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
