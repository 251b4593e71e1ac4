"""The tokenizer answers every call as transformers' does: committed answers, and live ones on random text and options."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import tokenizer_cases

from gptbigcode_cpu import AutoTokenizer
from gptbigcode_cpu.errors import GPTBigCodeError

ANSWERS: dict[str, Any] = json.loads(gzip.decompress((Path(__file__).parents[1] / "oracle" / "tokenizer.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def actual(checkpoint_dir: Path) -> dict[str, Any]:
    pytest.importorskip("jinja2")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir, pad_token="<fim_pad>")
    return tokenizer_cases.answers(tokenizer)


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_transformers(actual: dict[str, Any], name: str) -> None:
    assert actual[name] == ANSWERS[name]
    assert list(actual) == list(ANSWERS)
    if isinstance(ANSWERS[name], dict):
        assert list(actual[name]) == list(ANSWERS[name])  # the order of keys, too


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "padding": st.sampled_from([True, False, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from([True, False, "longest_first", "only_first", "do_not_truncate"]),
        "max_length": st.integers(1, 12),
        "stride": st.integers(0, 4),
        "pad_to_multiple_of": st.sampled_from([2, 8]),
        "padding_side": st.sampled_from(["left", "right"]),
        "return_tensors": st.sampled_from(["np"]),
        "return_token_type_ids": st.booleans(),
        "return_attention_mask": st.booleans(),
        "return_overflowing_tokens": st.booleans(),
        "return_special_tokens_mask": st.booleans(),
        "return_offsets_mapping": st.booleans(),
        "return_length": st.booleans(),
        "add_special_tokens": st.booleans(),
        "split_special_tokens": st.booleans(),
    },
)
PIECES = st.sampled_from([*tokenizer_cases.SPECIAL, "def f(", "    ", "\n", "1234", " ", "é", "🙂"]) | st.text(max_size=8)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@pytest.mark.live
@pytest.mark.filterwarnings("default")
@settings(max_examples=400)
@given(texts=TEXTS | st.lists(TEXTS, min_size=1, max_size=4), pairs=st.booleans(), options=OPTIONS)
def test_transformers_live(checkpoint_dir: Path, texts: Any, pairs: bool, options: dict[str, Any]) -> None:
    theirs, ours = live(checkpoint_dir)
    pair = texts if pairs else None
    try:
        actual = tokenizer_cases.plain(ours(texts, pair, **options))
    except GPTBigCodeError:
        # Refused: what would do nothing, and what transformers cannot do either.
        # Of a text without tokens and others it makes an array of arrays.
        empty = "return_tensors" in options and "" in texts
        useless = empty or "max_length" in options or options.get("stride") or options.get("padding") is not False
        if not useless:
            with pytest.raises(Exception):  # noqa: B017
                theirs(texts, pair, **options)
        return
    assert actual == tokenizer_cases.plain(theirs(texts, pair, **options))


@pytest.mark.live
@settings(max_examples=300)
@given(text=st.text(max_size=60), ids=st.lists(st.integers(0, 8191), max_size=30), skip=st.booleans())
def test_transformers_live_on_any_text(checkpoint_dir: Path, text: str, ids: list[int], skip: bool) -> None:
    theirs, ours = live(checkpoint_dir)
    assert ours.encode(text) == theirs.encode(text)
    assert ours.tokenize(text) == theirs.tokenize(text)
    assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.live
@pytest.mark.filterwarnings("default")
def test_transformers_reads_what_is_saved(checkpoint_dir: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = AutoTokenizer.from_pretrained(checkpoint_dir, chat_template=tokenizer_cases.CHAT_TEMPLATES[0], padding_side="left")
    ours.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": ["<mine>"]}, replace_extra_special_tokens=False)
    ours.add_tokens(["two words"])
    ours.save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    for other in (theirs, AutoTokenizer.from_pretrained(tmp_path / "theirs")):
        for name in ("padding_side", "all_special_tokens", "all_special_ids", "chat_template", "model_max_length"):
            assert getattr(other, name) == getattr(ours, name)
        texts = ["two words<mine>x[PAD]", *tokenizer_cases.BATCH]
        assert other(texts, padding=True)["input_ids"] == ours(texts, padding=True).input_ids
        assert len(other) == len(ours)


PAIR: list[Any] = []


def live(checkpoint_dir: Path) -> tuple[Any, Any]:
    """transformers' tokenizer and ours."""
    if not PAIR:
        transformers = pytest.importorskip("transformers")
        PAIR.append(transformers.AutoTokenizer.from_pretrained(checkpoint_dir, pad_token="<fim_pad>"))
        PAIR.append(AutoTokenizer.from_pretrained(checkpoint_dir, pad_token="<fim_pad>"))
    return PAIR[0], PAIR[1]
