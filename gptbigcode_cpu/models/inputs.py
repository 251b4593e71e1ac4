"""Check the inputs of a model, and convert padded rows to the sequences without padding that the core runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import is_torch, to_float_array, to_int_array
from gptbigcode_cpu.common.suggest import nearest
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.generation.cache import DynamicCache
from gptbigcode_cpu.generation.language_model import PromptBatch

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.config import GPTBigCodeConfig

# Arguments of transformers that are not supported; they must be None.
ABSENT = {
    "encoder_hidden_states": "there are no cross-attention layers",
    "encoder_attention_mask": "there are no cross-attention layers",
    "head_mask": "attention heads cannot be switched off",
    "cache_position": "positions follow from past_key_values; pass position_ids to set other ones",
}


@dataclass(frozen=True)
class InputBatch:
    """Checked inputs of a forward call.

    Attributes:
        mask: Which of the new columns are tokens, bool ``[batch, columns]``.
        past_mask: Which of the columns in the kv cache are tokens, bool ``[batch, past]``.
        tokens: The new tokens of every row: int32 ``[t_i]``, or their embeddings, float32 ``[t_i, n_embd]``.
        position_ids: The positions of every row, int32 ``[t_i]``, or None: positions count the tokens.
        torch: Whether the caller passed torch tensors.
    """

    mask: NDArray[np.bool_]
    past_mask: NDArray[np.bool_]
    tokens: list[NDArray[Any]]
    position_ids: list[NDArray[np.int32]] | None
    torch: bool

    @property
    def full_mask(self) -> NDArray[np.bool_]:
        """The mask of the columns in the kv cache and of the new ones, bool ``[batch, past + columns]``."""
        return np.concatenate([self.past_mask, self.mask], axis=1)

    def spread(self, values: NDArray[np.float32], first_column: int = 0) -> NDArray[np.float32]:
        """Put the values of tokens at their places in the padded batch.

        Args:
            values: The values of all tokens from `first_column` on, row after row, ``[tokens, ...]``.
            first_column: The first column of the result.

        Returns:
            ``[batch, columns - first_column, ...]``, with zeros at padding.
        """
        mask = self.mask[:, first_column:]
        if mask.all():
            return values.reshape(*mask.shape, *values.shape[1:])
        out = np.zeros((*mask.shape, *values.shape[1:]), dtype=np.float32)
        out[mask] = values
        return out

    def spread_attentions(self, rows: list[NDArray[np.float32]], layer: int) -> NDArray[np.float32]:
        """Put the attention probabilities of one layer at their places in the padded batch.

        Args:
            rows: For each row with new tokens, ``[n_layer, n_head, t_i, past_i + t_i]``.
            layer: The layer.

        Returns:
            ``[batch, n_head, columns, past + columns]``, with zeros at padding.
        """
        seen = self.full_mask
        out = np.zeros((len(seen), rows[0].shape[1], self.mask.shape[1], seen.shape[1]), dtype=np.float32)
        given = iter(rows)
        for i, row_mask in enumerate(self.mask):
            if row_mask.any():
                out[i][:, row_mask[:, None] & seen[i]] = next(given)[layer].reshape(out.shape[1], -1)
        return out


def refuse_unknown_inputs(options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise an `InputError` for an unknown argument, which suggests the nearest known one."""
    for name, value in options.items():
        if name in ABSENT:
            if value is not None:
                raise InputError(f"{name} is not supported: {ABSENT[name]}")
            continue
        raise InputError(f"unknown argument {name!r}{nearest(name, known) or '; known: ' + ', '.join(known)}")


def read_batch(
    config: GPTBigCodeConfig,
    core: _core.Model,
    past: DynamicCache | None,
    *,
    input_ids: Any,
    inputs_embeds: Any,
    attention_mask: Any,
    token_type_ids: Any,
    position_ids: Any,
) -> InputBatch:
    """Check the inputs of a call.

    Args:
        config: The model's configuration.
        core: The model, which looks up embeddings.
        past: The kv cache of earlier tokens.
        input_ids: As in `GPTBigCodeModel.forward`; so are all following arguments.
        inputs_embeds: float ``[batch, tokens, n_embd]`` instead of `input_ids`.
        attention_mask: ``[batch, past + tokens]``, 0 for padding.
        token_type_ids: ``[batch, tokens]``: token ids whose embeddings are added to those of the tokens.
        position_ids: ``[batch, tokens]`` or ``[1, tokens]``: rows of the position embedding.

    Raises:
        InputError: A shape, type or value is wrong.
        ContextLengthError: A row is longer than ``n_positions``.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise InputError("You must specify exactly one of input_ids or inputs_embeds")
    ids = None if input_ids is None else _ids(input_ids)
    embeddings = None if inputs_embeds is None else _embeddings(inputs_embeds, config.n_embd)
    values: NDArray[Any] = ids if ids is not None else embeddings  # type: ignore[assignment]
    shape = values.shape[:2]
    past_mask = _past_mask(past, shape[0], "call")
    mask = new_columns_mask(attention_mask, shape, past_mask)
    _check_mask(mask, past_mask, has_positions=position_ids is not None)
    counts = mask.sum(axis=1) + past_mask.sum(axis=1)
    _check_counts(counts, config.n_positions, ", past ones included" if past_mask.size else "")
    if ids is not None:
        _check_ids(ids, mask, config.vocab_size, "token id")
        values = ids.astype(np.int32)
    tokens = [row[row_mask] for row, row_mask in zip(values, mask, strict=True)]
    if token_type_ids is not None:
        types = _broadcast(to_int_array(token_type_ids, "token_type_ids"), shape, "token_type_ids")
        _check_ids(types, mask, config.vocab_size, "token type")
        tokens = [
            (row if row.ndim == 2 else core.embed(row)) + core.embed(row_types[row_mask].astype(np.int32))
            for row, row_types, row_mask in zip(tokens, types, mask, strict=True)
        ]
    positions = None
    if position_ids is not None:
        places = _broadcast(to_int_array(position_ids, "position_ids"), shape, "position_ids")
        _check_ids(places, mask, config.n_positions, "position id")
        positions = [row[row_mask].astype(np.int32) for row, row_mask in zip(places, mask, strict=True)]
    return InputBatch(mask, past_mask, tokens, positions, is_torch(input_ids if input_ids is not None else inputs_embeds))


def read_prompts(
    config: GPTBigCodeConfig, input_ids: Any, attention_mask: Any, padding_token: int | None, past: DynamicCache | None
) -> PromptBatch:
    """Check the prompts of `generate`, `stream` and the pipelines.

    Args:
        config: The model's configuration.
        input_ids: Token ids ``[batch, tokens]``, including the tokens in the cache: list, numpy array or torch tensor.
        attention_mask: ``[batch, tokens]``, 1 for tokens and 0 for padding.
        padding_token: The token that counts as padding if there is no mask; None: no token does.
        past: The kv cache of the first columns.

    Raises:
        InputError: A shape, type or value is wrong, or a row has no tokens.
        ContextLengthError: A row is longer than ``n_positions``.
    """
    if isinstance(input_ids, Mapping):
        raise InputError("the prompt is a dict of arrays; pass its content: generate(**inputs)")
    ids = _ids(input_ids)
    rows, columns = ids.shape
    seen = _past_mask(past, rows, "prompt")
    if seen.shape[1] >= columns:
        raise InputError(
            f"past_key_values holds {seen.shape[1]} columns and input_ids {columns}; pass all tokens: those in the cache "
            "and at least one more"
        )
    if attention_mask is None and padding_token is not None:
        new = ids[:, seen.shape[1] :] != padding_token
    else:
        new = new_columns_mask(attention_mask, (rows, columns - seen.shape[1]), seen)
    mask = np.concatenate([seen, new], axis=1)
    _check_ids(ids, mask, config.vocab_size, "token id")
    _check_counts(mask.sum(axis=1), config.n_positions, "")
    if seen.size and not new.any(axis=1).all():
        raise InputError(f"row {int(new.any(axis=1).argmin())} has no token after those of past_key_values")
    return PromptBatch(ids, mask, [row[row_mask].astype(np.int32) for row, row_mask in zip(ids, mask, strict=True)])


def _past_mask(past: DynamicCache | None, rows: int, what: str) -> NDArray[np.bool_]:
    """Which of the columns in the kv cache are tokens, bool ``[rows, past]``."""
    mask = np.zeros((rows, 0), dtype=np.bool_) if past is None or not past.is_initialized else past.mask
    if len(mask) != rows:
        raise InputError(f"past_key_values holds {len(mask)} rows, the {what} has {rows}")
    return mask


def _check_counts(counts: NDArray[np.int64], n_positions: int, remark: str) -> None:
    """Check that no row is empty or too long. `remark` is added to the message about the length."""
    if not counts.all():
        raise InputError(f"row {int(counts.argmin())} of input_ids is empty: every token is padding")
    if counts.max() > n_positions:
        row = int(counts.argmax())
        raise ContextLengthError(
            f"row {row} has {counts[row]} tokens{remark}, the model has {n_positions} positions; shorten it"
        )


def _ids(input_ids: Any) -> NDArray[np.int64]:
    ids = np.atleast_2d(to_int_array(input_ids, "input_ids"))
    if ids.ndim != 2:
        raise InputError(f"input_ids must have the shape [batch, tokens], not {list(ids.shape)}")
    if ids.size == 0:
        raise InputError("the prompt is empty; pass at least one token, for example the model's bos_token_id")
    return ids


def _embeddings(inputs_embeds: Any, n_embd: int) -> NDArray[np.float32]:
    values = to_float_array(inputs_embeds, "inputs_embeds")
    if values.ndim != 3 or values.shape[2] != n_embd or values.size == 0:
        raise InputError(f"inputs_embeds must have the shape [batch, tokens, {n_embd}], not {list(values.shape)}")
    return values


def new_columns_mask(attention_mask: Any, shape: tuple[int, ...], past_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask of the new columns, bool ``[batch, columns]``.

    Args:
        attention_mask: ``[batch, past + columns]``, or None: all new columns are tokens.
        shape: Number of rows and of new columns.
        past_mask: Which of the columns in the kv cache are tokens, bool ``[batch, past]``.

    Raises:
        InputError: `attention_mask` has a wrong shape or values other than 0 and 1, or it contradicts `past_mask`.
    """
    if attention_mask is None:
        return np.ones(shape, dtype=np.bool_)
    values = np.atleast_2d(to_int_array(attention_mask, "attention_mask", "iubf"))
    past = past_mask.shape[1]
    if values.shape != (shape[0], past + shape[1]):
        columns = f"{past} past and {shape[1]} new columns" if past else f"{shape[1]} columns"
        raise InputError(f"attention_mask has the shape {list(values.shape)}; the input has {shape[0]} rows and {columns}")
    if not np.isin(values, (0, 1)).all():
        raise InputError("attention_mask must hold 1 for tokens and 0 for padding; additive masks are not supported")
    mask: NDArray[np.bool_] = values != 0
    if not np.array_equal(mask[:, :past], past_mask):
        row, column = np.argwhere(mask[:, :past] != past_mask)[0].tolist()
        was, now = ("a token", "masks it") if past_mask[row, column] else ("padding", "marks it as a token")
        raise InputError(f"row {row}, column {column} was {was} in an earlier call, but attention_mask now {now}")
    return mask[:, past:]


def _check_mask(mask: NDArray[np.bool_], past_mask: NDArray[np.bool_], has_positions: bool) -> None:
    empty = ~(mask.any(axis=1) | past_mask.any(axis=1))
    if empty.any():
        raise InputError(f"row {int(empty.argmax())} of the input is empty: every token is padding")
    if not mask.any():
        raise InputError("every new token is padding; pass at least one token")
    # Count the places where a run of tokens begins. More than one means that there is padding between tokens.
    begins = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    split = begins.sum(axis=1) > 1
    if split.any() and not has_positions:
        raise InputError(
            f"attention_mask has padding between the tokens of row {int(split.argmax())}; put it at the left or right end, "
            "or pass position_ids to set the positions of the tokens"
        )


def _check_ids(ids: NDArray[np.int64], mask: NDArray[np.bool_], end: int, what: str) -> None:
    outside = np.argwhere(mask & ((ids < 0) | (ids >= end)))
    if len(outside):
        row, column = outside[0].tolist()
        raise InputError(f"{what} {ids[row, column]} in row {row}, column {column} is not in 0..{end - 1}")


def _broadcast(values: NDArray[np.int64], shape: tuple[int, ...], what: str) -> NDArray[np.int64]:
    values = np.atleast_2d(values)
    if values.shape not in ((shape[0], shape[1]), (1, shape[1])):
        raise InputError(f"{what} has the shape {list(values.shape)}, the input has {list(shape)}")
    return np.broadcast_to(values, shape)
