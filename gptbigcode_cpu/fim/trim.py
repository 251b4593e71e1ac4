"""Cut text to a number of tokens, at line boundaries."""

from __future__ import annotations

from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer

# At most this many characters per token are encoded. It is more than the average of code, and it avoids encoding megabytes for
# a context of a few thousand tokens.
_CHARACTERS = 16


def encoded(tokenizer: GPTBigCodeTokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of plain text, and the ``(start, end)`` of each token in characters."""
    row = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
    return row["input_ids"], row["offset_mapping"]


def cut_start(tokenizer: GPTBigCodeTokenizer, text: str, limit: int) -> list[int]:
    """The last lines of `text`, at most `limit` tokens.

    The text is cut in steps of a quarter of the limit, each time up to the next line start. So the beginning stays the same
    while the text grows by less than a quarter, and a kv cache of it can be reused.
    """
    if limit <= 0:
        return []
    step = _CHARACTERS * limit // 4
    if len(text) > _CHARACTERS * limit:
        dropped = -(-(len(text) - _CHARACTERS * limit) // step) * step
        text = text[_line_start(text, dropped, step) :]
    ids, spans = encoded(tokenizer, text)
    block = max(1, limit // 4)
    dropped = -(-(len(ids) - limit) // block) * block
    while len(ids) > limit and dropped < len(spans):
        start = spans[dropped][0]
        last = min(dropped + block, len(spans)) - 1
        ids = encoded(tokenizer, text[_line_start(text, start, spans[last][0] - start) :])[0]
        dropped += block
    return ids if len(ids) <= limit else []


def cut_end(tokenizer: GPTBigCodeTokenizer, text: str, limit: int) -> list[int]:
    """The first lines of `text`, at most `limit` tokens."""
    if limit <= 0:
        return []
    text = text[: _CHARACTERS * limit]
    ids, spans = encoded(tokenizer, text)
    if len(ids) <= limit:
        return ids
    end = spans[limit][0]
    line = text.rfind("\n", 0, end) + 1
    return encoded(tokenizer, text[: line or end])[0][:limit]


def _line_start(text: str, position: int, reach: int) -> int:
    """The first line start from `position` on, or `position` itself if there is none within `reach` characters."""
    if position == 0 or text[position - 1] == "\n":
        return position
    newline = text.find("\n", position, position + max(reach, 1))
    return position if newline < 0 else newline + 1
