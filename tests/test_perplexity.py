"""Perplexity on held-out code: float32 gives what transformers gives, and quantisation loses little."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import cases

EVERY = 6
"""One window in six is scored: some nine thousand tokens."""


@pytest.fixture(scope="module")
def oracle() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).parent / "oracle" / "python_8m.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith("eval/")}


@pytest.fixture(scope="module")
def windows(checkpoint_dir: Path, eval_texts: list[str], oracle: dict[str, NDArray[Any]]) -> NDArray[np.int32]:
    """The windows that the reference was computed on, int32 ``[windows, WINDOW]``."""
    from gptbigcode_cpu import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    tokens = np.array([token for text in eval_texts for token in (0, *tokenizer(text)["input_ids"])], np.int32)
    assert zlib.crc32(tokens.tobytes()) == oracle["eval/crc32"], "the tokenizer or the held-out text has changed"
    return tokens[: len(tokens) // cases.WINDOW * cases.WINDOW].reshape(-1, cases.WINDOW)[::EVERY]


def losses(core: Any, windows: NDArray[np.int32]) -> NDArray[np.float64]:
    """Mean negative log-likelihood of the second half of each window."""
    from gptbigcode_cpu import _core

    half = cases.WINDOW // 2
    result = []
    for window in windows:
        logits = core.forward([_core.KVCache(core)], [window[:-1]], [half]).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        result.append((np.log(np.exp(logits).sum(1)) - logits[np.arange(half), window[half:]]).mean())
    return np.array(result)


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 0.05), ("int8", 0.5), ("int4", 4.0)])
def test_quantisation_costs_little(
    dtype: str, limit: float, windows: NDArray[np.int32], oracle: Any, converted: Callable[..., Path], core_model: Any
) -> None:
    loss = losses(core_model(converted(dtype), num_threads=2), windows).mean()
    increase = 100 * (np.exp(loss - oracle["eval/losses"][::EVERY].mean()) - 1)
    print(f"{dtype}: perplexity {np.exp(loss):.4f}, {increase:+.3f} %")
    assert increase < limit
    # A quantised model that is better than the original by more than chance would mean that they are not compared fairly.
    assert increase > -0.5


def test_float32_gives_the_perplexity_of_transformers(
    windows: NDArray[np.int32], oracle: Any, converted: Callable[..., Path], core_model: Any
) -> None:
    actual = losses(core_model(converted("float32"), num_threads=2), windows)
    expected = oracle["eval/losses"][::EVERY]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)
    assert np.exp(actual.mean()) == pytest.approx(np.exp(expected.mean()), rel=1e-5)


def log_probabilities(core: Any, tokens: NDArray[np.int32]) -> NDArray[np.float64]:
    from gptbigcode_cpu import _core

    logits = core.forward([_core.KVCache(core)], [tokens], [len(tokens)]).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    result: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return result


@pytest.mark.parametrize(("kv_dtype", "limit"), [("int8", 0.001), ("bfloat16", 0.0002), ("float16", 1e-5)])
def test_a_smaller_cache_hardly_moves_the_distributions(
    kv_dtype: str, limit: float, windows: NDArray[np.int32], converted: Callable[..., Path], core_model: Any
) -> None:
    """Mean Kullback-Leibler divergence over full contexts, from a float32 cache under float32 weights."""
    exact, smaller = (core_model(converted("float32"), num_threads=2, kv_dtype=name) for name in ("float32", kv_dtype))
    divergences = []
    for text in windows.reshape(-1)[: 3 * 2048].reshape(3, 2048):
        expected, actual = log_probabilities(exact, text), log_probabilities(smaller, text)
        divergences.append((np.exp(expected) * (expected - actual)).sum(1).mean())
    print(f"{kv_dtype}: {np.mean(divergences):.6f} nats")
    assert 0 < np.mean(divergences) < limit
