"""Convert the tokenizer in a GGUF file to the files that transformers uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptbigcode_cpu.common.file_names import TOKENIZER, TOKENIZER_CONFIG
from gptbigcode_cpu.common.json_files import json_bytes
from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.config.gguf import GGUFModel
from gptbigcode_cpu.errors import TokenizerError
from gptbigcode_cpu.tokenizer.byte_level import byte_level_tokenizer

_PREFIX = "tokenizer.ggml."
# Maps llama.cpp's names of pre-tokenizers to whether each digit is a word by itself. Otherwise all of them split as GPT-2.
PRE_TOKENIZERS: Mapping[str, bool] = {
    "starcoder": True,
    "refact": True,
    "command-r": True,
    "smollm": True,
    "codeshell": True,
    "gpt-2": False,
}
# Names of the special tokens in a GGUF file.
_NAMED = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_SURROGATE = re.compile("[\udc80-\udcff]")  # stands for bytes that are not UTF-8
# llama.cpp's types of tokens; 1 is a normal token. An unused token is a filler, which the original tokenizer does not have.
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5


def tokenizer_files(model: GGUFModel) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Make ``tokenizer.json`` and ``tokenizer_config.json``; return them, and notes on assumptions that were made.

    Without a tokenizer in the file there are no files, only a note. GGUF does not store whether an added token includes the
    spaces around it or matches whole words only, so these settings are lost.

    Raises:
        TokenizerError: The tokenizer is malformed, is not byte-level BPE, or has an unknown pre-tokenizer.
    """
    kind = model.get(f"{_PREFIX}model", "none")
    if kind in ("none", "no_vocab"):
        return {}, (f"{model.path.name} has no tokenizer, so the converted model has none; put a tokenizer.json there",)
    if kind != "gpt2":
        raise TokenizerError(f"{model.path} has a tokenizer of kind {kind!r:.40}; supported is 'gpt2', byte-level BPE")
    notes: tuple[str, ...] = ()
    pre = model.get(f"{_PREFIX}pre")
    if pre is None:
        pre = "starcoder"
        notes = (f"{model.path.name} does not name its pre-tokenizer ({_PREFIX}pre); assuming {pre!r}",)
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"{model.path} has the pre-tokenizer {pre!r:.40}; known are {', '.join(PRE_TOKENIZERS)}. With a wrong one, texts "
            "would be encoded differently than in training; convert the original checkpoint instead"
        )
    texts, types = _tokens(model)
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in _strings(model, "merges"))]
    if not all(left and right and " " not in right for left, right in merges):
        raise TokenizerError(f"{model.path} has merges that are not two tokens each")
    tokens = _byte_level(model, texts, merges)
    if not np.isin(types, (_UNKNOWN, _CONTROL, _USER_DEFINED)).any():
        types = _with_special_types(tokens, types, merges)
    ids = {f"{name}_token": _named_id(model, key, len(tokens)) for name, key in _NAMED.items()}
    for token_id in {*np.flatnonzero(np.isin(types, (_UNKNOWN, _CONTROL, _USER_DEFINED))).tolist(), *ids.values()}:
        if token_id is not None:
            tokens[token_id] = texts[token_id]  # tokens that are never split are stored as text, not as bytes
    named = {name: None if token_id is None else tokens[token_id] for name, token_id in ids.items()}
    typed = list(zip(tokens, types.tolist(), strict=True))
    special = [token for token, kind in typed if kind in (_UNKNOWN, _CONTROL) or token in named.values()]
    plain = [token for token, kind in typed if kind == _USER_DEFINED and token not in named.values()]
    vocabulary = {token: i for i, (token, kind) in enumerate(typed) if kind != _UNUSED}
    begin, end = (
        [token] if _flag(model, f"add_{name}_token") and (token := named[f"{name}_token"]) else [] for name in ("bos", "eos")
    )
    try:
        from tokenizers.models import BPE

        bpe = BPE(vocab=vocabulary, merges=merges)
        tokenizer = byte_level_tokenizer(bpe, special, plain, digits=PRE_TOKENIZERS[pre], begin=begin, end=end)
    except Exception as error:  # tokenizers raises plain Exception
        raise TokenizerError(f"{model.path}: its tokens and merges do not make a tokenizer: {one_line(error)}") from error
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {name: token for name, token in named.items() if token is not None}
    if more := [token for token in special if token not in named.values()]:
        settings["additional_special_tokens"] = more
    if type(length := model.get("starcoder.context_length")) is int:
        settings["model_max_length"] = length
    settings |= _chat_templates(model)
    return {TOKENIZER: tokenizer.to_str(pretty=True).encode(), TOKENIZER_CONFIG: json_bytes(settings)}, notes


def _chat_templates(model: GGUFModel) -> dict[str, Any]:
    """The chat templates as a setting. ``tokenizer.chat_templates`` lists the names of those besides the default one."""
    names = model.metadata.get("tokenizer.chat_templates")
    keys = {"default": "tokenizer.chat_template"}
    keys |= {name: f"tokenizer.chat_template.{name}" for name in names} if isinstance(names, list) else {}
    found = {name: text for name, key in keys.items() if isinstance(text := model.get(key), str)}
    for name, text in found.items():
        if _SURROGATE.search(name + text):
            raise TokenizerError(f"{model.path}: {one_line(keys[name])} is not valid UTF-8")
    if not found:
        return {}
    named = [{"name": name, "template": text} for name, text in found.items()]
    return {"chat_template": found["default"] if [*found] == ["default"] else named}


def _strings(model: GGUFModel, key: str) -> list[str]:
    values = model.metadata.get(_PREFIX + key)
    if not isinstance(values, list):
        raise TokenizerError(f"{model.path} has no list of strings {_PREFIX}{key}")
    return values


def _tokens(model: GGUFModel) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The tokens in the order of their ids, and llama.cpp's type of each token."""
    tokens = _strings(model, "tokens")
    types = model.metadata.get(f"{_PREFIX}token_type", np.ones(len(tokens), np.int32))
    if isinstance(types, np.ndarray) and types.dtype.kind == "f" and np.array_equal(types, np.clip(np.rint(types), 0, 99)):
        types = types.astype(np.int32)
    if not isinstance(types, np.ndarray) or types.dtype.kind not in "iu" or len(types) != len(tokens):
        raise TokenizerError(f"{model.path}: {_PREFIX}token_type must be a number for each of the {len(tokens)} tokens")
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)]  # as in llama.cpp
    if len(set(tokens)) != len(tokens):
        token = next(token for number, token in enumerate(tokens) if token in tokens[:number])
        raise TokenizerError(f"{model.path} has a token twice: {shown(token)}")
    embedding = model.tensors.get("token_embd.weight")
    if embedding is not None and len(tokens) > embedding.shape[0]:
        raise TokenizerError(f"{model.path} has {len(tokens)} tokens, but embeddings for {embedding.shape[0]}")
    return tokens, types


def _with_special_types(tokens: list[str], types: np.ndarray[Any, Any], merges: list[tuple[str, str]]) -> np.ndarray[Any, Any]:
    """Mark special tokens, which old converters did not do: tokens that are neither a byte nor made by a merge."""
    from tokenizers.pre_tokenizers import ByteLevel

    made = {*ByteLevel.alphabet(), *(left + right for left, right in merges)}
    return np.where([token in made for token in tokens], types, np.where(types == _UNUSED, _UNUSED, _CONTROL))


def _byte_level(model: GGUFModel, tokens: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """The tokens in GPT-2's alphabet, which has a letter for every byte.

    llama.cpp uses this alphabet today. Its first converter for this architecture wrote the bytes themselves as tokens, but
    already used the alphabet for merges.
    """
    letters = _letters()
    given = set(tokens)
    if given.issuperset(letters):
        return _checked_texts(model, tokens)
    spelled = ["".join(letters[byte] for byte in token.encode("utf-8", "surrogateescape")) for token in tokens]
    known = set(spelled)
    if known.issuperset(letters) or (merges and all(left + right in known for left, right in merges) and given != known):
        return spelled
    return _checked_texts(model, tokens)


def _checked_texts(model: GGUFModel, tokens: list[str]) -> list[str]:
    for number, token in enumerate(tokens):
        if _SURROGATE.search(token):
            raise TokenizerError(f"{model.path}: token {number} is not valid UTF-8, and its tokens are not single bytes")
    return list(tokens)


def _letters() -> list[str]:
    """The letter of every byte: the character with that number if it is visible, else the next unused one from 256 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


def _named_id(model: GGUFModel, key: str, count: int) -> int | None:
    token_id = model.token_id(key)
    if token_id is not None and token_id >= count:
        raise TokenizerError(f"{model.path}: {_PREFIX}{key}_token_id is {token_id}, but there are {count} tokens")
    return token_id


def _flag(model: GGUFModel, key: str) -> bool:
    value = model.get(_PREFIX + key, False)
    if value in (0, 1):  # some writers store booleans as numbers
        return bool(value)
    if not isinstance(value, bool):
        raise TokenizerError(f"{model.path}: {_PREFIX}{key} must be true or false, not {value!r:.40}")
    return value
