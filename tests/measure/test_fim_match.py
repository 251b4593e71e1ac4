"""Hidden lines: which are chosen, what the model is shown, and which answers count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, fim
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.hub import paths as hub
from gptbigcode_cpu.measure import hidden_lines as match
from gptbigcode_cpu.measure.hidden_lines import ExactMatch, Gap, choose_gaps, exact_match, wilson_interval

SOURCES = [path.read_text(encoding="utf-8") for path in sorted(Path(match.__file__).parents[1].glob("*/*.py"))]


@pytest.fixture(scope="module")
def tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(hub.resolve("demo"))


def test_wilson_interval() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson_interval(29, 29)[1] == 1
    match = ExactMatch("psm", 15, 148)
    assert match.rate == 15 / 148
    assert match.to_dict()["interval_95"] == pytest.approx([0.0624, 0.1605], abs=5e-5)


@pytest.mark.parametrize("hide", ["line", "tail"])
def test_gaps_are_lines_of_the_texts(hide: match.Hidden) -> None:
    gaps = choose_gaps(SOURCES, 50, seed=3, hide=hide)
    assert len({(gap.before, gap.after) for gap in gaps}) == 50
    cut = 0
    for gap in gaps:
        assert gap.before + gap.hidden + gap.after in SOURCES
        assert gap.hidden.strip()
        assert "\n" not in gap.hidden
        assert gap.after[:1] in ("", "\n")
        assert gap.before.count("\n") >= 5
        cut += bool(gap.before.rpartition("\n")[2].strip())
    assert (cut == 0) if hide == "line" else (cut > 25)


def test_the_choice_depends_on_the_seed_alone() -> None:
    assert choose_gaps(SOURCES, 20, 1, "tail") == choose_gaps(SOURCES, 20, 1, "tail")
    assert choose_gaps(SOURCES, 20, 1, "tail") != choose_gaps(SOURCES, 20, 2, "tail")


def test_what_is_never_hidden() -> None:
    text = "1\n2\n3\n4\n5\n\n  \n" + "x" * 201 + "\nlast"
    assert choose_gaps([text], 10) == [Gap(text[:-4], "last", "")]
    with pytest.raises(InputError, match="no line to hide"):
        choose_gaps(["1\n2\n3\n4\n5\n", "short"], 10)


class Scribe:
    """Stands for the engine: answers each prompt with what is prepared for it, and keeps the prompts."""

    def __init__(self, tokenizer: AutoTokenizer, answers: dict[str, str]) -> None:
        self.tokenizer, self.answers = tokenizer, answers
        self.prompts: list[list[int]] = []
        self.tokens = 0

    def written_steps(
        self, _model: Any, prompt_ids: Any, limit: int, options: Any, _arguments: Any
    ) -> Iterator[dict[int, list[int]]]:
        prompt = prompt_ids.tolist()
        self.prompts.append(prompt)
        text = self.tokenizer.decode(prompt)
        (answer,) = (answer for key, answer in self.answers.items() if key in text)
        assert not options.do_sample
        ids = self.tokenizer.encode(answer) + [self.tokenizer.eos_token_id] * (not answer.endswith("..."))
        for token in ids[:limit]:
            self.tokens += 1
            yield {0: [token]}


HIDDEN = "total = a + b"


@pytest.mark.parametrize(
    ("answer", "matches"),
    [
        (HIDDEN, True),
        (f"{HIDDEN}\n    more = 2", True),
        (f"  {HIDDEN}  \n", True),
        (f"\n{HIDDEN}", False),  # an empty line comes first
        ("total = a", False),
        (f"{HIDDEN} + c", False),
        ("", False),
        (HIDDEN + " " * 400 + "...", False),  # no end
    ],
)
def test_which_answers_count(answer: str, matches: bool, tokenizer: AutoTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    scribe = Scribe(tokenizer, {"def add": answer})
    monkeypatch.setattr(match, "written_steps", scribe.written_steps)
    gap = Gap("def add(a, b):\n    ", HIDDEN, "\n    return total\n")
    model: Any = SimpleNamespace(core=None)
    found = exact_match(model, tokenizer, [gap], context=200)
    assert found == (ExactMatch("psm", int(matches), 1), ExactMatch("spm", int(matches), 1))
    assert scribe.prompts == [fim.build_prompt(tokenizer, gap.before, gap.after, mode=mode) for mode in ("psm", "spm")]


def test_matches_are_counted_by_order(tokenizer: AutoTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three gaps PSM fills two and SPM one."""
    gaps = [Gap(f"# {name}\n", f"value_{name} = 1", "\n# end\n") for name in ("red", "green", "blue")]
    answers = {
        **{f"<fim_prefix># {name}": f"value_{name} = 1" for name in ("red", "blue")},
        "<fim_prefix># green": "value = 1",
        "<fim_middle># green": "value_green = 1\n",
        **{f"<fim_middle># {name}": "no" for name in ("red", "blue")},
    }
    scribe = Scribe(tokenizer, answers)
    monkeypatch.setattr(match, "written_steps", scribe.written_steps)
    seen: list[tuple[str, int, int]] = []
    model: Any = SimpleNamespace(core=None)
    found = exact_match(model, tokenizer, gaps, context=100, progress=lambda *report: seen.append(report))
    assert [(each.order, each.matches, each.samples) for each in found] == [("psm", 2, 3), ("spm", 1, 3)]
    assert seen == [("filling gaps", done, 6) for done in range(1, 7)]


def test_an_answer_that_goes_wrong_is_not_finished(tokenizer: AutoTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    scribe = Scribe(tokenizer, {"before": "entirely different " * 20})
    monkeypatch.setattr(match, "written_steps", scribe.written_steps)
    model: Any = SimpleNamespace(core=None)
    exact_match(model, tokenizer, [Gap("before\n", HIDDEN, "\n")], context=100, orders=["psm"])
    assert scribe.tokens == 1


@pytest.mark.parametrize("context", [80, 160, 512, 1500])
def test_what_is_shown_is_cut_to_whole_lines_that_fit(context: int, tokenizer: AutoTokenizer) -> None:
    for gap in choose_gaps(SOURCES, 12, seed=9, hide="tail"):
        budget = context - 40
        before, after = match._shortened(tokenizer, gap, budget)
        used = [len(tokenizer.encode(part, split_special_tokens=True)) for part in (before, after)]
        assert sum(used) <= budget
        assert gap.before.endswith(before)
        assert gap.after.startswith(after)
        left, right = gap.before.removesuffix(before), gap.after.removeprefix(after)
        assert left[-1:] in ("", "\n")
        assert right[:1] in ("", "\n")
        if left:  # nothing is cut that has room, line by line
            line = left.splitlines(keepends=True)[-1]
            assert len(tokenizer.encode(line + before, split_special_tokens=True)) + used[1] > budget
        if left and right:
            assert used[1] <= budget // 4
        if not left and not right:
            assert (before, after) == (gap.before, gap.after)


def test_a_line_longer_than_the_context(tokenizer: AutoTokenizer) -> None:
    model: Any = SimpleNamespace(core=None)
    with pytest.raises(ContextLengthError, match="the hidden line 'x = 1'"):
        exact_match(model, tokenizer, [Gap("y = " * 40, "x = 1", "\n")], context=64)


def test_the_demo_model_copies_a_pattern() -> None:
    """A real model on text that gives the answer away, and the same answer as `generate`."""
    directory = hub.resolve("demo")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, num_threads=1)
    text = "import os\nimport sys\n" + "for i in range(10):\n    print(i)\n" * 12
    gaps = choose_gaps([text], 6, seed=1, hide="tail")
    found = exact_match(model, tokenizer, gaps, context=400)
    for each in found:
        expected = 0
        for gap in gaps:
            prompt = fim.build_prompt(tokenizer, gap.before, gap.after, mode=each.order)
            stops = fim.stop_token_ids(tokenizer)
            output = model.generate([prompt], max_new_tokens=30, do_sample=False, eos_token_id=stops)[0, len(prompt) :]
            written = tokenizer.decode(output[~np.isin(output, stops)])
            expected += written.split("\n")[0].strip() == gap.hidden.strip()
        assert each.matches == expected
    assert max(each.matches for each in found) > 0
