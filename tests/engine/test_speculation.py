"""Speculative decoding: guessed tokens change the speed, never the text."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu import _core
from gptbigcode_cpu.engine.drafting import assistant
from gptbigcode_cpu.engine.drafting.pace import Pace
from gptbigcode_cpu.engine.rows import RowsDecoding
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.models.auto import AutoModelForCausalLM
from gptbigcode_cpu.models.causal_lm import GPTBigCodeForCausalLM
from gptbigcode_cpu.tokenizer import AutoTokenizer

OPTIONS: dict[str, Any] = {"max_new_tokens": 60, "eos_token_id": [], "pad_token_id": 4}
TEXTS = [
    "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n\n\ndef add(a, b):\n",
    "import os\nimport os\n",
    "class A:",
]


@pytest.fixture(scope="module")
def model(converted: Callable[[str], Path]) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(converted("int8"))


@pytest.fixture(scope="module")
def draft(converted: Callable[[str], Path]) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(converted("int4"))


@pytest.fixture(scope="module")
def small(
    converted: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path_factory: Any
) -> list[GPTBigCodeForCausalLM]:
    """Two models with few tokens, whose distributions can be compared."""
    sources = [make_checkpoint(tmp_path_factory.mktemp("small") / str(seed), seed=seed, vocab_size=12) for seed in (3, 4)]
    return [AutoModelForCausalLM.from_pretrained(converted("float32", source)) for source in sources]


@pytest.fixture(scope="module")
def batch(checkpoint_dir: Path) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    tokenizer.pad_token = "<fim_pad>"
    return dict(tokenizer(TEXTS, padding=True, return_tensors="np", padding_side="left"))


def steps(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """Steps of the model after the prompt."""
    calls, inner = [], RowsDecoding.add_rows

    def add_rows(self: RowsDecoding, forward: Any) -> Any:
        calls.append(self.n_rows)
        return inner(self, forward)

    with monkeypatch.context() as patch:
        patch.setattr(RowsDecoding, "add_rows", add_rows)
        run()
    return sum(map(bool, calls))


class TestSameText:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"repetition_penalty": 1.2, "no_repeat_ngram_size": 4},
            {"do_sample": True, "seed": 5, "temperature": 0.7},
            {"do_sample": True, "seed": 6, "top_k": 0, "top_p": 0.9, "typical_p": 0.8},
            {"num_return_sequences": 2, "do_sample": True, "seed": 7},
            {"eos_token_id": [120, 11, 188]},
        ],
    )
    def test_look_up(self, model: GPTBigCodeForCausalLM, batch: dict[str, Any], options: dict[str, Any]) -> None:
        """Sampling too: a guess without probabilities is compared with the token that is drawn anyway."""
        given = {**batch, **OPTIONS, **options}
        assert model.generate(**given, prompt_lookup_num_tokens=8).tolist() == model.generate(**given).tolist()

    @pytest.mark.parametrize("schedule", ["constant", "heuristic"])
    def test_draft_model(
        self, model: GPTBigCodeForCausalLM, draft: GPTBigCodeForCausalLM, batch: dict[str, Any], schedule: str
    ) -> None:
        given = {**batch, **OPTIONS, "assistant_model": draft, "num_assistant_tokens_schedule": schedule}
        assert model.generate(**given).tolist() == model.generate(**batch, **OPTIONS).tolist()

    def test_fewer_steps(
        self, model: GPTBigCodeForCausalLM, draft: GPTBigCodeForCausalLM, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = batch["input_ids"][:1]
        plain = steps(lambda: model.generate(ids, **OPTIONS), monkeypatch)
        assert plain == 59
        # How much is guessed depends on how long steps take, which is the machine's mood: here a further token costs a tenth.
        measured = Pace.measured
        monkeypatch.setattr(Pace, "measured", lambda self, n_tokens, _: measured(self, n_tokens, 1.0 + 0.1 * n_tokens))
        for guess in ({"prompt_lookup_num_tokens": 8}, {"assistant_model": draft, "num_assistant_tokens": 5}):
            calls = steps(functools.partial(model.generate, ids, **OPTIONS, **guess), monkeypatch)
            assert calls < 0.6 * plain, guess

    def test_scores_and_functions_of_the_caller(self, model: GPTBigCodeForCausalLM, batch: dict[str, Any]) -> None:
        ids = batch["input_ids"][:1]
        seen: list[int] = []

        def no_newline(input_ids: Any, scores: Any) -> Any:
            seen.append(input_ids.shape[1])
            scores[:, 120] = -np.inf
            return scores

        wanted: dict[str, Any] = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
        wanted["logits_processor"] = [no_newline]
        plain = model.generate(ids, **OPTIONS, **wanted)
        seen.clear()
        quick = model.generate(ids, **OPTIONS, **wanted, prompt_lookup_num_tokens=8)
        assert seen == list(range(ids.shape[1], ids.shape[1] + 60))  # once per token, never for a wrong guess
        assert quick.sequences.tolist() == plain.sequences.tolist()
        assert np.array_equal(np.stack(quick.scores), np.stack(plain.scores))
        assert np.array_equal(np.stack(quick.logits), np.stack(plain.logits))
        with pytest.raises(InputError, match="batch of one"):
            model.generate(**batch, **OPTIONS, **wanted, prompt_lookup_num_tokens=8)

    def test_max_length_is_kept(self, model: GPTBigCodeForCausalLM, batch: dict[str, Any]) -> None:
        for n in (1, 2, 3, 7):
            given = {**batch, **OPTIONS, "max_new_tokens": n}
            assert model.generate(**given, prompt_lookup_num_tokens=16).tolist() == model.generate(**given).tolist()

    def test_streams(self, model: GPTBigCodeForCausalLM, batch: dict[str, Any]) -> None:
        ids = batch["input_ids"][0].tolist()
        assert list(model.stream(ids, **OPTIONS, prompt_lookup_num_tokens=8)) == list(model.stream(ids, **OPTIONS))


class TestDistribution:
    """Two tokens after one prompt, drawn many times, against the exact probabilities."""

    N = 6000

    def exact(self, model: GPTBigCodeForCausalLM, prompt: list[int], temperature: float) -> dict[tuple[int, int], float]:
        def after(ids: list[int]) -> Any:
            scores = model([ids]).logits[0, -1].astype(np.float64) / temperature
            weights = np.exp(scores - scores.max())
            return weights / weights.sum()

        first = after(prompt)
        return {(a, b): first[a] * q for a in range(12) for b, q in enumerate(after([*prompt, a]))}

    def distance(self, model: GPTBigCodeForCausalLM, temperature: float, **options: Any) -> float:
        """Chi-square per degree of freedom of the drawn pairs."""
        prompt = [7, 8, 9]
        drawn = model.generate(
            [prompt],
            do_sample=True,
            seed=11,
            top_k=0,
            temperature=temperature,
            num_return_sequences=self.N,
            max_new_tokens=3,
            eos_token_id=[],
            **options,
        )[:, 3:5]
        counts = Counter(map(tuple, drawn.tolist()))
        exact = self.exact(model, prompt, temperature)
        big = {pair: p * self.N for pair, p in exact.items() if p * self.N >= 5}
        return float(sum((counts[pair] - n) ** 2 / n for pair, n in big.items()) / (len(big) - 1))

    def test_draft_model(self, small: list[GPTBigCodeForCausalLM], monkeypatch: pytest.MonkeyPatch) -> None:
        target, other = small
        options: dict[str, Any] = {"assistant_model": other, "num_assistant_tokens": 2, "assistant_confidence_threshold": 0.0}
        assert self.distance(target, 1.5, **options) < 1.5
        # The same test finds a draft that is always believed, and one whose replacements ignore what was refused.
        with monkeypatch.context() as patch:
            patch.setattr(assistant.ModelDrafter, "accept", lambda self, row, drafted, scores, q: drafted)
            assert self.distance(target, 1.5, **options) > 3
        with monkeypatch.context() as patch:

            def careless(self: Any, row: Any, drafted: int, scores: Any, q: Any) -> int:
                p = assistant._distribution(scores)
                random = self._writers[row.index].random
                return drafted if random.random() * q[drafted] < p[drafted] else assistant._draw(p, random)

            patch.setattr(assistant.ModelDrafter, "accept", careless)
            assert self.distance(target, 1.5, **options) > 3

    def test_plain(self, small: list[GPTBigCodeForCausalLM]) -> None:
        assert self.distance(small[0], 1.5) < 1.5

    def test_look_up(self, small: list[GPTBigCodeForCausalLM]) -> None:
        assert self.distance(small[0], 1.5, prompt_lookup_num_tokens=3) < 1.5

    def test_seed_repeats_whatever_the_other_rows_are(self, small: list[GPTBigCodeForCausalLM]) -> None:
        target, other = small
        options: dict[str, Any] = {"assistant_model": other, "do_sample": True, "seed": 3, **OPTIONS, "max_new_tokens": 20}
        alone = target.generate([[1, 2, 3]], **options)
        assert alone.tolist() == target.generate([[1, 2, 3]], **options).tolist()
        assert target.generate([[1, 2, 3], [4, 5, 6]], **options)[0].tolist() == alone[0].tolist()


class TestArguments:
    def test_draft_models(self, model: GPTBigCodeForCausalLM, small: list[GPTBigCodeForCausalLM]) -> None:
        with pytest.raises(InputError, match="vocabulary of 12 tokens and the model one of 8192"):
            model.generate([[1]], assistant_model=small[0])
        with pytest.raises(InputError, match="must be a GPTBigCodeForCausalLM, not str"):
            model.generate([[1]], assistant_model="draft")
        with pytest.raises(InputError, match="either"):
            model.generate([[1]], assistant_model=model, prompt_lookup_num_tokens=3)
        with pytest.raises(InputError, match="not supported with num_beams"):
            model.generate([[1]], num_beams=2, prompt_lookup_num_tokens=3)

    def test_a_draft_model_with_a_shorter_context(
        self, converted: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path: Path
    ) -> None:
        sources = [make_checkpoint(tmp_path / str(n), seed=1, n_positions=n) for n in (64, 24)]
        long, short = (AutoModelForCausalLM.from_pretrained(converted("float32", source)) for source in sources)
        plain = long.generate([[7, 8, 9]], max_new_tokens=60, eos_token_id=[])
        options: dict[str, Any] = {"assistant_model": short, "assistant_confidence_threshold": 0.0}
        assert long.generate([[7, 8, 9]], max_new_tokens=60, eos_token_id=[], **options).tolist() == plain.tolist()


def longest_match(tokens: list[int], bound: int) -> int:
    """Length of the longest end that occurred before, the slow way."""
    n = len(tokens)
    for length in range(min(n - 1, bound), 0, -1):
        if any(tokens[i : i + length] == tokens[n - length :] for i in range(n - length)):
            return length
    return 0


@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40), bound=st.integers(1, 8), cut=st.integers(0, 40))
def test_suffix_index_finds_the_longest_match(tokens: list[int], bound: int, cut: int) -> None:
    index = _core.SuffixIndex()
    index.extend(np.array(tokens[:cut], dtype=np.int32))
    if cut and tokens[:cut]:
        index.match(bound)  # asking changes no answer
    index.extend(np.array(tokens[cut:], dtype=np.int32))
    assert len(index) == len(tokens)
    length, end = index.match(bound)
    assert length == longest_match(tokens, bound)
    if length:
        assert 0 < end < len(tokens)
        assert tokens[end - length : end] == tokens[len(tokens) - length :]


class TestPace:
    def cost(self, pace: Pace, fixed: float, each: float) -> None:
        for n in range(200):
            pace.measured(1 + n % 5, fixed + each * (1 + n % 5))

    def test_right_guesses_that_cost_little_are_made(self) -> None:
        pace = Pace()
        self.cost(pace, 1.0, 0.02)
        for _ in range(100):
            pace.saw(3, True)
        assert pace.lengths([3], [1])[0] == 1
        assert pace.lengths([40], [10]) == [10]
        assert pace.lengths([0, 40], [0, 4]) == [0, 4]

    def test_wrong_guesses_are_given_up(self) -> None:
        pace = Pace()
        self.cost(pace, 1.0, 0.2)
        for _ in range(100):
            pace.saw(1, False)
        assert pace.lengths([1], [10]) == [0]

    def test_guesses_that_cost_as_much_as_steps_are_not_made(self) -> None:
        pace = Pace()
        self.cost(pace, 0.001, 1.0)
        for _ in range(100):
            pace.saw(40, True)
        assert pace.lengths([40], [10]) == [0]

    def test_somebody_elses_work_does_not_count(self) -> None:
        pace = Pace()
        self.cost(pace, 1.0, 0.02)
        pace.measured(5, 1000.0)
        pace.measured(1, 1.02)
        assert pace.lengths([40], [10]) == [10]


def test_a_draft_never_takes_the_last_place(small: list[GPTBigCodeForCausalLM], monkeypatch: pytest.MonkeyPatch) -> None:
    """The token after the draft needs one; the core would refuse positions beyond the context."""
    proposed: list[int] = []
    inner = RowsDecoding.add_rows

    def add_rows(self: RowsDecoding, forward: Any) -> Any:
        result = inner(self, forward)
        proposed.extend(len(row.draft.tokens) - row.room for row in self._rows)
        return result

    monkeypatch.setattr(RowsDecoding, "add_rows", add_rows)
    small[0].generate([[1, 2] * 20], max_new_tokens=40, eos_token_id=[], prompt_lookup_num_tokens=30)
    assert proposed
    assert max(proposed) <= -1
