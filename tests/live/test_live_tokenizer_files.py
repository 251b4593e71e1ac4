"""Tokenizer files drawn at random, others in every run, read by transformers and by this package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.random_models import byte_level_tokenizer

from gptbigcode_cpu import AutoTokenizer

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]

Random = np.random.Generator
BASE = 262
NEW = ["<|user|>", "<|end|>", "two words", "Word", "日本", "<new>"]
OLD = ["<|endoftext|>", "<fim_prefix>", "a", "Ġ"]
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend", "CodeGenTokenizer", "Unknown")


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()


def maybe(random: Random, probability: float = 0.5) -> bool:
    return bool(random.random() < probability)


def pick(random: Random, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def some(random: Random, values: list[str]) -> list[str]:
    return [str(value) for value in random.permutation(values)[: int(random.integers(len(values) + 1))]]


def flags(random: Random) -> dict[str, bool]:
    return {flag: maybe(random, 0.3) for flag in FLAGS}


def special_token(random: Random, content: str, typed: bool = True) -> Any:
    if maybe(random, 0.7):
        return content
    return {"content": content, **flags(random)} | ({"__type": "AddedToken"} if typed else {})


def draw_tokenizer(random: Random) -> tuple[dict[str, Any], int]:
    """A ``tokenizer.json``, and the next id."""
    content = byte_level_tokenizer()
    if maybe(random, 0.3):
        content["normalizer"] = {"type": "Lowercase"}
    added = [] if maybe(random, 0.2) else content["added_tokens"]
    for token in some(random, NEW[:3]):
        added.append({"id": BASE + sum(entry["id"] >= BASE for entry in added), "content": token, **flags(random)})
    content["added_tokens"] = added
    if maybe(random, 0.3):
        ends = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        text: list[Any] = [{"Sequence": {"id": "A", "type_id": 0}}]
        pair = [*text, {"Sequence": {"id": "B", "type_id": 1}}]
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [ends, *text] if maybe(random) else [*text, ends],
            "pair": [ends, *pair],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        }
    if maybe(random, 0.2):
        content["padding"] = {
            "strategy": "BatchLongest",
            "direction": pick(random, ["Left", "Right"]),
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|endoftext|>",
        }
    if maybe(random, 0.2):
        direction = pick(random, ["Left", "Right"])
        content["truncation"] = {"direction": direction, "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    return content, BASE + sum(token["id"] >= BASE for token in added)


def draw_names(random: Random, typed: bool) -> dict[str, Any]:
    """Special tokens with and without roles, as in ``tokenizer_config.json`` or, without types, ``special_tokens_map.json``."""
    names: dict[str, Any] = {
        role: special_token(random, pick(random, [*OLD[:3], *NEW]), typed) for role in some(random, [*ROLES])
    }
    listed = [special_token(random, token, True) for token in some(random, [*OLD[:2], *NEW])]
    if not typed:
        listed = [token for token in listed if isinstance(token, str)]
    match int(random.integers(5)):
        case 0:
            names["additional_special_tokens"] = listed
        case 1:
            names["extra_special_tokens"] = listed
        case 2 if typed:
            names["extra_special_tokens"] = {f"own_{i}": token for i, token in enumerate(listed)}
    # Not both: transformers saves such names in two places, of which it reads one.
    if typed and maybe(random, 0.2) and not isinstance(names.get("extra_special_tokens"), dict):
        names["image_token"] = pick(random, NEW)
    return names


def draw_files(random: Random, directory: Path) -> None:
    content, following = draw_tokenizer(random)
    known = [token["content"] for token in content["added_tokens"]]
    new = [token for token in some(random, NEW) if token not in known]
    config: dict[str, Any] = draw_names(random, typed=True)
    for name, values in {
        "add_bos_token": [True, False],
        "add_eos_token": [True, False],
        "add_prefix_space": [True, False],
        "clean_up_tokenization_spaces": [True, False],
        "errors": ["replace", "strict"],
        "model_max_length": [7, 2048, 1e30, 1000000000000000019884624838656, None],
        "padding_side": ["left", "right"],
        "split_special_tokens": [True, False],
        "truncation_side": ["left", "right"],
        "tokenizer_class": CLASSES,
        "chat_template": ["C", [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]],
        "unknown_setting": [3],
    }.items():
        if maybe(random, 0.3):
            config[name] = pick(random, values)
    if maybe(random, 0.4):
        recorded = {str(following + i): {"content": token, **flags(random)} for i, token in enumerate(new)}
        if maybe(random):
            recorded["0"] = {"content": "<|endoftext|>", **flags(random), "special": True}
        config["added_tokens_decoder"] = recorded
    elif maybe(random):
        (directory / "added_tokens.json").write_text(json.dumps({token: following + i for i, token in enumerate(new)}))
    if maybe(random, 0.4):
        (directory / "special_tokens_map.json").write_text(json.dumps(draw_names(random, typed=False)))
    if maybe(random, 0.2):
        (directory / "chat_template.jinja").write_text("J")
    if maybe(random, 0.2):
        (directory / "additional_chat_templates").mkdir()
        for name in some(random, ["rag", "tool_use", "a.b"]):
            (directory / "additional_chat_templates" / f"{name}.jinja").write_text(name)
    (directory / "tokenizer.json").write_text(json.dumps(content))
    if maybe(random, 0.9):
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt_bigcode"}))


def draw_text(random: Random) -> str:
    pieces = [*NEW, *OLD[:2], " ", "  ", "\n", "def", "12", "é", "x", "WORD", "a"]
    return "".join(pick(random, pieces) for _ in range(int(random.integers(12))))


def seen(tokenizer: Any, texts: list[str], ids: list[int]) -> dict[str, Any]:
    """Everything that the files decide."""
    names = ("padding_side", "truncation_side", "model_max_length", "chat_template", "vocab_size", "special_tokens_map")
    result: dict[str, Any] = {name: getattr(tokenizer, name) for name in (*names, "all_special_tokens", "all_special_ids")}
    result |= {role: (getattr(tokenizer, role), getattr(tokenizer, f"{role}_id")) for role in ROLES}
    result["own"] = [getattr(tokenizer, name, None) for name in ("image_token", "image_token_id", "own_0", "own_0_id")]
    result["extra"] = tokenizer.extra_special_tokens
    result["added"] = {i: repr(token) for i, token in tokenizer.added_tokens_decoder.items()}
    result["size"] = (len(tokenizer), tokenizer.get_added_vocab(), tokenizer.get_vocab())
    for text in texts:
        plain = tokenizer(text)["input_ids"]
        result[f"encoded {text!r}"] = (plain, tokenizer.encode(text, add_special_tokens=False), tokenizer.tokenize(text))
        result[f"pair {text!r}"] = tokenizer(text, "b", return_token_type_ids=True)["token_type_ids"]
        result[f"cut {text!r}"] = tokenizer.encode(text, truncation=True, max_length=4)
        result[f"decoded {text!r}"] = [tokenizer.decode(plain, skip_special_tokens=skip) for skip in (False, True)]
    result["decoded"] = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
    if tokenizer.pad_token is not None:
        result["padded"] = tokenizer(texts, padding=True)["input_ids"]
    return result


def test_drawn_files_are_read_as_transformers_reads_them(draws: Callable[[int], Iterator[Random]], tmp_path: Path) -> None:
    for number, random in enumerate(draws(120)):
        directory = tmp_path / str(number)
        directory.mkdir()
        draw_files(random, directory)
        texts = [draw_text(random) for _ in range(4)]
        ids = [int(token_id) for token_id in random.integers(0, BASE + len(NEW) + 3, 20)]
        theirs = transformers.AutoTokenizer.from_pretrained(directory)
        ours = AutoTokenizer.from_pretrained(directory)
        expected = seen(theirs, texts, ids)
        assert seen(ours, texts, ids) == expected, sorted(path.name for path in directory.iterdir())
        # What one saves, both read alike. That may differ from before: a token with a role is special from then on.
        ours.save_pretrained(directory / "ours")
        theirs.save_pretrained(directory / "theirs")
        again = seen(transformers.AutoTokenizer.from_pretrained(directory / "theirs"), texts, ids)
        assert seen(AutoTokenizer.from_pretrained(directory / "theirs"), texts, ids) == again
        assert seen(AutoTokenizer.from_pretrained(directory / "ours"), texts, ids) == again
        assert seen(transformers.AutoTokenizer.from_pretrained(directory / "ours"), texts, ids) == again
