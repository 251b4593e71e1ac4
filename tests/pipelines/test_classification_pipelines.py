"""Classification and feature pipelines give the results of transformers' pipelines on the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracle import pipeline_cases as cases

from gptbigcode_cpu import (
    AutoTokenizer,
    FeatureExtractionPipeline,
    GPTBigCodeConfig,
    GPTBigCodeTokenizer,
    TextClassificationPipeline,
    TokenClassificationPipeline,
    pipeline,
)
from gptbigcode_cpu.errors import InputError

ANSWERS = json.loads((Path(__file__).parents[1] / "oracle" / "pipelines.json").read_text(encoding="utf-8"))


class Model:
    """Gives the logits that the committed results were computed on, and records the shapes it was called with."""

    def __init__(self, **given: Any) -> None:
        labels = {str(i): name for i, name in enumerate(cases.LABELS)}
        self.config = GPTBigCodeConfig.from_dict({"model_type": "gpt_bigcode", "id2label": labels, **given})
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, *, input_ids: Any, attention_mask: Any) -> Any:
        self.shapes.append(input_ids.shape)
        return SimpleNamespace(logits=self.answer(input_ids, attention_mask), last_hidden_state=cases.token_logits(input_ids))

    def answer(self, ids: Any, mask: Any) -> Any:
        return cases.token_logits(ids)


class TextModel(Model):
    def answer(self, ids: Any, mask: Any) -> Any:
        return cases.text_logits(ids, mask, self.config.num_labels)


@pytest.fixture(scope="module")
def tokenizer(checkpoint_dir: Path) -> GPTBigCodeTokenizer:
    return AutoTokenizer.from_pretrained(checkpoint_dir)


@pytest.fixture(scope="module")
def short(checkpoint_dir: Path) -> GPTBigCodeTokenizer:
    return AutoTokenizer.from_pretrained(checkpoint_dir, model_max_length=24)


def assert_same(actual: Any, expected: Any, tolerance: float = 1e-6) -> None:
    """Equal, but for the last bits of scores."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name in expected:
            assert_same(actual[name], expected[name], tolerance)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other, tolerance)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-5, abs=tolerance)
    else:
        assert actual == expected


@pytest.mark.parametrize("name", cases.TOKEN_CALLS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_token_classification(short: GPTBigCodeTokenizer, name: str, batch_size: int) -> None:
    pipe = TokenClassificationPipeline(Model(), short, batch_size=batch_size)
    actual = cases.results({name: cases.TOKEN_CALLS[name]}, pipe)[name]
    assert_same(actual, ANSWERS["token-classification"][name])


@pytest.mark.parametrize("problem", cases.PROBLEMS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_text_classification(tokenizer: GPTBigCodeTokenizer, problem: str, batch_size: int) -> None:
    given = dict(cases.PROBLEMS[problem])
    if "id2label" in given:
        given["id2label"] = {str(label): name for label, name in given["id2label"].items()}  # type: ignore[attr-defined]
    model = TextModel(**given)
    actual = cases.results(cases.TEXT_CALLS, TextClassificationPipeline(model, tokenizer, batch_size=batch_size))
    assert_same(actual, ANSWERS[f"text-classification: {problem}"])
    assert max(shape[0] for shape in model.shapes) == batch_size


@pytest.mark.parametrize("batch_size", [1, 2])
def test_feature_extraction(tokenizer: GPTBigCodeTokenizer, batch_size: int) -> None:
    pipe = FeatureExtractionPipeline(Model(), tokenizer, batch_size=batch_size)
    assert_same(cases.results(cases.FEATURE_CALLS, pipe), ANSWERS["feature-extraction"])
    array = pipe("x = 1", return_tensors=True)
    assert (array.dtype, array.shape) == (np.float32, (1, len(tokenizer.encode("x = 1")), 5))


def test_options_of_all_calls(tokenizer: GPTBigCodeTokenizer) -> None:
    own = TokenClassificationPipeline(Model(), tokenizer, aggregation_strategy="max", ignore_labels=[])
    assert own("New York") == TokenClassificationPipeline(Model(), tokenizer)(
        "New York", aggregation_strategy="max", ignore_labels=[]
    )
    listed = TextClassificationPipeline(TextModel(), tokenizer, top_k=2)
    assert len(listed("x")[0]) == 2


@pytest.mark.parametrize(
    ("pipe", "inputs", "options", "message"),
    [
        (TokenClassificationPipeline, "x", {"aggregation": "max"}, "did you mean 'aggregation_strategy'"),
        (TokenClassificationPipeline, "x", {"aggregation_strategy": "frist"}, "did you mean 'first'"),
        (TokenClassificationPipeline, "x", {"stride": 3}, "aggregation_strategy"),
        (TokenClassificationPipeline, "x", {"delimiter": "-"}, "is_split_into_words"),
        (TokenClassificationPipeline, [3], {}, "string"),
        (TokenClassificationPipeline, "", {}, "empty"),
        (TextClassificationPipeline, "x", {"top_k": 0}, "top_k"),
        (TextClassificationPipeline, "x", {"function_to_apply": "tanh"}, "softmax"),
        (TextClassificationPipeline, [["a", "b"]], {}, "text_pair"),
        (TextClassificationPipeline, {"text": "a", "pair": "b"}, {}, "text_pair"),
        (TextClassificationPipeline, "x", {"batch_size": 0}, "batch_size"),
        (FeatureExtractionPipeline, "x", {"truncation": True, "tokenize_kwargs": {"truncation": True}}, "twice"),
        (FeatureExtractionPipeline, "x", {"tokenize_kwargs": {"padding": True}}, "padding"),
        (FeatureExtractionPipeline, "x", {"return_tensor": True}, "did you mean 'return_tensors'"),
    ],
)
def test_mistakes(tokenizer: GPTBigCodeTokenizer, pipe: Any, inputs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe(TextModel() if pipe is TextClassificationPipeline else Model(), tokenizer)(inputs, **options)


@pytest.mark.parametrize(
    ("pipe", "name", "right"),
    [
        (TokenClassificationPipeline, "aggregation", "aggregation_strategy"),
        (FeatureExtractionPipeline, "return_tensor", "return_tensors"),
    ],
)
def test_unknown_options_are_refused_when_a_pipeline_is_made(
    tokenizer: GPTBigCodeTokenizer, pipe: Any, name: str, right: str
) -> None:
    with pytest.raises(InputError, match=f"did you mean '{right}'"):
        pipe(Model(), tokenizer, **{name: "max"})


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("ner", TokenClassificationPipeline),
        ("token-classification", TokenClassificationPipeline),
        ("sentiment-analysis", TextClassificationPipeline),
        ("text-classification", TextClassificationPipeline),
        ("feature-extraction", FeatureExtractionPipeline),
    ],
)
def test_tasks_and_aliases(tokenizer: GPTBigCodeTokenizer, task: str, expected: type) -> None:
    assert type(pipeline(task, model=Model(), tokenizer=tokenizer, device="cpu", device_map="auto")) is expected


def test_wrong_tasks_and_devices(tokenizer: GPTBigCodeTokenizer) -> None:
    for options, message in (
        ({"task": "token-clasification"}, "did you mean 'token-classification'"),
        ({"device": 0}, "device"),
        ({"device": "cuda:0"}, "device"),
        ({"device_map": "cuda"}, "device_map"),
        ({"model_kwargs": {"dtype": "int8"}}, "belong to from_pretrained"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline(**{"model": Model(), "tokenizer": tokenizer, **options})  # type: ignore[arg-type]


@pytest.mark.live
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "feature-extraction"])
def test_transformers_live(task: str, checkpoint_dir: Path, tmp_path: Path) -> None:
    """The same checkpoint in both, from files to results."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.GPTBigCodeConfig(
        n_layer=2, n_embd=64, n_head=4, vocab_size=8192, n_positions=128, initializer_range=0.4, pad_token_id=4,
        id2label=dict(enumerate(cases.LABELS)), bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    kind = {
        "text-classification": transformers.GPTBigCodeForSequenceClassification,
        "token-classification": transformers.GPTBigCodeForTokenClassification,
        "feature-extraction": transformers.GPTBigCodeModel,
    }[task]
    kind(config).eval().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint_dir / name).read_bytes())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, model_max_length=24, pad_token="<fim_pad>")
    theirs = transformers.pipeline(task, model=kind.from_pretrained(tmp_path, dtype=torch.float32), tokenizer=tokenizer)
    own_tokenizer = AutoTokenizer.from_pretrained(tmp_path, model_max_length=24)
    calls = {"token-classification": cases.TOKEN_CALLS, "text-classification": cases.TEXT_CALLS}.get(task, cases.FEATURE_CALLS)
    for batch_size in (1, 3):
        ours = pipeline(task, model=tmp_path, tokenizer=own_tokenizer, dtype="float32", num_threads=1, batch_size=batch_size)
        for name in calls:
            expected = cases.results({name: calls[name]}, theirs)[name]
            actual = cases.results({name: calls[name]}, ours)[name]
            assert_same(actual, expected, tolerance=2e-4)
