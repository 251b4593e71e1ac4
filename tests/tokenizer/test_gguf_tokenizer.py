"""The tokenizer inside a GGUF file encodes as that of the original checkpoint does."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from oracle.gguf_models import gguf_bytes, model_pairs, model_tensors
from oracle.random_models import byte_level_tokenizer, full_config, random_state
from tokenizers import Tokenizer

from gptbigcode_cpu import AutoTokenizer, fim
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import CheckpointError, TokenizerError

BENCH = Path(__file__).resolve().parents[2] / "bench"
FIELDS = full_config(n_embd=32, n_head=2, n_inner=32, n_positions=4, vocab_size=270, n_layer=1)
# Three merges, ids 262 to 264; "add" is an added token that is not special, the last ids are fillers.
MERGES = {"tokenizer.ggml.merges": ["1 2", "a b", "Ġ ab"]}
VOCABULARY = [*byte_level_tokenizer()["model"]["vocab"], "12", "ab", "Ġab", "add", *(f"[PAD{i}]" for i in range(266, 270))]
TYPES = [3] * 6 + [1] * 259 + [4] + [5] * 4


def write(path: Path, **change: Any) -> Path:
    pairs = model_pairs(FIELDS) | MERGES | {"tokenizer.ggml.tokens": VOCABULARY, "tokenizer.ggml.token_type": TYPES}
    pairs |= {f"tokenizer.{key.replace('__', '.')}": value for key, value in change.items()}
    tensors = model_tensors(FIELDS, random_state(FIELDS))
    path.write_bytes(gguf_bytes({key: value for key, value in pairs.items() if value is not None}, tensors))
    return path


@pytest.fixture(scope="module")
def real(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """python-8m as the `gguf` package writes it."""
    spec = importlib.util.spec_from_file_location("gguf_file", BENCH / "gguf_file.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("gguf") / "python-8m.gguf"
    module.write_gguf(checkpoint_dir, path, tokenizer=True)
    return path


def test_held_out_files_have_the_same_ids(real: Path, checkpoint_dir: Path, eval_texts: list[str]) -> None:
    expected, tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir), AutoTokenizer.from_pretrained(real)
    special = "<|endoftext|>a<fim_prefix>\tb = 1234<fim_suffix>é\r\n<fim_middle> <filename>🙂<fim_pad>"
    texts = [*eval_texts, special, "".join(map(chr, range(0x20, 0x3000))), "1½²³ ١٢ x12'll  \n\n  y"]
    for text in texts:
        assert tokenizer.encode(text) == expected.encode(text)
        assert tokenizer.encode(text, split_special_tokens=True) == expected.encode(text, split_special_tokens=True)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = expected.encode(special)
    assert tokenizer.decode(ids, skip_special_tokens=True) == expected.decode(ids, skip_special_tokens=True)
    assert tokenizer.all_special_ids == expected.all_special_ids
    assert fim.build_prompt(tokenizer, "a", "b") == fim.build_prompt(expected, "a", "b")
    for name in ("bos_token_id", "eos_token_id", "model_max_length", "vocab_size"):
        assert getattr(tokenizer, name) == getattr(expected, name)
    assert len(tokenizer) == len(expected)


def test_the_converted_model_is_that_of_the_checkpoint(real: Path, checkpoint_dir: Path, tmp_path: Path) -> None:
    for source, out in ((real, "out"), (checkpoint_dir, "expected")):
        convert(source, tmp_path / out)
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("out", "expected")]
    assert weights[0] == weights[1]
    tokenizer, expected = (AutoTokenizer.from_pretrained(tmp_path / out) for out in ("out", "expected"))
    assert tokenizer.encode("def f(x):\n    return 12") == expected.encode("def f(x):\n    return 12")


def test_merges_digits_and_added_tokens(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write(tmp_path / "model.gguf"))
    assert tokenizer.encode("ab") == [263]
    assert tokenizer.encode("x ab") == [6 + ord("x"), 264]
    assert tokenizer.encode("12") == [6 + ord("1"), 6 + ord("2")]  # digits are words by themselves
    assert tokenizer.encode("gadded") == [6 + ord("g"), 265, 6 + ord("e"), 6 + ord("d")]
    assert tokenizer.decode([263, 0, 265], skip_special_tokens=True) == "abadd"
    assert tokenizer.backend.token_to_id("[PAD266]") is None
    assert len(tokenizer) == 266
    digits = AutoTokenizer.from_pretrained(write(tmp_path / "model.gguf", ggml__pre="gpt-2"))
    assert digits.encode("12") == [262]


def test_begin_and_end_of_text(tmp_path: Path) -> None:
    changes = {"ggml__add_bos_token": True, "ggml__add_eos_token": True, "ggml__eos_token_id": 5}
    tokenizer = AutoTokenizer.from_pretrained(write(tmp_path / "model.gguf", **changes))
    assert tokenizer.encode("ab") == [0, 263, 5]
    assert tokenizer.encode("ab", add_special_tokens=False) == [263]
    assert AutoTokenizer.from_pretrained(write(tmp_path / "model.gguf", ggml__add_bos_token=False)).encode("ab") == [263]


def test_settings(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", ggml__unknown_token_id=0, ggml__padding_token_id=4, chat_template="{{ messages }}")
    convert(tmp_path / "model.gguf", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<fim_pad>",
        "additional_special_tokens": ["<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<filename>"],
        "model_max_length": 4,
        "chat_template": "{{ messages }}",
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == 4
    assert Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("ab").ids == [263]


def test_files_of_old_converters_mark_no_special_tokens(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", ggml__pre=None, ggml__token_type=[1] * 266 + [5] * 4)
    report = convert(path, tmp_path / "out", dry_run=True)
    assert report.notes == ("model.gguf does not name its pre-tokenizer (tokenizer.ggml.pre); assuming 'starcoder'",)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.encode("12<fim_prefix>ab") == [6 + ord("1"), 6 + ord("2"), 1, 263]
    assert tokenizer.all_special_ids == [0, 1, 2, 3, 4, 5, 265]
    assert len(tokenizer) == 266


@pytest.mark.parametrize("kind", [None, "none", "no_vocab"])
def test_files_without_a_tokenizer(tmp_path: Path, kind: str | None) -> None:
    path = write(tmp_path / "model.gguf", ggml__model=kind)
    assert "has no tokenizer" in convert(path, tmp_path / "out").notes[0]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    with pytest.raises(TokenizerError, match=r"model\.gguf has no tokenizer"):
        AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ggml__model": "llama"}, "tokenizer of kind 'llama'; supported is 'gpt2'"),
        ({"ggml__pre": "llama-bpe"}, "pre-tokenizer 'llama-bpe'; known are starcoder, refact"),
        ({"ggml__pre": 3}, "pre-tokenizer 3"),
        ({"ggml__tokens": None}, r"no list of strings tokenizer\.ggml\.tokens"),
        ({"ggml__merges": None}, r"no list of strings tokenizer\.ggml\.merges"),
        ({"ggml__merges": ["ab"]}, "not two tokens each"),
        ({"ggml__merges": ["a b c"]}, "not two tokens each"),
        ({"ggml__merges": ["a c"]}, "do not make a tokenizer"),
        ({"ggml__tokens": ["a"] * 270}, "has a token twice: 'a'"),
        ({"ggml__tokens": [f"t{i}" for i in range(300)], "ggml__token_type": None}, "300 tokens, but embeddings for 270"),
        ({"ggml__token_type": [1, 2]}, "a number for each of the 270 tokens"),
        ({"ggml__bos_token_id": 270}, "bos_token_id is 270, but there are 270 tokens"),
        ({"ggml__add_bos_token": 2}, "must be true or false"),
        ({"ggml__add_bos_token": "yes"}, "must be true or false"),
    ],
)
def test_tokenizers_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "model.gguf", **change)
    with pytest.raises(TokenizerError, match=message):
        AutoTokenizer.from_pretrained(path)
    with pytest.raises((TokenizerError, CheckpointError), match=message):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
