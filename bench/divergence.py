"""How far the next-token distributions of a quantised model are from those of its float32 weights, on windows of text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu import AutoTokenizer, _core
from gptbigcode_cpu.common.corpus import read_texts
from gptbigcode_cpu.common.softmax import log_softmax
from gptbigcode_cpu.store.weights import load_core, open_packed

Logits = NDArray[np.float32]  # [tokens, vocab], of the second half of one window


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergence in nats, and what else two sets of logits tell."""

    kl_mean: float
    kl_median: float
    kl_p99: float
    top1_agreement: float
    perplexity_change: float


def text_windows(checkpoint: Path, texts: Sequence[Path], context: int, count: int) -> NDArray[np.int32]:
    """Windows of the texts, each text after an end-of-text token: ``[windows, context]``, evenly spread if not all (0)."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokens = [token for text in read_texts(texts) for token in (tokenizer.eos_token_id, *tokenizer(text)["input_ids"])]
    windows = np.array(tokens[: len(tokens) // context * context], np.int32).reshape(-1, context)
    if texts and not len(windows):
        raise SystemExit(f"error: {', '.join(map(str, texts))}: less than one window of {context} tokens")
    return windows[:: max(1, len(windows) // count)][:count] if count else windows


def our_logits(path: Path, windows: NDArray[np.int32]) -> Iterator[Logits]:
    """Logits of a converted model that predict the second half of each window."""
    core = load_core(open_packed(path))
    for window in windows:
        yield core.forward([_core.KVCache(core)], [window[:-1]], [len(window) // 2])


def compared(windows: NDArray[np.int32], reference: Iterable[Logits], actual: Iterable[Logits]) -> Divergence:
    """`actual` beside `reference`; both predict the last tokens of each window."""
    divergences, agreements, losses = [], [], []
    for window, theirs, ours in zip(windows, reference, actual, strict=True):
        expected, found = log_softmax(theirs, np.float64), log_softmax(ours, np.float64)
        targets = (np.arange(len(found)), window[-len(found) :])
        divergences.append((np.exp(expected) * (expected - found)).sum(axis=1))
        agreements.append(expected.argmax(axis=1) == found.argmax(axis=1))
        losses.append(expected[targets] - found[targets])
    kl = np.concatenate(divergences)
    return Divergence(
        float(kl.mean()),
        float(np.median(kl)),
        float(np.quantile(kl, 0.99)),
        float(np.concatenate(agreements).mean()),
        math.expm1(float(np.concatenate(losses).mean())),
    )
