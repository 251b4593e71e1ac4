"""GGUF files as tools other than today's llama.cpp wrote them: other names, types of numbers, and tokens."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.gguf_models import gguf_bytes, model_pairs, model_tensors
from oracle.random_models import byte_level_tokenizer, full_config, random_state
from tokenizers import Tokenizer

from gptbigcode_cpu import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import CheckpointError, ModelNotFoundError, TokenizerError

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 32, "n_head": 4, "n_inner": 64, "n_positions": 16, "vocab_size": 270, "n_layer": 3}
BYTE_LEVEL = byte_level_tokenizer()
LETTERS = list(BYTE_LEVEL["model"]["vocab"])[6:]  # of the bytes 0 to 255
MERGES = [("Ġ", "a"), ("Ã", "©"), ("Ġa", "Ã©")]


def write_model(path: Path, change: dict[str, Any] | None = None, **config: Any) -> Path:
    fields = full_config(**SMALL | config)
    pairs = model_pairs(fields) | (change or {})
    content = {key: value for key, value in pairs.items() if value is not None}
    path.write_bytes(gguf_bytes(content, model_tensors(fields, random_state(fields))))
    return path


def strings(values: list[bytes]) -> tuple[int, bytes]:
    data = b"".join(struct.pack("<Q", len(value)) + value for value in values)
    return 9, struct.pack("<IQ", 8, len(values)) + data


def bytes_of(token: str) -> bytes:
    return bytes(LETTERS.index(letter) for letter in token)


@pytest.fixture
def expected(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> bytes:
    convert(make_checkpoint(tmp_path / "source", **SMALL), tmp_path / "expected")
    return (tmp_path / "expected" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["sha256-0a1b", "blob", "model.bin", "starcoder.Q8_0"])
def test_a_file_is_known_by_its_first_bytes(
    tmp_path: Path, expected: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "blobs"
    directory.mkdir()
    path = write_model(directory / name)
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
    for source in (path, str(path), directory):
        assert AutoConfig.from_pretrained(source).n_layer == 3
        assert AutoTokenizer.from_pretrained(source).encode("a") == [6 + ord("a")]
        assert AutoModelForCausalLM.from_pretrained(source, num_threads=1).config.n_embd == 32
    convert(path, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
    write_model(directory / "another")
    with pytest.raises(ModelNotFoundError, match=f"several GGUF models; name the file of one: another, {name}"):
        convert(directory, tmp_path / "out2")


def test_a_file_beside_a_configuration_is_not_looked_into(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, expected: bytes
) -> None:
    source = make_checkpoint(tmp_path / "beside", **SMALL)
    write_model(source / "notes", n_layer=1)
    convert(source, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.head_count_kv", (9, struct.pack("<IQ3i", 5, 3, 1, 1, 1))),
        ("attention.head_count", (9, struct.pack("<IQ3Q", 10, 3, 4, 4, 4))),
        ("feed_forward_length", (9, struct.pack("<IQ1I", 4, 1, 64))),
        ("context_length", (10, struct.pack("<Q", 16))),
        ("embedding_length", (11, struct.pack("<q", 32))),
        ("block_count", (0, struct.pack("<B", 3))),
        ("attention.head_count", (3, struct.pack("<h", 4))),
        ("attention.head_count_kv", (6, struct.pack("<f", 1.0))),
        ("block_count", (12, struct.pack("<d", 3.0))),
        ("attention.layer_norm_epsilon", (12, struct.pack("<d", 1e-5))),
        ("attention.layer_norm_epsilon", (9, struct.pack("<IQ3f", 6, 3, 1e-5, 1e-5, 1e-5))),
    ],
)
def test_other_types_of_numbers(tmp_path: Path, expected: bytes, key: str, value: tuple[int, bytes]) -> None:
    convert(write_model(tmp_path / "model.gguf", {f"starcoder.{key}": value}), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
    assert json.loads((tmp_path / "out" / "config.json").read_text())["layer_norm_epsilon"] == 1e-5


@pytest.mark.parametrize(
    ("key", "value"),
    [("block_count", (9, struct.pack("<IQ", 5, 0))), ("attention.head_count_kv", (9, struct.pack("<IQ3i", 5, 3, 1, 1, 4)))],
)
def test_arrays_of_different_numbers(tmp_path: Path, key: str, value: tuple[int, bytes]) -> None:
    with pytest.raises(CheckpointError, match=rf"starcoder\.{key} is an array of \d, it must be a single value"):
        convert(write_model(tmp_path / "model.gguf", {f"starcoder.{key}": value}), tmp_path / "out")


def test_other_types_in_the_tokenizer(tmp_path: Path) -> None:
    types = np.array([3] * 6 + [1] * 256 + [5] * 8, "<f4")
    change = {
        "tokenizer.ggml.token_type": (9, struct.pack("<IQ", 6, 270) + types.tobytes()),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.bos_token_id": (11, struct.pack("<q", 1)),
    }
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path / "model.gguf", change))
    assert tokenizer.encode("a") == [1, 6 + ord("a")]
    assert tokenizer.bos_token == "<fim_prefix>"
    assert len(tokenizer) == 262


@pytest.mark.parametrize("typed", [True, False])
def test_tokens_as_the_bytes_they_stand_for(tmp_path: Path, typed: bool) -> None:
    """llama.cpp's first converter for StarCoder wrote them so, and all of type 1; the merges were as they are today."""
    made = ["".join(merge) for merge in MERGES]
    special = ["<|endoftext|>", *list(BYTE_LEVEL["model"]["vocab"])[1:5], "<|two words é|>"]
    tokens = (
        [token.encode() for token in special] + [bytes([byte]) for byte in range(256)] + [bytes_of(token) for token in made]
    )
    tokens += [f"[PAD{i}]".encode() for i in range(len(tokens), 270)]
    change: dict[str, Any] = {
        "tokenizer.ggml.tokens": strings(tokens),
        "tokenizer.ggml.token_type": [3] * 6 + [1] * 259 + [5] * 5 if typed else [1] * 270,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in MERGES],
    }
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path / "model.gguf", change))
    content = BYTE_LEVEL
    vocabulary = {token: i for i, token in enumerate([*special, *LETTERS, *made])}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = content | {"added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(special)]}
    content["model"] = content["model"] | {"vocab": vocabulary, "merges": [list(merge) for merge in MERGES]}
    right = Tokenizer.from_str(json.dumps(content))
    if typed:
        special_text = "".join(special)
        assert tokenizer.encode(special_text) == list(range(6))
    for text in ("def f(x):\n    return x", " aé aé é", "\t\r\n\x00 ÿ 日本", "<|endoftext|>a"):
        assert tokenizer.encode(text) == right.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(" aé") == [264 + 0]


def test_strings_that_are_not_utf_8(tmp_path: Path, expected: bytes) -> None:
    note = (8, struct.pack("<Q", 2) + b"\xff\xfe")
    path = write_model(tmp_path / "model.gguf", {"general.author": note, "general.tags": strings([b"\xe9", b"a"])})
    convert(path, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
    for change, message in (
        ({"tokenizer.chat_template": note}, r"tokenizer\.chat_template is not valid UTF-8"),
        (
            {"tokenizer.ggml.tokens": strings([b"a", b"\xff\xfe", *(b"%d" % i for i in range(268))])},
            "token 1 is not valid UTF-8",
        ),
        ({"tokenizer.ggml.tokens": strings([*(letter.encode() for letter in LETTERS), *[b"\xff"] * 14])}, "has a token twice"),
        (
            {
                "tokenizer.ggml.tokens": strings(
                    [*(f"x{i}".encode() for i in range(13)), b"\xff", *(x.encode() for x in LETTERS)]
                )
            },
            "token 13 is not valid UTF-8",
        ),
        ({"tokenizer.ggml.merges": strings([b"\xff a"])}, "do not make a tokenizer"),
    ):
        with pytest.raises(TokenizerError, match=message) as caught:
            convert(write_model(tmp_path / "model.gguf", change), tmp_path / "out2")
        assert "\n" not in str(caught.value)


def test_names_that_are_not_utf_8(tmp_path: Path, expected: bytes) -> None:
    """llama.cpp asks for no encoding of keys and of names of tensors, either."""
    fields = full_config(**SMALL)
    tensors = model_tensors(fields, random_state(fields)) | {"zzz": (0, (8,), bytes(32))}
    content = gguf_bytes(model_pairs(fields) | {"general.yyy": 1}, tensors)
    (tmp_path / "model.gguf").write_bytes(content.replace(b"general.yyy", b"general.y\xff\xfe").replace(b"zzz", b"z\xff\xfe"))
    report = convert(tmp_path / "model.gguf", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
    assert any(r"z\udcff\udcfe" in note for note in report.notes)


@pytest.mark.parametrize("none", [(5, struct.pack("<i", -1)), (4, struct.pack("<I", 2**32 - 1))])
def test_the_id_of_no_token(tmp_path: Path, none: tuple[int, bytes]) -> None:
    """llama.cpp's LLAMA_TOKEN_NULL."""
    path = write_model(tmp_path / "model.gguf", {f"tokenizer.ggml.{name}_token_id": none for name in ("unknown", "padding")})
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert (tokenizer.unk_token, tokenizer.pad_token, tokenizer.eos_token) == (None, None, "<|endoftext|>")
    assert AutoConfig.from_pretrained(path).pad_token_id is None


def test_truth_values_as_numbers(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", {"tokenizer.ggml.add_bos_token": (0, b"\x01")})
    assert AutoTokenizer.from_pretrained(path).encode("a")[0] == 0


def test_chat_templates_with_names(tmp_path: Path) -> None:
    change = {"tokenizer.chat_templates": ["rag", "absent"], "tokenizer.chat_template.rag": "R{{ messages[0].content }}"}
    path = write_model(tmp_path / "model.gguf", change | {"tokenizer.chat_template": "D"})
    convert(path, tmp_path / "out")
    for source in (path, tmp_path / "out"):
        tokenizer = AutoTokenizer.from_pretrained(source)
        assert tokenizer.chat_template == {"default": "D", "rag": "R{{ messages[0].content }}"}
        chat = [{"role": "user", "content": "x"}]
        assert tokenizer.apply_chat_template(chat, chat_template="rag", tokenize=False) == "Rx"


def test_empty_tokens(tmp_path: Path) -> None:
    tokens = [*BYTE_LEVEL["model"]["vocab"], *[""] * 8]
    path = write_model(tmp_path / "model.gguf", {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [1] * 270})
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.convert_ids_to_tokens([262, 269]) == ["[EMPTY_262]", "[EMPTY_269]"]
