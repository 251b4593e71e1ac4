"""Arguments of `generate` that are objects (processors, criteria), what it returns, and `score`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gptbigcode_cpu import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    TopKLogitsWarper,
    _core,
    pipeline,
)
from gptbigcode_cpu.engine.logits import processors as p
from gptbigcode_cpu.engine.logits import warpers as w
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.generation.chain import build_chain
from gptbigcode_cpu.generation.requests import build_request

PROMPT = [7, 8, 9, 10]
BATCH: dict[str, Any] = {"inputs": [[4, 4, 7, 8], [20, 21, 22, 23], [4, 30, 31, 32]]}
BATCH["attention_mask"] = (np.array(BATCH["inputs"]) != 4).astype(int)
OPTIONS: dict[str, Any] = {"max_new_tokens": 10, "eos_token_id": [], "pad_token_id": 4}


@pytest.fixture(scope="module")
def directory(converted: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Path:
    return converted("float32", make_checkpoint(tmp_path_factory.mktemp("call") / "model", seed=8))


@pytest.fixture(scope="module")
def model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory)


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory)


def favour(token: int) -> Callable[[Any, Any], Any]:
    def processor(input_ids: Any, scores: Any) -> Any:
        scores[:, token] = 1e4
        return scores

    return processor


class TestLogitsProcessor:
    def test_sees_the_whole_batch_every_time(self, model: Any) -> None:
        seen: list[Any] = []

        def processor(input_ids: Any, scores: Any) -> Any:
            seen.append((input_ids.copy(), scores.shape))
            return scores

        eos = model.generate(**BATCH, **OPTIONS)[0, 6]
        output = model.generate(**BATCH, **{**OPTIONS, "eos_token_id": int(eos)}, logits_processor=[processor])
        assert output.tolist() == model.generate(**BATCH, **{**OPTIONS, "eos_token_id": int(eos)}).tolist()
        for step, (ids, shape) in enumerate(seen):
            assert ids.dtype == np.int64
            assert ids.tolist() == output[:, : 4 + step].tolist()
            assert shape == (3, 272)

    def test_comes_before_sampling_and_after_the_options(self, model: Any) -> None:
        assert model.generate([PROMPT], **OPTIONS, logits_processor=[favour(70)])[0, 4:].tolist() == [70] * 10
        options = {**OPTIONS, "do_sample": True, "top_k": 1, "seed": 0}
        assert model.generate([PROMPT], **options, logits_processor=[favour(70)])[0, 4:].tolist() == [70] * 10
        order = LogitsProcessorList([favour(70), lambda ids, scores: scores * (np.arange(272) != 70)])
        assert 70 not in model.generate([PROMPT], **OPTIONS, logits_processor=order)[0, 4:]
        # An option excludes what comes before; the function of the caller has the last word.
        output = model.generate([PROMPT], **OPTIONS, suppress_tokens=[70], logits_processor=[favour(70)])
        assert output[0, 4:].tolist() == [70] * 10

    @pytest.mark.parametrize(
        "warper", [w.TemperatureLogitsWarper(2.0), w.TopKLogitsWarper(50), w.TopPLogitsWarper(0.99), w.MinPLogitsWarper(0.01)]
    )
    def test_a_warper_of_the_caller_draws_nothing_in_a_greedy_call(self, model: Any, warper: Any) -> None:
        expected = model.generate([PROMPT], **OPTIONS)
        for _ in range(3):
            assert np.array_equal(model.generate([PROMPT], logits_processor=[warper], **OPTIONS), expected)

    def test_takes_the_place_of_its_class(self, model: Any) -> None:
        plain = model.generate([PROMPT], **OPTIONS)[0, 4:].tolist()
        own = p.SuppressTokensLogitsProcessor([plain[0]])
        both = model.generate([PROMPT], **OPTIONS, suppress_tokens=[plain[5]], logits_processor=[own])
        assert both.tolist() == model.generate([PROMPT], **OPTIONS, suppress_tokens=[plain[0]]).tolist()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ([3], "a logits processor is a function"),
            (3, "must be a list"),
            ([lambda ids, scores: scores[:, :5]], r"must return floating-point scores of the shape \[1, 272\]"),
            ([lambda ids, scores: None], "must return"),
            ([lambda ids, scores, extra: scores], "needs extra"),
            ([lambda ids, scores: np.full_like(scores, -np.inf)], "no token can be chosen"),
        ],
    )
    def test_mistakes(self, model: Any, wrong: Any, message: str) -> None:
        for options in ({}, {"do_sample": True}):
            with pytest.raises(InputError, match=message):
                model.generate([PROMPT], **OPTIONS, **options, logits_processor=wrong)

    def test_subclasses_must_do_something(self) -> None:
        with pytest.raises(NotImplementedError):
            LogitsProcessor()(np.zeros((1, 1), dtype=np.int64), np.zeros((1, 3), dtype=np.float32))

    def test_prefix_function(self, model: Any) -> None:
        seen = set()

        def allowed(prompt: int, ids: Any) -> list[int]:
            seen.add(prompt)
            return [50 + prompt, 60 + len(ids)]

        for options in ({}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}, {"prompt_lookup_num_tokens": 4}):
            seen.clear()
            output = model.generate(**BATCH, **OPTIONS, prefix_allowed_tokens_fn=allowed, **options)
            assert seen == {0, 1, 2}
            rows = len(output) // 3
            for row, ids in enumerate(output.tolist()):
                assert all(token in (50 + row // rows, 60 + place) for place, token in enumerate(ids) if place >= 4)
        with pytest.raises(InputError, match="allows no token for prompt 0"):
            model.generate([PROMPT], prefix_allowed_tokens_fn=lambda prompt, ids: [])


class TestStopping:
    def test_criteria_of_the_caller(self, model: Any) -> None:
        plain = model.generate([PROMPT], **OPTIONS)[0].tolist()

        def long_enough(input_ids: Any, scores: Any) -> Any:
            assert scores is None
            return np.full(len(input_ids), input_ids.shape[1] >= 9)

        assert model.generate([PROMPT], **OPTIONS, stopping_criteria=[long_enough])[0].tolist() == plain[:9]
        assert list(model.stream(PROMPT, **OPTIONS, stopping_criteria=[long_enough])) == plain[4:9]

        class Scored(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any = None) -> Any:
                return [len(scores) == 3] * len(input_ids)

        wanted: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True}
        output = model.generate(**BATCH, **OPTIONS, **wanted, stopping_criteria=StoppingCriteriaList([Scored()]))
        assert output.sequences.shape == (3, 7)
        with pytest.raises(InputError, match="one truth value per row"):
            model.generate(**BATCH, **OPTIONS, stopping_criteria=[lambda ids, scores: np.zeros(2, dtype=bool)])

    def test_rows_stop_alone(self, model: Any) -> None:
        plain = model.generate(**BATCH, **OPTIONS)
        stop = lambda ids, scores: np.array([ids.shape[1] >= 6, False, ids.shape[1] >= 8])  # noqa: E731
        output = model.generate(**BATCH, **OPTIONS, stopping_criteria=[stop])
        assert output[0].tolist() == [*plain[0, :6].tolist(), *[4] * 8]
        assert output[1].tolist() == plain[1].tolist()
        assert output[2].tolist() == [*plain[2, :8].tolist(), *[4] * 6]

    def test_max_length_criterion_decides(self, model: Any) -> None:
        assert model.generate([PROMPT], eos_token_id=[], stopping_criteria=[MaxLengthCriteria(50)]).shape == (1, 50)
        with pytest.raises(ContextLengthError):
            model.generate([PROMPT], stopping_criteria=[MaxLengthCriteria(500)])

    def test_time(self, model: Any) -> None:
        def slow(input_ids: Any, scores: Any) -> Any:
            time.sleep(0.02)
            return scores

        output = model.generate([PROMPT], **{**OPTIONS, "max_new_tokens": 60}, max_time=0.1, logits_processor=[slow])
        assert 5 <= output.shape[1] < 30

    def test_stop_strings_end_in_the_middle_of_tokens_and_begin_in_the_prompt(self, tokenizer: Any) -> None:
        criterion = StopStringCriteria(tokenizer, ["stop", "é!", "a longer text"])
        ids = lambda text: np.array([tokenizer.encode(text)])  # noqa: E731
        for text, expected in (("st", False), ("stop", True), ("nonstop", True), ("stop ", False), ("é!", True), ("é", False)):
            assert criterion(ids(text)).tolist() == [expected], text

    def test_stop_strings_with_a_tokenizer_of_transformers(self, model: Any, tokenizer: Any) -> None:
        # Theirs has its object of the tokenizers library under another name; `backend` is the name of a kind.
        theirs = SimpleNamespace(backend="tokenizers", backend_tokenizer=tokenizer.backend)
        new = model.generate([PROMPT], **OPTIONS)[0, len(PROMPT) :]
        for stops in (tokenizer.decode(new[2:4]), [tokenizer.decode(new[2:4]), "another"]):
            right = model.generate([PROMPT], stop_strings=stops, tokenizer=tokenizer, **OPTIONS)
            assert right.shape[1] < len(PROMPT) + len(new)
            assert np.array_equal(model.generate([PROMPT], stop_strings=stops, tokenizer=theirs, **OPTIONS), right)
            assert [*model.stream([PROMPT], stop_strings=stops, tokenizer=theirs, **OPTIONS)] == right[
                0, len(PROMPT) :
            ].tolist()

    def test_stop_strings_need_a_tokenizer(self, model: Any) -> None:
        with pytest.raises(InputError, match="stop_strings needs the tokenizer"):
            model.generate([PROMPT], stop_strings=["a"])
        with pytest.raises(InputError, match="stop_strings needs the tokenizer"):
            model.stream(PROMPT, stop_strings=["a"])  # at the call, not at the first token
        with pytest.raises(InputError, match="tokenizer must be"):
            model.generate([PROMPT], stop_strings=["a"], tokenizer="model")

    def test_pipeline_stops(self) -> None:
        pipe = pipeline(model="demo")
        (result,) = pipe("def fibonacci(n):", stop_strings=["\n"], do_sample=False, return_full_text=False, max_new_tokens=30)
        assert result["generated_text"].count("\n") == 1
        (longer,) = pipe("def fibonacci(n):", do_sample=False, return_full_text=False, max_new_tokens=30)
        assert longer["generated_text"].startswith(result["generated_text"])
        assert longer["generated_text"].count("\n") > 1


class TestOutput:
    @pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.2}])
    def test_scores_and_logits(self, model: Any, options: dict[str, Any]) -> None:
        wanted: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
        eos = [int(model.generate(**BATCH, **OPTIONS, **options)[0, 6])]
        plain = model.generate(**BATCH, **{**OPTIONS, "eos_token_id": eos}, **options)
        output = model.generate(**BATCH, **{**OPTIONS, "eos_token_id": eos}, **options, **wanted)
        assert output["sequences"] is output.sequences is output[0]
        assert [*output] == ["sequences", "scores", "logits", "past_key_values"]
        assert output.sequences.tolist() == plain.tolist()  # what is returned changes no token
        assert len(output.scores) == len(output.logits) == plain.shape[1] - 4
        step = 2
        mask = np.concatenate([BATCH["attention_mask"], np.ones((3, step), dtype=int)], axis=1)
        logits = model(plain[:, : 4 + step], attention_mask=mask).logits[:, -1]
        assert np.array_equal(output.logits[step], logits)
        chosen = output.scores[step][np.arange(3), plain[:, 4 + step]]
        assert np.isfinite(chosen).all()
        if not options:
            assert np.array_equal(output.scores[step], logits)
        scores = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        assert scores.shape == (3, plain.shape[1] - 4)
        assert scores[1, step] == p.log_softmax(output.scores[step])[1, plain[1, 4 + step]]

    def test_transition_scores_of_beams_add_up(self, model: Any) -> None:
        wanted: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True, "length_penalty": 1.0}
        output = model.generate(**BATCH, **OPTIONS, num_beams=3, num_return_sequences=2, **wanted)
        scores = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
        np.testing.assert_allclose(scores.sum(axis=1) / 10, output.sequences_scores, rtol=1e-5)
        with pytest.raises(InputError, match="output_scores"):
            model.compute_transition_scores(output.sequences, ())

    def test_beams_go_on_if_the_best_tokens_all_end_them(self, model: Any) -> None:
        likely = dict.fromkeys(range(70, 74), 50.0)
        wanted: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 10}
        wanted |= {"early_stopping": "never", "length_penalty": 2.0, "renormalize_logits": True}
        wanted["eos_token_id"] = [*likely]
        assert len(model.generate([PROMPT], num_beams=2, logit_bias=likely, **wanted).logits) > 1

    def test_beams_differ_and_have_no_streamer(self, model: Any) -> None:
        with pytest.raises(InputError, match="streamer"):
            model.generate([PROMPT], num_beams=2, streamer=Recorder())
        assert len({*map(tuple, model.generate([PROMPT], num_beams=4, num_return_sequences=4, **OPTIONS).tolist())}) == 4

    def test_beam_sampling_repeats(self, model: Any) -> None:
        options: dict[str, Any] = {**OPTIONS, "num_beams": 3, "do_sample": True, "temperature": 2.0, "top_k": 0}
        first, again, other = (model.generate(**BATCH, **options, seed=seed).tolist() for seed in (1, 1, 2))
        assert first == again
        assert first != other
        with pytest.raises(InputError, match="beam sampling needs 6 tokens"):
            model.generate([PROMPT], num_beams=3, do_sample=True, top_k=1, prefix_allowed_tokens_fn=lambda *_: [5])

    def test_best_beam_is_at_least_as_good_as_greedy(self, model: Any) -> None:
        for beams in (2, 5):
            best = model.generate([PROMPT], num_beams=beams, **OPTIONS)
            greedy = model.generate([PROMPT], **OPTIONS)
            assert model.score(best)[0].loglikelihood(4)[0] >= model.score(greedy)[0].loglikelihood(4)[0] - 1e-4

    def test_without_a_prompt_the_bos_token_is_one(self, model: Any) -> None:
        assert model.generate(max_new_tokens=2, eos_token_id=[])[0, 0] == 0
        with pytest.raises(InputError, match="bos_token_id"):
            model.generate(bos_token_id=None)
        with pytest.raises(InputError, match="two names"):
            model.generate([[1]], input_ids=[[1]])

    def test_changed_defaults_hold(self, directory: Path) -> None:
        fresh = AutoModelForCausalLM.from_pretrained(directory)
        fresh.generation_config.max_new_tokens = 3
        assert fresh.generate([PROMPT], eos_token_id=[]).shape == (1, 7)
        with pytest.raises(InputError, match="max_new_tokens"):
            fresh.generation_config.max_new_tokens = 0
        with pytest.raises(InputError, match="did you mean 'top_k'"):
            fresh.generation_config.topk = 3


class Recorder:
    def put(self, value: Any) -> None: ...
    def end(self) -> None: ...


class TestScheduling:
    @pytest.mark.parametrize("max_rows", [1, 2, 3, None])
    def test_rows_that_run_together_change_nothing(self, model: Any, max_rows: int | None) -> None:
        prompts = [model.prompt([6 + i] * (1 + 5 * i)) for i in range(5)]
        config = model.resolve_options(None, {"do_sample": True, "seed": 4, "eos_token_id": [], "num_return_sequences": 2})
        limits = [3, 9, 1, 5, 7]
        sizes = []
        rows: list[list[int]] = [[] for _ in range(10)]
        request = build_request(model, prompts, limits, config, max_rows=max_rows)
        for step in model.engine.steps(model.engine.submit(request, collects=True)):
            sizes.append(len(step))
            for row, tokens in step.items():
                rows[row] += tokens
        assert [len(row) for row in rows] == [n for n in limits for _ in range(2)]
        assert max(sizes) <= max(max_rows or 10, 2)
        assert rows == model.continuations(prompts, limits, config)
        request = build_request(model, prompts[1:2], [9], config, first_row=2)
        assert model.engine.run([request])[0][0] == rows[2]


class TestScore:
    def test_log_probabilities(self, model: Any, tokenizer: Any) -> None:
        text = "def é():\n"
        (result,) = model.score(text, tokenizer, top_logprobs=3)
        ids = tokenizer.encode(text)
        assert result.token_ids.tolist() == ids
        logits = model([ids]).logits[0].astype(np.float64)
        exact = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert np.isnan(result.logprobs[0])
        np.testing.assert_allclose(result.logprobs[1:], exact[np.arange(len(ids) - 1), ids[1:]], atol=1e-5)
        assert result.top_token_ids[1:].tolist() == np.argsort(-exact[:-1], axis=1)[:, :3].tolist()
        assert result.is_greedy[1:].tolist() == (exact[:-1].argmax(axis=1) == ids[1:]).tolist()
        assert "".join(result.tokens).startswith("def ")
        # The two bytes of é are two tokens of this tokenizer, at one place of the text.
        assert [text[i] for i in result.text_offsets] == ["d", "e", "f", " ", "é", "é", "(", ")", ":", "\n"]

    def test_greedy_is_exactly_the_first_of_the_best(self, model: Any) -> None:
        ids = model.generate([PROMPT], **OPTIONS)
        (result,) = model.score(ids, top_logprobs=1)
        assert result.is_greedy[4:].all()
        assert np.array_equal(result.logprobs[4:], result.top_logprobs[4:, 0])
        assert result.loglikelihood(4)[1]
        assert result.loglikelihood(4)[0] == pytest.approx(float(result.logprobs[4:].sum()), rel=1e-6)

    def test_prefix_and_batches(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        texts = [[5, 6, 7], [8], [9] * 40, [10, 11]]
        results = model.score(texts, prefix_token_id=0)
        assert [len(result.token_ids) for result in results] == [3, 1, 40, 2]
        assert not any(np.isnan(result.logprobs).any() for result in results)
        (with_prefix,) = model.score([[0, 5, 6, 7]])
        assert np.array_equal(results[0].logprobs, with_prefix.logprobs[1:])
        monkeypatch.setattr("gptbigcode_cpu.generation.scoring._BATCH_TOKENS", 5)
        for one, other in zip(results, model.score(texts, prefix_token_id=0), strict=True):
            assert np.array_equal(one.logprobs, other.logprobs)

    def test_mistakes(self, model: Any) -> None:
        with pytest.raises(InputError, match="need the tokenizer"):
            model.score(["text"])
        with pytest.raises(ContextLengthError, match="text 1 has 97 tokens with its prefix"):
            model.score([[1], [1] * 96], prefix_token_id=0)
        with pytest.raises(InputError, match="top_logprobs"):
            model.score([[1]], top_logprobs=273)
        with pytest.raises(InputError, match="empty"):
            model.score([[]])
        with pytest.raises(InputError, match="start must be"):
            model.score([[1, 2]])[0].loglikelihood(2)
        assert model.score([]) == []


class TestConfig:
    def test_round_trip(self, tmp_path: Path) -> None:
        config = GenerationConfig(
            num_beams=3, sequence_bias={(1, 2): -1.0}, eos_token_id=[1, 2], length_penalty=0.5, logit_bias={3: 1.0}
        )
        config.carried["transformers_version"] = "5.0"
        config.save_pretrained(tmp_path)
        again = GenerationConfig.from_pretrained(tmp_path)
        content = json.loads((tmp_path / "generation_config.json").read_text())
        assert content["transformers_version"] == "5.0"
        assert content["sequence_bias"] == [[[1, 2], -1.0]]
        assert (again.num_beams, again.eos_token_ids, again.logit_bias) == (3, (1, 2), {3: 1.0})
        assert GenerationConfig.from_dict(config.to_dict()) == config
        assert "top_k" not in config.to_diff_dict()
        assert config.to_dict()["top_k"] is None

    def test_update_returns_the_rest(self) -> None:
        config = GenerationConfig(top_k=5)
        assert config.update(top_k=6, attention_mask=1) == {"attention_mask": 1}
        assert config.update(defaults_only=True, top_k=7, top_p=0.5) == {}
        assert (config.top_k, config.top_p) == (6, 0.5)
        with pytest.raises(InputError, match="top_p"):
            config.update(top_k=1, top_p=7)
        assert config.top_k == 6

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_beams": 2, "num_return_sequences": 3}, "more than the 2 beams"),
            ({"forced_eos_token_id": [1, 2], "suppress_tokens": [1, 2, 3]}, "forced_eos_token_id and suppress_tokens"),
            ({"num_beams": 2, "guidance_scale": 2.0}, "guidance_scale is not supported with num_beams"),
            ({"exponential_decay_length_penalty": (1, 1.1), "eos_token_id": []}, "needs an eos_token_id"),
            ({"bad_words_ids": [[1, 999]]}, "bad_words_ids names token 999"),
            ({"negative_prompt_ids": [[1]]}, "no effect without guidance_scale"),
            ({"guidance_scale": 2.0, "negative_prompt_ids": [[1], [2]]}, "2 rows and the prompt 1"),
            ({"output_attentions": True}, "output_attentions is not supported"),
            ({"cache_implementation": "static"}, "cache_implementation is not supported"),
            ({"custom_generate": "repository"}, "custom_generate is not supported"),
            ({"watermarking_config": {}}, "watermarking_config is not supported"),
            ({"cache_implementation": "static"}, "cache_implementation is not supported"),
            ({"num_beam_group": 2}, "unknown option 'num_beam_group'"),
        ],
    )
    def test_contradictions(self, model: Any, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            model.generate([PROMPT], **options)

    def test_neutral_values_may_be_passed(self, model: Any) -> None:
        neutral = {"use_cache": True, "penalty_alpha": 0.0, "num_beam_groups": 1, "output_attentions": False}
        neutral |= {"cache_implementation": "dynamic", "disable_compile": True, "synced_gpus": False, "constraints": None}
        assert model.generate([PROMPT], **OPTIONS, **neutral).shape == (1, 14)

    def test_idle_options_are_named(self, model: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
        model.generate([PROMPT], **OPTIONS, top_p=0.5)
        assert "top_p has no effect without do_sample=True" in caplog.text
        with pytest.raises(InputError, match="length_penalty has no effect with num_beams=1"):
            GenerationConfig(length_penalty=2.0).save_pretrained(tmp_path)


def chain_of(**options: Any) -> Any:
    return build_chain(GenerationConfig(**options), 4, 20)


class _Row:
    index, pads, prompt_length = 0, 0, 4


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    options=st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.5, 1.0, 1.7]),
            "top_k": st.sampled_from([0, 1, 3, 9]),
            "top_p": st.sampled_from([0.2, 0.7, 1.0]),
            "min_p": st.sampled_from([0.0, 0.1, 0.6]),
            "repetition_penalty": st.sampled_from([0.6, 1.0, 1.5]),
            "logit_bias": st.sampled_from([{}, {2: 3.0, 5: float("-inf")}]),
        }
    ),
)
def test_the_sampler_and_the_processors_agree(seed: int, options: dict[str, Any]) -> None:
    """What the core's sampler does natively, against the numpy processors that stand for it."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.2, 12).astype(np.float32)
    ids = random.integers(0, 12, 6)
    chain = chain_of(do_sample=True, **options)
    assert chain.is_native
    scores = chain.complete([_Row()], ids[None], logits[None])[0]
    sampler = _core.Sampler(seed=seed, **chain.sampler_options)
    drawn = np.array([sampler.sample(logits, ids.astype(np.int32)) for _ in range(1500)])
    probabilities = p.softmax(scores[None])[0]
    assert {*drawn.tolist()} <= {*np.flatnonzero(probabilities).tolist()}
    frequencies = np.bincount(drawn, minlength=12) / 1500
    assert np.abs(frequencies - probabilities).max() < 6 * np.sqrt(0.25 / 1500)


def test_what_the_sampler_does_natively() -> None:
    assert chain_of(repetition_penalty=1.2).is_native
    assert not chain_of(do_sample=True, typical_p=0.5).is_native
    assert not chain_of(do_sample=True, top_h=0.5, top_k=3).is_native
    half = chain_of(do_sample=True, no_repeat_ngram_size=2, temperature=0.5, top_k=5)
    assert half.sampler_options == {"temperature": 0.5, "top_k": 5}
    assert not half.is_native


finite = hnp.arrays(np.float32, (2, 20), elements=st.floats(-20, 20, width=32))
WARPERS: list[LogitsProcessor] = [
    TopKLogitsWarper(3), w.TopPLogitsWarper(0.6), w.MinPLogitsWarper(0.2), w.TypicalLogitsWarper(0.5),
    w.EpsilonLogitsWarper(0.1), w.EtaLogitsWarper(0.2), w.TopHLogitsWarper(0.5), w.TopHLogitsWarper(0.01),
]  # fmt: skip


@given(scores=finite, which=st.sampled_from(WARPERS))
def test_warpers_only_exclude_and_never_everything(scores: Any, which: LogitsProcessor) -> None:
    ids = np.zeros((2, 3), dtype=np.int64)
    result = which(ids, scores)
    kept = ~np.isneginf(result)
    assert kept.any(axis=1).all()
    assert np.array_equal(result[kept], scores[kept])
    if not isinstance(which, w.TypicalLogitsWarper):  # those keep a set of best tokens
        for row in range(2):
            assert scores[row][kept[row]].min() >= max(scores[row][~kept[row]], default=-np.inf)
    # Rows do not know of each other.
    assert np.array_equal(which(ids[:1], scores[:1]), result[:1])


@given(scores=finite, ids=hnp.arrays(np.int64, (2, 9), elements=st.integers(0, 3)), size=st.integers(1, 5))
def test_no_ngram_comes_twice(scores: Any, ids: Any, size: int) -> None:
    result = p.NoRepeatNGramLogitsProcessor(size)(ids, scores)
    for row in range(2):
        text = ids[row].tolist()
        grams = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
        for token in range(20):
            assert np.isneginf(result[row, token]) == ((*text[len(text) - size + 1 :], token) in grams)


@given(scores=finite, penalty=st.floats(0.1, 5))
def test_repetition_penalty_and_its_inverse(scores: Any, penalty: float) -> None:
    ids = np.array([[1, 1, 2], [3, 3, 3]])
    there = p.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    back = p.RepetitionPenaltyLogitsProcessor(1 / penalty)(ids, there)
    np.testing.assert_allclose(back, scores, rtol=1e-4, atol=1e-30)
    untouched = np.ones((2, 20), dtype=bool)
    untouched[0, [1, 2]] = untouched[1, 3] = False
    assert np.array_equal(there[untouched], scores[untouched])


@given(scores=finite)
def test_normalised_scores_are_log_probabilities(scores: Any) -> None:
    result = p.LogitNormalization()(np.zeros((2, 1), dtype=np.int64), scores)
    np.testing.assert_allclose(np.exp(result.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(p.softmax(scores), np.exp(result), atol=1e-6)


@pytest.fixture(scope="module")
def theirs(directory: Path, make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Iterator[Any]:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    source = make_checkpoint(tmp_path_factory.mktemp("theirs") / "model", seed=8)
    yield transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    torch.set_grad_enabled(before)


SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0.6, "top_k": 20, "top_p": 0.8},
    {"top_k": 0, "min_p": 0.05, "typical_p": 0.7},
    {"top_k": 0, "epsilon_cutoff": 0.01},
    {"top_k": 0, "eta_cutoff": 0.02, "temperature": 1.3},
    {"top_k": 30, "top_h": 0.6},
    {"top_k": 0, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "renormalize_logits": True, "top_p": 0.9},
]


@pytest.mark.live
@pytest.mark.filterwarnings("default")
class TestAgainstTransformers:
    @pytest.mark.parametrize("options", SAMPLERS, ids=str)
    def test_processed_scores_of_sampling(self, model: Any, theirs: Any, options: dict[str, Any]) -> None:
        import torch

        wanted: dict[str, Any] = {**options, "do_sample": True, "max_new_tokens": 1, "pad_token_id": 4}
        wanted |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
        ids, mask = torch.tensor(BATCH["inputs"]), torch.tensor(BATCH["attention_mask"])
        expected = theirs.generate(ids, attention_mask=mask, **wanted)
        actual = model.generate(ids, attention_mask=mask, **wanted, seed=1)
        assert isinstance(actual.scores[0], torch.Tensor)
        np.testing.assert_allclose(actual.logits[0], expected.logits[0], atol=2e-4)
        assert np.array_equal(np.isneginf(actual.scores[0]), np.isneginf(expected.scores[0]))
        np.testing.assert_allclose(actual.scores[0], expected.scores[0], atol=2e-4)

    def test_their_processors_and_criteria_work(self, model: Any, theirs: Any) -> None:
        import torch
        import transformers

        ids = torch.tensor([PROMPT])
        processors = [transformers.NoRepeatNGramLogitsProcessor(2), transformers.SuppressTokensLogitsProcessor([43, 44])]
        criteria = [transformers.MaxLengthCriteria(17)]
        options: dict[str, Any] = {"eos_token_id": None, "pad_token_id": 4, "do_sample": False}
        expected = theirs.generate(ids, logits_processor=processors, stopping_criteria=criteria, **options)
        assert expected.shape == (1, 17)
        for prompt in (ids, ids.numpy(), [PROMPT]):  # whatever the prompt is
            output = model.generate(prompt, logits_processor=processors, stopping_criteria=criteria, **options)
            assert output.tolist() == expected.tolist()

    def test_functions_get_the_kind_of_array_that_the_prompt_is(self, model: Any) -> None:
        import torch

        seen: list[type] = []

        def processor(input_ids: Any, scores: Any) -> Any:
            seen.append(type(scores))
            return scores

        model.generate(torch.tensor([PROMPT]), max_new_tokens=1, logits_processor=[processor])
        model.generate([PROMPT], max_new_tokens=1, logits_processor=[processor])
        assert seen == [torch.Tensor, np.ndarray]

    def test_transition_scores(self, model: Any, theirs: Any) -> None:
        import torch

        ids, mask = torch.tensor(BATCH["inputs"]), torch.tensor(BATCH["attention_mask"])
        options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "pad_token_id": 4, "max_new_tokens": 8}
        options |= {"return_dict_in_generate": True, "output_scores": True, "eos_token_id": [43, 86, 122], "do_sample": False}
        expected = theirs.generate(ids, attention_mask=mask, **options)
        actual = model.generate(ids, attention_mask=mask, **options)
        assert actual.sequences.tolist() == expected.sequences.tolist()
        wanted = theirs.compute_transition_scores(expected.sequences, expected.scores, expected.beam_indices)
        result = model.compute_transition_scores(actual.sequences, actual.scores, actual.beam_indices)
        np.testing.assert_allclose(result, wanted, atol=2e-4)

    def test_their_configuration_is_understood(self, model: Any) -> None:
        import transformers

        config = transformers.GenerationConfig(max_new_tokens=3, eos_token_id=[300], num_beams=2)
        assert model.generate([PROMPT], config).shape == (1, 7)

    def test_they_read_what_is_saved(self, tmp_path: Path) -> None:
        import transformers

        GenerationConfig(num_beams=3, length_penalty=0.5, sequence_bias={(1, 2): -1.0}).save_pretrained(tmp_path)
        config = transformers.GenerationConfig.from_pretrained(tmp_path)
        assert (config.num_beams, config.length_penalty, config.sequence_bias) == (3, 0.5, [[[1, 2], -1.0]])
