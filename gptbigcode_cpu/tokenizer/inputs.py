"""Check the arguments of a call of the tokenizer."""

from __future__ import annotations

from typing import Any

from gptbigcode_cpu.errors import InputError


def rows(text: Any, text_pair: Any, words: bool) -> tuple[list[Any], bool]:
    """The rows for the backend, each of one or two texts, and whether the caller passed several."""

    def is_one(value: Any) -> bool:
        if not words:
            return isinstance(value, str)
        return isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)

    kind = "a list of words" if words else "a string"
    batched = isinstance(text, (list, tuple)) and not (words and (not text or isinstance(text[0], str)))
    texts = list(text) if batched else [text]
    if text_pair is not None:
        pairs = list(text_pair) if batched and isinstance(text_pair, (list, tuple)) else [text_pair]
        if len(pairs) != len(texts) or not all(map(is_one, pairs)):
            raise InputError(f"text_pair must have the form of text: {kind} for each of the {len(texts)} texts")
        if batched or text_pair:
            texts = list(zip(texts, pairs, strict=True))
    for item in texts:
        one_or_two = item if isinstance(item, tuple) or (batched and not words and isinstance(item, list)) else (item,)
        if is_one(item) or (len(one_or_two) <= 2 and all(map(is_one, one_or_two))):
            continue
        raise InputError(f"text must be {kind} or a list of these; it contains {type(item).__name__}")
    return [tuple(item) if isinstance(item, list) and not words else item for item in texts], batched


def check_lengths(max_length: int | None, limit: int, stride: int, cut: bool, padding: Any) -> None:
    """Refuse lengths that are wrong or would have no effect; `limit` is the length that rows are cut to."""
    if max_length is not None and max_length < 1:
        raise InputError(f"max_length must be positive, not {max_length}")
    if max_length is not None and not cut and padding != "max_length":
        raise InputError("max_length does nothing without truncation=True or padding='max_length'")
    if stride < 0 or (stride and not cut):
        raise InputError(f"stride is the overlap of cut rows: it must not be negative and needs truncation; got {stride}")
    if stride >= limit:
        raise InputError(f"stride {stride} must be below max_length {limit}")
