"""What the pipelines have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.suggest import refuse_unknown
from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer


class Pipeline:
    """From texts to results: a model, its tokenizer, and options for all calls.

    Attributes:
        task: The name of the task.
        model: The model.
        tokenizer: Its tokenizer.
        options: What calls use unless they say otherwise.
    """

    task: ClassVar[str]
    # The names of options; None: the model's generation options too, which the model checks.
    known_options: ClassVar[tuple[str, ...] | None] = None

    def __init__(self, model: Any, tokenizer: GPTBigCodeTokenizer, **options: Any) -> None:
        """
        Args:
            model: A model of the kind that the task needs.
            tokenizer: Its tokenizer.
            **options: Options for all calls.

        Raises:
            InputError: An unknown option or a bad value.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.options = options
        self._check_options(options)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        known = self.known_options or ()
        refuse_unknown({name: value for name, value in options.items() if name not in known}, known, f"{self.task}")

    def _given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a call over those of the pipeline."""
        self._check_options(options)
        return {**self.options, **options}

    def _rows(self, encodings: Iterable[Sequence[int]], batch_size: int) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Token ids, int64 ``[batch, tokens]``, and their attention mask, padded on the right."""
        rows = list(encodings)
        # A classifier of texts tells by this token where a text ends; to the others it is all the same.
        filler = self.model.config.pad_token_id or 0
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            if not all(batch):
                raise InputError("a text is empty; there is nothing to compute on")
            width = max(map(len, batch))
            mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in batch], dtype=np.int64)
            yield np.array([[*row, *[filler] * (width - len(row))] for row in batch], dtype=np.int64), mask


def checked_batch_size(value: object) -> int:
    """Raises:
    InputError: `value` is no positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"batch_size must be a positive integer, not {value!r}")
    return value
