"""Look up rows of the token embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import is_torch, to_int_array, to_torch
from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.store.weights import PackedModel


class Embedding:
    """The token embedding of a model, as `PreTrainedModel.get_input_embeddings` returns it.

    Attributes:
        num_embeddings: Number of tokens in the vocabulary.
        embedding_dim: Width of the embedding, ``n_embd``.
    """

    def __init__(self, packed: PackedModel, core: _core.Model) -> None:
        """
        Args:
            packed: A converted model, opened.
            core: The core's model that computes with it.
        """
        self.num_embeddings = packed.config.vocab_size
        self.embedding_dim = packed.config.n_embd
        self._core = core

    def __call__(self, input_ids: Any) -> Any:
        """Look up the embeddings of tokens.

        Args:
            input_ids: Token ids of any shape: list, numpy array or torch tensor.

        Returns:
            The stored embeddings, float32 ``[..., n_embd]``: a torch tensor if `input_ids` is one, else a numpy array.

        Raises:
            InputError: An id is outside the vocabulary.
        """
        ids = to_int_array(input_ids, "input_ids")
        if len(outside := ids[(ids < 0) | (ids >= self.num_embeddings)]):
            raise InputError(f"token id {outside[0]} is not in 0..{self.num_embeddings - 1}")
        rows = self._core.embed(ids.reshape(-1).astype(np.int32)).reshape(*ids.shape, self.embedding_dim)
        return to_torch(rows) if is_torch(input_ids) else rows

    @property
    def weight(self) -> NDArray[np.float32]:
        """All rows, float32 ``[vocab_size, n_embd]``, unpacked at every access."""
        return self._core.embed(np.arange(self.num_embeddings, dtype=np.int32))
