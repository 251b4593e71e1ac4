"""The figures of `evaluate` against the same ones computed with torch and transformers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.measure.evaluation import Evaluation, evaluate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]  # their warnings are not ours to fix
CONTEXT, STRIDE = 384, 100


@pytest.fixture(scope="module", autouse=True)
def quiet_and_without_gradients() -> Iterator[None]:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    torch.set_grad_enabled(before)


@pytest.fixture(scope="module")
def texts(eval_texts: list[str]) -> list[str]:
    return [text[:3000] for text in eval_texts[:3]]


@pytest.fixture(scope="module")
def theirs(checkpoint_dir: Path, texts: list[str]) -> tuple[Any, list[Any], list[Any]]:
    """Of every window: token ids, logits and hidden states at the positions that predict its last tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint_dir)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=torch.float32).eval()
    tokens = torch.tensor([token for text in texts for token in (tokenizer.eos_token_id, *tokenizer(text)["input_ids"])])
    windows = tokens.unfold(0, CONTEXT, STRIDE)
    assert len(windows) > 15
    outputs = [model(window[None, :-1], output_hidden_states=True) for window in windows]
    logits = [output.logits[0, -STRIDE:].double() for output in outputs]
    return windows, logits, [torch.cat(output.hidden_states)[:, -STRIDE:].double() for output in outputs]


@pytest.fixture(scope="module")
def models(converted: Callable[..., Path]) -> dict[str, Any]:
    return {dtype: AutoModelForCausalLM.from_pretrained(converted(dtype)) for dtype in ("float32", "int8")}


@pytest.fixture(scope="module")
def result(models: dict[str, Any], checkpoint_dir: Path, texts: list[str]) -> Evaluation:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    return evaluate(models["int8"], tokenizer, texts, reference=models["float32"], context=CONTEXT, stride=STRIDE)


def four_digits(expected: Any) -> Any:
    return pytest.approx(float(expected), rel=5e-5)


def ours(model: Any, windows: Any) -> list[Any]:
    logits: list[NDArray[np.float32]] = [model(window[None, :-1].numpy()).logits[0, -STRIDE:] for window in windows]
    return [torch.from_numpy(each).double() for each in logits]


def test_perplexity_is_that_of_transformers(result: Evaluation, theirs: Any) -> None:
    windows, logits, _ = theirs
    losses = [torch.nn.functional.cross_entropy(each, window[-STRIDE:]) for each, window in zip(logits, windows, strict=True)]
    loss = torch.stack(losses)
    figures = result.to_dict()
    assert figures["tokens"] == len(windows) * STRIDE
    assert figures["reference_perplexity"] == four_digits(loss.mean().exp())
    assert figures["reference_perplexity_stderr"] == pytest.approx(
        float(loss.mean().exp() * loss.std() / math.sqrt(len(loss))), rel=1e-3
    )


def test_distances_of_two_sets_of_logits_are_those_of_torch(result: Evaluation, theirs: Any, models: dict[str, Any]) -> None:
    windows, logits, _ = theirs
    quantised, exact = (torch.cat(ours(models[dtype], windows)) for dtype in ("int8", "float32"))
    figures = result.to_dict()

    def divergence(expected: Any) -> Any:
        pair = (each.log_softmax(-1) for each in (quantised, expected))
        return torch.nn.functional.kl_div(*pair, reduction="none", log_target=True).sum(-1)

    values = divergence(exact)
    assert figures["kl_mean"] == pytest.approx(float(values.mean()), rel=1e-9)
    assert figures["kl_median"] == pytest.approx(float(values.quantile(0.5)), rel=1e-9)
    assert figures["kl_p99"] == pytest.approx(float(values.quantile(0.99)), rel=1e-9)
    assert figures["top1_agreement"] == float((quantised.argmax(-1) == exact.argmax(-1)).double().mean())
    targets = windows[:, -STRIDE:].reshape(-1)
    assert figures["perplexity"] == four_digits(torch.nn.functional.cross_entropy(quantised, targets).exp())
    # The reference's logits by transformers instead: rounding moves them by some 1e-5.
    by_transformers = divergence(torch.cat(logits))
    assert figures["kl_mean"] == pytest.approx(float(by_transformers.mean()), rel=1e-3)
    assert figures["kl_p99"] == pytest.approx(float(by_transformers.quantile(0.99)), rel=1e-3)


def test_errors_by_layer_are_those_from_transformers_hidden_states(
    result: Evaluation, theirs: Any, models: dict[str, Any]
) -> None:
    from gptbigcode_cpu import _core

    windows, _, hidden = theirs
    core, squares = models["int8"].core, []
    for window, expected in zip(windows, hidden, strict=True):
        ids = window[:-1].numpy().astype(np.int32)
        actual = torch.from_numpy(core.forward([_core.KVCache(core)], [ids], [1], hidden_states=True)[1][:, -STRIDE:])
        squares.append(torch.stack([(actual.double() - expected).square().sum((1, 2)), expected.square().sum((1, 2))]))
    error, size = torch.stack(squares).sum(0)
    assert result.comparison is not None
    np.testing.assert_allclose(result.comparison.layer_errors, (error / size).sqrt().numpy(), rtol=1e-3)  # type: ignore[arg-type]
