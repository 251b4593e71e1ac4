"""The options of generation, and what the loops make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu import AutoModelForCausalLM, GPTBigCodeForCausalLM
from gptbigcode_cpu.engine.prefill import CHUNK_TOKENS, _chunks
from gptbigcode_cpu.engine.rows import RowsDecoding
from gptbigcode_cpu.errors import ConfigError, ContextLengthError, FormatError, InputError, ModelNotFoundError
from gptbigcode_cpu.generation import GenerationConfig
from gptbigcode_cpu.tokenizer import AutoTokenizer

PROMPTS = ["def fibonacci(n):", "import os\nimport sys\n\n", "class A:"]
NO_END: dict[str, Any] = {"eos_token_id": []}


@pytest.fixture(scope="module")
def model(converted: Callable[[str], Path]) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(converted("int8"))


@pytest.fixture(scope="module")
def prompts(checkpoint_dir: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    return [tokenizer.encode(text) for text in PROMPTS]


def padded(rows: list[list[int]], side: str, filler: int = 7) -> dict[str, Any]:
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        gap = width - len(row)
        left, right = (gap, 0) if side == "left" else (0, gap)
        ids.append([filler] * left + row + [filler] * right)
        mask.append([0] * left + [1] * len(row) + [0] * right)
    return {"input_ids": np.array(ids), "attention_mask": np.array(mask)}


def new_tokens(model: GPTBigCodeForCausalLM, prompt: list[int], **options: Any) -> list[int]:
    output = model.generate([prompt], **options)
    assert output[0, : len(prompt)].tolist() == prompt
    tail: list[int] = output[0, len(prompt) :].tolist()
    return tail


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokens": 0},
            {"max_new_tokens": -1},
            {"max_new_tokens": 1.5},
            {"max_new_tokens": True},
            {"max_length": 0},
            {"min_new_tokens": -1},
            {"num_return_sequences": 0},
            {"do_sample": "yes"},
            {"temperature": 0.0},
            {"temperature": -1.0},
            {"temperature": float("nan")},
            {"temperature": float("inf")},
            {"temperature": "hot"},
            {"top_k": -1},
            {"top_p": 0.0},
            {"top_p": 1.1},
            {"min_p": -0.1},
            {"repetition_penalty": 0},
            {"seed": -1},
            {"seed": 2**64},
            {"eos_token_id": "a"},
            {"eos_token_id": [0, -2]},
            {"pad_token_id": -1},
            {"logit_bias": {-1: 0.0}},
            {"logit_bias": {1: float("nan")}},
            {"logit_bias": {1: "much"}},
            {"logit_bias": {1: float("inf")}},
            {"logit_bias": [1.0]},
        ],
    )
    def test_bad_values(self, options: dict[str, Any]) -> None:
        (name,) = options
        with pytest.raises(InputError, match=name):
            GenerationConfig(**options)

    def test_numpy_numbers_are_numbers(self) -> None:
        config = GenerationConfig(max_new_tokens=np.int64(3), temperature=np.float32(0.5), do_sample=np.True_)  # type: ignore[arg-type]
        assert config.max_new_tokens == 3

    def test_unknown_names_are_answered_with_the_nearest(self, model: GPTBigCodeForCausalLM) -> None:
        with pytest.raises(InputError, match="'max_new_token'; did you mean 'max_new_tokens'"):
            model.generate([[1]], max_new_token=3)
        with pytest.raises(InputError, match=r"'frobnicate'$"):
            model.generate([[1]], frobnicate=3)

    def test_options_of_transformers_may_have_their_neutral_value_only(self, model: GPTBigCodeForCausalLM) -> None:
        assert model.generate([[1]], num_beams=1, use_cache=True, max_new_tokens=1).shape == (1, 2)
        with pytest.raises(InputError, match="penalty_alpha is not supported: transformers 5 has removed it"):
            model.generate([[1]], penalty_alpha=0.6)

    def test_later_sources_win(self, model: GPTBigCodeForCausalLM) -> None:
        config = GenerationConfig(max_new_tokens=3, temperature=0.5)
        resolved = model.resolve_options(config, {"max_new_tokens": 4})
        assert (resolved.max_new_tokens, resolved.temperature, resolved.top_k) == (4, 0.5, 50)
        assert resolved.eos_token_ids == (0,)  # the model's own
        assert model.resolve_options(config, {"eos_token_id": None}).eos_token_ids == ()
        with pytest.raises(InputError, match="GenerationConfig"):
            model.generate([[1]], {"max_new_tokens": 3})  # type: ignore[arg-type]

    def test_a_later_max_length_replaces_an_earlier_max_new_tokens(self, model: GPTBigCodeForCausalLM) -> None:
        config = GenerationConfig(max_new_tokens=30)
        assert model.generate([[5] * 4], config, max_length=10, **NO_END).shape == (1, 10)
        assert model.generate([[5] * 4], GenerationConfig(max_length=10), max_new_tokens=3, **NO_END).shape == (1, 7)

    def test_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match=r"no generation_config\.json"):
            GenerationConfig.from_pretrained(tmp_path)
        path = tmp_path / "generation_config.json"
        content = {"eos_token_id": [0, 5], "pad_token_id": -1, "transformers_version": "5.0", "temperature": 0.2}
        path.write_text(json.dumps(content))
        assert GenerationConfig.from_pretrained(tmp_path) == GenerationConfig(eos_token_id=[0, 5], temperature=0.2)
        path.write_text(json.dumps(content | {"dola_layers": "low", "num_beam_groups": 1}))
        config = GenerationConfig.from_pretrained(tmp_path, top_k=3)
        assert (config.top_k, config.carried["dola_layers"]) == (3, "low")
        with pytest.raises(InputError, match="dola_layers"):  # kept in a file, refused when it would matter
            config.check()
        for bad in ("{", "[]"):
            path.write_text(bad)
            with pytest.raises(ConfigError, match="generation_config"):
                GenerationConfig.from_pretrained(tmp_path)


@given(lengths=st.lists(st.integers(1, 1300), max_size=8))
def test_chunks_cover_every_token_once(lengths: list[int]) -> None:
    calls = list(_chunks(lengths))
    sizes = [sum(stop - start for _, start, stop in parts) for parts in calls]
    assert all(size == CHUNK_TOKENS for size in sizes[:-1])
    assert all(0 < size <= CHUNK_TOKENS for size in sizes)
    seen = [(i, position) for parts in calls for i, start, stop in parts for position in range(start, stop)]
    assert seen == [(i, position) for i, length in enumerate(lengths) for position in range(length)]
    assert all(len({i for i, _, _ in parts}) == len(parts) for parts in calls)  # a cache appears once per call


class TestLengths:
    def test_twenty_new_tokens_by_default(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        assert len(new_tokens(model, prompts[0], **NO_END)) == 20

    def test_max_length_counts_the_prompt(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        assert model.generate([prompts[0]], max_length=30, **NO_END).shape == (1, 30)
        with pytest.raises(InputError, match="max_length"):
            model.generate([prompts[0]], max_length=len(prompts[0]))

    def test_max_new_tokens_wins(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        assert len(new_tokens(model, prompts[0], max_length=100, max_new_tokens=3, **NO_END)) == 3

    def test_no_token_to_choose(self, model: GPTBigCodeForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
        nothing = dict.fromkeys(range(model.config.vocab_size), -np.inf)
        with pytest.raises(InputError, match="every token is excluded"):
            model.generate([[5]], logit_bias=nothing)
        broken = np.full((1, model.config.vocab_size), np.nan, dtype=np.float32)
        begin = RowsDecoding._begin

        def begin_broken(self: RowsDecoding, ready: Sequence[Any]) -> None:
            for prefill in ready:
                prefill.logits = broken
            begin(self, ready)

        monkeypatch.setattr(RowsDecoding, "_begin", begin_broken)
        with pytest.raises(FormatError, match="NaN"):
            model.generate([[5]])

    def test_context_length(self, make_checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path: Path) -> None:
        small = AutoModelForCausalLM.from_pretrained(converted("float32", make_checkpoint(tmp_path, n_positions=32)))
        prompt = [10] * 22
        assert small.generate([prompt], max_new_tokens=11, **NO_END).shape == (1, 33)  # the last token needs no position
        with pytest.raises(ContextLengthError, match="22 prompt tokens and 12 new ones exceed the model's 32 positions"):
            small.generate([prompt], max_new_tokens=12)
        assert small.generate([[10] * 30], **NO_END).shape == (1, 32)  # the default of 20 gives way
        assert small.generate([[10] * 32], **NO_END).shape == (1, 33)
        with pytest.raises(ContextLengthError):
            small.generate([[10] * 33])
        # Only tokens count: padding needs no positions.
        ids = np.full((1, 40), 10)
        mask = np.zeros((1, 40), dtype=np.int64)
        mask[0, -5:] = 1
        assert small.generate(ids, attention_mask=mask, max_new_tokens=3, **NO_END).shape == (1, 43)


class TestGreedy:
    def test_takes_the_best_token_each_time(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        ids = list(prompts[0])
        for _ in range(12):
            ids.append(int(model([ids]).logits[0, -1].argmax()))
        assert new_tokens(model, prompts[0], max_new_tokens=12, **NO_END) == ids[len(prompts[0]) :]

    def test_options_of_sampling_do_nothing(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        plain = new_tokens(model, prompts[0])
        assert new_tokens(model, prompts[0], temperature=5.0, top_p=0.5, seed=3) == plain

    def test_logit_bias(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        assert new_tokens(model, prompts[0], logit_bias={77: 1e4}, max_new_tokens=3) == [77] * 3
        best = new_tokens(model, prompts[0], max_new_tokens=1)[0]
        assert new_tokens(model, prompts[0], logit_bias={best: float("-inf")}, max_new_tokens=1)[0] != best
        with pytest.raises(InputError, match="8192"):
            model.generate([prompts[0]], logit_bias={8192: 1.0})

    def test_repetition_penalty_reads_prompt_and_output(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        output = new_tokens(model, prompts[0], repetition_penalty=1e6, max_new_tokens=30, **NO_END)
        assert len(set(output)) == 30
        assert not set(output) & set(prompts[0])


class TestEnd:
    def end_token(self, model: GPTBigCodeForCausalLM, prompt: list[int]) -> tuple[list[int], int, int]:
        """Free greedy output, a token in it, and where that appears first."""
        free = new_tokens(model, prompt, max_new_tokens=12, **NO_END)
        where = max(free.index(token) for token in free)
        assert where > 0
        return free, free[where], where

    def test_stops_after_the_end_token(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        free, end, where = self.end_token(model, prompts[0])
        assert new_tokens(model, prompts[0], max_new_tokens=12, eos_token_id=end) == free[: where + 1]
        assert new_tokens(model, prompts[0], max_new_tokens=12, eos_token_id=[8000, end]) == free[: where + 1]
        assert new_tokens(model, prompts[0], max_new_tokens=12, eos_token_id=-1) == free

    def test_min_new_tokens_holds_the_end_back(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        free, end, where = self.end_token(model, prompts[0])
        options: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": [end, 10**6]}
        assert new_tokens(model, prompts[0], min_new_tokens=where, **options) == free[: where + 1]
        output = new_tokens(model, prompts[0], min_new_tokens=where + 1, **options)
        assert output[:where] == free[:where]
        assert len(output) > where + 1
        assert end not in output[: where + 1]

    @pytest.mark.parametrize(("options", "filler"), [({}, None), ({"pad_token_id": 99}, 99)])
    def test_finished_rows_are_filled(
        self, model: GPTBigCodeForCausalLM, prompts: list[list[int]], options: dict[str, Any], filler: int | None
    ) -> None:
        free, end, where = self.end_token(model, prompts[0])
        others = [prompt for prompt in prompts if end not in new_tokens(model, prompt, max_new_tokens=12, **NO_END)]
        assert others
        batch = padded([prompts[0], others[0]], "left")
        output = model.generate(**batch, max_new_tokens=12, eos_token_id=end, **options)[:, batch["input_ids"].shape[1] :]
        assert output[0].tolist() == free[: where + 1] + [end if filler is None else filler] * (11 - where)
        assert output[1].tolist() == new_tokens(model, others[0], max_new_tokens=12, **NO_END)


class TestBatches:
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 5}, {"repetition_penalty": 1.3}])
    def test_rows_equal_single_runs(
        self, model: GPTBigCodeForCausalLM, prompts: list[list[int]], side: str, options: dict[str, Any]
    ) -> None:
        batch = padded(prompts, side)
        width = batch["input_ids"].shape[1]
        output = model.generate(**batch, max_new_tokens=10, **NO_END, **options)
        assert output.dtype == np.int64
        assert np.array_equal(output[:, :width], batch["input_ids"])
        if not options.get("do_sample"):
            singles = [new_tokens(model, prompt, max_new_tokens=10, **NO_END, **options) for prompt in prompts]
            assert output[:, width:].tolist() == singles
        else:  # a row keeps its place, whatever the other rows are
            changed = padded([prompts[0], prompts[0], prompts[2]], side)
            again = model.generate(**changed, max_new_tokens=10, **NO_END, **options)[:, changed["input_ids"].shape[1] :]
            assert again[[0, 2]].tolist() == output[[0, 2], width:].tolist()
            assert output[0, width:].tolist() == new_tokens(model, prompts[0], max_new_tokens=10, **NO_END, **options)

    def test_pad_token_implies_the_mask(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        batch = padded(prompts, "left", filler=4)
        given = model.generate(**batch, max_new_tokens=5, pad_token_id=4)
        implied = model.generate(batch["input_ids"], max_new_tokens=5, pad_token_id=4)
        assert np.array_equal(given, implied)

    def test_num_return_sequences(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        batch = padded(prompts[:2], "left")
        options: dict[str, Any] = {"do_sample": True, "seed": 1, "max_new_tokens": 8, **NO_END}
        output = model.generate(**batch, num_return_sequences=3, **options)
        assert output.shape == (6, batch["input_ids"].shape[1] + 8)
        assert np.array_equal(output[:, :-8], np.repeat(batch["input_ids"], 3, axis=0))
        assert len({tuple(row) for row in output[:3].tolist()}) == 3
        # The copies share the cache of the prompt, and must not disturb each other.
        width = batch["input_ids"].shape[1]
        logits = model(output[1:2], attention_mask=np.ones_like(output[1:2]) * (output[1:2] != 7)).logits
        assert np.isfinite(logits).all()
        assert output[0, width:].tolist() == new_tokens(model, prompts[0], **options)

    def test_greedy_copies_are_equal(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        output = model.generate([prompts[0]], num_return_sequences=3, max_new_tokens=70, **NO_END)
        single = new_tokens(model, prompts[0], max_new_tokens=70, **NO_END)
        assert output[:, len(prompts[0]) :].tolist() == [single] * 3


class TestSampling:
    def test_seed_repeats(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        def draw(seed: int | None) -> list[int]:
            return new_tokens(model, prompts[0], do_sample=True, seed=seed, max_new_tokens=16, **NO_END)

        assert draw(11) == draw(11)
        assert draw(11) != draw(12)
        assert draw(None) != draw(None)

    def test_identical_rows_differ(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        output = model.generate([prompts[0]] * 4, do_sample=True, seed=0, max_new_tokens=16, **NO_END)
        assert len({tuple(row) for row in output.tolist()}) == 4

    @pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}])
    def test_narrow_sampling_is_greedy(
        self, model: GPTBigCodeForCausalLM, prompts: list[list[int]], options: dict[str, Any]
    ) -> None:
        greedy = new_tokens(model, prompts[0], max_new_tokens=10)
        assert new_tokens(model, prompts[0], max_new_tokens=10, do_sample=True, **options) == greedy

    def test_top_k_bounds_the_choice(self, model: GPTBigCodeForCausalLM, prompts: list[list[int]]) -> None:
        best = set(np.argsort(model([prompts[0]]).logits[0, -1])[-3:].tolist())
        options: dict[str, Any] = {"do_sample": True, "top_k": 3, "temperature": 100.0, "max_new_tokens": 1, "seed": 0}
        drawn = model.generate([prompts[0]], num_return_sequences=64, **options)[:, -1]
        assert set(drawn.tolist()) == best
