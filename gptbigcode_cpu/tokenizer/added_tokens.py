"""Added tokens: how files describe them, and their ids.

The id of a token is the row of the embedding that was trained for it. The `tokenizers` library numbers added tokens one after
the other and ignores the ids in the files; `keep_ids` makes it keep them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.config.checks import LIMITS
from gptbigcode_cpu.errors import TokenizerError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_LIST = re.compile(r'"added_tokens"\s*:\s*(?=\[)')


def added_token(token: Any, name: str, **flags: bool) -> AddedToken:
    """An `AddedToken` from its text, which makes it special, or from its serialised form.

    Args:
        token: The text, an `AddedToken`, or a dict with ``content`` and flags.
        name: The name of the setting, for error messages.
        **flags: Flags that override those of a dict.

    Raises:
        TokenizerError: `token` is none of these, or a flag is neither true nor false.
    """
    from tokenizers import AddedToken

    if isinstance(token, AddedToken):
        return token
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if isinstance(token, Mapping) and isinstance(token.get("content"), str):
        given = {key: token[key] for key in _FLAGS if token.get(key) is not None} | flags
        if wrong := [key for key, value in given.items() if not isinstance(value, bool)]:
            raise TokenizerError(f"{name} has a flag that is neither true nor false: {wrong[0]} is {shown(token[wrong[0]])}")
        return AddedToken(token["content"], **given)
    raise TokenizerError(f"{name} must be a string, not {shown(token)}, or an object with content")


def check_ids(vocabulary: Mapping[str, Any], file: str) -> Mapping[str, int]:
    """Check the ids of a vocabulary, and return it.

    Raises:
        TokenizerError: An id is not possible, or two tokens have the same id; the message names `file`.
    """
    owners: dict[int, str] = {}
    for token, token_id in vocabulary.items():
        if type(token_id) is not int or not 0 <= token_id < LIMITS["vocab_size"]:
            raise TokenizerError(f"{file} gives the token {shown(token)} the id {shown(token_id)}, which is no token id")
        if (owner := owners.setdefault(token_id, token)) != token:
            raise TokenizerError(f"{file} gives the id {token_id} to two tokens, {shown(owner)} and {shown(token)}")
    return vocabulary


def by_id(recorded: Any, where: str) -> dict[int, AddedToken]:
    """Read the ``added_tokens_decoder`` of a ``tokenizer_config.json``; error messages name the file `where`.

    Raises:
        TokenizerError: It does not map token ids to tokens, or a token has two ids.
    """
    name = f"{where}: added_tokens_decoder"
    if not isinstance(recorded, Mapping):
        raise TokenizerError(f"{name} must be an object of tokens by id, not {shown(recorded)}")
    tokens: dict[int, AddedToken] = {}
    for key, value in recorded.items():
        text = str(key)
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise TokenizerError(f"{name} must be an object of tokens by id, and {shown(key)} is no token id")
        if isinstance(value, str):
            raise TokenizerError(f"{name} must give each token as an object with content, not as {shown(value)}")
        tokens[int(text)] = added_token(value, name)
    ids: dict[str, int] = {}
    for token_id, token in tokens.items():
        if (other := ids.setdefault(token.content, token_id)) != token_id:
            raise TokenizerError(f"{name} gives the token {shown(token.content)} two ids, {other} and {token_id}")
    check_ids(ids, name)
    return tokens


def keep_ids(
    backend: Tokenizer, content: bytes, recorded: Mapping[int, AddedToken], where: str, parse: Callable[[bytes], Tokenizer]
) -> Tokenizer:
    """Return a tokenizer whose added tokens have the ids that the files state.

    If the library would assign other ids, the tokens are moved into the vocabulary, where they keep their ids. As in
    transformers, `recorded` is ignored for tokens that ``tokenizer.json`` already has.

    Args:
        backend: The tokenizer that `content` describes.
        content: The content of a ``tokenizer.json``.
        recorded: The tokens of ``tokenizer_config.json`` or ``added_tokens.json``, by id.
        where: The file or directory to name in error messages.
        parse: Function that makes a tokenizer of the content of a ``tokenizer.json``.

    Raises:
        TokenizerError: Two tokens have the same id, or one token has two.
    """
    stated = _stated_ids(content)
    new = {token.content: token_id for token_id, token in recorded.items() if backend.token_to_id(token.content) is None}
    if all(backend.token_to_id(token) == token_id for token, token_id in stated.items()):
        if not new:
            return backend
        taken = backend.get_vocab(with_added_tokens=True)
        if sorted(new.values()) == [*range(max(taken.values(), default=-1) + 1, len(taken) + len(new))]:
            return backend
    document = json.loads(content)
    vocabulary = document["model"].get("vocab")
    if not isinstance(vocabulary, dict):
        raise TokenizerError(f"{where}: the ids of added tokens have gaps, which this type of tokenizer cannot represent")
    for token, token_id in (stated | new).items():
        if vocabulary.setdefault(token, token_id) != token_id:
            raise TokenizerError(f"{where} gives {shown(token)} two ids, {vocabulary[token]} and {token_id}")
    check_ids(vocabulary, where)
    return parse(json.dumps(document).encode())


def _stated_ids(content: bytes) -> dict[str, int]:
    """The ids of the added tokens in a valid ``tokenizer.json``. The rest of the file, which is large, is not parsed."""
    text = content.decode("utf-8", "replace")
    found = _LIST.search(text)
    tokens = json.JSONDecoder().raw_decode(text, found.end())[0] if found else []
    return {token["content"]: token["id"] for token in tokens if isinstance(token, dict) and "id" in token}
