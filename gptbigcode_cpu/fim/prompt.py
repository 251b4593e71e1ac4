"""Build fill-in-the-middle prompts: their layout, the context from other files, and how long input is cut."""

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
# A file is left out if fewer tokens of it would fit.
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
    """Token ids of a prompt that a model continues with the text between `prefix` and `suffix`.

    Both parts are encoded separately, as in training, so no token spans the cursor. Names of special tokens in them are
    plain text. The orders are those of BigCode's training data (Megatron-LM, ``gpt_dataset.py``)::

        psm:  <fim_prefix> PREFIX <fim_suffix> SUFFIX <fim_middle>
        spm:  <fim_prefix> <fim_suffix> SUFFIX <fim_middle> PREFIX

    Other files come first, in the form of StarCoder's training data, where parts of the header were left out at random::

        <reponame> REPO <filename> PATH \\n CODE <|endoftext|>

    Long input never fails: text that does not fit is cut at line boundaries. `prefix` loses its beginning, `suffix` its end,
    and the first of the other files are left out. `prefix` is cut in steps of a quarter of its share, so that the prompt's
    start stays the same while a user types. Other files get half of the room, or more if `prefix` and `suffix` are short.

    Args:
        tokenizer: The tokenizer of the model.
        prefix: The text before the cursor.
        suffix: The text after the cursor.
        mode: ``"psm"`` or ``"spm"``; ``"auto"`` means ``"psm"`` here, because the model is not known.
        extra_files: Other files, ``{path: text}`` or ``[(path, text), ...]``, the most relevant last.
        repo_name: The repository of `extra_files`, such as ``owner/name``.
        max_tokens: Maximum number of tokens of the prompt; None: nothing is cut.

    Raises:
        InputError: The mode is unknown, an argument has the wrong type, or there is a `repo_name` without `extra_files`.
        TokenizerError: The vocabulary lacks the fill-in-the-middle tokens, or ``<filename>`` for `extra_files`.
        ContextLengthError: `max_tokens` is below 3, so not even the fill-in-the-middle tokens fit.
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
        raise InputError("repo_name is the repository of extra_files, but there are no extra_files")
    if max_tokens is not None and max_tokens < 3:
        raise ContextLengthError(f"{max_tokens} tokens are too few for a fill-in-the-middle prompt; ask for fewer new tokens")
    room = None if max_tokens is None else max_tokens - 3
    context = _context(tokenizer, files, repo_name, _context_room(tokenizer, prefix, suffix, room))
    rest = None if room is None else room - len(context)
    before, after = _around_cursor(tokenizer, prefix, suffix, rest)
    if mode == "spm":
        return [*context, tokens.prefix, tokens.suffix, *after, tokens.middle, *before]
    return [*context, tokens.prefix, *before, tokens.suffix, *after, tokens.middle]


def split_at_cursor(text: str, mark: str = CURSOR) -> tuple[str, str]:
    """Split `text` into the parts before and after `mark`.

    Args:
        text: The text.
        mark: The mark at the place where the model should write. Choose another one if the text contains ``<cursor>``.

    Raises:
        InputError: The mark is empty, or `text` does not contain it exactly once.
    """
    if not mark:
        raise InputError("the mark must not be empty")
    if (count := text.count(mark)) != 1:
        another = "; choose another mark with mark=" if count else ""
        raise InputError(f"the text must contain the mark {mark} once, where the model should write; found {count}{another}")
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
    """How many quarters of the room `tokens` take, rounded up. Shares are whole quarters, so that they rarely change."""
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
    """Token ids of the files that fit, in their order. The last files are chosen first."""
    tokens = ContextTokens.find(tokenizer)
    if files and tokens.filename is None:
        raise TokenizerError("this model cannot use other files: its vocabulary lacks <filename>; leave out extra_files")
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
