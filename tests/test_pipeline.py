"""Text in, text out: the pipeline, streaming and filling in the middle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import fim
from gptbigcode_cpu.errors import ContextLengthError, InputError, TokenizerError
from gptbigcode_cpu.generation import GenerationConfig
from gptbigcode_cpu.modeling import AutoModelForCausalLM
from gptbigcode_cpu.pipelines import TextGenerationPipeline, pipeline
from gptbigcode_cpu.tokenizer import AutoTokenizer

PROMPT = "def fibonacci(n):"
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def pipe(converted: Callable[[str], Path]) -> TextGenerationPipeline:
    return pipeline(task="text-generation", model=converted("int8"), dtype="auto")


def recorded_options(
    pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[int, GenerationConfig]:
    """The limit and the options that a call comes down to."""
    seen: list[tuple[int, GenerationConfig]] = []

    def record(_core: object, _prompts: Any, limits: list[int], config: GenerationConfig, *_: Any, **__: Any) -> Iterator[Any]:
        seen.append((limits[0], config))
        return iter(())

    with monkeypatch.context() as patch:
        patch.setattr("gptbigcode_cpu.generation.mixin.token_steps", record)
        pipe(options.pop("prompt", PROMPT), **options)
    return seen[0]


class TestCompletion:
    def test_one_prompt(self, pipe: TextGenerationPipeline) -> None:
        (result,) = pipe(PROMPT, **GREEDY)
        inputs = pipe.tokenizer(PROMPT, return_tensors="np")
        expected = pipe.tokenizer.decode(pipe.model.generate(**inputs, **GREEDY)[0], skip_special_tokens=True)
        assert result == {"generated_text": expected}
        assert expected.startswith(PROMPT)

    def test_several_prompts(self, pipe: TextGenerationPipeline) -> None:
        prompts = [PROMPT, "import os\n", "class A:\n    def"]
        singles = [pipe(prompt, **GREEDY) for prompt in prompts]
        for batch_size in (1, 2, 8):
            assert pipe(prompts, batch_size=batch_size, **GREEDY) == singles
        assert pipe(prompts[:1], **GREEDY) == singles[:1]
        assert pipe([], **GREEDY) == []

    def test_batch_size_does_not_change_samples(self, pipe: TextGenerationPipeline) -> None:
        options: dict[str, Any] = {"max_new_tokens": 8, "seed": 4, "num_return_sequences": 2}
        results = [pipe([PROMPT] * 3, batch_size=size, **options) for size in (1, 2, 3)]
        assert results[0] == results[1] == results[2]
        assert [len(texts) for texts in results[0]] == [2, 2, 2]
        assert len({text["generated_text"] for texts in results[0] for text in texts}) == 6

    def test_new_text_only(self, pipe: TextGenerationPipeline) -> None:
        full, new = pipe(PROMPT, **GREEDY)[0], pipe(PROMPT, return_full_text=False, **GREEDY)[0]
        assert full["generated_text"] == PROMPT + new["generated_text"]

    def test_options_of_all_calls(self, pipe: TextGenerationPipeline) -> None:
        own = TextGenerationPipeline(pipe.model, pipe.tokenizer, **GREEDY)
        assert own(PROMPT) == pipe(PROMPT, **GREEDY)
        assert own(PROMPT, max_new_tokens=3) == pipe(PROMPT, do_sample=False, max_new_tokens=3)

    def test_special_tokens_are_no_text(self, pipe: TextGenerationPipeline) -> None:
        (result,) = pipe(PROMPT, logit_bias={0: 1e4}, **GREEDY)
        assert result == {"generated_text": PROMPT}

    def test_defaults_of_transformers(self, pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        limit, config = recorded_options(pipe, monkeypatch)
        assert (limit, config.do_sample, config.temperature, config.top_k) == (256, True, 0.7, 50)
        limit, config = recorded_options(pipe, monkeypatch, do_sample=False, max_length=50)
        assert (limit, config.temperature) == (50 - len(pipe.tokenizer.encode(PROMPT)), 1.0)
        limit, config = recorded_options(
            pipe, monkeypatch, generation_config=GenerationConfig(max_new_tokens=5, temperature=0.3)
        )
        assert (limit, config.temperature) == (5, 0.3)

    def test_model_decides_before_the_defaults(
        self, converted: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory = Path(shutil.copytree(converted("int8"), tmp_path / "model"))
        (directory / "generation_config.json").write_text(json.dumps({"do_sample": False, "max_new_tokens": 7}))
        own = pipeline(model=directory)
        limit, config = recorded_options(own, monkeypatch)
        assert (limit, config.do_sample) == (7, False)
        assert recorded_options(own, monkeypatch, max_length=20)[0] == 20 - len(own.tokenizer.encode(PROMPT))
        limit, config = recorded_options(own, monkeypatch, do_sample=True)
        assert (limit, config.temperature) == (7, 0.7)

    def test_context(self, pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        long = "x" + " x" * 1999
        assert len(pipe.tokenizer.encode(long)) == 2000
        assert recorded_options(pipe, monkeypatch, prompt=long)[0] == 48  # the default gives way
        with pytest.raises(ContextLengthError, match="2000 prompt tokens and 49 new ones"):
            pipe(long, max_new_tokens=49)
        with pytest.raises(ContextLengthError):
            pipe(long + " x" * 48)

    def test_mistakes(self, pipe: TextGenerationPipeline, converted: Callable[[str], Path]) -> None:
        with pytest.raises(InputError, match="empty"):
            pipe("")
        with pytest.raises(InputError, match="max_new_tokens"):
            pipe(PROMPT, max_new_token=3)
        for wrong in (None, 3, b"text", [{"role": "user", "content": "chat"}]):
            with pytest.raises(InputError, match="must be a string"):
                pipe(wrong)  # type: ignore[call-overload]
        with pytest.raises(InputError, match="must be a GenerationConfig"):
            pipe(PROMPT, generation_config={"max_new_tokens": 3})
        with pytest.raises(InputError, match="batch_size"):
            pipe(PROMPT, batch_size=0)
        with pytest.raises(InputError, match="text-generation"):
            pipeline(task="summarization", model=converted("int8"))
        with pytest.raises(InputError, match="did you mean 'temperature'"):
            pipeline(model=converted("int8"), temprature=1.0)
        with pytest.raises(InputError, match="tokenizer"):
            pipeline(model=pipe.model)
        for given in ({"dtype": "int8"}, {"num_threads": 1}, {"prefill_threads": 1}, {"kv_dtype": "int8"}):
            with pytest.raises(InputError, match="belong to from_pretrained"):
                pipeline(model=pipe.model, tokenizer=pipe.tokenizer, **given)

    def test_parts_can_be_given(self, pipe: TextGenerationPipeline, checkpoint_dir: Path) -> None:
        model, tokenizer = pipe.model, AutoTokenizer.from_pretrained(checkpoint_dir)
        for other in (pipeline(model=model, tokenizer=tokenizer), pipeline(model=model, tokenizer=checkpoint_dir)):
            assert other(PROMPT, **GREEDY) == pipe(PROMPT, **GREEDY)


class TestStream:
    @pytest.mark.parametrize("options", [GREEDY, {"seed": 2, "max_new_tokens": 40}])
    def test_pieces_join_to_the_text(self, pipe: TextGenerationPipeline, options: dict[str, Any]) -> None:
        pieces = list(pipe.stream(PROMPT, **options))
        assert "".join(pieces) == pipe(PROMPT, return_full_text=False, **options)[0]["generated_text"]
        assert len(pieces) > 3
        assert all(pieces)

    def test_characters_are_whole(self, pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "naïve 🙂 日本"
        ids = pipe.tokenizer.encode(text)
        monkeypatch.setattr("gptbigcode_cpu.pipelines.token_steps", lambda *_: ({0: [token_id]} for token_id in ids))
        pieces = list(pipe.stream("x"))
        assert "".join(pieces) == text
        assert len(pieces) < len(ids)

    def test_mistakes_show_at_the_call(self, pipe: TextGenerationPipeline) -> None:
        with pytest.raises(InputError):
            pipe.stream("")
        with pytest.raises(InputError, match="one text"):
            pipe.stream(PROMPT, num_return_sequences=2)


class TestFill:
    def test_continues_the_prompt_of_its_order(self, pipe: TextGenerationPipeline) -> None:
        prefix, suffix = "def add(a, b):\n    ", "\n    return c\n"
        for order in ("psm", "spm"):
            prompt = fim.build_prompt(pipe.tokenizer, prefix, suffix, order=order)
            stops = fim.stop_token_ids(pipe.tokenizer)
            tokens = list(pipe.model.stream(prompt, max_new_tokens=24, eos_token_id=stops))
            text = pipe.fill(prefix, suffix, order=order, max_new_tokens=24)
            assert text == pipe.tokenizer.decode(tokens, skip_special_tokens=True)
            assert text == "".join(pipe.stream_fill(prefix, suffix, order=order, max_new_tokens=24))
            assert text

    @pytest.mark.parametrize("token", range(6))
    def test_every_special_token_ends_it_unseen(self, pipe: TextGenerationPipeline, token: int) -> None:
        steps = pipe.model.stream([1, 3, 2], eos_token_id=[], logit_bias={token: 1e6}, max_new_tokens=2)
        assert list(steps) == [token, token]
        assert pipe.fill("a", "b", logit_bias={token: 1e6}) == ""

    def test_tokens_that_are_not_marked_special_end_it_too(
        self, checkpoint_dir: Path, pipe: TextGenerationPipeline, tmp_path: Path
    ) -> None:
        content = json.loads((checkpoint_dir / "tokenizer.json").read_text(encoding="utf-8"))
        for token in content["added_tokens"]:
            token["special"] = False
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        plain = TextGenerationPipeline(pipe.model, AutoTokenizer.from_pretrained(tmp_path))
        assert plain.fill("a", "b", logit_bias={2: 1e6}) == ""

    def test_model_without_the_tokens(
        self, make_checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path: Path
    ) -> None:
        source = make_checkpoint(tmp_path)
        text = (source / "tokenizer.json").read_text(encoding="utf-8").replace("<fim_middle>", "<other>")
        (source / "tokenizer.json").write_text(text, encoding="utf-8")
        with pytest.raises(TokenizerError, match="fill in the middle"):
            pipeline(model=converted("float32", source)).fill("a", "b")


@pytest.mark.parametrize("return_tensors", ["np", "pt"])
def test_snippets_of_the_transformers_page(
    checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, return_tensors: Any
) -> None:
    if return_tensors == "pt":
        pytest.importorskip("torch")
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path))
    pipe = pipeline(task="text-generation", model=str(checkpoint_dir), dtype="auto")
    (result,) = pipe(PROMPT)
    assert result["generated_text"].startswith(PROMPT)

    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint_dir))
    model = AutoModelForCausalLM.from_pretrained(str(checkpoint_dir), dtype="auto")
    inputs = tokenizer(PROMPT, return_tensors=return_tensors)
    outputs = model.generate(**inputs, max_length=50)
    assert tokenizer.decode(outputs[0]).startswith(PROMPT)
    assert outputs.shape[1] <= 50
    assert type(outputs) is type(inputs["input_ids"])
