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

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.measure import evaluation
from gptbigcode_cpu.measure.evaluation import Evaluation, evaluate, mean_and_stderr

EVERY = 6
"""One window in six is scored: some nine thousand tokens."""


@pytest.fixture(scope="module")
def oracle() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).parents[1] / "oracle" / "python_8m.npz") as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith("eval/")}


@pytest.fixture
def evaluated(
    checkpoint_dir: Path,
    eval_texts: list[str],
    oracle: dict[str, NDArray[Any]],
    converted: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Evaluation]:
    """``evaluated(dtype)``: the model measured on the windows that the reference was computed on, which do not overlap."""

    def starts(count: int, context: int, *_: object) -> list[int]:
        return list(range(0, count - context + 1, context * EVERY))

    def measure(dtype: str) -> Evaluation:
        model, tokenizer = (cls.from_pretrained(converted(dtype)) for cls in (AutoModelForCausalLM, AutoTokenizer))
        tokens = evaluation._tokens(model, tokenizer, eval_texts)
        assert zlib.crc32(tokens.tobytes()) == oracle["eval/crc32"], "the tokenizer or the held-out text has changed"
        monkeypatch.setattr(evaluation, "_window_starts", starts)
        return evaluate(model, tokenizer, eval_texts, context=cases.WINDOW)

    return measure


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 0.05), ("int8", 0.5), ("int4", 4.0)])
def test_quantisation_costs_little(
    dtype: str, limit: float, evaluated: Callable[[str], Evaluation], oracle: dict[str, NDArray[Any]]
) -> None:
    perplexity, _ = evaluated(dtype).perplexity
    increase = 100 * (perplexity / np.exp(oracle["eval/losses"][::EVERY].mean()) - 1)
    print(f"{dtype}: perplexity {perplexity:.4f}, {increase:+.3f} %")
    assert increase < limit
    # A quantised model that is better than the original by more than chance would mean that they are not compared fairly.
    assert increase > -0.5


def test_float32_gives_the_perplexity_of_transformers(
    evaluated: Callable[[str], Evaluation], oracle: dict[str, NDArray[Any]]
) -> None:
    result = evaluated("float32")
    expected = oracle["eval/losses"][::EVERY]
    np.testing.assert_allclose(result.losses.mean(axis=1), expected, rtol=0, atol=2e-5)
    assert result.perplexity[0] == pytest.approx(np.exp(expected.mean()), rel=1e-5)


@pytest.mark.parametrize(("kv_dtype", "limit"), [("int8", 0.001), ("bfloat16", 0.0002), ("float16", 1e-5)])
def test_a_smaller_cache_hardly_moves_the_distributions(
    kv_dtype: str, limit: float, eval_texts: list[str], converted: Callable[..., Path]
) -> None:
    """Mean Kullback-Leibler divergence over full contexts, from a float32 cache under float32 weights."""
    path = converted("float32")
    exact, smaller = (AutoModelForCausalLM.from_pretrained(path, kv_dtype=name) for name in ("float32", kv_dtype))
    tokenizer = AutoTokenizer.from_pretrained(path)
    result = evaluate(smaller, tokenizer, eval_texts[:4], reference=exact, context=2048, stride=2047, max_tokens=3 * 2047)
    assert result.comparison is not None
    divergence, _ = mean_and_stderr(result.comparison.divergences)
    print(f"{kv_dtype}: {divergence:.6f} nats")
    assert len(result.losses) == 3
    assert 0 < divergence < limit
