"""Measure how well a model predicts a text, and how far its predictions are from those of a reference.

The texts, each after an end-of-text token, are joined to one sequence of tokens. Windows of `context` tokens advance over it by
`stride` tokens, and each window scores its last `stride` tokens. So each scored token has at least ``context - stride`` tokens
before it, and is scored once. The first ``context - stride`` tokens, and a rest at the end, are not scored. All figures are
computed from the scored tokens in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.progress import Progress
from gptbigcode_cpu.common.softmax import divergence, log_softmax
from gptbigcode_cpu.errors import ContextLengthError, FormatError, InputError, TokenizerError

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.models.causal_lm import GPTBigCodeForCausalLM
    from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer

DEFAULT_CONTEXT = 512
# Tokens per call of the core: the size of a panel in its prefill. The hidden states of a large model (40 layers of 6144) take
# 125 MB, its logits in float64 (a vocabulary of 50,000) 50 MB.
_CHUNK_TOKENS = 128


@dataclass(frozen=True, eq=False)
class Comparison:
    """The comparison with a reference model on the same tokens.

    Attributes:
        losses: Negative log-likelihoods of the reference, float64 ``[windows, stride]``, in nats.
        divergences: Kullback-Leibler divergence of the model's next-token distribution from the reference's, sum of
            ``p_ref * log(p_ref / p)``, float64 ``[windows, stride]``, in nats.
        agreements: Whether both models find the same token most probable, bool ``[windows, stride]``.
        layer_errors: Relative error of the residual stream, ``norm(h - h_ref) / norm(h_ref)`` over all positions that predict
            a scored token, float64 ``[n_layer + 1]``: after the embeddings, after each block but the last, and after the last
            block with ``ln_f``. None if the models have different shapes.
    """

    losses: NDArray[np.float64]
    divergences: NDArray[np.float64]
    agreements: NDArray[np.bool_]
    layer_errors: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        context: Number of tokens per window.
        stride: Number of tokens that each window scores, at its end.
        losses: Negative log-likelihood of each scored token, float64 ``[windows, stride]``, in nats. Token j of a window has
            ``context - stride + j`` tokens before it.
        comparison: The comparison with the reference; None without one.
    """

    context: int
    stride: int
    losses: NDArray[np.float64]
    comparison: Comparison | None = None

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return self.losses.size

    @property
    def perplexity(self) -> tuple[float, float | None]:
        """The perplexity and its standard error."""
        return _perplexity(self.losses)

    def to_dict(self) -> dict[str, Any]:
        """All figures by name, as ``gptbigcode-cpu evaluate --json`` prints them. Without a reference, its figures are None.

        Standard errors treat windows as clusters, because neighbouring tokens are not independent; see `mean_and_stderr`. They
        are None if there is only one window. The standard error of a perplexity is the standard error of its logarithm times
        the perplexity (delta method). The change from the reference's perplexity is computed from differences per window.
        """
        perplexity, perplexity_stderr = self.perplexity
        return {
            "context": self.context,
            "stride": self.stride,
            "tokens_before": [self.context - self.stride, self.context - 1],
            "windows": len(self.losses),
            "tokens": self.tokens,
            "perplexity": perplexity,
            "perplexity_stderr": perplexity_stderr,
            **(dict.fromkeys(_COMPARED) if self.comparison is None else _compared(self.losses, self.comparison)),
        }


_COMPARED = (
    *("reference_perplexity", "reference_perplexity_stderr", "perplexity_change", "perplexity_change_stderr"),
    *("kl_mean", "kl_mean_stderr", "kl_median", "kl_p99", "top1_agreement", "layers"),
)


def _compared(losses: NDArray[np.float64], comparison: Comparison) -> dict[str, Any]:
    ratio, ratio_stderr = _perplexity(losses - comparison.losses)
    median, p99 = np.quantile(comparison.divergences, (0.5, 0.99)).tolist()
    layers = None
    if comparison.layer_errors is not None:
        named = zip(layer_names(len(comparison.layer_errors)), comparison.layer_errors.tolist(), strict=True)
        layers = [{"after": name, "relative_error": error} for name, error in named]
    figures = (
        *(*_perplexity(comparison.losses), ratio - 1, ratio_stderr),
        *(*mean_and_stderr(comparison.divergences), median, p99, float(comparison.agreements.mean()), layers),
    )
    return dict(zip(_COMPARED, figures, strict=True))


def layer_names(count: int) -> list[str]:
    """For each of `count` hidden states, the part of the model after which it is taken."""
    return ["embeddings", *(f"block {layer}" for layer in range(count - 2)), "ln_f"]


def mean_and_stderr(values: NDArray[np.float64]) -> tuple[float, float | None]:
    """The mean and its standard error, with windows as clusters: the means of the windows count as independent.

    Args:
        values: float64 ``[windows, stride]``.

    Returns:
        The mean, and the standard error: the standard deviation (n - 1) of the windows' means divided by the square root of
        their number; None for one window.
    """
    means = values.mean(axis=1)
    stderr = float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else None
    return float(means.mean()), stderr


def _perplexity(losses: NDArray[np.float64]) -> tuple[float, float | None]:
    loss, stderr = mean_and_stderr(losses)
    return math.exp(loss), None if stderr is None else math.exp(loss) * stderr


def evaluate(
    model: GPTBigCodeForCausalLM,
    tokenizer: GPTBigCodeTokenizer,
    texts: Sequence[str],
    *,
    reference: GPTBigCodeForCausalLM | None = None,
    reference_tokenizer: GPTBigCodeTokenizer | None = None,
    context: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    origin: str = "the text",
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on text: perplexity, and the distance from a reference.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        texts: The texts to predict. Names of special tokens in them are plain text. An end-of-text token is put before each.
        reference: A model with the same vocabulary, such as the same checkpoint in float32.
        reference_tokenizer: The reference's tokenizer, to check that both models use the same one.
        context: Number of tokens per window; default: 512, or ``n_positions`` of the models if that is less.
        stride: Number of tokens by which windows advance, and that each window scores; default: half of `context`.
        max_tokens: Score at most this many tokens, in windows that are spread evenly over the text.
        origin: The name of the texts in error messages.
        progress: Called after each window with what is being done, the number of tokens done, and their total.

    Returns:
        The losses and, with a reference, the `Comparison`.

    Raises:
        InputError: The vocabularies differ, `stride` or `max_tokens` does not fit, or the text is shorter than a window.
        ContextLengthError: `context` is more than a model has positions.
        TokenizerError: The tokenizers differ, or there is no end-of-text token.
        FormatError: A model computes NaN.
    """
    from gptbigcode_cpu.tokenizer import own_tokenizer

    models = [model] if reference is None else [model, reference]
    context, stride = _window(models, context, stride)
    tokenizer = own_tokenizer(tokenizer)
    reference_tokenizer = None if reference_tokenizer is None else own_tokenizer(reference_tokenizer)
    tokens = _tokens(model, tokenizer, texts)
    if reference is not None:
        _require_same_vocabulary(model, reference)
        if reference_tokenizer is not None and (
            reference_tokenizer.backend.get_vocab() != tokenizer.backend.get_vocab()
            or not np.array_equal(tokens, _tokens(reference, reference_tokenizer, texts))
        ):
            raise TokenizerError("model and reference have different tokenizers, so their predictions cannot be compared")
    starts = _window_starts(len(tokens), context, stride, max_tokens, origin)

    losses = np.empty((len(models), len(starts), stride))
    divergences = np.zeros((len(starts), stride))
    agreements = np.zeros((len(starts), stride), np.bool_)
    layers = _LayerErrors(models)
    for row, start in enumerate(starts):
        window, done = tokens[start : start + context], 0
        runs = [_run(each.core, window[:-1], stride, layers.wanted) for each in models]
        for outputs in zip(*runs, strict=True):
            targets = window[context - stride + done :][: len(outputs[0].logits)]
            part = slice(done, done := done + len(targets))
            log_probabilities = [log_softmax(output.logits, np.float64) for output in outputs]
            for index, values in enumerate(log_probabilities):
                losses[index, row, part] = -values[np.arange(len(targets)), targets]
            if reference is not None:
                ours, theirs = log_probabilities
                divergences[row, part] = divergence(theirs, ours)
                agreements[row, part] = ours.argmax(axis=1) == theirs.argmax(axis=1)
                layers.add(*(output.hidden for output in outputs))
        if np.isnan(losses[:, row]).any():
            raise FormatError("a model computes NaN, so its weights are damaged; convert the checkpoint again")
        if progress:
            progress("scoring", (row + 1) * stride, len(starts) * stride)
    comparison = Comparison(losses[1], divergences, agreements, layers.result()) if reference is not None else None
    return Evaluation(context, stride, losses[0], comparison)


def resolve_context(models: Sequence[GPTBigCodeForCausalLM], context: int | None) -> int:
    """Check `context`, the number of tokens per window; None means 512, or ``n_positions`` of the models if that is less.

    Raises:
        ContextLengthError: A model has fewer positions.
        InputError: `context` is less than 2. One token is needed to predict another one.
    """
    room = min(model.config.n_positions for model in models)
    context = min(DEFAULT_CONTEXT, room) if context is None else context
    if context > room:
        raise ContextLengthError(f"a window of {context} tokens is more than the model's {room} positions")
    if context < 2:
        raise InputError(f"a window needs at least 2 tokens, not {context}: one token is predicted from another one")
    return context


def _window(models: Sequence[GPTBigCodeForCausalLM], context: int | None, stride: int | None) -> tuple[int, int]:
    context = resolve_context(models, context)
    stride = context // 2 if stride is None else stride
    if not 1 <= stride < context:
        raise InputError(
            f"the stride must be from 1 to {context - 1}, not {stride}: the first token of a window "
            "cannot be scored, because no token comes before it"
        )
    return context, stride


def _window_starts(count: int, context: int, stride: int, max_tokens: int | None, origin: str) -> list[int]:
    if count < context:
        raise InputError(
            f"{origin}: {count} tokens with the end-of-text tokens are fewer than a window of {context}; "
            f"pass more text or a context of at most {count}"
        )
    windows = (count - context) // stride + 1
    wanted = windows if max_tokens is None else min(windows, max_tokens // stride)
    if wanted < 1:
        raise InputError(f"max_tokens is {max_tokens}, and a window scores {stride}; raise it or set a smaller stride")
    # Divide all windows into as many equal parts as are wanted, and take the middle one of each part.
    return [(2 * i + 1) * windows // (2 * wanted) * stride for i in range(wanted)]


def _tokens(model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer, texts: Sequence[str]) -> NDArray[np.int32]:
    """The texts as one sequence of tokens, int32 ``[tokens]``."""
    # SantaCoder's tokenizer does not name its end-of-text token, but its config.json does.
    ends = [tokenizer.eos_token_id, *model.generation_config.eos_token_ids]
    end = next((token_id for token_id in ends if token_id is not None), None)
    if end is None:
        raise TokenizerError("neither tokenizer nor configuration names an end-of-text token, which is put before each text")
    tokens: list[int] = []
    for text in texts:
        tokens += [end, *tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)]
    if tokens and (largest := max(tokens)) >= model.config.vocab_size:
        raise TokenizerError(f"the tokenizer makes token {largest}; the model's vocabulary has {model.config.vocab_size}")
    return np.array(tokens, np.int32)


def _require_same_vocabulary(model: GPTBigCodeForCausalLM, reference: GPTBigCodeForCausalLM) -> None:
    ours, theirs = model.config.vocab_size, reference.config.vocab_size
    if ours != theirs:
        raise InputError(f"the model's vocabulary has {ours} tokens and the reference's {theirs}; they cannot be compared")


@dataclass(frozen=True)
class _Output:
    logits: NDArray[np.float32]  # [tokens, vocab]
    hidden: NDArray[np.float32] | None  # [n_layer + 1, tokens, n_embd]


def _run(core: _core.Model, tokens: NDArray[np.int32], keep: int, hidden_states: bool) -> Iterator[_Output]:
    """Yield in pieces the logits, and if wanted the hidden states, at the last `keep` positions of a sequence."""
    from gptbigcode_cpu import _core

    cache = _core.KVCache(core)
    for start in range(0, len(tokens), _CHUNK_TOKENS):
        part = tokens[start : start + _CHUNK_TOKENS]
        kept = min(len(part), max(0, start + len(part) - (len(tokens) - keep)))
        if not (kept and hidden_states):
            output = _Output(core.forward([cache], [part], [kept]), None)
        else:
            logits, hidden = core.forward([cache], [part], [kept], hidden_states=True)
            output = _Output(logits, hidden[:, len(part) - kept :])
        if kept:
            yield output


class _LayerErrors:
    """Sums up the squares of hidden states and of their differences, for each layer."""

    def __init__(self, models: Sequence[GPTBigCodeForCausalLM]) -> None:
        shapes = {(model.config.n_layer, model.config.n_embd) for model in models}
        self.wanted = len(models) == 2 and len(shapes) == 1
        self._error, self._size = np.zeros((2, models[0].config.n_layer + 1))

    def add(self, ours: NDArray[np.float32] | None, theirs: NDArray[np.float32] | None) -> None:
        if ours is None or theirs is None:
            return
        for layer, (actual, expected) in enumerate(zip(ours, theirs, strict=True)):
            exact = expected.astype(np.float64)
            self._error[layer] += np.square(actual - exact).sum()
            self._size[layer] += np.square(exact).sum()

    def result(self) -> NDArray[np.float64] | None:
        return np.sqrt(self._error / self._size) if self.wanted else None
