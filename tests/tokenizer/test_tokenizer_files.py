"""Tokenizer files as others write them: which file decides, ids that are kept, special tokens, templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle.random_models import byte_level_tokenizer

from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import CheckpointError, InputError, TokenizerError
from gptbigcode_cpu.tokenizer import AutoTokenizer, GPTBigCodeTokenizer

SIZE = 262  # tokens of byte_level_tokenizer(): six special ones and the bytes
A = 6 + ord("a")
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
BEGIN_WITH_0 = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(file=content, ...)``: a directory of these files; ``tokenizer`` changes a small ``tokenizer.json``."""

    def make(tokenizer: dict[str, Any] | None = None, plain: bool = False, **files: Any) -> Path:
        directory = tmp_path / f"tokenizer{len([*tmp_path.iterdir()])}"
        directory.mkdir()
        content = byte_level_tokenizer() | (tokenizer or {})
        if plain:
            (directory / "vocab.json").write_text(json.dumps(content["model"]["vocab"] | {"de": 262, "12": 263}))
            (directory / "merges.txt").write_text("#version: 0.2\nd e\n1 2\n")
        else:
            (directory / "tokenizer.json").write_text(json.dumps(content))
        for name, value in files.items():
            (directory / f"{name}.json").write_text(json.dumps(value))
        return directory

    return make


def added(*tokens: tuple[str, int]) -> dict[str, Any]:
    """``tokenizer.json`` with these added tokens besides the special ones."""
    return {"added_tokens": [*byte_level_tokenizer()["added_tokens"], *({"id": i, "content": t, **FLAGS} for t, i in tokens)]}


class TestBeginningAndEnd:
    @pytest.mark.parametrize("switches", [{"add_bos_token": True}, {"add_eos_token": True}, {"add_bos_token": False}])
    def test_tokenizer_json_decides(self, write: Write, switches: dict[str, bool]) -> None:
        names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
        assert AutoTokenizer.from_pretrained(write(tokenizer_config=names | switches)).encode("a") == [A]
        directory = write({"post_processor": BEGIN_WITH_0}, tokenizer_config=names | switches)
        assert AutoTokenizer.from_pretrained(directory).encode("a") == [0, A]

    def test_a_call_decides_over_it(self, write: Write, tmp_path: Path) -> None:
        directory = write({"post_processor": BEGIN_WITH_0}, tokenizer_config={"eos_token": "<|endoftext|>"})
        tokenizer = AutoTokenizer.from_pretrained(directory, add_eos_token=True)
        assert tokenizer.encode("a") == [A, 0]
        tokenizer.save_pretrained(tmp_path / "saved")
        assert AutoTokenizer.from_pretrained(tmp_path / "saved").encode("a") == [A, 0]
        assert (tokenizer.add_bos_token, tokenizer.add_eos_token) == (False, True)
        tokenizer.bos_token, tokenizer.add_bos_token, tokenizer.add_eos_token = "<fim_pad>", True, False
        assert tokenizer.encode("a") == tokenizer.encode("a", truncation=True, max_length=9) == [4, A]

    def test_without_tokenizer_json_the_configuration_decides(self, write: Write) -> None:
        directory = write(plain=True, tokenizer_config={"add_bos_token": True, "add_eos_token": True})
        assert AutoTokenizer.from_pretrained(directory).encode("a") == [0, A, 0]


class TestIds:
    """The id of a token is a row of the embedding."""

    WANTED = (("<|user|>", 262), ("<|end|>", 270), ("<|mid|>", 266))

    @pytest.mark.parametrize("kind", ["tokenizer.json", "added_tokens.json", "added_tokens_decoder", "vocab.json"])
    def test_ids_with_gaps_are_kept(self, write: Write, tmp_path: Path, kind: str) -> None:
        wanted = self.WANTED if kind != "vocab.json" else (("<|user|>", 264), ("<|end|>", 270))
        match kind:
            case "tokenizer.json":
                directory = write(added(*wanted))
            case "added_tokens_decoder":
                recorded = {str(token_id): {"content": token, **FLAGS} for token, token_id in wanted}
                directory = write(tokenizer_config={"added_tokens_decoder": recorded})
            case _:
                directory = write(plain=kind == "vocab.json", added_tokens=dict(wanted))
        tokenizer = AutoTokenizer.from_pretrained(directory, pad_token="[PAD]")
        tokenizer.save_pretrained(tmp_path / "saved")
        for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
            for token, token_id in wanted:
                assert each.encode(f"a{token}a") == [A, token_id, A]
                assert each.decode([A, token_id]) == f"a{token}"
                assert each.get_added_vocab()[token] == token_id
            assert each.decode([265, A]) == "a"  # no token has this id
            assert each.pad_token_id == 271

    def test_ids_in_order_leave_the_vocabulary_as_it_is(self, write: Write) -> None:
        tokenizer = AutoTokenizer.from_pretrained(write(added(("<x>", 262)), added_tokens={"<y>": 263, "<z>": 264}))
        assert (tokenizer.vocab_size, len(tokenizer)) == (SIZE, SIZE + 3)
        assert tokenizer.encode("<z><x><y>") == [264, 262, 263]

    def test_tokenizer_json_decides_what_it_has(self, write: Write) -> None:
        recorded = {"300": {"content": "<fim_pad>", **FLAGS, "lstrip": True}}
        tokenizer = AutoTokenizer.from_pretrained(write(tokenizer_config={"added_tokens_decoder": recorded}))
        assert tokenizer.encode("a  <fim_pad>") == [A, 4]  # the id of the one, the flags of the other

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"added_tokens": {"<x>": 5}}, "<x>"),
            ({"added_tokens": {"<x>": 300, "<y>": 300}}, "to two tokens, '<x>' and '<y>'"),
            ({"added_tokens": {"<x>": -1}}, "no token id"),
            ({"added_tokens": {"<x>": 1 << 40}}, "no token id"),
            ({"added_tokens": {"<x>": True}}, "no token id"),
            ({"tokenizer": added(("<x>", 7))}, "'<x>'"),
            ({"tokenizer": added(("a", 7))}, "two ids"),
            ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "<x>"}}}}, "no token id"),
            ({"tokenizer_config": {"added_tokens_decoder": {"300": "<x>"}}}, "object with content"),
            ({"tokenizer_config": {"added_tokens_decoder": {"300": {"content": "<x>", "lstrip": 1}}}}, "true nor false"),
            ({"tokenizer_config": {"added_tokens_decoder": ["<x>"]}}, "object of tokens by id"),
            ({"tokenizer_config": {"added_tokens_decoder": {"300": {"content": "<x>"}, "301": {"content": "<x>"}}}}, "two ids"),
        ],
    )
    def test_ids_that_contradict_are_refused(self, write: Write, files: dict[str, Any], message: str) -> None:
        with pytest.raises(TokenizerError, match=message):
            AutoTokenizer.from_pretrained(write(**files))

    def test_a_new_token_takes_no_id_of_another(self, write: Write) -> None:
        content = byte_level_tokenizer()["model"]
        del content["vocab"]["þ"]
        with pytest.raises(TokenizerError, match=r"vocabulary has gaps.*added_tokens\.json"):
            AutoTokenizer.from_pretrained(write({"model": content}), pad_token="[PAD]")
        directory = write({"model": content}, added_tokens={"[PAD]": 262})
        assert AutoTokenizer.from_pretrained(directory, pad_token="[PAD]").pad_token_id == 262


class TestVocabularyAndMerges:
    def test_vocabulary_and_merges_open_like_the_conversion(
        self, write: Write, make_checkpoint: Callable[..., Path], tmp_path: Path
    ) -> None:
        source = make_checkpoint(tmp_path / "source", vocab_size=280, n_embd=32, n_layer=1, n_head=2, n_positions=16)
        (source / "tokenizer.json").unlink()
        (source / "tokenizer_config.json").unlink(missing_ok=True)
        for file in write(plain=True, added_tokens={"<|user|>": 264, "<|end|>": 270}).iterdir():
            (source / file.name).write_bytes(file.read_bytes())
        convert(source, tmp_path / "out")
        text = "de 12é<|end|><|endoftext|>"
        ids = [262, *(6 + byte for byte in b" 12\xc3\xa9"), 270, 0]
        for directory in (source, tmp_path / "out"):
            tokenizer = AutoTokenizer.from_pretrained(directory)
            assert tokenizer.encode(text) == ids
            assert tokenizer.decode(ids) == text
            assert tokenizer.eos_token == tokenizer.bos_token == tokenizer.unk_token == "<|endoftext|>"

    def test_prefix_space(self, write: Write) -> None:
        tokenizer = AutoTokenizer.from_pretrained(write(plain=True, tokenizer_config={"add_prefix_space": True}))
        assert tokenizer.encode("a") == [6 + ord(" "), A]

    def test_windows_line_ends(self, write: Write) -> None:
        directory = write(plain=True)
        (directory / "merges.txt").write_bytes(b"#version: 0.2\r\nd e\r\n")
        assert AutoTokenizer.from_pretrained(directory).encode("de") == [262]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("merges.txt", b"d e f\n", "line 1"),
            ("merges.txt", b"#version\nde\n", "line 2"),
            ("merges.txt", b"d\xff e\n", "UTF-8"),
            ("merges.txt", b"d f\n", "do not make a tokenizer"),
            ("vocab.json", b"[]", "object"),
            ("vocab.json", b'{"a": 1, "b": 1}', "two tokens"),
            ("vocab.json", b'{"a": -1}', "no token id"),
            ("added_tokens.json", b"[]", "object"),
        ],
    )
    def test_damaged(
        self, write: Write, make_checkpoint: Callable[..., Path], tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        directory = write(plain=True)
        (directory / name).write_bytes(content)
        with pytest.raises(TokenizerError, match=message):
            AutoTokenizer.from_pretrained(directory)
        source = make_checkpoint(tmp_path / "source", vocab_size=280, n_embd=32, n_layer=1, n_head=2, n_positions=16)
        (source / "tokenizer.json").unlink()
        for file in directory.iterdir():
            (source / file.name).write_bytes(file.read_bytes())
        with pytest.raises(CheckpointError, match=message):
            convert(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestSpecialTokens:
    def open(self, write: Write, config: dict[str, Any], **files: Any) -> GPTBigCodeTokenizer:
        return AutoTokenizer.from_pretrained(write(tokenizer_config=config, **files))

    def test_named_and_listed(self, write: Write) -> None:
        listed = ["<|user|>", "<|endoftext|>", {"__type": "AddedToken", "content": "<|end|>", "lstrip": True}]
        for name in ("additional_special_tokens", "extra_special_tokens"):
            tokenizer = self.open(write, {"bos_token": "<|endoftext|>", "eos_token": "<|user|>", name: listed})
            assert tokenizer.extra_special_tokens == ["<|user|>", "<|endoftext|>", "<|end|>"]
            assert tokenizer.all_special_tokens == ["<|endoftext|>", "<|user|>", "<|end|>"]
            assert tokenizer.all_special_ids == [0, 262, 263]
            assert tokenizer.encode("a  <|end|>") == [A, 263]
            assert len(tokenizer) == 264

    def test_roles_of_a_models_own(self, write: Write, tmp_path: Path) -> None:
        config = {"extra_special_tokens": {"boi_token": "<boi>", "other": "<fim_pad>"}, "image_token": "<image>"}
        tokenizer: Any = self.open(write, config)
        tokenizer.save_pretrained(tmp_path / "saved")
        for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
            assert (each.boi_token, each.boi_token_id) == ("<boi>", each.convert_tokens_to_ids("<boi>"))
            assert (each.other, each.other_id, each.image_token) == ("<fim_pad>", 4, "<image>")
            assert set(each.all_special_tokens) == {"<boi>", "<fim_pad>", "<image>"}
            assert each.decode(each.encode("a<boi><image>"), skip_special_tokens=True) == "a"
            assert not hasattr(each, "video_token")

    def test_special_tokens_map_counts_more_unless_tokens_are_recorded(self, write: Write) -> None:
        named = {"eos_token": {"content": "<fim_pad>"}, "additional_special_tokens": ["<x>"]}
        config: dict[str, Any] = {"eos_token": "<|endoftext|>"}
        tokenizer = self.open(write, config, special_tokens_map=named)
        assert (tokenizer.eos_token_id, tokenizer.extra_special_tokens) == (4, ["<x>"])
        tokenizer = self.open(write, config | {"added_tokens_decoder": {}}, special_tokens_map=named)
        assert (tokenizer.eos_token_id, tokenizer.extra_special_tokens) == (0, [])
        directory = write(tokenizer_config=config, special_tokens_map=named)
        assert AutoTokenizer.from_pretrained(directory, eos_token="<fim_prefix>").eos_token_id == 1

    def test_padding_in_tokenizer_json_is_a_default(self, write: Write) -> None:
        padding = {
            "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 4, "pad_type_id": 0,
            "pad_token": "<fim_pad>",
        }  # fmt: skip
        truncation = {"direction": "Left", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
        directory = write({"padding": padding, "truncation": truncation})
        tokenizer = AutoTokenizer.from_pretrained(directory)
        assert tokenizer.encode("aaa") == [A] * 3
        assert tokenizer(["a", "aa"], padding=True).input_ids == [[4, A], [A, A]]
        assert tokenizer.truncation_side == "left"

    @pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "TokenizersBackend", "CodeGenTokenizer", "Unknown"])
    def test_the_name_of_a_class_changes_nothing(self, write: Write, name: str) -> None:
        digits = {"type": "Digits", "individual_digits": True}
        byte_level = byte_level_tokenizer()["pre_tokenizer"]
        content = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]}}
        directory = write(content, tokenizer_config={"tokenizer_class": name, "add_prefix_space": True, "errors": "strict"})
        tokenizer = AutoTokenizer.from_pretrained(directory)
        assert tokenizer("a 12").word_ids() == [0, 1, 2, 3]
        assert tokenizer.decode([6 + 0xFF]) == "\ufffd"


class TestSettings:
    @pytest.mark.parametrize(
        ("limit", "expected"),
        [(7, 7), (7.0, 7), (1e30, int(1e30)), (int(1e30), int(1e30)), (None, int(1e30)), (float("inf"), int(1e30))],
    )
    def test_longest_text(self, write: Write, limit: float | None, expected: int) -> None:
        tokenizer = AutoTokenizer.from_pretrained(write(tokenizer_config={"model_max_length": limit}))
        assert tokenizer.model_max_length == expected
        assert len(tokenizer.encode("a" * 9, truncation=True)) == min(9, expected)

    @pytest.mark.parametrize(
        "config",
        [
            {"model_max_length": "long"},
            {"model_max_length": float("nan")},
            {"model_max_length": True},
            {"model_input_names": 3},
            {"model_input_names": [3]},
            {"extra_special_tokens": 3},
            {"extra_special_tokens": [3]},
            {"extra_special_tokens": {"x": 3}},
            {"additional_special_tokens": "x"},
            {"pad_token": ["x"]},
        ],
    )
    def test_settings_of_wrong_types_are_refused(self, write: Write, config: dict[str, Any]) -> None:
        with pytest.raises(TokenizerError):
            AutoTokenizer.from_pretrained(write(tokenizer_config=config))

    def test_cleaning_up_is_never_applied(self, write: Write) -> None:
        tokenizer = AutoTokenizer.from_pretrained(write(tokenizer_config={"clean_up_tokenization_spaces": True}))
        assert tokenizer.decode(tokenizer.encode("a .")) == "a ."


class TestChatTemplateFiles:
    def test_named_templates(self, write: Write, tmp_path: Path, make_checkpoint: Callable[..., Path]) -> None:
        source = make_checkpoint(tmp_path / "source", vocab_size=280, n_embd=32, n_layer=1, n_head=2, n_positions=16)
        (source / "additional_chat_templates").mkdir()
        (source / "additional_chat_templates" / "rag.jinja").write_text("R")
        (source / "additional_chat_templates" / "notes.txt").write_text("no template")
        (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": "of the configuration"}))
        assert AutoTokenizer.from_pretrained(source).chat_template == {"rag": "R"}
        (source / "chat_template.jinja").write_text("D")
        expected = {"default": "D", "rag": "R"}
        convert(source, tmp_path / "out")
        AutoTokenizer.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "saved")
        for directory in (source, tmp_path / "out", tmp_path / "saved"):
            tokenizer = AutoTokenizer.from_pretrained(directory)
            assert tokenizer.chat_template == expected
            assert tokenizer.get_chat_template("rag") == "R"
        assert "chat_template" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
        assert AutoTokenizer.from_pretrained(source, chat_template="mine").chat_template == "mine"

    def test_the_template_that_the_name_says_is_kept_in_the_conversion(
        self, tmp_path: Path, make_checkpoint: Callable[..., Path]
    ) -> None:
        shape = {"vocab_size": 280, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16}
        for name in ("octocoder", "WizardCoder-15B-V1.0"):
            source = make_checkpoint(tmp_path / name, **shape)
            (source / "tokenizer_config.json").unlink(missing_ok=True)
            report = convert(source, tmp_path / f"out-{name[:4]}")
            assert any("chat template" in note for note in report.notes)
            expected = AutoTokenizer.from_pretrained(source)
            tokenizer = AutoTokenizer.from_pretrained(tmp_path / f"out-{name[:4]}")
            assert tokenizer.get_chat_template() == expected.get_chat_template()
            assert tokenizer.end_of_answer_ids() == [0]
        (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": "own"}))
        report = convert(source, tmp_path / "own")
        assert not report.notes
        assert AutoTokenizer.from_pretrained(tmp_path / "own").chat_template == "own"

    @pytest.mark.parametrize("name", ["../outside", "a/b", "", "a\0b"])
    def test_names_that_no_file_can_have(self, write: Write, tmp_path: Path, name: str) -> None:
        tokenizer = AutoTokenizer.from_pretrained(write())
        tokenizer.chat_template = {"default": "D", name: "x"}
        with pytest.raises(InputError, match="no file name"):
            tokenizer.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved" / "tokenizer.json").exists()

    def test_templates_that_are_not_utf_8(self, write: Write) -> None:
        directory = write()
        (directory / "additional_chat_templates").mkdir()
        (directory / "additional_chat_templates" / "rag.jinja").write_bytes(b"\xff")
        with pytest.raises(TokenizerError, match=r"rag\.jinja is not UTF-8"):
            AutoTokenizer.from_pretrained(directory)
