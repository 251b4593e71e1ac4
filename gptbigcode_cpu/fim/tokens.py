"""The tokens of fill-in-the-middle documents and of repository context."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from gptbigcode_cpu.errors import TokenizerError
from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer

Mode = Literal["auto", "psm", "spm"]
_LOOKS_SPECIAL = re.compile(r"<[^\s<>]+>")


@dataclass(frozen=True)
class FimTokens:
    """Ids of the tokens that mark the parts of a fill-in-the-middle document."""

    prefix: int
    middle: int
    suffix: int

    @classmethod
    def find(cls, tokenizer: GPTBigCodeTokenizer) -> FimTokens:
        """The ids, looked up by name.

        Raises:
            TokenizerError: The vocabulary has no such tokens: the model was not trained to fill in the middle.
        """
        prefix, middle, suffix = tokenizer.fim_prefix_id, tokenizer.fim_middle_id, tokenizer.fim_suffix_id
        if prefix is None or middle is None or suffix is None:
            raise TokenizerError(
                "this model cannot fill in the middle: its vocabulary lacks <fim_prefix>, <fim_middle>, <fim_suffix>"
            )
        return cls(prefix, middle, suffix)


@dataclass(frozen=True)
class ContextTokens:
    """Ids of the tokens around a file in StarCoder's training data; None if the vocabulary lacks the token."""

    reponame: int | None
    filename: int | None
    end: int | None

    @classmethod
    def find(cls, tokenizer: GPTBigCodeTokenizer) -> ContextTokens:
        """The ids, looked up by name."""
        find = tokenizer.backend.token_to_id
        return cls(find("<reponame>"), find("<filename>"), find("<|endoftext|>"))


def stop_token_ids(tokenizer: GPTBigCodeTokenizer) -> list[int]:
    """Ids that end the middle: all special tokens, since none of them belongs into code. Tokens that look special but are not
    marked as such count as well; some converted checkpoints have them.

    Raises:
        TokenizerError: The model was not trained to fill in the middle.
    """
    tokens = FimTokens.find(tokenizer)
    added = tokenizer.added_tokens_decoder.items()
    marked = {token_id for token_id, token in added if token.special or _LOOKS_SPECIAL.fullmatch(token.content)}
    return sorted({*marked, tokens.prefix, tokens.middle, tokens.suffix})
