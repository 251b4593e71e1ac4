"""What `evaluate` computes: windows, losses, distances, errors by layer, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.common.corpus import read_texts
from gptbigcode_cpu.errors import ContextLengthError, InputError, TokenizerError
from gptbigcode_cpu.measure import evaluation
from gptbigcode_cpu.measure.evaluation import Comparison, Evaluation, evaluate, mean_and_stderr

TEXTS = ["def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n", "for i in range(10):\n    print(i)\n" * 8]


@pytest.fixture(scope="module")
def load(converted: Callable[..., Path], small: Path) -> Callable[..., Any]:
    """``load(dtype, kv_dtype="float32")``: a small random model."""

    def open_model(dtype: str, kv_dtype: str = "float32") -> Any:
        return AutoModelForCausalLM.from_pretrained(converted(dtype, small), num_threads=1, kv_dtype=kv_dtype)

    return open_model


@pytest.fixture(scope="module")
def small(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint", n_positions=300, n_layer=3)


@pytest.fixture(scope="module")
def tokenizer(small: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(small)


def stream(tokenizer: AutoTokenizer) -> NDArray[np.int64]:
    return np.array([token for text in TEXTS for token in (0, *tokenizer(text)["input_ids"])])


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = logits.astype(np.float64)
    return exact - np.log(np.exp(exact).sum(-1, keepdims=True))


@pytest.mark.parametrize(("context", "stride"), [(32, 16), (50, 7), (20, 19), (2, 1), (290, 145)])
def test_losses_are_those_of_the_models_logits(load: Any, tokenizer: AutoTokenizer, context: int, stride: int) -> None:
    model = load("float32")
    result = evaluate(model, tokenizer, TEXTS, context=context, stride=stride)
    tokens = stream(tokenizer)
    starts = range(0, len(tokens) - context + 1, stride)
    assert result.losses.shape == (len(starts), stride)
    for row, start in list(enumerate(starts))[:: max(1, len(starts) // 4)]:
        window = tokens[start : start + context]
        expected = -log_softmax(model(window[None, :-1]).logits[0])[np.arange(context - 1), window[1:]][-stride:]
        np.testing.assert_allclose(result.losses[row], expected, rtol=1e-12)


def test_defaults_are_windows_of_512_or_less_that_score_their_second_half(load: Any, tokenizer: AutoTokenizer) -> None:
    model = load("float32")
    result = evaluate(model, tokenizer, [text * 3 for text in TEXTS])
    assert (result.context, result.stride) == (300, 150)
    roomy: Any = SimpleNamespace(config=SimpleNamespace(n_positions=2048))
    assert evaluation.resolve_context([roomy], None) == 512
    assert evaluation.resolve_context([roomy, model], None) == 300


def test_max_tokens_takes_windows_spread_evenly() -> None:
    starts = evaluation._window_starts(1000, 20, 10, None, "it")
    assert starts == list(range(0, 981, 10))
    some = evaluation._window_starts(1000, 20, 10, 55, "it")
    assert len(some) == 5
    assert set(some) <= set(starts)
    assert np.ptp(np.diff(some)) <= 10
    assert (some[0], 980 - some[-1]) == pytest.approx((98, 98), abs=10)
    assert evaluation._window_starts(1000, 20, 10, 10**6, "it") == starts


def test_texts_are_data(load: Any, tokenizer: AutoTokenizer) -> None:
    """The name of a special token in a text is not that token."""
    tokens = evaluation._tokens(load("float32"), tokenizer, ["a<|endoftext|>b"])
    assert tokens[0] == 0
    assert 0 not in tokens[1:]
    assert tokenizer.decode(tokens[1:]) == "a<|endoftext|>b"


def test_a_model_is_no_distance_from_itself(load: Any, tokenizer: AutoTokenizer) -> None:
    result = evaluate(load("int4", "int8"), tokenizer, TEXTS, reference=load("int4", "int8"), context=64)
    figures = result.to_dict()
    assert result.comparison is not None
    assert not result.comparison.divergences.any()
    assert (figures["kl_mean"], figures["kl_median"], figures["kl_p99"], figures["top1_agreement"]) == (0, 0, 0, 1)
    assert (figures["perplexity_change"], figures["perplexity_change_stderr"]) == (0, 0)
    assert [layer["relative_error"] for layer in figures["layers"]] == [0, 0, 0, 0]
    assert [layer["after"] for layer in figures["layers"]] == ["embeddings", "block 0", "block 1", "ln_f"]


def test_distances_are_those_of_the_formulas(load: Any, tokenizer: AutoTokenizer) -> None:
    model, reference = load("int4", "int8"), load("float32")
    result = evaluate(model, tokenizer, TEXTS, reference=reference, context=200, stride=150)
    assert result.comparison is not None
    tokens, row = stream(tokenizer), 0
    window = tokens[:199]
    ours, theirs = (log_softmax(each(window[None]).logits[0, -150:]) for each in (model, reference))
    np.testing.assert_allclose(result.comparison.divergences[row], (np.exp(theirs) * (theirs - ours)).sum(1), rtol=1e-9)
    np.testing.assert_array_equal(result.comparison.agreements[row], ours.argmax(1) == theirs.argmax(1))
    assert not result.comparison.agreements.all()
    assert evaluate(reference, tokenizer, TEXTS, context=200, stride=150).perplexity[0] == pytest.approx(
        result.to_dict()["reference_perplexity"]
    )


def test_errors_by_layer_are_those_of_the_hidden_states(load: Any, tokenizer: AutoTokenizer) -> None:
    from gptbigcode_cpu import _core

    models = [load("int8", "int8"), load("float32")]
    result = evaluate(models[0], tokenizer, TEXTS, reference=models[1], context=200, stride=150)
    tokens = stream(tokenizer).astype(np.int32)
    hidden: list[list[NDArray[np.float32]]] = [[], []]
    for start in range(0, len(tokens) - 199, 150):
        for found, model in zip(hidden, models, strict=True):
            window = tokens[start : start + 199]
            states = model.core.forward([_core.KVCache(model.core)], [window], [1], hidden_states=True)[1]
            found.append(states[:, -150:])
    ours, theirs = (np.concatenate(each, axis=1).astype(np.float64) for each in hidden)
    expected = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours, theirs, strict=True)]
    assert result.comparison is not None
    np.testing.assert_allclose(result.comparison.layer_errors, expected, rtol=1e-9)  # type: ignore[arg-type]
    assert 0 < min(expected) < max(expected) < 0.1


def test_models_of_different_shapes_have_no_errors_by_layer(
    load: Any, tokenizer: AutoTokenizer, make_checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path: Path
) -> None:
    other = converted("float32", make_checkpoint(tmp_path / "deep", n_layer=1, n_positions=300))
    reference = AutoModelForCausalLM.from_pretrained(other, num_threads=1)
    figures = evaluate(load("float32"), tokenizer, TEXTS, reference=reference, context=64).to_dict()
    assert figures["layers"] is None
    assert figures["kl_mean"] > 0


def test_standard_errors_take_windows_as_clusters() -> None:
    """Against simulated texts whose windows differ in difficulty: the formula must give the spread of their means."""
    random = np.random.default_rng(5)

    def sample() -> NDArray[np.float64]:
        return random.normal(2, 0.3, (50, 1)) + random.normal(0, 0.5, (50, 20))

    trials = [sample() for _ in range(2000)]
    spread = np.std([trial.mean() for trial in trials])
    estimated = np.mean([mean_and_stderr(trial)[1] or 0 for trial in trials])
    assert estimated == pytest.approx(spread, rel=0.05)
    tokenwise = np.mean([trial.std(ddof=1) / math.sqrt(trial.size) for trial in trials])
    assert tokenwise < 0.5 * spread, "what the clusters are for"


def test_figures_of_known_losses() -> None:
    losses = np.array([[1.0, 3.0], [2.0, 4.0], [3.0, 5.0]])
    theirs = losses - np.array([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    divergences = np.arange(6.0).reshape(3, 2)
    agreements = np.array([[True, True], [True, False], [True, True]])
    result = Evaluation(10, 2, losses, Comparison(theirs, divergences, agreements, np.array([0.5, 0.25])))
    figures = result.to_dict()
    assert figures["tokens_before"] == [8, 9]
    assert (figures["windows"], figures["tokens"]) == (3, 6)
    assert figures["perplexity"] == pytest.approx(math.exp(3))
    assert figures["perplexity_stderr"] == pytest.approx(math.exp(3) * 1 / math.sqrt(3))
    assert figures["perplexity_change"] == pytest.approx(math.exp(0.2) - 1)
    assert figures["perplexity_change_stderr"] == pytest.approx(math.exp(0.2) * 0.1 / math.sqrt(3))
    assert (figures["kl_mean"], figures["kl_median"], figures["kl_p99"]) == pytest.approx((2.5, 2.5, 4.95))
    assert figures["kl_mean_stderr"] == pytest.approx(2 / math.sqrt(3))
    assert figures["top1_agreement"] == pytest.approx(5 / 6)
    alone = Evaluation(10, 2, losses[:1]).to_dict()
    assert alone["perplexity_stderr"] is None
    assert {*alone} == {*figures}
    assert all(alone[name] is None for name in evaluation._COMPARED)


def test_progress_counts_scored_tokens(load: Any, tokenizer: AutoTokenizer) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(load("float32"), tokenizer, TEXTS, context=64, max_tokens=100, progress=lambda *report: seen.append(report))
    assert seen == [("scoring", 32, 96), ("scoring", 64, 96), ("scoring", 96, 96)]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"context": 301}, ContextLengthError, "the model's 300 positions"),
        ({"context": 1}, InputError, "at least 2 tokens"),
        ({"context": 64, "stride": 64}, InputError, "from 1 to 63, not 64"),
        ({"context": 64, "stride": 0}, InputError, "from 1 to 63, not 0"),
        ({"context": 64, "max_tokens": 31}, InputError, "a window scores 32"),
    ],
)
def test_wrong_windows(options: dict[str, int], error: type[Exception], says: str, load: Any, tokenizer: AutoTokenizer) -> None:
    with pytest.raises(error, match=says):
        evaluate(load("float32"), tokenizer, TEXTS, **options)  # type: ignore[arg-type]


def test_less_text_than_a_window(load: Any, tokenizer: AutoTokenizer) -> None:
    with pytest.raises(InputError, match=r"notes\.txt: 4 tokens .* fewer than a window of 64; .* at most 4"):
        evaluate(load("float32"), tokenizer, ["abc"], context=64, origin="notes.txt")


def test_models_that_cannot_be_compared(
    load: Any, tokenizer: AutoTokenizer, make_checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path: Path
) -> None:
    model = load("float32")
    larger = make_checkpoint(tmp_path / "larger", vocab_size=280)
    reference = AutoModelForCausalLM.from_pretrained(converted("float32", larger), num_threads=1)
    with pytest.raises(InputError, match="vocabulary has 272 tokens and the reference's 280"):
        evaluate(model, tokenizer, TEXTS, reference=reference, context=64)
    other = tmp_path / "tokenizer"
    tokenizer.save_pretrained(other)
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace("<filename>", "<file>"), encoding="utf-8")
    with pytest.raises(TokenizerError, match="different tokenizers"):
        evaluate(
            model,
            tokenizer,
            TEXTS,
            reference=model,
            reference_tokenizer=AutoTokenizer.from_pretrained(other),
            context=64,
        )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "a.txt holds no text"),
        ("a.jsonl", b" \n\n", "a.jsonl holds no text"),
        ("a.txt", b"one\ntwo\nd\xe9j\xe0", "a.txt, line 3 is not UTF-8 (byte 0xe9)"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "\xff"}\n', "a.jsonl, line 3 is not UTF-8 (byte 0xff)"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"content": "b"}\n', 'a.jsonl, line 2 has no field "text"'),
        ("a.jsonl", b'{"text": 3}', 'a.jsonl, line 1 has no field "text" that is a string'),
        ("a.jsonl", b'["text"]', 'a.jsonl, line 1 has no field "text"'),
        ("a.jsonl", b'{"text": ""}', "a.jsonl, line 1 has an empty text"),
    ],
)
def test_bad_files(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_texts([tmp_path / name])
    assert says in str(caught.value)


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"text": "a\u2028b\\n", "path": "x"}\r\n{"text": "ü"}'.encode())
    (tmp_path / "b.py").write_bytes(b"x = 1\r\n\x0cy = 2\n")
    assert read_texts([tmp_path / "a.jsonl", tmp_path / "b.py"]) == ["a\u2028b\n", "ü", "x = 1\r\n\x0cy = 2\n"]
