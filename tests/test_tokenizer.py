"""The tokenizer's calls, and the laws of incremental decoding."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu.errors import InputError, ModelNotFoundError, TokenizerError
from gptbigcode_cpu.incremental import IncrementalDecoder
from gptbigcode_cpu.tokenizer import AutoTokenizer, GPTBigCodeTokenizer

VOCABULARY = 8192
TEXTS = st.text() | st.text(alphabet="🙂👩‍👩‍👧é日\ufffd\n\t x", max_size=20)
TOKENS = st.lists(st.integers(0, VOCABULARY - 1), max_size=40)
# The 256 byte tokens follow the six special ones: sequences of these are mostly broken UTF-8.
BYTES = st.lists(st.integers(0, 261), max_size=20)


@pytest.fixture(scope="module")
def tokenizer(checkpoint_dir: Path) -> GPTBigCodeTokenizer:
    return AutoTokenizer.from_pretrained(checkpoint_dir)


@pytest.fixture(scope="module")
def with_added(checkpoint_dir: Path) -> GPTBigCodeTokenizer:
    """With added tokens outside the byte alphabet, special and not."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    tokenizer.add_tokens(["two words", "日本語"])
    tokenizer.add_special_tokens({"eos_token": "<｜end｜>"})
    return tokenizer


def pieces(tokenizer: GPTBigCodeTokenizer, ids: list[int], skip_special_tokens: bool = True) -> list[str]:
    decoder = IncrementalDecoder(tokenizer, skip_special_tokens)
    return [*(decoder.push(token_id) for token_id in ids), decoder.flush()]


@given(ids=TOKENS | BYTES, skip=st.booleans())
def test_pieces_join_to_the_decoded_whole(tokenizer: GPTBigCodeTokenizer, ids: list[int], skip: bool) -> None:
    assert "".join(pieces(tokenizer, ids, skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(st.integers(VOCABULARY - 3, VOCABULARY + 4) | st.integers(0, 300), max_size=20), skip=st.booleans())
def test_pieces_join_with_added_and_unknown_tokens(with_added: GPTBigCodeTokenizer, ids: list[int], skip: bool) -> None:
    assert "".join(pieces(with_added, ids, skip)) == with_added.decode(ids, skip_special_tokens=skip)


@given(text=TEXTS)
def test_text_survives_encoding_and_piecewise_decoding(tokenizer: GPTBigCodeTokenizer, text: str) -> None:
    parts = pieces(tokenizer, tokenizer.encode(text), skip_special_tokens=False)
    assert "".join(parts) == text
    assert parts[-1] == ""  # nothing is held back that was complete


@given(text=TEXTS.filter(lambda text: "\ufffd" not in text))
def test_no_piece_holds_a_part_of_a_character(tokenizer: GPTBigCodeTokenizer, text: str) -> None:
    assert not any("\ufffd" in part for part in pieces(tokenizer, tokenizer.encode(text)))


def test_character_appears_with_its_last_byte(tokenizer: GPTBigCodeTokenizer) -> None:
    ids = tokenizer.encode("🙂")
    assert len(ids) > 1
    assert pieces(tokenizer, ids) == [*[""] * (len(ids) - 1), "🙂", ""]
    assert pieces(tokenizer, ids[:-1]) == [*[""] * (len(ids) - 1), "\ufffd"]


def test_decoder_starts_anew_after_flush(tokenizer: GPTBigCodeTokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    decoder.push(tokenizer.encode("🙂")[0])
    assert decoder.flush() == "\ufffd"
    assert "".join(map(decoder.push, tokenizer.encode("next"))) + decoder.flush() == "next"


def test_cost_per_token_does_not_grow(tokenizer: GPTBigCodeTokenizer) -> None:
    first_byte = tokenizer.encode("🙂")[0]
    start = time.perf_counter()
    pieces(tokenizer, [first_byte] * 100_000)
    assert time.perf_counter() - start < 5  # decoding the whole anew for each token would take minutes


def test_incremental_decoder_refuses_other_tokenizers() -> None:
    from tokenizers import Tokenizer, models

    with pytest.raises(TokenizerError, match="byte-level"):
        IncrementalDecoder(GPTBigCodeTokenizer(Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))))


def test_one_text_gives_flat_lists_and_several_give_rows(tokenizer: GPTBigCodeTokenizer) -> None:
    one = tokenizer("def f():")
    assert one["input_ids"] == one.input_ids == tokenizer.encode("def f():")
    assert one.attention_mask == [1] * len(one.input_ids)
    assert tokenizer(["def f():", "x"]).input_ids == [one.input_ids, tokenizer.encode("x")]
    assert dict(**one) == one
    assert one.to("cpu") is one
    with pytest.raises(InputError, match="cuda"):
        one.to("cuda")
    with pytest.raises(AttributeError):
        _ = one.labels


def test_tensors(tokenizer: GPTBigCodeTokenizer) -> None:
    batch = tokenizer("def f():", return_tensors="np")
    assert batch.input_ids.dtype == np.int64
    assert batch.input_ids.tolist() == [tokenizer.encode("def f():")]
    assert tokenizer.encode("def f():", return_tensors="np").tolist() == batch.input_ids.tolist()
    with pytest.raises(InputError, match="padding=True"):
        tokenizer(["a", "def f():"], return_tensors="np")


def test_torch_tensors(tokenizer: GPTBigCodeTokenizer) -> None:
    torch = pytest.importorskip("torch")
    ids = tokenizer("def f():", return_tensors="pt").input_ids
    assert ids.dtype == torch.int64
    assert ids.tolist() == [tokenizer.encode("def f():")]
    assert tokenizer.decode(ids[0]) == "def f():"


def test_padding(checkpoint_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    with pytest.raises(TokenizerError, match="pad_token"):
        tokenizer(["a", "def f():"], padding=True)
    tokenizer.pad_token = tokenizer.eos_token
    long = tokenizer.encode("def f():")
    short = tokenizer.encode("a")
    filler = [tokenizer.eos_token_id] * (len(long) - len(short))
    assert tokenizer(["a", "def f():"], padding=True).input_ids == [short + filler, long]
    left = tokenizer(["a", "def f():"], padding="longest", padding_side="left")
    assert left.input_ids == [filler + short, long]
    assert left.attention_mask == [[0] * len(filler) + [1] * len(short), [1] * len(long)]
    tokenizer.padding_side = "left"
    assert tokenizer(["a", "def f():"], padding=True) == left
    fixed = tokenizer("a", padding="max_length", max_length=7, return_tensors="np")
    assert fixed.attention_mask.tolist() == [[0] * 6 + [1]]
    with pytest.raises(TokenizerError, match="not in the vocabulary"):
        tokenizer.pad_token = "<nothing>"


def test_truncation(checkpoint_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    ids = tokenizer.encode("def f(a, b): return a + b")
    assert tokenizer("def f(a, b): return a + b", truncation=True, max_length=4).input_ids == ids[:4]
    tokenizer.truncation_side = "left"
    assert tokenizer("def f(a, b): return a + b", truncation=True, max_length=4).input_ids == ids[-4:]
    assert len(tokenizer("x = 1\n" * 3000, truncation=True).input_ids) == tokenizer.model_max_length == 2048


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": 3}, "string"),
        ({"text": ["a", 3]}, "string"),
        ({"text": "\ud800"}, "surrogate"),
        ({"text": "a", "padding": "left"}, "padding"),
        ({"text": "a", "return_tensors": "tf"}, "return_tensors"),
        ({"text": "a", "max_length": 4, "truncation": False}, "truncation"),
        ({"text": "a", "max_length": 4, "padding": True}, "truncation"),
        ({"text": "a", "stride": 2}, "stride"),
        ({"text": "a", "max_length": 4, "stride": 4}, "stride"),
        ({"text": "a", "stride": 2048, "truncation": True}, "stride"),
        ({"text": "a", "padding": "longst"}, "did you mean 'longest'"),
        ({"text": "a", "padding_side": "up"}, "padding_side"),
        ({"text": "a", "pad_to_multiple_of": 0}, "pad_to_multiple_of"),
        ({"text": "a", "padding": "max_length", "truncation": True, "max_length": 9, "pad_to_multiple_of": 8}, "multiple"),
        ({"text": "a", "truncation": "first"}, "only_first"),
        ({"text": "a", "truncation": "only_second", "max_length": 1}, "cut"),
        ({"text": ["a", "b"], "text_pair": ["a"]}, "text_pair"),
        ({"text": "a", "text_pair": 3}, "text_pair"),
        ({"text": "a", "is_split_into_words": True}, "list of words"),
        ({"text": "a", "return_tensor": "np"}, "did you mean 'return_tensors'"),
        ({"text": "a", "max_lenght": 3}, "did you mean 'max_length'"),
        ({"text": "a", "max_length": 0, "truncation": True}, "positive"),
    ],
)
def test_wrong_arguments(tokenizer: GPTBigCodeTokenizer, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer(**options)  # type: ignore[arg-type]


def test_decode_accepts_what_holds_integers(tokenizer: GPTBigCodeTokenizer) -> None:
    ids = tokenizer.encode("def f():")
    assert tokenizer.decode(ids) == tokenizer.decode(np.array(ids)) == tokenizer.decode(tuple(ids)) == "def f():"
    assert tokenizer.decode(ids[0]) == tokenizer.decode(np.int64(ids[0])) == "def"
    assert tokenizer.decode([]) == ""
    assert tokenizer.batch_decode([ids, ids[:1]]) == ["def f():", "def"]
    assert tokenizer.decode([ids, ids[:1]]) == ["def f():", "def"]
    assert tokenizer.decode({"input_ids": ids}) == "def f():"
    assert tokenizer.batch_decode([]) == []
    assert tokenizer.batch_decode(ids) == ["def f():"]
    assert tokenizer.batch_decode(np.array([ids, ids])) == ["def f():"] * 2
    assert tokenizer.decode([0, *ids]) == "<|endoftext|>def f():"
    assert tokenizer.decode([0, *ids], skip_special_tokens=True) == "def f():"


@pytest.mark.parametrize("ids", [[-1], [2**32], [[1, 2**40]], [0.5], ["a"], [True]])
def test_decode_refuses_what_is_no_id(tokenizer: GPTBigCodeTokenizer, ids: object) -> None:
    with pytest.raises(InputError):
        tokenizer.decode(ids)


def test_tokens_and_ids(tokenizer: GPTBigCodeTokenizer) -> None:
    ids = tokenizer.encode("a b")
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == ["a", "Ġb"]
    assert tokenizer.convert_tokens_to_ids(tokens) == ids
    assert tokenizer.convert_ids_to_tokens(ids[0]) == "a"
    assert tokenizer.convert_tokens_to_ids("no such token") == tokenizer.unk_token_id == 0
    assert tokenizer.convert_ids_to_tokens([0, *ids], skip_special_tokens=True) == tokens


def test_special_tokens(tokenizer: GPTBigCodeTokenizer) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|endoftext|>", None)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, None)
    assert tokenizer.all_special_ids == list(range(6))
    assert len(tokenizer) == tokenizer.vocab_size == VOCABULARY


def test_special_tokens_in_data_can_be_plain_text(tokenizer: GPTBigCodeTokenizer) -> None:
    text = "a<fim_middle>b"
    assert 2 in tokenizer.encode(text)
    plain = tokenizer.encode(text, split_special_tokens=True)
    assert not set(plain) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(plain) == text
    assert 2 in tokenizer.encode(text)  # the shared tokenizer is as it was


def test_saved_tokenizer_is_the_same(checkpoint_dir: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    tokenizer.pad_token = "<fim_pad>"
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path / "new")
    again = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert again.backend.to_str() == tokenizer.backend.to_str()
    assert (again.pad_token_id, again.padding_side, again.model_max_length) == (4, "left", 2048)
    assert again.eos_token == tokenizer.eos_token


def test_special_tokens_of_older_checkpoints(checkpoint_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((checkpoint_dir / "tokenizer.json").read_bytes())
    names = {"eos_token": {"content": "<|endoftext|>", "lstrip": False}, "pad_token": "[PAD]"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token_id == 0
    assert tokenizer.pad_token_id == VOCABULARY  # added, as transformers does
    assert tokenizer.decode(tokenizer.encode("a[PAD]"), skip_special_tokens=True) == "a"
    assert tokenizer.model_max_length > 10**20


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"version": "1.0"}'),
        ("tokenizer_config.json", "["),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"eos_token": 3}'),
        ("tokenizer_config.json", '{"padding_side": "middle"}'),
    ],
)
def test_damaged_files(checkpoint_dir: Path, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes((checkpoint_dir / "tokenizer.json").read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError):
        AutoTokenizer.from_pretrained(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError):
        AutoTokenizer.from_pretrained(tmp_path / "nowhere")
