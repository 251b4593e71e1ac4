"""Make byte-level BPE tokenizers from a vocabulary and merges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.errors import TokenizerError
from gptbigcode_cpu.tokenizer.added_tokens import check_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE


def byte_level_tokenizer(
    bpe: BPE,
    special: Sequence[str] = (),
    plain: Sequence[str] = (),
    *,
    digits: bool = True,
    add_prefix_space: bool = False,
    begin: Sequence[str] = (),
    end: Sequence[str] = (),
) -> Tokenizer:
    """A byte-level BPE tokenizer.

    Args:
        bpe: The vocabulary and the merges.
        special: Special tokens; tokens that are not in the vocabulary get the next free ids.
        plain: Tokens that are never split either, but count as text.
        digits: Make each digit a word by itself, as BigCode does.
        add_prefix_space: Encode a text as if a space came before it.
        begin: Tokens that are added before each text.
        end: Tokens that are added after each text.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors

    tokenizer = Tokenizer(bpe)
    words: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    words.append(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    if begin or end:
        ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys([*begin, *end])]
        tokenizer.post_processor = processors.TemplateProcessing(single=[*begin, "$A", *end], pair=None, special_tokens=ids)
    return tokenizer


def from_vocabulary(vocabulary: Path, merges: Path, merge_lines: bytes, *, digits: bool, add_prefix_space: bool) -> Tokenizer:
    """The tokenizer of a ``vocab.json`` and a ``merges.txt``. It has no added tokens.

    Args:
        vocabulary: The ``vocab.json``.
        merges: The ``merges.txt``, for error messages.
        merge_lines: The content of the ``merges.txt``.
        digits: Make each digit a word by itself, as BigCode does.
        add_prefix_space: Encode a text as if a space came before it.

    Raises:
        TokenizerError: A file is damaged, or the two files do not belong together.
    """
    from tokenizers.models import BPE

    ids = check_ids(read_object(vocabulary, TokenizerError) or {}, str(vocabulary))
    both = f"{vocabulary} and {merges.name} do not make a tokenizer"
    pairs: list[tuple[str, str]] = []
    try:
        lines = merge_lines.decode("utf-8-sig").split("\n")
    except ValueError as error:
        raise TokenizerError(f"{merges} is not UTF-8: {error}") from error
    for number, line in enumerate((line.removesuffix("\r") for line in lines), 1):
        if not line or line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise TokenizerError(f"{both}: line {number} of the merges, {shown(line)}, is not two tokens")
        pairs.append((left, right))
    try:
        return byte_level_tokenizer(BPE(vocab=dict(ids), merges=pairs), digits=digits, add_prefix_space=add_prefix_space)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise TokenizerError(f"{both}: {one_line(error)}") from error
