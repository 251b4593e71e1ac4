"""Output that follows a JSON schema, a regular expression or a grammar, with the library llguidance.

    processor = StructuredLogitsProcessor(tokenizer, json_schema={"type": "object"})
    model.generate(prompt, logits_processor=[processor], max_new_tokens=200)

A token is allowed if its bytes continue some text of the grammar, so one character may be spread over several tokens. Where
the grammar leaves no choice but to end, only the end token is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.logits.processors import EXCLUDED, Ids, LogitsProcessor, RowInfo, Scores
from gptbigcode_cpu.errors import InputError, MissingDependencyError
from gptbigcode_cpu.tokenizer.incremental import token_bytes

if TYPE_CHECKING:
    from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer


# Between the parts of JSON, at most one space: if more is allowed, small models write nothing but spaces.
WHITESPACE = "[ ]?"


class StructuredLogitsProcessor(LogitsProcessor):
    """Excludes every token that continues no text of the grammar.

    Args:
        tokenizer: The tokenizer of the model; it must have an end token. A tokenizer of transformers is converted.
        json_schema: JSON schema, a dict or its text; True: any JSON. The output is on one line, unless the schema's
            ``x-guidance`` says otherwise.
        regex: Regular expression that the whole output must match.
        grammar: Grammar in the format of Lark.

    Pass exactly one of `json_schema`, `regex` and `grammar`. All tokens that a row has at the first call count as its prompt.
    An object can be used by one call of `generate` at a time.

    Raises:
        InputError: None or several of the three are given, the given one is wrong, or the tokenizer has no end token.
        MissingDependencyError: llguidance is not installed.
    """

    def __init__(
        self,
        tokenizer: GPTBigCodeTokenizer,
        *,
        json_schema: Any = None,
        regex: str | None = None,
        grammar: str | None = None,
    ) -> None:
        try:
            import llguidance
            import llguidance.numpy as masks
        except ImportError as error:
            raise MissingDependencyError(
                'structured output needs llguidance: pip install "gptbigcode-cpu[structured]"'
            ) from error
        from gptbigcode_cpu.tokenizer import own_tokenizer

        self._llguidance, self._masks = llguidance, masks
        matcher = llguidance.LLMatcher
        given = {"json_schema": json_schema, "regex": regex, "grammar": grammar}
        if sum(value is not None for value in given.values()) != 1:
            raise InputError("pass exactly one of json_schema, regex and grammar")
        try:
            if json_schema is not None:
                schema = {} if json_schema is True else json_schema
                text = schema if isinstance(schema, str) else json.dumps(schema)
                self._grammar = matcher.grammar_from_json_schema(text, defaults={"whitespace_pattern": WHITESPACE})
            elif regex is not None:
                self._grammar = matcher.grammar_from_regex(regex)
            else:
                self._grammar = matcher.grammar_from_lark(grammar or "")
        except (TypeError, ValueError) as error:
            raise InputError(f"the {_name(given)} is wrong: {error}") from error
        if message := matcher.validate_grammar(self._grammar):
            raise InputError(f"the {_name(given)} is wrong: {message}")
        self._tokenizer = _shared_tokenizer(own_tokenizer(tokenizer), llguidance)
        self.end_token_ids = tuple(self._tokenizer.eos_tokens)
        self._texts: dict[int, _Text] = {}

    def reset(self) -> None:
        """Forget all rows; `generate` calls this when it starts."""
        self._texts.clear()

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        return self._allowed(range(len(input_ids)), [input_ids.shape[1]] * len(input_ids), input_ids, scores)

    def for_rows(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        return self._allowed([row.index for row in rows], [row.prompt_length for row in rows], input_ids, scores)

    def _allowed(self, numbers: Sequence[int], prompt_lengths: Sequence[int], input_ids: Ids, scores: Scores) -> Scores:
        result = scores.copy()
        for row, (number, length) in enumerate(zip(numbers, prompt_lengths, strict=True)):
            if number not in self._texts:
                matcher = self._llguidance.LLMatcher(self._tokenizer, self._grammar)
                self._texts[number] = _Text(matcher, length)
            mask = self._texts[number].mask(input_ids[row].tolist(), self._masks, self._tokenizer)
            # Ids beyond the tokenizer's vocabulary have no text.
            result[row, len(mask) :] = EXCLUDED
            result[row, : len(mask)][~mask[: scores.shape[1]]] = EXCLUDED
        return result


class _Text:
    """The position of a row in the grammar. Tokens can be taken back, because beams swap rows and drafts are rejected."""

    def __init__(self, matcher: Any, prompt_length: int) -> None:
        self._matcher, self._prompt_length = matcher, prompt_length
        self._consumed: list[int] = []

    def mask(self, ids: list[int], masks: Any, tokenizer: Any) -> NDArray[np.bool_]:
        """Which tokens are allowed next, bool ``[vocab]``."""
        new = ids[self._prompt_length :]
        shared = 0
        while shared < min(len(new), len(self._consumed)) and new[shared] == self._consumed[shared]:
            shared += 1
        if shared < len(self._consumed):
            self._matcher.rollback(len(self._consumed) - shared)
            del self._consumed[shared:]
        n_vocab = tokenizer.vocab_size
        for token in new[shared:]:
            # Validate first, because a matcher cannot roll back a wrong token.
            if self._matcher.is_stopped() or not self._matcher.validate_tokens([token]):
                break  # the row has ended and is filled with the fill token
            self._matcher.consume_token(token)
            self._consumed.append(token)
        bits = masks.allocate_token_bitmask(1, n_vocab)
        if self._matcher.is_stopped() or len(self._consumed) < len(new):
            allowed = np.zeros(n_vocab, dtype=np.bool_)
            allowed[tokenizer.eos_tokens] = True
            return allowed
        masks.fill_next_token_bitmask(self._matcher, bits)
        if error := self._matcher.get_error():
            raise InputError(f"the grammar cannot be followed: {error}")
        flat: NDArray[np.bool_] = np.unpackbits(bits.view(np.uint8), bitorder="little")[:n_vocab].astype(np.bool_)
        return flat


class _Vocabulary:
    """A tokenizer in the form that llguidance takes: with the bytes of every token."""

    def __init__(self, tokenizer: GPTBigCodeTokenizer) -> None:
        if tokenizer.eos_token_id is None:
            raise InputError("structured output ends with an end token, and the tokenizer has none; set tokenizer.eos_token")
        backend = tokenizer.backend
        self._encode = backend.encode
        self.eos_token_id = tokenizer.eos_token_id
        self.bos_token_id = tokenizer.bos_token_id
        self.special_token_ids = tokenizer.all_special_ids
        self.tokens = [token_bytes(backend.id_to_token(token_id) or "") for token_id in range(len(tokenizer))]

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text, add_special_tokens=False).ids
        return ids


def _shared_tokenizer(tokenizer: GPTBigCodeTokenizer, llguidance: Any) -> Any:
    """The tokenizer in the form of llguidance. Making it is slow, so it is stored in the tokenizer."""
    made = tokenizer.__dict__.get("_llguidance")
    if made is None:
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(tokenizer))
        made = llguidance.LLTokenizer(wrapper, eos_token=tokenizer.eos_token_id)
        tokenizer.__dict__["_llguidance"] = made
    return made


def _name(given: dict[str, Any]) -> str:
    return next(name for name, value in given.items() if value is not None)
