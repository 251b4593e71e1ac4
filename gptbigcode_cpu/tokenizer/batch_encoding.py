"""The result of calling a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from gptbigcode_cpu.common.arrays import to_torch
from gptbigcode_cpu.common.suggest import check_choice
from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Encoding

ReturnTensors = Literal["np", "pt"]


class CharSpan(NamedTuple):
    """A range of characters of a text, from `start` up to but not including `end`."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """A range of tokens of a sequence, from `start` up to but not including `end`."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """A dict whose values are also attributes, with methods that map between words, characters and tokens.

    ``batch[0]`` is the `tokenizers.Encoding` of the first row, ``batch[1:3]`` a dict of these rows. Methods that map positions
    take ``(position)`` for the first row, or ``(row, position)``. Negative rows and token positions count from the end.

    Args:
        data: The values by name.
        encodings: The encodings of the rows; without them, the mapping methods are not available.
        tensor_type: None, ``"np"`` or ``"pt"``; see `convert_to_tensors`.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: Sequence[Encoding] | None = None,
        tensor_type: ReturnTensors | None = None,
    ) -> None:
        super().__init__(data or {})
        self._encodings = None if encodings is None else list(encodings)
        self.convert_to_tensors(tensor_type)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.items()}
        if isinstance(key, int):
            return self._row(key)
        raise KeyError(key)

    @property
    def encodings(self) -> list[Encoding] | None:
        """The `tokenizers.Encoding` of every row; None after `GPTBigCodeTokenizer.pad`."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether the methods that map between words, characters and tokens are available."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """Number of texts per row: 2 for pairs, else 1; None without encodings."""
        return self._encodings[0].n_sequences if self._encodings else None

    def convert_to_tensors(self, tensor_type: ReturnTensors | None = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Convert the values to int64 arrays ``[batch, tokens]``, in place.

        Args:
            tensor_type: ``"np"`` for numpy, ``"pt"`` for torch; None: do not convert.
            prepend_batch_axis: Treat each value as one row, and make it a batch of one.

        Raises:
            InputError: Rows have different lengths.
            MissingDependencyError: `tensor_type` is ``"pt"``, but torch is not installed.
        """
        check_choice("return_tensors", tensor_type, (None, "np", "pt"))
        if tensor_type is None:
            return self
        for name, value in self.items():
            rows = [value] if prepend_batch_axis else value
            if len({len(row) for row in rows if isinstance(row, list)}) > 1:
                raise InputError("texts have different lengths; pass padding=True to make them one tensor")
            array = np.array(rows) if len(rows) else np.zeros(0, dtype=np.int64)
            self[name] = to_torch(array) if tensor_type == "pt" else array
        return self

    def to(self, device: object) -> BatchEncoding:
        """Return this object. The only device is the CPU, where the values already are."""
        if str(device) != "cpu":
            raise InputError(f"the only device is 'cpu', not {str(device)!r}")
        return self

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row in the byte-level alphabet of the vocabulary (a space is ``Ġ``)."""
        return self._row(batch_index).tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row: 0 if it belongs to the first text, 1 for the second; None for added special tokens."""
        return self._row(batch_index).sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row, the number of its word; None for added special tokens."""
        return self._row(batch_index).word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text that a token belongs to: 0, or 1 for the second text of a pair."""
        row, token = self._position(batch_or_token_index, token_index)
        return row.token_to_sequence(self._token(row, token))

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The number of the word that a token belongs to."""
        row, token = self._position(batch_or_token_index, token_index)
        return row.token_to_word(self._token(row, token))

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token stands for."""
        row, token = self._position(batch_or_token_index, token_index)
        span = row.token_to_chars(self._token(row, token))
        return None if span is None else CharSpan(*span)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word; None if there are none."""
        row, word = self._position(batch_or_word_index, word_index)
        span = row.word_to_tokens(word, sequence_index)
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word; None if there is no such word."""
        row, word = self._position(batch_or_word_index, word_index)
        span = row.word_to_chars(word, sequence_index)
        return None if span is None else CharSpan(*span)

    def char_to_token(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0) -> int | None:
        """The token that a character is part of; None if there is none."""
        row, character = self._position(batch_or_char_index, char_index)
        return row.char_to_token(character, sequence_index)

    def char_to_word(self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0) -> int | None:
        """The number of the word that a character is part of; None if there is none."""
        row, character = self._position(batch_or_char_index, char_index)
        return row.char_to_word(character, sequence_index)

    def _row(self, index: int) -> Encoding:
        if self._encodings is None:
            raise InputError("this batch does not come from a call of the tokenizer, so it cannot map words and characters")
        try:
            return self._encodings[index]
        except IndexError:
            raise InputError(f"row {index} does not exist; the batch has {len(self._encodings)}") from None

    def _position(self, first: int, second: int | None) -> tuple[Encoding, int]:
        return (self._row(0), first) if second is None else (self._row(first), second)

    def _token(self, row: Encoding, index: int) -> int:
        return index + len(row) if index < 0 else index
