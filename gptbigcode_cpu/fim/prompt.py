"""Fill-in-the-middle prompts: layout, context from other files, and how all of it is made to fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptbigcode_cpu.common.arrays import items_of
from gptbigcode_cpu.common.suggest import check_choice
from gptbigcode_cpu.errors import ContextLengthError, InputError, TokenizerError
from gptbigcode_cpu.fim.tokens import ContextTokens, FimTokens, Mode
from gptbigcode_cpu.fim.trim import cut_end, cut_start, encoded
from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer

CURSOR = "<cursor>"
ExtraFiles = Mapping[str, str] | Sequence[tuple[str, str]]
# Less of a file than this is left out rather than cut.
_SMALLEST_PIECE = 32


def build_prompt(
    tokenizer: GPTBigCodeTokenizer,
    prefix: str,
    suffix: str,
    *,
    mode: Mode = "psm",
    extra_files: ExtraFiles | None = None,
    repo_name: str | None = None,
    max_tokens: int | None = None,
) -> list[int]:
    """Token ids of the prompt whose continuation is the text between `prefix` and `suffix`.

    Both parts are encoded on their own, as in training, so nothing merges across the cursor; names of special tokens
    inside them are plain text. The orders are those of BigCode's training data (Megatron-LM, ``gpt_dataset.py``)::

        psm:  <fim_prefix> PREFIX <fim_suffix> SUFFIX <fim_middle>
        spm:  <fim_prefix> <fim_suffix> SUFFIX <fim_middle> PREFIX

    Other files stand before that as in StarCoder's training data, which left out any part of the header at random::

        <reponame> REPO <filename> PATH \\n CODE <|endoftext|>

    What does not fit is cut at line starts: the beginning of `prefix`, by quarters of its share so that the prompt stays the
    same while somebody types, the end of `suffix`, and the other files from the first on, which may take half of the
    room, or more if the text around the cursor is short.

    Args:
        tokenizer: The tokenizer of the model.
        prefix: The text before the cursor.
        suffix: The text after it.
        mode: ``"psm"`` or ``"spm"``; ``"auto"`` is ``"psm"``, since nothing is known of the model here.
        extra_files: Texts by path, the most relevant last.
        repo_name: The repository of the files, such as ``owner/name``.
        max_tokens: Length of the prompt at most; None cuts nothing.

    Raises:
        InputError: An unknown mode, or something that is no text.
        TokenizerError: The model has no fill-in-the-middle tokens, or no ``<filename>`` for `extra_files`.
        ContextLengthError: `max_tokens` does not even hold the three marks.
    """
    check_choice("mode", mode, ("auto", "psm", "spm"))
    for name, value in (("prefix", prefix), ("suffix", suffix)):
        if not isinstance(value, str):
            raise InputError(f"{name} must be a string, not {type(value).__name__}")
    if getattr(tokenizer, "backend", None) is None:
        raise InputError(f"tokenizer must be a GPTBigCodeTokenizer, not {type(tokenizer).__name__}")
    tokens = FimTokens.find(tokenizer)
    files = _files(extra_files)
    if repo_name is not None and not isinstance(repo_name, str):
        raise InputError(f"repo_name must be a string, not {type(repo_name).__name__}")
    if repo_name is not None and not files:
        raise InputError("repo_name belongs to extra_files, and there are none")
    if max_tokens is not None and max_tokens < 3:
        raise ContextLengthError(f"{max_tokens} tokens hold no fill-in-the-middle prompt; ask for fewer new tokens")
    room = None if max_tokens is None else max_tokens - 3
    context = _context(tokenizer, files, repo_name, _context_room(tokenizer, prefix, suffix, room))
    rest = None if room is None else room - len(context)
    before, after = _around_cursor(tokenizer, prefix, suffix, rest)
    if mode == "spm":
        return [*context, tokens.prefix, tokens.suffix, *after, tokens.middle, *before]
    return [*context, tokens.prefix, *before, tokens.suffix, *after, tokens.middle]


def split_at_cursor(text: str, mark: str = CURSOR) -> tuple[str, str]:
    """What is before and after the one `mark` in `text`.

    Args:
        text: The text.
        mark: What stands where the model shall write. Name another one if the text itself has ``<cursor>`` in it.

    Raises:
        InputError: The mark is empty or missing, or there are several.
    """
    if not mark:
        raise InputError("the mark must not be empty")
    if (count := text.count(mark)) != 1:
        another = "; choose another mark with mark=" if count else ""
        raise InputError(f"the text must contain the mark {mark} once, where the model shall write; found {count}{another}")
    prefix, _, suffix = text.partition(mark)
    return prefix, suffix


def _files(extra_files: ExtraFiles | None) -> list[tuple[str, str]]:
    given: Any = () if extra_files is None else extra_files.items() if isinstance(extra_files, Mapping) else extra_files
    files = items_of(given)
    for item in [None] if files is None else files:
        if not isinstance(item, (tuple, list)) or len(item) != 2 or not all(isinstance(part, str) for part in item):
            raise InputError("extra_files are texts by path: {path: text} or [(path, text), ...]")
    return [(path, text) for path, text in files or ()]


def _quarters(tokens: int, room: int) -> int:
    """How many quarters of the room so many tokens take. Shares change by quarters, so that they rarely change."""
    return -(-4 * tokens // room) if room else 0


def _context_room(tokenizer: GPTBigCodeTokenizer, prefix: str, suffix: str, room: int | None) -> int | None:
    if room is None:
        return None
    needed = len(cut_start(tokenizer, prefix, room)) + len(cut_end(tokenizer, suffix, room))
    return room * (4 - min(2, _quarters(needed, room))) // 4


def _around_cursor(tokenizer: GPTBigCodeTokenizer, prefix: str, suffix: str, room: int | None) -> tuple[list[int], list[int]]:
    if room is None:
        return encoded(tokenizer, prefix)[0], encoded(tokenizer, suffix)[0]
    taken = min(3, _quarters(len(cut_start(tokenizer, prefix, room)), room))
    after = cut_end(tokenizer, suffix, room * (4 - taken) // 4)
    return cut_start(tokenizer, prefix, room - len(after)), after


def _context(
    tokenizer: GPTBigCodeTokenizer, files: Sequence[tuple[str, str]], repo_name: str | None, room: int | None
) -> list[int]:
    """The files that fit, in their order; the last are chosen first."""
    tokens = ContextTokens.find(tokenizer)
    if files and tokens.filename is None:
        raise TokenizerError("this model knows no other files: its vocabulary lacks <filename>; pass no extra_files")
    pieces: list[list[int]] = []
    repository = encoded(tokenizer, repo_name)[0] if repo_name else []
    tail = [] if tokens.end is None else [tokens.end]
    for path, text in reversed(files):
        assert tokens.filename is not None
        head = [tokens.filename, *encoded(tokenizer, path)[0], *encoded(tokenizer, "\n")[0]]
        if repository and tokens.reponame is not None:
            head = [tokens.reponame, *repository, *head]
        if room is None:
            pieces.append([*head, *encoded(tokenizer, text)[0], *tail])
            continue
        body = cut_end(tokenizer, text, max(0, room - len(head) - len(tail)))
        whole = len(encoded(tokenizer, text[: 16 * room])[0])
        if len(head) + len(tail) > room or len(body) < min(whole, _SMALLEST_PIECE):
            break
        pieces.append([*head, *body, *tail])
        room -= len(pieces[-1])
    return [token_id for piece in reversed(pieces) for token_id in piece]
