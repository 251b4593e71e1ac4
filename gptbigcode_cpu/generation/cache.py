"""The kv cache of a batch: keys and values of the tokens that a model has already run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import to_int_array
from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    from gptbigcode_cpu import _core


class DynamicCache:
    """The kv cache of a batch. Pass it as `past_key_values`: the call reads it and appends its own tokens.

    A new cache is empty and fits any model; the first call binds it to that call's model and batch. Copies and selections
    share memory until one of them grows. Padding takes no memory: a row stores its tokens only.

    Args:
        config: Ignored; accepted because transformers accepts it.

    Example:
        >>> cache = DynamicCache()
        >>> output = model([[1, 2, 3]], past_key_values=cache)
        >>> output = model([[4]], past_key_values=cache)
        >>> cache.get_seq_length()
        4
    """

    def __init__(self, config: Any = None) -> None:
        self._rows: list[_core.KVCache] = []
        self._core: _core.Model | None = None
        self._mask = np.ones((0, 0), dtype=np.bool_)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which of the columns seen so far were tokens, ``[batch, columns]``; False is padding."""
        return self._mask

    @property
    def batch_size(self) -> int:
        """Number of rows; 0 before the first call."""
        return len(self._rows)

    @property
    def is_initialized(self) -> bool:
        """Whether a call has filled the cache."""
        return self._core is not None

    @property
    def nbytes(self) -> int:
        """Size in bytes. Memory that rows share is counted once for every row."""
        return sum(row.nbytes for row in self._rows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of columns seen, padding included, as in transformers. It is the same for every `layer_idx`."""
        return self._mask.shape[1]

    def crop(self, max_length: int) -> None:
        """Forget the last columns.

        Args:
            max_length: How many columns to keep; if negative, how many to forget.

        Raises:
            InputError: `max_length` is no whole number, or it is 0, whose meaning differs between versions of transformers.
        """
        if isinstance(max_length, bool) or not isinstance(max_length, int | np.integer):
            raise InputError(f"crop takes a whole number, not {max_length!r}")
        if max_length == 0:
            raise InputError(
                "crop(0) keeps everything or nothing, depending on the version of transformers; reset() forgets all"
            )
        length = self.get_seq_length()
        kept = min(length, int(max_length)) if max_length > 0 else max(0, length + int(max_length))
        self._mask = self._mask[:, :kept]
        for row, count in zip(self._rows, self._mask.sum(axis=1), strict=True):
            row.truncate(int(count))

    def reset(self) -> None:
        """Forget all tokens and the model: the cache is as new."""
        self._rows, self._core, self._mask = [], None, np.ones((0, 0), dtype=np.bool_)

    def batch_select_indices(self, indices: Any) -> None:
        """Keep these rows, in this order; a row may be taken more than once.

        Raises:
            InputError: An index is outside the batch.
        """
        chosen = to_int_array(indices, "indices").reshape(-1)
        if len(outside := chosen[(chosen < 0) | (chosen >= len(self._rows))]):
            raise InputError(f"row {outside[0]} is not in this cache of {len(self._rows)} rows")
        self._rows = [self._rows[i].fork() for i in chosen]
        self._mask = self._mask[chosen]

    def reorder_cache(self, beam_idx: Any) -> None:
        """Same as `batch_select_indices`; transformers' beam search uses this name."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Replace every row by `repeats` copies.

        Raises:
            InputError: `repeats` is not a positive whole number.
        """
        if isinstance(repeats, bool) or not isinstance(repeats, int | np.integer) or repeats < 1:
            raise InputError(f"repeats must be a positive whole number, not {repeats!r}")
        self.batch_select_indices(np.repeat(np.arange(len(self._rows)), repeats))

    def copy(self) -> DynamicCache:
        """A second cache with the same tokens. It is cheap, because both share memory until one of them grows."""
        other = DynamicCache()
        other._rows, other._core, other._mask = [row.fork() for row in self._rows], self._core, self._mask
        return other

    def __copy__(self) -> DynamicCache:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> DynamicCache:
        return self.copy()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.batch_size}, seq_length={self.get_seq_length()})"

    def rows_for(self, core: _core.Model, batch: int) -> Sequence[_core.KVCache]:
        """The kv cache of each row, for a call of the model `core` with `batch` rows.

        Raises:
            InputError: The cache belongs to another model or holds another number of rows.
        """
        from gptbigcode_cpu import _core

        if self._core is None:
            return [_core.KVCache(core) for _ in range(batch)]
        if self._core is not core:
            raise InputError("past_key_values holds the past of another model")
        if len(self._rows) != batch:
            raise InputError(f"past_key_values holds {len(self._rows)} rows, the call has {batch}")
        return self._rows

    def grown(self, core: _core.Model, rows: Sequence[_core.KVCache], mask: NDArray[np.bool_]) -> None:
        """Store the result of a call: `rows` from `rows_for`, which now hold the tokens of `mask`, earlier tokens included."""
        self._core, self._rows, self._mask = core, list(rows), mask


def given_cache(past_key_values: Any, cache: Any) -> DynamicCache | None:
    """The checked cache of a call; `past_key_values` and `cache` are two names of one argument.

    Raises:
        InputError: Both are given and differ, or the given one is no `DynamicCache` of this package.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise InputError("cache and past_key_values are two names of one argument; pass one")
    chosen = cache if cache is not None else past_key_values
    if chosen is not None and not isinstance(chosen, DynamicCache):
        kind = f"{type(chosen).__module__}.{type(chosen).__name__}".removeprefix("builtins.")
        raise InputError(f"past_key_values must be a DynamicCache of this package, not {kind}")
    return chosen
