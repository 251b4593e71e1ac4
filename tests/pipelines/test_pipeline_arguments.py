"""Arguments of pipelines: models and tokenizers of other libraries, streamers, iterators, and arguments without effect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptbigcode_cpu
from gptbigcode_cpu import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTBigCodeForCausalLM,
    GPTBigCodeTokenizer,
    TextGenerationPipeline,
    TextStreamer,
    pipeline,
)
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.streamers import BaseStreamer

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("pipelines") / "model")


@pytest.fixture(scope="module")
def model(converted: Callable[..., Path], source: Path) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(converted("float32", source), num_threads=1)


@pytest.fixture(scope="module")
def tokenizer(source: Path) -> GPTBigCodeTokenizer:
    return AutoTokenizer.from_pretrained(source)


@pytest.fixture(scope="module")
def pipe(model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> TextGenerationPipeline:
    return pipeline("text-generation", model=model, tokenizer=tokenizer)


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def put(self, value: Any) -> None:
        self.calls.append(value.tolist())

    def end(self) -> None:
        self.calls.append("end")


def test_arguments_that_change_nothing(converted: Callable[..., Path], source: Path, pipe: TextGenerationPipeline) -> None:
    own = pipeline(
        "text-generation",
        model=str(converted("float32", source)),
        config=None,
        torch_dtype="float32",
        device_map="auto",
        device=-1,
        framework="pt",
        num_workers=4,
        use_fast=False,
        trust_remote_code=True,
        use_auth_token=False,
        model_kwargs={"low_cpu_mem_usage": True},
        **GREEDY,
    )
    assert own("a", num_workers=2) == pipe("a", **GREEDY)
    assert own.options == GREEDY
    assert own.device.type == "cpu"
    direct = TextGenerationPipeline(
        model=pipe.model, tokenizer=pipe.tokenizer, task="text-generation", framework="pt", device=-1
    )
    assert direct("a", **GREEDY) == pipe("a", **GREEDY)


def test_a_generation_config_for_all_calls(pipe: TextGenerationPipeline) -> None:
    config = gptbigcode_cpu.GenerationConfig(**GREEDY)
    own = TextGenerationPipeline(pipe.model, pipe.tokenizer, generation_config=config)
    assert own("a") == pipe("a", **GREEDY)
    assert own("a", max_new_tokens=2) == pipe("a", do_sample=False, max_new_tokens=2)


def test_the_length_of_a_criterion_holds_on_every_way(pipe: TextGenerationPipeline) -> None:
    """As in `generate`, it takes the place of what the options say."""
    prompt = "def f(x):"
    ids = pipe.tokenizer.encode(prompt)
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": [], "max_new_tokens": 40}
    criteria = gptbigcode_cpu.StoppingCriteriaList([gptbigcode_cpu.MaxLengthCriteria(len(ids) + 10)])
    expected = list(pipe.model.stream(ids, stopping_criteria=criteria, **options))
    assert len(expected) == 10
    (result,) = pipe(prompt, stopping_criteria=criteria, return_tensors=True, **options)
    assert result["generated_token_ids"] == ids + expected
    results = pipe([prompt] * 2, stopping_criteria=criteria, return_tensors=True, batch_size=2, **options)
    assert [row[0]["generated_token_ids"] for row in results] == [ids + expected] * 2
    assert "".join(pipe.stream(prompt, stopping_criteria=criteria, **options)) == pipe.tokenizer.decode(expected)
    fills = [gptbigcode_cpu.MaxLengthCriteria(9)]
    assert len(pipe.tokenizer.encode(pipe.fill("a = ", "\n", stopping_criteria=fills, max_new_tokens=40))) <= 9


@pytest.mark.parametrize("assistant", [object(), "demo", None])
def test_an_assistant_that_does_not_fit_is_refused_on_every_way(
    pipe: TextGenerationPipeline, assistant: Any, make_checkpoint: Callable[..., Path], converted: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    if assistant is None:  # another vocabulary
        source = make_checkpoint(tmp_path, vocab_size=300)
        assistant = gptbigcode_cpu.AutoModelForCausalLM.from_pretrained(converted("int8", source))
    calls: list[Callable[[], Any]] = [
        lambda: pipe("x", assistant_model=assistant),
        lambda: pipe.stream("x", assistant_model=assistant),
        lambda: pipe.fill("x", "y", assistant_model=assistant),
        lambda: pipe.model.generate([[1]], assistant_model=assistant),
        lambda: pipe.model.stream([1], assistant_model=assistant),
        lambda: pipeline("text-generation", model=pipe.model, tokenizer=pipe.tokenizer, assistant_model=assistant),
    ]
    for call in calls:
        with pytest.raises(InputError, match="assistant_model"):
            call()


def test_a_class_of_the_caller(model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
    class Own(TextGenerationPipeline):
        pass

    assert type(pipeline(model=model, tokenizer=tokenizer, pipeline_class=Own)) is Own


class TestModelsAndTokenizersOfOthers:
    def test_a_model_of_another_library(self, tokenizer: GPTBigCodeTokenizer) -> None:
        theirs = type("GPTBigCodeForCausalLM", (), {"__module__": "transformers.models.gpt_bigcode", "config": None})()
        for make in (pipeline, TextGenerationPipeline):
            with pytest.raises(InputError, match=r"transformers\.models.*pass the name or directory of the checkpoint"):
                make(model=theirs, tokenizer=tokenizer)

    def test_a_model_for_another_task(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(InputError, match=r"GPTBigCodeModel; this task needs one that AutoModelForCausalLM\."):
            pipeline("text-generation", model=model.transformer, tokenizer=tokenizer)
        with pytest.raises(InputError, match="AutoModelForSequenceClassification"):
            pipeline("text-classification", model=model, tokenizer=tokenizer)
        with pytest.raises(InputError, match="must be a name, a directory or a model"):
            pipeline(model=5, tokenizer=tokenizer)

    def test_what_is_no_tokenizer(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        for wrong in (object(), tokenizer.backend, len):
            with pytest.raises(InputError, match=r"tokenizer must be a tokenizer of this package, not .*AutoTokenizer"):
                pipeline(model=model, tokenizer=wrong)
            with pytest.raises(InputError, match="tokenizer must be"):
                TextStreamer(wrong)  # type: ignore[arg-type]
            with pytest.raises(InputError, match="tokenizer must be"):
                model.score("a", wrong)
            with pytest.raises(InputError, match="tokenizer must be"):
                model.generate([[1]], regex="a", tokenizer=wrong)
            with pytest.raises(InputError, match="tokenizer must be"):
                model.fill("a", "b", tokenizer=wrong)  # type: ignore[arg-type]

    def test_a_tokenizer_of_transformers(
        self, source: Path, model: GPTBigCodeForCausalLM, pipe: TextGenerationPipeline
    ) -> None:
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoTokenizer.from_pretrained(source, padding_side="left", pad_token="<fim_pad>")
        own = pipeline(model=model, tokenizer=theirs)
        assert type(own.tokenizer) is GPTBigCodeTokenizer
        assert (own.tokenizer.pad_token, own.tokenizer.padding_side, own.tokenizer.model_max_length) == (
            "<fim_pad>",
            "left",
            96,
        )
        assert own.tokenizer("ab <fim_prefix>c").input_ids == theirs("ab <fim_prefix>c").input_ids
        assert own("ab", **GREEDY) == pipe("ab", **GREEDY)
        assert model.fill("a", "b", tokenizer=theirs, max_new_tokens=4) == pipe.fill("a", "b", max_new_tokens=4)
        assert model.score("ab", theirs)[0].tokens == ("a", "b")

    def test_a_model_of_transformers(self, source: Path, tokenizer: GPTBigCodeTokenizer) -> None:
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(source)
        with pytest.raises(InputError, match="run its own models"):
            pipeline("text-generation", model=theirs, tokenizer=tokenizer)


class TestStreamer:
    def test_the_tokens_are_those_of_the_text(self, pipe: TextGenerationPipeline) -> None:
        recorder = Recorder()
        expected = pipe(["ab", "c"], return_tensors=True, **GREEDY)
        assert pipe(["ab", "c"], streamer=recorder, return_tensors=True, batch_size=2, **GREEDY) == expected
        calls = iter(recorder.calls)
        for (result,), length in zip(expected, (2, 1), strict=True):
            ids = result["generated_token_ids"]
            assert next(calls) == [ids[:length]]
            assert [next(calls) for _ in ids[length:]] == [[token] for token in ids[length:]]
            assert next(calls) == "end"
        assert next(calls, None) is None

    def test_text(self, pipe: TextGenerationPipeline, capsys: pytest.CaptureFixture[str]) -> None:
        streamer = TextStreamer(pipe.tokenizer, skip_prompt=True)
        new = pipe("ab", streamer=streamer, return_full_text=False, **GREEDY)[0]["generated_text"]
        assert capsys.readouterr().out == new + "\n"
        own = TextGenerationPipeline(pipe.model, pipe.tokenizer, streamer=streamer)
        own("ab", **GREEDY)
        assert capsys.readouterr().out == new + "\n"

    def test_an_error_ends_the_stream(self, pipe: TextGenerationPipeline) -> None:
        recorder = Recorder()

        def fails(*_: Any) -> Any:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            pipe("ab", streamer=recorder, logits_processor=[fails], **GREEDY)
        assert recorder.calls[-1] == "end"

    def test_streamers_are_refused_by_beams_streams_and_fill(self, pipe: TextGenerationPipeline) -> None:
        with pytest.raises(InputError, match="num_beams"):
            pipe("ab", streamer=Recorder(), num_beams=2, **GREEDY)
        for stream in (pipe.stream, lambda _, **options: pipe.model.stream([1], **options)):
            with pytest.raises(InputError, match="stream gives the"):
                stream("ab", streamer=Recorder(), **GREEDY)
        with pytest.raises(InputError, match="streamer"):
            pipe.fill("a", "b", streamer=Recorder())


class TestIteratorsAndDataSets:
    def test_an_iterator_is_read_as_it_goes(self, pipe: TextGenerationPipeline) -> None:
        read = []

        def texts() -> Iterator[str]:
            for text in ("a", "b", "c"):
                read.append(text)
                yield text

        results = pipe(texts(), batch_size=2, **GREEDY)
        assert not read
        first = next(results)
        assert read == ["a", "b"]
        assert [first, *results] == pipe(["a", "b", "c"], **GREEDY)

    def test_a_data_set(self, pipe: TextGenerationPipeline) -> None:
        class DataSet:  # as torch knows them: a length and items
            def __len__(self) -> int:
                return 3

            def __getitem__(self, index: int) -> str:
                return "abc"[index]

        assert list(pipe(DataSet(), **GREEDY)) == pipe(["a", "b", "c"], **GREEDY)

    def test_other_tasks(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        features = pipeline("feature-extraction", model=model.transformer, tokenizer=tokenizer)
        assert list(features(iter(["a", "bc"]), batch_size=2)) == features(["a", "bc"])
        with pytest.raises(InputError, match="batch_size"):
            list(features(iter(["a"]), batch_size=0))


def test_saving(pipe: TextGenerationPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe.save_pretrained(tmp_path / "saved", max_shard_size="1GB")
    with caplog.at_level(logging.WARNING):
        again = pipeline(model=tmp_path / "saved")
    assert again("ab", **GREEDY) == pipe("ab", **GREEDY)
    assert caplog.text == ""
    assert np.array_equal(again.model([[1, 2]]).logits, pipe.model([[1, 2]]).logits)
