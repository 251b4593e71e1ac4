"""Option values, the last position of the context, caches passed to `generate`, and options in pipelines and streams."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    MaxLengthCriteria,
    StoppingCriteria,
    TopKLogitsWarper,
    pipeline,
)
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.generation.foreign import wants_torch

PROMPT = [7, 8, 9, 10]
POSITIONS = 32
NO_END: dict[str, Any] = {"eos_token_id": []}


@pytest.fixture(scope="module")
def directory(converted: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Path:
    return converted("float32", make_checkpoint(tmp_path_factory.mktemp("options") / "model", seed=8, n_positions=POSITIONS))


@pytest.fixture(scope="module")
def model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, num_threads=1)


@pytest.fixture(scope="module")
def pipe(model: Any, directory: Path) -> Any:
    return pipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(directory), do_sample=False, **NO_END)


class TestValues:
    def test_numbers_of_numpy_are_those_of_python(self, model: Any) -> None:
        options: dict[str, Any] = {
            "max_new_tokens": 4,
            "suppress_tokens": [188, 43],
            "seed": 3,
            "do_sample": True,
            "top_p": 0.5,
        }
        same = {name: np.array(value) for name, value in options.items()}
        assert model.generate([PROMPT], **same).tolist() == model.generate([PROMPT], **options).tolist()
        config = GenerationConfig(num_return_sequences=np.int64(3), temperature=Fraction(1, 2), eos_token_id=range(3))
        assert (config.num_return_sequences, config.temperature, config.eos_token_id) == (3, 0.5, [0, 1, 2])
        assert type(config.num_return_sequences) is int

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[(name, value) for name in ("top_k", "num_beams", "eos_token_id") for value in (10**30, 10**5000, True, 1.0, "1")],
            *[("repetition_penalty", value) for value in (1e308, 10**400, float("nan"), 1e-308, False, Fraction(10**400))],
            *[("suppress_tokens", value) for value in ([None], [True], [2**31], "12", {1: 2}, [[1]], np.array([0.5]))],
            *[("sequence_bias", value) for value in ([[[3], 1e39]], [3], [[3, 1.0]], {(): 1.0}, {"a": 1.0}, [[[True], 1.0]])],
            *[("stop_strings", value) for value in ([1], [""], b"a", {"a"})],
            *[("num_assistant_tokens_schedule", value) for value in (np.array([1, 2]), ["constant"])],
            *[("exponential_decay_length_penalty", value) for value in ((1, 1e39), (1.0, 1.0), (1, 2, 3), 3)],
            ("early_stopping", np.array([1, 2])),
            ("do_sample", 1),
            ("seed", 2**64),
            ("num_return_sequences", 10**6),
        ],
        ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
    )
    def test_wrong_values_are_refused_by_name_in_one_line(self, model: Any, name: str, value: Any) -> None:
        for call in (model.generate, model.stream):
            with pytest.raises(InputError, match=rf"^{name} must be ") as error:
                call([PROMPT], **{name: value})
            assert "\n" not in str(error.value)
            assert len(str(error.value)) < 300

    @pytest.mark.parametrize(
        "options",
        [
            {"repetition_penalty": 3e38, "encoder_repetition_penalty": 3e38},
            {"guidance_scale": 3e38},
            {"exponential_decay_length_penalty": (0, 3e38), "eos_token_id": 188, "max_new_tokens": 3},
            {"num_beams": 2, "logit_bias": {43: 3e38}, "max_new_tokens": 3},
            {"num_beams": 2, "length_penalty": 3e38},
            {"num_beams": 2, "length_penalty": -3e38},
            {"do_sample": True, "temperature": 1.2e-38},
        ],
        ids=str,
    )
    def test_scores_beyond_float32_are_no_warning(self, model: Any, options: dict[str, Any]) -> None:
        try:
            assert model.generate([PROMPT], **options).shape[0] == 1
        except InputError as error:
            assert "no token can be chosen" in str(error)

    @pytest.mark.parametrize("answer", [None, 3, "a", [-1], [272], [0.5], [None]])
    def test_answers_of_a_prefix_function(self, model: Any, answer: Any) -> None:
        with pytest.raises(InputError, match="prefix_allowed_tokens_fn must return"):
            model.generate([PROMPT], prefix_allowed_tokens_fn=lambda prompt, ids: answer)
        ids = model.generate([PROMPT], prefix_allowed_tokens_fn=lambda prompt, ids: np.array([5]), max_new_tokens=2)
        assert ids[0, 4:].tolist() == [5, 5]

    @pytest.mark.parametrize("answer", [None, "x", [None]])
    def test_answers_of_a_criterion(self, model: Any, answer: Any) -> None:
        with pytest.raises(InputError, match="must return truth values"):
            model.generate([PROMPT], stopping_criteria=[lambda ids, scores: answer])

    def test_other_names_of_stop_strings(self, model: Any, pipe: Any) -> None:
        tokenizer, options = pipe.tokenizer, {"max_new_tokens": 10, **NO_END}
        stop = tokenizer.decode(model.generate([PROMPT], **options)[0, 6:8])
        expected = model.generate([PROMPT], stop_strings=stop, tokenizer=tokenizer, **options).tolist()
        assert len(expected[0]) < 14
        for name in ("stop", "stop_sequence"):
            given = {name: [stop], **options}
            assert model.generate([PROMPT], tokenizer=tokenizer, **given).tolist() == expected
            assert [*model.stream(PROMPT, tokenizer=tokenizer, **given)] == expected[0][4:]
            assert GenerationConfig(**{name: stop}).stop_strings == stop
            text = tokenizer.decode(PROMPT)
            assert pipe(text, **given) == pipe(text, stop_strings=[stop], **options)
            assert pipe.fill("a", "b", **given) == pipe.fill("a", "b", stop_strings=stop, **options)
        with pytest.raises(InputError, match="stop is another name of stop_strings"):
            model.generate([PROMPT], stop="a", stop_strings="b", tokenizer=tokenizer)

    def test_min_new_tokens_takes_the_place_of_min_length(self, model: Any) -> None:
        ends = {"eos_token_id": [*range(272)], "max_new_tokens": 20}  # whatever is written first ends the text
        assert model.generate([PROMPT], min_length=12, min_new_tokens=0, **ends).shape == (1, 5)


DECODINGS: list[dict[str, Any]] = [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 8}, {"guidance_scale": 1.5}]


class TestLastPosition:
    @pytest.mark.parametrize(
        "options", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 8}, {"guidance_scale": 1.5}], ids=str
    )
    @pytest.mark.parametrize("length", [1, 20, POSITIONS])
    def test_the_last_position_is_used(self, model: Any, options: dict[str, Any], length: int) -> None:
        prompt, new = [[7] * length], POSITIONS + 1 - length
        assert model.generate(prompt, max_new_tokens=new, **options, **NO_END).shape == (1, POSITIONS + 1)
        assert model.generate(prompt, max_length=POSITIONS + 1, **options, **NO_END).shape == (1, POSITIONS + 1)
        with pytest.raises(ContextLengthError, match=f"{length} prompt tokens and {new + 1} new ones"):
            model.generate(prompt, max_new_tokens=new + 1, **options, **NO_END)

    def test_the_token_at_the_last_position_is_that_of_the_model(self, model: Any) -> None:
        ids = model.generate([[7] * 20], max_new_tokens=POSITIONS - 19, **NO_END)
        assert ids[0, -1] == model(ids[:, :-1]).logits[0, -1].argmax()
        assert [*model.stream([7] * 20, max_new_tokens=POSITIONS - 19, **NO_END)] == ids[0, 20:].tolist()
        draft = model.generate([[7] * 20], max_new_tokens=POSITIONS - 19, assistant_model=model, **NO_END)
        assert draft.tolist() == ids.tolist()

    def test_the_default_length_is_cut_at_the_context(self, model: Any, pipe: Any) -> None:
        assert model.generate([[7] * POSITIONS], **NO_END).shape == (1, POSITIONS + 1)
        assert model.generate([[7] * 20], **NO_END).shape == (1, POSITIONS)  # as transformers
        for length in (5, POSITIONS):
            text = pipe.tokenizer.decode([40] * length)
            assert len(pipe(text, return_tensors=True)[0]["generated_token_ids"]) == POSITIONS + 1

    def test_fill(self, model: Any, pipe: Any) -> None:
        pieces = pipe.fill("a" * 9, "b" * 9, max_new_tokens=POSITIONS - 4)
        assert isinstance(pieces, str)
        with pytest.raises(ContextLengthError):
            pipe.fill("a", "b", max_new_tokens=POSITIONS - 1)


OPTIONS: dict[str, Any] = {"max_new_tokens": 5, **NO_END, "pad_token_id": 4}
COPIES: dict[str, Any] = {"num_return_sequences": 2, "do_sample": True, "seed": 1}


class TestCaches:
    def test_an_empty_cache_is_filled_and_continued(self, model: Any) -> None:
        plain = model.generate([PROMPT], **{**OPTIONS, "max_new_tokens": 12})
        cache = DynamicCache()
        first = model.generate([PROMPT], past_key_values=cache, **OPTIONS)
        assert cache.get_seq_length() == 8
        second = model.generate(first, past_key_values=cache, **OPTIONS)
        assert cache.get_seq_length() == 13
        assert [*model.stream(second, cache=cache, **{**OPTIONS, "max_new_tokens": 2})] == plain[0, 14:].tolist()
        assert cache.get_seq_length() == 15
        assert second.tolist() == plain[:, :14].tolist()
        assert model(plain[:, 15:], past_key_values=cache).logits.argmax() == model(plain).logits[0, -1].argmax()

    def test_tokens_in_the_cache_are_not_run_again(self, model: Any) -> None:
        cache = DynamicCache()
        model([PROMPT[:3]], past_key_values=cache)
        # The cache decides, not the ids that it stands for.
        other = model.generate([[99, 98, 97, PROMPT[3]]], past_key_values=cache.copy(), **OPTIONS)
        assert other[0, 4:].tolist() == model.generate([PROMPT], **OPTIONS)[0, 4:].tolist()
        assert cache.get_seq_length() == 3

    @pytest.mark.parametrize(
        "extra", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True, "seed": 1}], ids=str
    )
    def test_padded_batches_and_beams(self, model: Any, extra: dict[str, Any]) -> None:
        ids, mask = [[4, 4, 7, 8], [20, 21, 22, 23]], [[0, 0, 1, 1], [1, 1, 1, 1]]
        cache = DynamicCache()
        model(np.array(ids)[:, :3], attention_mask=np.array(mask)[:, :3], past_key_values=cache)
        expected = model.generate(ids, attention_mask=mask, **OPTIONS, **extra)
        output = model.generate(
            ids, attention_mask=mask, past_key_values=cache, return_dict_in_generate=True, **OPTIONS, **extra
        )
        assert output.sequences.tolist() == expected.tolist()
        assert output.past_key_values is cache is output.cache
        assert cache.batch_size == 2 * max(extra.values(), default=1) if "seed" not in extra else 4
        assert cache.get_seq_length() == 8
        assert cache.mask[0, :4].tolist() == [False, False, True, True]

    def test_the_cache_is_returned(self, model: Any) -> None:
        output = model.generate([PROMPT, PROMPT[::-1]], return_dict_in_generate=True, **OPTIONS)
        again = model.generate(output.sequences, past_key_values=output.past_key_values, **OPTIONS)
        expected = model.generate([PROMPT, PROMPT[::-1]], **{**OPTIONS, "max_new_tokens": 10})
        assert again.tolist() == expected.tolist()
        assert model.generate([PROMPT], return_dict_in_generate=True, use_cache=False).past_key_values is None

    def test_rows_that_end_early(self, model: Any) -> None:
        prompts, options = [[9, 10], [20, 21]], {**OPTIONS, "max_new_tokens": 8}
        end = int(model.generate(prompts, **options)[0, 4])
        output = model.generate(prompts, return_dict_in_generate=True, **{**options, "eos_token_id": end})
        mask = output.past_key_values.mask
        assert mask.shape[1] == output.sequences.shape[1] - 1
        for row, ids in enumerate(output.sequences.tolist()):
            written = ids.index(end, 2) if end in ids[2:] else len(ids) - 1
            assert mask[row].sum() == written

    def test_mistakes(self, model: Any) -> None:
        cache = DynamicCache()
        model([PROMPT], past_key_values=cache)
        for ids, message in (
            ([PROMPT], "at least one more"),
            ([PROMPT[:2]], "at least one more"),
            ([[*PROMPT, 5]] * 2, "1 rows"),
        ):
            with pytest.raises(InputError, match=message):
                model.generate(ids, past_key_values=cache)
        with pytest.raises(InputError, match="must be a DynamicCache"):
            model.generate([PROMPT], past_key_values=((1, 2),))
        with pytest.raises(InputError, match="two names"):
            model.generate([PROMPT], past_key_values=cache, cache=DynamicCache())
        with pytest.raises(ContextLengthError):
            model.generate([[*PROMPT, 5]], past_key_values=cache, max_new_tokens=POSITIONS)
        assert cache.get_seq_length() == 4

    def test_float_masks(self, model: Any) -> None:
        ids, mask = [[4, 4, 7, 8]], [[0, 0, 1, 1]]
        expected = model.generate(ids, attention_mask=mask, **OPTIONS).tolist()
        for kind in (np.float32, np.float64, np.bool_):
            assert model.generate(ids, attention_mask=np.array(mask, dtype=kind), **OPTIONS).tolist() == expected
        for wrong in (np.array([[0, 0, 0.5, 1]]), np.float16("nan"), np.full((1, 4), np.inf)):
            with pytest.raises(InputError, match="attention_mask must hold"):
                model.generate(ids, attention_mask=wrong)


class TestPipelinesAndStreams:
    def test_a_length_criterion_decides(self, model: Any, pipe: Any) -> None:
        text = pipe.tokenizer.decode([40] * 3)
        for length, total in ((10, 10), (2, 4)):  # it is asked after a token
            criteria = [MaxLengthCriteria(20), MaxLengthCriteria(length)]
            assert len(pipe(text, stopping_criteria=criteria, return_tensors=True)[0]["generated_token_ids"]) == total
            assert model.generate([[40] * 3], stopping_criteria=criteria, **NO_END).shape == (1, total)
            assert len([*model.stream([40] * 3, stopping_criteria=criteria, **NO_END)]) == total - 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"assistant_model": 3}, "assistant_model must be"),
            ({"return_dict_in_generate": True}, "stream returns tokens only"),
            ({"num_beams": 2}, "one sequence"),
            ({"logits_processor": 3}, "must be a list"),
            ({"prefix_allowed_tokens_fn": 3}, "must be a function"),
        ],
        ids=str,
    )
    def test_streams_make_the_same_checks(self, model: Any, pipe: Any, options: dict[str, Any], message: str) -> None:
        for call in (lambda: model.stream(PROMPT, **options), lambda: pipe.stream("abc", **options)):
            with pytest.raises(InputError, match=message):
                call()

    def test_an_empty_prompt_without_a_begin_token(self, pipe: Any) -> None:
        with pytest.raises(InputError, match="empty"):
            pipe("", bos_token_id=None)

    def test_the_begin_token_of_an_empty_prompt_is_part_of_the_text(self, pipe: Any) -> None:
        options: dict[str, Any] = {"bos_token_id": 0, "max_new_tokens": 3}
        bos = pipe.tokenizer.decode([0])
        (shown,) = pipe("", skip_special_tokens=False, **options)
        (hidden,) = pipe("", **options)
        assert shown["generated_text"] == bos + hidden["generated_text"]
        assert "".join(pipe.stream("", skip_special_tokens=False, **options)) == shown["generated_text"]

    def test_streamers_and_dicts(self, model: Any) -> None:
        with pytest.raises(InputError, match="streamer must have the methods put and end"):
            model.generate([PROMPT], streamer=3)
        with pytest.raises(InputError, match=r"generate\(\*\*inputs\)"):
            model.generate({"input_ids": [PROMPT]})


def test_which_functions_want_torch() -> None:
    class Own(LogitsProcessor):
        pass

    class Stop(StoppingCriteria):
        pass

    class Changed(TopKLogitsWarper):
        pass

    for function in (Own(), Stop(), print):
        assert wants_torch(function, by_default=True)
        assert not wants_torch(function, by_default=False)
    for function in (Changed(3), TopKLogitsWarper(3), MaxLengthCriteria(3)):
        assert not wants_torch(function, by_default=True)
