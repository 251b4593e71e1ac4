"""Fill-in-the-middle prompts: the model sees what is before and after the cursor and writes what is between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import InputError, TokenizerError
from .tokenizer import GPTBigCodeTokenizer

CURSOR = "<cursor>"
Order = Literal["psm", "spm"]
# StarCoder writes the names with underscores, SantaCoder with hyphens.
SPELLINGS = ("<fim_{}>", "<fim-{}>")


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
        for spelling in SPELLINGS:
            ids = [tokenizer.backend.token_to_id(spelling.format(part)) for part in ("prefix", "middle", "suffix")]
            if None not in ids:
                return cls(*(token_id for token_id in ids if token_id is not None))
        raise TokenizerError(
            "this model cannot fill in the middle: its vocabulary lacks <fim_prefix>, <fim_middle>, <fim_suffix>"
        )


def build_prompt(tokenizer: GPTBigCodeTokenizer, prefix: str, suffix: str, *, order: Order = "psm") -> list[int]:
    """Token ids of the prompt whose continuation is the text between `prefix` and `suffix`.

    Both parts are encoded on their own, as in training, so nothing merges across the cursor; names of special tokens
    inside them are plain text. The orders are those of BigCode's training data (Megatron-LM, ``gpt_dataset.py``)::

        psm:  <fim_prefix> PREFIX <fim_suffix> SUFFIX <fim_middle>
        spm:  <fim_prefix> <fim_suffix> SUFFIX <fim_middle> PREFIX

    Raises:
        InputError: An unknown order.
        TokenizerError: The model has no fill-in-the-middle tokens.
    """
    tokens = FimTokens.find(tokenizer)
    before, after = (tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True) for part in (prefix, suffix))
    if order == "psm":
        return [tokens.prefix, *before, tokens.suffix, *after, tokens.middle]
    if order == "spm":
        return [tokens.prefix, tokens.suffix, *after, tokens.middle, *before]
    raise InputError(f"order must be 'psm' or 'spm', not {order!r}")


def stop_token_ids(tokenizer: GPTBigCodeTokenizer) -> list[int]:
    """Ids that end the middle: every special token, since none belongs into code, and the fill-in-the-middle ones."""
    tokens = FimTokens.find(tokenizer)
    return sorted({*tokenizer.all_special_ids, tokens.prefix, tokens.middle, tokens.suffix})


def split_at_cursor(text: str, mark: str = CURSOR) -> tuple[str, str]:
    """What is before and after the one `mark` in `text`.

    Raises:
        InputError: The mark is missing or there are several.
    """
    if (count := text.count(mark)) != 1:
        raise InputError(f"the text must contain the mark {mark} once, where the model shall write; found {count}")
    prefix, _, suffix = text.partition(mark)
    return prefix, suffix
