"""The tokenizer's calls, and the laws of incremental decoding."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu.errors import InputError, ModelNotFoundError, TokenizerError
from gptbigcode_cpu.tokenizer import AutoTokenizer, BatchEncoding, GPTBigCodeTokenizer
from gptbigcode_cpu.tokenizer.incremental import IncrementalDecoder

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
    """No token is given to the backend a second time, also not while a character is held back."""
    given: list[int] = []

    class CountingBackend:
        def __init__(self, backend: Any) -> None:
            self._backend = backend

        def __getattr__(self, name: str) -> Any:
            def call(ids: Any) -> Any:
                given.extend([ids] if isinstance(ids, int) else ids)
                return getattr(self._backend, name)(ids)

            return call

    decoder = IncrementalDecoder(tokenizer)
    decoder._backend = cast(Any, CountingBackend(decoder._backend))
    ids = [tokenizer.encode("🙂")[0]] * 50 + tokenizer.encode("def f():")
    assert "".join(map(decoder.push, ids)) + decoder.flush() == tokenizer.decode(ids)
    assert given == ids


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
        ({"text": "a b c", "truncation": "only_second", "max_length": 1}, "cut"),
        ({"text": "a b c d", "text_pair": "e f g h", "truncation": True, "max_length": 4, "stride": 2}, "stride"),
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


class TestBatchEncoding:
    def test_rows(self, tokenizer: GPTBigCodeTokenizer) -> None:
        batch = tokenizer(["def f():", "x"], return_length=True)
        assert batch[1].tokens == batch.tokens(1) == ["x"]
        assert batch[:1] == {"input_ids": batch.input_ids[:1], "attention_mask": batch.attention_mask[:1], "length": [3]}
        assert batch.n_sequences == 1
        assert tokenizer("a", "b").n_sequences == 2
        with pytest.raises(InputError, match="row 2 does not exist"):
            batch.tokens(2)
        with pytest.raises(KeyError):
            _ = batch["labels"]

    def test_positions_count_from_the_end_too(self, tokenizer: GPTBigCodeTokenizer) -> None:
        batch = tokenizer(["def f():", "x y"])
        assert batch.token_to_chars(1, -1) == (1, 3)
        assert batch.token_to_chars(-1).start == 5
        assert batch.char_to_token(1, 2) == 1
        assert batch.word_to_tokens(99) is None
        assert batch.char_to_token(99) is None

    def test_without_encodings(self, tokenizer: GPTBigCodeTokenizer) -> None:
        batch = BatchEncoding({"input_ids": [[1, 2]], "scores": [[0.5, 0.25]]})
        assert not batch.is_fast
        with pytest.raises(InputError, match="cannot map words"):
            batch.tokens()
        batch.convert_to_tensors("np")
        assert (batch.input_ids.dtype, batch.scores.tolist()) == (np.int64, [[0.5, 0.25]])
        assert BatchEncoding({"input_ids": [1]}).convert_to_tensors("np", prepend_batch_axis=True).input_ids.shape == (1, 1)

    def test_survives_pickling(self, tokenizer: GPTBigCodeTokenizer) -> None:
        batch = pickle.loads(pickle.dumps(tokenizer(["def f():"])))
        assert batch.tokens() == tokenizer.tokenize("def f():")


class TestAddedTokens:
    @pytest.fixture
    def own(self, checkpoint_dir: Path) -> GPTBigCodeTokenizer:
        return AutoTokenizer.from_pretrained(checkpoint_dir)

    def test_ordinary(self, own: GPTBigCodeTokenizer) -> None:
        own("cut", truncation=True, split_special_tokens=True)  # makes the second backend, which must learn the tokens too
        assert own.add_tokens(["two words", "two words"]) == 1
        for options in ({}, {"truncation": True}, {"split_special_tokens": True}):
            assert own.encode("two words", **options) == [VOCABULARY], options
        assert own.decode([VOCABULARY], skip_special_tokens=True) == "two words"
        assert (len(own), own.vocab_size, own.get_vocab()["two words"]) == (VOCABULARY + 1, VOCABULARY, VOCABULARY)
        assert own.added_tokens_encoder["two words"] == VOCABULARY
        assert own.added_tokens_decoder[VOCABULARY].content == "two words"

    def test_special(self, own: GPTBigCodeTokenizer) -> None:
        assert own.add_special_tokens({"pad_token": "[PAD]", "extra_special_tokens": ["<a>", "<b>"]}) == 3
        assert (own.pad_token, own.pad_token_id) == ("[PAD]", VOCABULARY)
        assert own.extra_special_tokens == ["<a>", "<b>"]
        own.add_special_tokens({"extra_special_tokens": ["<c>"]}, replace_extra_special_tokens=False)
        assert own.extra_special_tokens_ids == [VOCABULARY + 1, VOCABULARY + 2, VOCABULARY + 3]
        assert own.decode(own.encode("x<a>[PAD]"), skip_special_tokens=True) == "x"
        assert own.get_special_tokens_mask([5, VOCABULARY, 0]) == [0, 1, 1]
        with pytest.raises(InputError, match="did you mean 'pad_token'"):
            own.add_special_tokens({"pad_tokn": "x"})
        with pytest.raises(InputError, match="a token is"):
            own.add_tokens([3])  # type: ignore[list-item]

    def test_roles_are_assigned_by_text_or_id(self, own: GPTBigCodeTokenizer) -> None:
        own.pad_token_id = 4
        assert own.pad_token == "<fim_pad>"
        own.mask_token = "<filename>"
        assert own.mask_token_id == 5
        own.pad_token = None
        assert own.pad_token_id is None
        with pytest.raises(TokenizerError, match="no token id"):
            own.sep_token_id = VOCABULARY
        assert "mask_token" in own.special_tokens_map

    def test_added_tokens_of_tokenizer_config(self, checkpoint_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_bytes((checkpoint_dir / "tokenizer.json").read_bytes())
        token = {"content": "<new>", "lstrip": True, "rstrip": False, "normalized": False, "special": True}
        config = {"added_tokens_decoder": {str(VOCABULARY): token}, "eos_token": "<|endoftext|>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        own = AutoTokenizer.from_pretrained(tmp_path, add_eos_token=True)
        assert own.encode("a  <new>") == [*own.encode("a", add_special_tokens=False), VOCABULARY, 0]
        assert own.num_special_tokens_to_add() == 1
        assert own("a", "a", return_special_tokens_mask=True).special_tokens_mask == [0, 1, 0, 1]
        assert own.encode("a b c d e", truncation=True, max_length=3)[-1] == 0
        assert own.max_len_sentences_pair == own.model_max_length - 2

    def test_copies_are_independent(self, own: GPTBigCodeTokenizer) -> None:
        other = copy.deepcopy(own)
        assert pickle.loads(pickle.dumps(own)).encode("def", truncation=True) == own.encode("def")
        own.add_tokens("two words")
        assert len(other) == VOCABULARY


def test_settings_of_from_pretrained(checkpoint_dir: Path) -> None:
    own = AutoTokenizer.from_pretrained(checkpoint_dir, padding_side="left", pad_token="<fim_pad>", model_max_length=4)
    assert own(["a", "a b c d e f"], padding=True, truncation=True).input_ids[0][:3] == [4, 4, 4]
    assert own.name_or_path == str(checkpoint_dir)
    with pytest.raises(InputError, match="did you mean 'padding_side'"):
        AutoTokenizer.from_pretrained(checkpoint_dir, padding_sid="left")


def test_default_outputs(checkpoint_dir: Path) -> None:
    own = AutoTokenizer.from_pretrained(checkpoint_dir, model_input_names=["input_ids", "token_type_ids"])
    assert list(own("a")) == ["input_ids", "token_type_ids"]
    assert list(own("a", return_attention_mask=True, return_token_type_ids=False)) == ["input_ids", "attention_mask"]


def test_names_as_text_by_default(checkpoint_dir: Path) -> None:
    own = AutoTokenizer.from_pretrained(checkpoint_dir, split_special_tokens=True)
    assert 0 not in own.encode("<|endoftext|>")
    assert own.encode("<|endoftext|>", split_special_tokens=False) == [0]


def test_threads_do_not_see_each_others_truncation(tokenizer: GPTBigCodeTokenizer) -> None:
    text = "def f(a, b): return a + b " * 20

    def lengths(limit: int | None) -> set[int]:
        options = {} if limit is None else {"truncation": True, "max_length": limit}
        return {len(tokenizer.encode(text, **options)) for _ in range(60)}

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lengths, (3, None, 7, None)))
    whole = len(tokenizer.encode(text))
    assert results == [{3}, {whole}, {7}, {whole}]


def test_a_long_text_is_reported_once(checkpoint_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = AutoTokenizer.from_pretrained(checkpoint_dir, model_max_length=3)
    own("a b c d e f", verbose=False)
    assert not caplog.records
    own("a b c d e f")
    own("a b c d e f")
    assert [record.getMessage() for record in caplog.records] == ["a text has 6 tokens, the model was made for 3"]


def test_cleaning_up_is_refused_with_a_warning(tokenizer: GPTBigCodeTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    ids = tokenizer.encode("x , y .")
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=True) == "x , y ."
    assert "not applied" in caplog.text


def test_unknown_arguments_are_named(tokenizer: GPTBigCodeTokenizer) -> None:
    for call, near in (
        (lambda: tokenizer.decode([1], skip_special_token=True), "skip_special_tokens"),
        (lambda: tokenizer.batch_decode([[1]], skip_special=True), "skip_special_tokens"),
        (lambda: tokenizer.pad({"input_ids": [1]}, pading=True), "padding"),
        (lambda: tokenizer.encode("x", add_special_token=True), "add_special_tokens"),
        (lambda: tokenizer.tokenize("x", truncate=True), "truncation"),
    ):
        with pytest.raises(InputError, match=f"did you mean '{near}'"):
            call()


def test_fim_tokens(tokenizer: GPTBigCodeTokenizer, checkpoint_dir: Path, tmp_path: Path) -> None:
    ids = (tokenizer.fim_prefix_id, tokenizer.fim_middle_id, tokenizer.fim_suffix_id, tokenizer.fim_pad_id)
    assert ids == (1, 2, 3, 4)
    text = (checkpoint_dir / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(text.replace("<fim_", "<fim-").replace("<fim-pad>", "<other>"), encoding="utf-8")
    santacoder = AutoTokenizer.from_pretrained(tmp_path)
    assert (santacoder.fim_prefix_id, santacoder.fim_middle_id, santacoder.fim_pad_id) == (1, 2, None)


def test_pad_gives_what_it_was_given(tokenizer: GPTBigCodeTokenizer, checkpoint_dir: Path) -> None:
    own = AutoTokenizer.from_pretrained(checkpoint_dir, pad_token="<fim_pad>")
    padded = own.pad({"input_ids": [np.array([7, 8]), np.array([9])]})
    assert isinstance(padded.input_ids, np.ndarray)
    assert padded.input_ids.tolist() == [[7, 8], [9, 4]]
    assert own.pad({"input_ids": [[7]]}, padding=False, return_attention_mask=False) == {"input_ids": [[7]]}
    with pytest.raises(InputError, match="input_ids"):
        own.pad({"ids": [1]})
    with pytest.raises(InputError, match="numbers of rows"):
        own.pad({"input_ids": [[1], [2]], "labels": [[1]]})
    with pytest.raises(TokenizerError, match="pad_token"):
        tokenizer.pad({"input_ids": [[1], [2, 3]]})


def test_upload(checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    class Api:
        def __init__(self, token: object = None) -> None:
            seen["token"] = token

        def create_repo(self, repo_id: str, **_: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, *, folder_path: Path, **given: object) -> SimpleNamespace:
            seen.update(given, files=sorted(path.name for path in folder_path.iterdir()))
            return SimpleNamespace(pr_url=None, commit_url="https://commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir, chat_template="octocoder")
    assert tokenizer.push_to_hub("mine", token="secret") == "https://commit"
    assert seen["files"] == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert (seen["repo_id"], seen["token"], seen["commit_message"]) == ("me/mine", "secret", "Upload tokenizer")
    tokenizer.save_pretrained(tmp_path / "named", push_to_hub=True, commit_message="Again")
    assert (seen["repo_id"], seen["commit_message"]) == ("me/named", "Again")
    with pytest.raises(InputError, match="did you mean 'repo_id'"):
        tokenizer.save_pretrained(tmp_path / "named", repo_i="x")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        tokenizer.save_pretrained(tmp_path / "file")
