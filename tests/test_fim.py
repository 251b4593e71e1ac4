"""Fill-in-the-middle prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu.errors import InputError, TokenizerError
from gptbigcode_cpu.fim import FimTokens, build_prompt, split_at_cursor, stop_token_ids
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
