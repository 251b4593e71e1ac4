"""Convert between token ids, tokens and text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gptbigcode_cpu.common.arrays import to_int_array
from gptbigcode_cpu.common.suggest import refuse_unknown
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.tokenizer.special_tokens import SpecialTokens

logger = logging.getLogger(__name__)

# StarCoder spells these names with underscores, SantaCoder with hyphens.
FIM_SPELLINGS = ("<fim_{}>", "<fim-{}>")


class Vocabulary(SpecialTokens):
    """The methods of `GPTBigCodeTokenizer` that convert between ids, tokens and text."""

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **unknown: Any,
    ) -> Any:
        """Decode one token id, a sequence of ids (list, numpy array or torch tensor), or a batch of sequences.

        Args:
            token_ids: The ids. Ids beyond the vocabulary decode to an empty text; padded embedding tables have such ids.
            skip_special_tokens: Leave special tokens out.
            clean_up_tokenization_spaces: Not applied, as in transformers; True logs a warning. It is made for WordPiece and
                would remove spaces from code.
            **unknown: Any other argument raises an error.

        Returns:
            The text; for a batch, a list of texts.
        """
        refuse_unknown(unknown, ("skip_special_tokens", "clean_up_tokenization_spaces"), "decode")
        if clean_up_tokenization_spaces:
            logger.warning("clean_up_tokenization_spaces=True is not applied: it would take spaces out of code")
        if isinstance(token_ids, Mapping):
            token_ids = token_ids["input_ids"]
        if _is_batch(token_ids):
            return [self.decode(row, skip_special_tokens) for row in token_ids]
        ids = _token_ids(token_ids)
        return self.backend.decode(ids if isinstance(ids, list) else [ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **unknown: Any,
    ) -> list[str]:
        """Decode each sequence; arguments as of `decode`."""
        if len(sequences) == 0:
            return []
        texts = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **unknown)
        return [texts] if isinstance(texts, str) else texts

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or the ids of tokens. A token outside the vocabulary gets `unk_token_id`, which may be None."""
        if isinstance(tokens, str):
            token_id = self.backend.token_to_id(tokens)
            return self.unk_token_id if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of ids, in the byte-level alphabet of the vocabulary (a space is ``Ġ``)."""
        checked = _token_ids(ids)
        if isinstance(checked, int):
            return self.backend.id_to_token(checked)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.backend.id_to_token(token_id) for token_id in checked if token_id not in skipped]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens in the byte-level alphabet."""
        decoder = self.backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def get_special_tokens_mask(self, token_ids_0: Sequence[int], already_has_special_tokens: bool = True) -> list[int]:
        """For each id, 1 if it is the id of a special token, else 0.

        Raises:
            InputError: `already_has_special_tokens` is false. Call the tokenizer with `return_special_tokens_mask` instead.
        """
        if not already_has_special_tokens:
            raise InputError("for texts, call the tokenizer with return_special_tokens_mask=True")
        special = set(self.all_special_ids)
        return [int(token_id in special) for token_id in token_ids_0]

    def get_vocab(self) -> dict[str, int]:
        """All tokens and their ids, added tokens included."""
        return self.backend.get_vocab(with_added_tokens=True)

    def __len__(self) -> int:
        """Number of tokens, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Number of tokens without the added tokens."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    @property
    def vocab(self) -> dict[str, int]:
        """Same as `get_vocab`."""
        return self.get_vocab()

    @property
    def fim_prefix_id(self) -> int | None:
        """Id of ``<fim_prefix>`` (StarCoder) or ``<fim-prefix>`` (SantaCoder); None if the model has no such token."""
        return self._fim_id("prefix")

    @property
    def fim_middle_id(self) -> int | None:
        """Id of ``<fim_middle>`` or ``<fim-middle>``, or None."""
        return self._fim_id("middle")

    @property
    def fim_suffix_id(self) -> int | None:
        """Id of ``<fim_suffix>`` or ``<fim-suffix>``, or None."""
        return self._fim_id("suffix")

    @property
    def fim_pad_id(self) -> int | None:
        """Id of ``<fim_pad>`` or ``<fim-pad>``, or None."""
        return self._fim_id("pad")

    def _fim_id(self, part: str) -> int | None:
        ids = (self.backend.token_to_id(spelling.format(part)) for spelling in FIM_SPELLINGS)
        return next((token_id for token_id in ids if token_id is not None), None)


def _is_batch(values: Any) -> bool:
    if isinstance(values, (list, tuple)):
        return len(values) > 0 and (isinstance(values[0], (list, tuple)) or getattr(values[0], "ndim", 0) > 0)
    return getattr(values, "ndim", 0) > 1


def _token_ids(values: Any) -> int | list[int]:
    array = to_int_array(values, "token_ids")
    if array.ndim > 1:
        raise InputError(f"token_ids must be one id or one sequence, not of shape {list(array.shape)}")
    if array.size and not (array.min() >= 0 and array.max() < 2**32):
        raise InputError(f"token ids are in 0..2**32-1, not {array.min()} or {array.max()}")
    ids: int | list[int] = array.tolist()
    return ids
