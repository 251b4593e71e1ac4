"""Decode a text while it is being generated."""

from __future__ import annotations

import codecs
from functools import lru_cache
from typing import TYPE_CHECKING

from gptbigcode_cpu.errors import TokenizerError

if TYPE_CHECKING:
    from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer


class IncrementalDecoder:
    """Decodes a growing token sequence in pieces, at a constant cost per token.

    Byte-level tokens are byte strings, so several tokens may share a character. A character is held back until it is complete.
    All pieces together equal `GPTBigCodeTokenizer.decode` of all the tokens.

    Args:
        tokenizer: The tokenizer of the model; a tokenizer of transformers is converted.
        skip_special_tokens: Leave special tokens out.

    Raises:
        TokenizerError: The tokenizer is not byte-level.
        InputError: `tokenizer` is not a tokenizer.
    """

    def __init__(self, tokenizer: GPTBigCodeTokenizer, skip_special_tokens: bool = True) -> None:
        from gptbigcode_cpu.tokenizer import own_tokenizer

        tokenizer = own_tokenizer(tokenizer)
        self._backend = tokenizer.backend
        if self._backend.decoder is None or self._backend.decoder.decode(["Ġa"]) != " a":
            raise TokenizerError("GPTBigCode tokenizers are byte-level; this tokenizer.json has another decoder")
        self._skipped = tokenizer.skipped_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Add a token; return the text that it completes, which may be empty."""
        token = self._backend.id_to_token(token_id)
        if token is None or token_id in self._skipped:
            return ""
        return self._utf8.decode(token_bytes(token))

    def flush(self) -> str:
        """Return the rest at the end: U+FFFD if the last character is incomplete. The decoder can then be reused."""
        return self._utf8.decode(b"", final=True)


def token_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for."""
    alphabet = _byte_of_character()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:  # an added token, whose text is not in the byte alphabet
        return token.encode("utf-8")


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet as a map from characters to bytes. Printable Latin-1 bytes are themselves, others start at U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
