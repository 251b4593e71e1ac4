"""Text in, text out: the pipeline, streaming and filling in the middle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gptbigcode_cpu import AutoModelForCausalLM, fim
from gptbigcode_cpu.errors import ContextLengthError, InputError, TokenizerError
from gptbigcode_cpu.generation import GenerationConfig
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

    def record(prompts: list[Any], limits: list[int], config: GenerationConfig, *_: object) -> list[list[int]]:
        seen.append((limits[0], config))
        return [[] for _ in prompts]

    with monkeypatch.context() as patch:
        patch.setattr(pipe.model, "continuations", record)
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
        assert recorded_options(pipe, monkeypatch, prompt=long)[0] == 49  # the default gives way
        with pytest.raises(ContextLengthError, match="2000 prompt tokens and 50 new ones"):
            pipe(long, max_new_tokens=50)
        with pytest.raises(ContextLengthError):
            pipe(long + " x" * 49)

    def test_mistakes(self, pipe: TextGenerationPipeline, converted: Callable[[str], Path]) -> None:
        with pytest.raises(InputError, match="max_new_tokens"):
            pipe(PROMPT, max_new_token=3)
        for wrong in (None, 3, b"text", {"role": "user", "content": "chat"}, [3], [[]], [[{"role": "user"}]]):
            with pytest.raises(InputError, match="must be a string"):
                pipe(wrong)
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


class TestOptions:
    """Options of transformers' pipeline besides those of generation."""

    def test_prefix(self, pipe: TextGenerationPipeline) -> None:
        prefix = "import os\n"
        (whole,) = pipe(prefix + PROMPT, **GREEDY)
        (result,) = pipe(PROMPT, prefix=prefix, **GREEDY)
        assert prefix + result["generated_text"] == whole["generated_text"]
        length = len(pipe.tokenizer.encode(prefix + PROMPT)) - len(pipe.tokenizer.encode(prefix))
        (limited,) = pipe(PROMPT, prefix=prefix, do_sample=False, max_length=length + 2)
        assert limited == pipe(PROMPT, prefix=prefix, do_sample=False, max_new_tokens=2)[0]

    def test_ids(self, pipe: TextGenerationPipeline) -> None:
        (ids,) = pipe(PROMPT, return_tensors=True, **GREEDY)
        (shown,) = pipe(PROMPT, skip_special_tokens=False, **GREEDY)
        assert pipe.tokenizer.decode(ids["generated_token_ids"]) == shown["generated_text"]
        assert ids["generated_token_ids"][: len(pipe.tokenizer.encode(PROMPT))] == pipe.tokenizer.encode(PROMPT)

    def test_stop_sequence(self, pipe: TextGenerationPipeline) -> None:
        options: dict[str, Any] = {"return_full_text": False, "do_sample": False, "max_new_tokens": 30}
        new = pipe(PROMPT, **options)[0]["generated_text"]
        stop = new[7:10]
        for stops in (stop, ["never written", stop]):
            cut = pipe(PROMPT, stop_sequence=stops, **options)[0]["generated_text"]
            assert new.startswith(cut)
            assert stop in cut
            assert len(cut) < len(new)

    def test_hole(self, pipe: TextGenerationPipeline) -> None:
        long = "x = 1\n" * 1000
        (result,) = pipe(long, handle_long_generation="hole", return_tensors=True, **GREEDY)
        ids = result["generated_token_ids"]
        assert len(ids) == 2048
        assert ids[: 2048 - 12] == pipe.tokenizer.encode(long)[-(2048 - 12) :]

    def test_empty_prompt_is_the_bos_token(self, pipe: TextGenerationPipeline) -> None:
        tokens = pipe.model.generate([[0]], **GREEDY)[0]
        assert pipe("", **GREEDY) == [{"generated_text": pipe.tokenizer.decode(tokens, skip_special_tokens=True)}]

    def test_truncation_to_max_length(self, pipe: TextGenerationPipeline) -> None:
        ids = pipe.tokenizer(PROMPT)["input_ids"]
        options: dict[str, Any] = {"max_length": 2, "max_new_tokens": 3, "return_tensors": True, "do_sample": False}
        (result,) = pipe(PROMPT, truncation=True, **options)
        assert result["generated_token_ids"][:-3] == ids[:2]
        for truncation in (None, False, "do_not_truncate"):
            (result,) = pipe(PROMPT, truncation=truncation, **options)
            assert result["generated_token_ids"][:-3] == ids

    def test_padding_changes_nothing(self, pipe: TextGenerationPipeline) -> None:
        prompts = [PROMPT, "x"]
        assert pipe(prompts, padding=True, **GREEDY) == pipe(prompts, padding="longest", **GREEDY) == pipe(prompts, **GREEDY)
        with pytest.raises(InputError, match="padding must be"):
            pipe(prompts, padding="max_length", **GREEDY)

    def test_truncation(self, pipe: TextGenerationPipeline) -> None:
        (result,) = pipe(PROMPT, tokenizer_encode_kwargs={"truncation": True, "max_length": 2}, return_tensors=True, **GREEDY)
        assert result["generated_token_ids"][:2] == pipe.tokenizer.encode(PROMPT)[:2]
        assert len(result["generated_token_ids"]) == 2 + 12

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"return_tensors": True, "return_full_text": True}, "return_tensors"),
            ({"return_text": True, "return_full_text": True}, "return_full_text"),
            ({"return_text": False}, "return_tensors"),
            ({"handle_long_generation": "whole"}, "did you mean 'hole'"),
        ],
    )
    def test_contradictions(self, pipe: TextGenerationPipeline, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            pipe(PROMPT, **options)
        with pytest.raises(InputError, match=message):
            TextGenerationPipeline(pipe.model, pipe.tokenizer, **options)


class TestChat:
    USER: ClassVar = [{"role": "user", "content": "Reverse a list."}]

    @pytest.fixture
    def chatty(self, pipe: TextGenerationPipeline, checkpoint_dir: Path) -> TextGenerationPipeline:
        pytest.importorskip("jinja2")
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir, chat_template="octocoder")
        return TextGenerationPipeline(pipe.model, tokenizer, **GREEDY)

    def test_answer(self, chatty: TextGenerationPipeline) -> None:
        prompt = "Question: Reverse a list.\n\nAnswer:"
        text = chatty(prompt, return_full_text=False)[0]["generated_text"]
        (result,) = chatty(self.USER)
        assert result["generated_text"] == [*self.USER, {"role": "assistant", "content": text}]
        assert chatty(self.USER, return_full_text=False) == [{"generated_text": text}]
        assert chatty([self.USER, self.USER]) == [[result], [result]]
        assert chatty([self.USER, prompt])[1] == chatty(prompt)
        assert "".join(chatty.stream(self.USER)) == text

    def test_continued(self, chatty: TextGenerationPipeline) -> None:
        chat = [*self.USER, {"role": "assistant", "content": "Use"}]
        text = chatty("Question: Reverse a list.\n\nAnswer: Use", return_full_text=False)[0]["generated_text"]
        (result,) = chatty(chat)
        assert result["generated_text"] == [*self.USER, {"role": "assistant", "content": "Use" + text}]
        assert chat[-1]["content"] == "Use"
        (answer,) = chatty(chat, continue_final_message=False)
        assert len(answer["generated_text"]) == 3

    def test_without_a_template(self, pipe: TextGenerationPipeline) -> None:
        with pytest.raises(TokenizerError, match="chat template"):
            pipe(self.USER)


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
        steps = "gptbigcode_cpu.generation.results.written_steps"
        monkeypatch.setattr(steps, lambda *_: ({0: [token_id]} for token_id in ids))
        pieces = list(pipe.stream("x"))
        assert "".join(pieces) == text
        assert len(pieces) < len(ids)

    def test_mistakes_show_at_the_call(self, pipe: TextGenerationPipeline) -> None:
        with pytest.raises(InputError, match="max_new_tokens"):
            pipe.stream("x", max_new_token=3)
        with pytest.raises(InputError, match="one text"):
            pipe.stream(["x", "y"])
        with pytest.raises(InputError, match="one sequence"):
            pipe.stream(PROMPT, num_return_sequences=2)


class TestFill:
    def test_long_files_and_other_files(self, pipe: TextGenerationPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        source = "".join(f"value_{i} = {i}\n" for i in range(3000))
        text = pipe.fill(source + "x = ", "\n" + source, extra_files={"a.py": source}, max_new_tokens=4)
        seen: list[list[int]] = []
        with monkeypatch.context() as patch:
            patch.setattr(pipe.model, "stream", lambda ids, **_: seen.append(ids) or iter(()))
            pipe.fill(source + "x = ", "\n" + source, extra_files={"a.py": source})
        assert 1500 < len(seen[0]) <= 2048 - 256
        assert seen[0][0] == pipe.tokenizer.convert_tokens_to_ids("<filename>")
        assert isinstance(text, str)

    def test_options_of_all_calls(self, pipe: TextGenerationPipeline) -> None:
        own = TextGenerationPipeline(pipe.model, pipe.tokenizer, max_new_tokens=3, do_sample=False, return_full_text=False)
        assert own.fill("a = ", "\n") == pipe.fill("a = ", "\n", max_new_tokens=3)
        assert own.fill("a = ", "\n", max_new_tokens=6) == pipe.fill("a = ", "\n", max_new_tokens=6)
        config = GenerationConfig(max_new_tokens=3)
        assert pipe.model.fill("a = ", "\n", tokenizer=pipe.tokenizer, generation_config=config) == own.fill("a = ", "\n")

    def test_mistakes(self, pipe: TextGenerationPipeline) -> None:
        with pytest.raises(InputError, match="did you mean 'psm'"):
            pipe.fill("a", "b", mode="psn")
        with pytest.raises(InputError, match="extra_files"):
            pipe.stream_fill("a", "b", extra_files=["a.py"])
        with pytest.raises(InputError, match="max_new_tokens"):
            pipe.stream_fill("a", "b", max_new_token=3)
        with pytest.raises(ContextLengthError, match="2047"):
            pipe.stream_fill("a", "b", max_new_tokens=2047)
        with pytest.raises(InputError, match="generation_config"):
            pipe.model.fill("a", "b", tokenizer=pipe.tokenizer, generation_config={"max_new_tokens": 3})

    def test_continues_the_prompt_of_its_order(self, pipe: TextGenerationPipeline) -> None:
        prefix, suffix = "def add(a, b):\n    ", "\n    return c\n"
        texts = set()
        for mode in ("psm", "spm"):
            prompt = fim.build_prompt(pipe.tokenizer, prefix, suffix, mode=mode)
            stops = fim.stop_token_ids(pipe.tokenizer)
            tokens = list(pipe.model.stream(prompt, max_new_tokens=24, eos_token_id=stops))
            gap = fim.MiddleFilter(prefix, suffix)
            expected = gap.push(pipe.tokenizer.decode(tokens, skip_special_tokens=True)) + gap.flush()
            text = pipe.fill(prefix, suffix, mode=mode, max_new_tokens=24)
            assert text == expected
            assert text == "".join(pipe.stream_fill(prefix, suffix, mode=mode, max_new_tokens=24))
            assert text == pipe.model.fill(prefix, suffix, tokenizer=pipe.tokenizer, mode=mode, max_new_tokens=24)
            assert text
            texts.add(text)
        assert len(texts) == 2

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
