"""Fill-in-the-middle: prompts, and how the output is trimmed to the gap."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import ConfigError, ContextLengthError, InputError, TokenizerError
from gptbigcode_cpu.fim import (
    FimTokens,
    MiddleFilter,
    build_prompt,
    line_end,
    preferred_mode,
    split_at_cursor,
    stop_token_ids,
    with_line_end,
)
from gptbigcode_cpu.fim.fill import middle
from gptbigcode_cpu.fim.trim import cut_end, cut_start, encoded
from gptbigcode_cpu.tokenizer import AutoTokenizer, GPTBigCodeTokenizer

PREFIX, MIDDLE, SUFFIX = 1, 2, 3


@pytest.fixture(scope="module")
def tokenizer(checkpoint_dir: Path) -> GPTBigCodeTokenizer:
    return AutoTokenizer.from_pretrained(checkpoint_dir)


def renamed(checkpoint_dir: Path, directory: Path, old: str, new: str) -> GPTBigCodeTokenizer:
    text = (checkpoint_dir / "tokenizer.json").read_text(encoding="utf-8").replace(old, new)
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    return AutoTokenizer.from_pretrained(directory)


def test_tokens_are_found_by_name(tokenizer: GPTBigCodeTokenizer) -> None:
    assert FimTokens.find(tokenizer) == FimTokens(prefix=PREFIX, middle=MIDDLE, suffix=SUFFIX)


def test_tokens_of_santacoder_have_hyphens(checkpoint_dir: Path, tmp_path: Path) -> None:
    tokenizer = renamed(checkpoint_dir, tmp_path, "<fim_", "<fim-")
    assert FimTokens.find(tokenizer) == FimTokens(prefix=PREFIX, middle=MIDDLE, suffix=SUFFIX)


def test_model_without_the_tokens(checkpoint_dir: Path, tmp_path: Path) -> None:
    tokenizer = renamed(checkpoint_dir, tmp_path, "<fim_middle>", "<other>")
    with pytest.raises(TokenizerError, match="fill in the middle"):
        build_prompt(tokenizer, "a", "b")


def test_orders_of_the_training_data(tokenizer: GPTBigCodeTokenizer) -> None:
    before, after = tokenizer.encode("def f("), tokenizer.encode("):\n")
    assert build_prompt(tokenizer, "def f(", "):\n") == [PREFIX, *before, SUFFIX, *after, MIDDLE]
    assert build_prompt(tokenizer, "def f(", "):\n", mode="spm") == [PREFIX, SUFFIX, *after, MIDDLE, *before]
    assert build_prompt(tokenizer, "", "") == [PREFIX, SUFFIX, MIDDLE]
    with pytest.raises(InputError, match="psm"):
        build_prompt(tokenizer, "", "", mode="mps")  # type: ignore[arg-type]


def test_nothing_merges_across_the_cursor(tokenizer: GPTBigCodeTokenizer) -> None:
    assert len(tokenizer.encode("return")) == 1
    assert build_prompt(tokenizer, "ret", "urn") == [
        PREFIX,
        *tokenizer.encode("ret"),
        SUFFIX,
        *tokenizer.encode("urn"),
        MIDDLE,
    ]


@given(prefix=st.text() | st.just("a <fim_middle> b"), suffix=st.text() | st.just("<|endoftext|>"))
def test_the_parts_hold_no_special_tokens(tokenizer: GPTBigCodeTokenizer, prefix: str, suffix: str) -> None:
    ids = build_prompt(tokenizer, prefix, suffix)
    assert [token_id for token_id in ids if token_id in tokenizer.all_special_ids] == [PREFIX, SUFFIX, MIDDLE]
    middle = ids.index(SUFFIX)
    assert (tokenizer.decode(ids[1:middle]), tokenizer.decode(ids[middle + 1 : -1])) == (prefix, suffix)


def test_every_special_token_stops(tokenizer: GPTBigCodeTokenizer) -> None:
    assert stop_token_ids(tokenizer) == [0, 1, 2, 3, 4, 5]


def test_split_at_cursor() -> None:
    assert split_at_cursor("def f(<cursor>):\n") == ("def f(", "):\n")
    assert split_at_cursor("<cursor>") == ("", "")
    assert split_at_cursor("a|b", mark="|") == ("a", "b")
    for text in ("", "no mark", "<cursor><cursor>"):
        with pytest.raises(InputError, match="once"):
            split_at_cursor(text)
    with pytest.raises(InputError, match="another mark"):
        split_at_cursor("<cursor><cursor>")
    with pytest.raises(InputError, match="empty"):
        split_at_cursor("text", mark="")


class TestTrimming:
    """What does not fit is cut at line starts, and the cut moves rarely."""

    LINES = "".join(f"def function_{i}(a, b):\n    return a + {i} * b\n\n\n" for i in range(400))

    @given(lines=st.lists(st.text(alphabet="ab =()日\t", max_size=60), max_size=80), limit=st.integers(0, 120))
    def test_start(self, tokenizer: GPTBigCodeTokenizer, lines: list[str], limit: int) -> None:
        text = "\n".join(lines)
        ids = cut_start(tokenizer, text, limit)
        assert len(ids) <= limit
        kept = tokenizer.decode(ids)
        assert text.endswith(kept)
        if len(tokenizer.encode(text)) <= limit:
            assert kept == text

    @given(lines=st.lists(st.text(alphabet="ab =()日\t", max_size=60), max_size=80), limit=st.integers(0, 120))
    def test_end(self, tokenizer: GPTBigCodeTokenizer, lines: list[str], limit: int) -> None:
        text = "\n".join(lines)
        ids = cut_end(tokenizer, text, limit)
        assert len(ids) <= limit
        kept = tokenizer.decode(ids)
        assert text.startswith(kept.rstrip("\ufffd"))
        if len(tokenizer.encode(text)) <= limit:
            assert kept == text

    def test_at_line_starts(self, tokenizer: GPTBigCodeTokenizer) -> None:
        start = tokenizer.decode(cut_start(tokenizer, self.LINES, 200))
        assert self.LINES.endswith("\n" + start)
        end = tokenizer.decode(cut_end(tokenizer, self.LINES, 200))
        assert end.endswith("\n")
        assert self.LINES.startswith(end)
        assert 100 < len(tokenizer.encode(start)) <= 200
        assert 150 < len(tokenizer.encode(end)) <= 200

    def test_the_cut_moves_by_quarters(self, tokenizer: GPTBigCodeTokenizer) -> None:
        limit, text = 200, self.LINES[:3000]
        starts = []
        for length in range(1500, 3000, 7):
            kept = tokenizer.decode(cut_start(tokenizer, text[:length], limit))
            starts.append(length - len(kept))
        tokens = len(tokenizer.encode(text)) - len(tokenizer.encode(text[:1500]))
        assert 1 < len(set(starts)) <= tokens / (limit / 4) + 1

    def test_one_long_line(self, tokenizer: GPTBigCodeTokenizer) -> None:
        line = "x + " * 5000
        assert 50 < len(cut_start(tokenizer, line, 100)) <= 100
        assert len(cut_end(tokenizer, line, 100)) == 100

    def test_of_megabytes_only_the_part_near_the_cursor_is_encoded(
        self, tokenizer: GPTBigCodeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text, characters = self.LINES * 200, 0

        def counted(tokenizer: GPTBigCodeTokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
            nonlocal characters
            characters += len(text)
            return encoded(tokenizer, text)

        for module in ("trim", "prompt"):
            monkeypatch.setattr(f"gptbigcode_cpu.fim.{module}.encoded", counted)
        prompt = build_prompt(tokenizer, text, text, max_tokens=500)
        assert 0 < characters < 100_000 < len(text)
        assert 300 < len(prompt) <= 500

    @settings(max_examples=40)
    @given(prefix=st.integers(0, 5000), suffix=st.integers(0, 5000), context=st.integers(0, 5000), room=st.integers(3, 700))
    def test_prompts_fit(self, tokenizer: GPTBigCodeTokenizer, prefix: int, suffix: int, context: int, room: int) -> None:
        before, after = self.LINES[:prefix], self.LINES[5:][:suffix]
        files = [("a.py", self.LINES[:context]), ("b.py", self.LINES[: context // 2])]
        prompt = build_prompt(tokenizer, before, after, mode="spm", extra_files=files, max_tokens=room)
        assert len(prompt) <= room
        cursor = prompt.index(MIDDLE)
        assert prompt[prompt.index(PREFIX) + 1] == SUFFIX
        assert before.endswith(tokenizer.decode(prompt[cursor + 1 :]))

    def test_shares(self, tokenizer: GPTBigCodeTokenizer) -> None:
        def sizes(before: str, after: str, **options: Any) -> tuple[int, int, int]:
            prompt = build_prompt(tokenizer, before, after, max_tokens=403, **options)
            marks = [prompt.index(mark) for mark in (PREFIX, SUFFIX, MIDDLE)]
            return marks[0], marks[1] - marks[0] - 1, marks[2] - marks[1] - 1

        long, short = self.LINES, "x = 1\n"
        files = {"files": [("a.py", long)]}
        context, prefix, suffix = sizes(long, long)
        assert (context, 225 <= prefix <= 320, 80 <= suffix <= 100) == (0, True, True)
        assert 280 <= sizes(short, long)[2] <= 300  # the suffix takes what the prefix leaves
        assert 300 <= sizes(long, short)[1] <= 397
        context, prefix, suffix = sizes(long, long, extra_files=files["files"])
        assert 180 <= context <= 200
        assert sizes(short, short, extra_files=files["files"])[0] > 280


class TestContext:
    FILES: ClassVar = {"a.py": "A = 1\n", "lib/b.py": "B = 2 # <fim_middle>\n"}

    def test_form_of_the_training_data(self, checkpoint_dir: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir, extra_special_tokens=["<reponame>", "<gh_stars>"])
        prompt = build_prompt(tokenizer, "p", "s", extra_files=self.FILES, repo_name="me/mine")
        assert tokenizer.decode(prompt) == (
            "<reponame>me/mine<filename>a.py\nA = 1\n<|endoftext|>"
            "<reponame>me/mine<filename>lib/b.py\nB = 2 # <fim_middle>\n<|endoftext|>"
            "<fim_prefix>p<fim_suffix>s<fim_middle>"
        )
        assert prompt.count(MIDDLE) == 1  # the one inside the file is text
        pairs = build_prompt(tokenizer, "p", "s", extra_files=list(self.FILES.items()), repo_name="me/mine")
        assert pairs == prompt
        unnamed = tokenizer.decode(build_prompt(tokenizer, "p", "s", extra_files=self.FILES))
        assert unnamed.startswith("<filename>a.py\nA = 1\n<|endoftext|><filename>")

    def test_model_without_these_tokens(self, checkpoint_dir: Path, tmp_path: Path) -> None:
        tokenizer = renamed(checkpoint_dir, tmp_path, "<filename>", "<other>")
        with pytest.raises(TokenizerError, match="<filename>"):
            build_prompt(tokenizer, "p", "s", extra_files={"a.py": "A = 1\n"})
        assert build_prompt(tokenizer, "p", "s", extra_files={}) == build_prompt(tokenizer, "p", "s")

    def test_the_last_files_stay(self, tokenizer: GPTBigCodeTokenizer) -> None:
        files = [(f"{i}.py", f"x = {i}\n" * 3) for i in range(20)]
        text = tokenizer.decode(build_prompt(tokenizer, "p", "s", extra_files=files, max_tokens=200))
        kept = [int(name) for name in re.findall(r"<filename>(\d+)\.py", text)]
        assert kept == list(range(kept[0], 20))
        assert 3 < len(kept) < 20

    @pytest.mark.parametrize("files", [["a.py"], [("a.py", 3)], {"a.py": b"x"}, [("a", "b", "c")]])
    def test_mistakes(self, tokenizer: GPTBigCodeTokenizer, files: Any) -> None:
        with pytest.raises(InputError, match="extra_files"):
            build_prompt(tokenizer, "p", "s", extra_files=files)

    def test_repository_of_nothing(self, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(InputError, match="repo_name"):
            build_prompt(tokenizer, "p", "s", repo_name="me/mine")
        with pytest.raises(InputError, match="prefix"):
            build_prompt(tokenizer, b"p", "s")  # type: ignore[arg-type]
        with pytest.raises(ContextLengthError, match="2 tokens"):
            build_prompt(tokenizer, "p", "s", max_tokens=2)


def inside(prefix: str, generated: str, suffix: str, step: int = 1) -> str:
    """What stays of a generated text that arrives in pieces."""
    gap = MiddleFilter(prefix, suffix)
    pieces = [generated[i : i + step] for i in range(0, len(generated), step)]
    return "".join(gap.push(piece) for piece in pieces) + gap.flush()


def with_line_ends(text: str, ends: list[str]) -> str:
    """`text`, whose lines end in LF, with other line ends, in turn."""
    first, *lines = text.split("\n")
    return first + "".join(end + line for end, line in zip(itertools.cycle(ends), lines, strict=False))


class TestLineEnds:
    @pytest.mark.parametrize(
        ("prefix", "suffix", "expected"),
        [
            ("", "", None),
            ("a", "b", None),
            ("a\nb", "c\r\n", "\n"),
            ("a\r\nb", "c\n", "\r\n"),
            ("a\nb\r\n", "", "\r\n"),
            ("a\r\nb\n", "", "\n"),
            ("a\rb", "\n", "\r"),
            ("a", "b\r\nc\n", "\r\n"),
            ("\n", "", "\n"),
        ],
    )
    def test_are_those_of_the_lines_around(self, prefix: str, suffix: str, expected: str | None) -> None:
        assert line_end(prefix, suffix) == expected

    def test_new_text_takes_them(self) -> None:
        assert with_line_end("a\nb\r\nc\rd", "\r\n") == "a\r\nb\r\nc\rd"
        assert with_line_end("a\nb\r\nc", "\n") == "a\nb\nc"
        assert with_line_end("a\nb", "\r") == "a\rb"
        assert with_line_end("a\nb\r\nc", None) == "a\nb\r\nc"

    def test_of_a_filled_gap(self, tokenizer: GPTBigCodeTokenizer) -> None:
        before, after = "class A:\r\n    def f(self):\r\n        ", "\r\n"
        tokens = iter([*tokenizer.encode("a = 1\n        return a\n\n    def g(self):\n        pass"), 0])
        gap = MiddleFilter(before, after)
        assert "".join(middle(tokens, tokenizer, gap, [0], line_end(before, after))) == "a = 1\r\n        return a"


class TestHygiene:
    @pytest.mark.parametrize("step", [1, 3, 1000])
    @pytest.mark.parametrize(
        ("prefix", "generated", "suffix", "expected"),
        [
            # A blank line, and then a line outside the block.
            ("def f(a):\n    ", "return a\n\n\ndef g():\n    pass", "\n", "return a"),
            ("def f(a):\n    ", "b = 1\n\n    return b\n", "\n", "b = 1\n\n    return b\n"),
            ("def f(a):\n", "    return a\n\n\ndef g():\n", "", "    return a"),
            ("class A:\n    def f(self):\n        ", "pass\n\n    def g(self):\n", "\n", "pass"),
            ("if a:\n\t", "b()\n  \nc()\n", "\n", "b()"),
            ("x = 1\n", "y = 2\n\n\nz = 3\n", "", "y = 2\n\n\nz = 3\n"),
            ("def f(a):\n    return g(", "a)\n\n\ndef h():", " + 1\n", "a)\n"),
            # The suffix again.
            ("a = 1\n", "b = 2\nprint(a + b)\n", "print(a + b)\n", "b = 2\n"),
            ("a = 1", "\nb = 2\n\n\nprint(a, b)", "\n\nprint(a, b)\n", "\nb = 2"),
            ("print(", "a, b)\nassert a == b\nx", ")\nassert a == b\n", "a, b"),
            ("f(", "x), g(y)", ")\n", "x), g(y)"),
            ("a\n", "b\nprint(ab", "print(abc, d)\n", "b\n"),
            ("if a:\n    ", "b()\nelse:\n    c()\n", "\nelse:\n    c()\n", "b()"),
            ("if a:\n    ", "b()\nelse:\n    d()\n", "\nelse:\n    c()\n", "b()\nelse:\n    d()\n"),
            ("a = 1\n", "b = foobar\nc", "b = foo\n", "b = foobar\nc"),
            ("a = 1\n", "xbar = foo", "bar = foo()\n", "xbar = foo"),
            ("a = 1\n", "xbar = foo()\n", "\nbar = foo()\n", "xbar = foo()\n"),
            ("a = 1", "\nbar = foo()\n", "\n\nbar = foo()\n", ""),
            ("a = ", "bar = foo()\n", "\nbar = foo()\n", "bar = foo()\n"),
            ("if a:\n    ", "b = 1\n    bar = foo()\n", "bar = foo()\n", "b = 1\n    "),
            ("", "print(1)\n", "print(1)\n", ""),
            ("a", "b" * 50, "", "b" * 50),
        ],
    )
    def test_ends(self, prefix: str, generated: str, suffix: str, expected: str, step: int) -> None:
        assert inside(prefix, generated, suffix, step) == expected

    PARTS = st.lists(st.sampled_from(["foo(abc)", "bar(abc)", "foo", "x", ")", "\n", "\n\n", "    ", "\t", " "]), max_size=9)
    TEXT = PARTS.map("".join)

    @settings(max_examples=300)
    @example("", "    \nfoo(abc)", "\nfoo(abc)", [1])
    @example("if a:\n    ", "x\n\nx", "", [2])
    @given(prefix=TEXT, generated=TEXT, suffix=TEXT, cuts=st.lists(st.integers(0, 60), max_size=6))
    def test_pieces_do_not_matter(self, prefix: str, generated: str, suffix: str, cuts: list[int]) -> None:
        bounds = [0, *sorted(cuts), len(generated)]
        gap = MiddleFilter(prefix, suffix)
        pieces = [gap.push(generated[start:stop]) for start, stop in itertools.pairwise(bounds)]
        text = "".join(pieces) + gap.flush()
        assert text == inside(prefix, generated, suffix, 1000)
        assert generated.startswith(text)
        if gap.done:
            assert gap.push("more") == gap.flush() == ""
        else:
            assert text == generated

    @settings(max_examples=300)
    @example("class A:\n    def f(self):\n        ", "return 1\n\ndef main():\n", "\n", ["\r\n"], 1)
    @example("f(a,", " b)\nfoo(abc)\n", "\nfoo(abc)", ["\r\n"], 1)
    @example("if a:\n    ", "x\n\nx", "", ["\n", "\r\n"], 2)
    @given(
        prefix=TEXT,
        generated=TEXT,
        suffix=TEXT,
        ends=st.lists(st.sampled_from(["\n", "\r\n"]), min_size=1, max_size=5) | st.just(["\r"]),
        step=st.integers(1, 5),
    )
    def test_line_ends_do_not_matter(self, prefix: str, generated: str, suffix: str, ends: list[str], step: int) -> None:
        expected = inside(prefix, generated, suffix)
        # The lines end in turn as `ends` says.
        before, text, after = (with_line_ends(part, ends) for part in (prefix, generated, suffix))
        assert inside(before, text, after, step) == with_line_ends(expected, ends)
        assert inside(before, generated, after, step) == expected

    def test_text_is_not_held_back_for_long(self) -> None:
        gap = MiddleFilter("def f():\n    ", "\n\nprint(f())\n")
        assert gap.push("return 1") == "return 1"
        assert gap.push("\n") == ""
        assert gap.push("    + 2") == "\n    + 2"
        assert gap.push("\np") == ""
        assert gap.push("a") == "\npa"


def test_tokens_that_only_look_special_stop(checkpoint_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    tokenizer.add_tokens(["<gh_stars>", "two words"])
    assert stop_token_ids(tokenizer) == [0, 1, 2, 3, 4, 5, 8192]


def test_auto_is_what_the_checkpoint_says(tokenizer: GPTBigCodeTokenizer) -> None:
    plain = GPTBigCodeConfig.from_dict({"model_type": "gpt_bigcode"})
    assert preferred_mode(plain) == "psm"
    assert preferred_mode(GPTBigCodeConfig.from_dict({**plain.to_dict(), "fim_mode": "spm"})) == "spm"
    with pytest.raises(ConfigError, match="fim_mode"):
        preferred_mode(GPTBigCodeConfig.from_dict({**plain.to_dict(), "fim_mode": "mps"}))
