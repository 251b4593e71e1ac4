"""One call of a model: check the inputs, run the core once, and arrange its results."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import to_int_array, to_torch
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.cache import DynamicCache, given_cache
from gptbigcode_cpu.generation.model_output import ModelOutput
from gptbigcode_cpu.models.inputs import read_batch, refuse_unknown_inputs

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.config import GPTBigCodeConfig

Floats = NDArray[np.float32]
Output = TypeVar("Output", bound=ModelOutput)


@dataclass(frozen=True)
class Arguments:
    """The arguments that all models take; see `GPTBigCodeModel.forward`."""

    input_ids: Any
    past_key_values: DynamicCache | None
    attention_mask: Any
    token_type_ids: Any
    position_ids: Any
    inputs_embeds: Any
    use_cache: bool | None
    output_attentions: bool | None
    output_hidden_states: bool | None
    return_dict: bool | None


NAMES = tuple(field.name for field in fields(Arguments))


@dataclass(frozen=True)
class Result:
    """The results of a run of the core.

    Attributes:
        logits: ``[batch, wanted columns, vocab_size]``, or None.
        last_hidden_state: ``[batch, columns, n_embd]``, or None.
        past_key_values: The kv cache, or None.
        hidden_states: ``n_layer + 1`` arrays like `last_hidden_state`, or None.
        attentions: ``n_layer`` arrays ``[batch, n_head, columns, past + columns]``, or None.
    """

    logits: Floats | None
    last_hidden_state: Floats | None
    past_key_values: DynamicCache | None
    hidden_states: tuple[Floats, ...] | None
    attentions: tuple[Floats, ...] | None


class ForwardCall:
    """A call of a model with checked arguments.

    Attributes:
        batch: The inputs.
    """

    def __init__(self, config: GPTBigCodeConfig, core: _core.Model, arguments: Arguments, unknown: dict[str, Any]) -> None:
        """
        Args:
            config: The model's configuration, which has the defaults of some arguments.
            core: The model.
            arguments: The arguments of the call.
            unknown: Other keyword arguments. They are errors, except for ``cache``, another name for `past_key_values`, and
                for unsupported arguments that are None.

        Raises:
            InputError: See `read_batch`, or an argument is unknown.
            ContextLengthError: See `read_batch`.
        """
        self._config, self._core = config, core
        self._past = _past(arguments.past_key_values, unknown)
        self._use_cache = _switch("use_cache", arguments.use_cache, config.use_cache)
        self._hidden_states = _switch("output_hidden_states", arguments.output_hidden_states, config.output_hidden_states)
        self._attentions = _switch("output_attentions", arguments.output_attentions, config.output_attentions)
        self._return_dict = _switch("return_dict", arguments.return_dict, config.return_dict)
        self.batch = read_batch(
            config,
            core,
            self._past,
            input_ids=arguments.input_ids,
            inputs_embeds=arguments.inputs_embeds,
            attention_mask=arguments.attention_mask,
            token_type_ids=arguments.token_type_ids,
            position_ids=arguments.position_ids,
        )

    def run(self, logits_to_keep: Any = None, last_hidden_state: bool = False) -> Result:
        """Run the core.

        Args:
            logits_to_keep: The columns whose logits are wanted, as in `GPTBigCodeForCausalLM.forward`; None: no logits.
            last_hidden_state: Whether the last hidden state is wanted.

        Raises:
            InputError: `logits_to_keep` is wrong.
        """
        batch = self.batch
        columns = batch.mask.shape[1]
        first, chosen = (columns, None) if logits_to_keep is None else _kept_columns(logits_to_keep, columns)
        keep = batch.mask[:, first:].sum(axis=1)
        cache = self._past if self._past is not None else DynamicCache()
        rows = cache.rows_for(self._core, len(batch.mask))
        active = [i for i, tokens in enumerate(batch.tokens) if len(tokens)]
        asked: dict[str, Any] = {
            "hidden_states": self._hidden_states,
            "last_hidden_state": last_hidden_state and not self._hidden_states,
            "attentions": self._attentions,
        }
        values = self._core.forward(
            [rows[i] for i in active],
            [batch.tokens[i] for i in active],
            [int(keep[i]) for i in active],
            position_ids=None if batch.position_ids is None else [batch.position_ids[i] for i in active],
            **asked,
        )
        cache.grown(self._core, rows, batch.full_mask)
        names = ["logits", *(name for name, wanted in asked.items() if wanted)]
        found: dict[str, Any] = dict(zip(names, values if isinstance(values, tuple) else (values,), strict=True))
        states = tuple(batch.spread(layer) for layer in found["hidden_states"]) if self._hidden_states else None
        last = None
        if last_hidden_state:
            last = states[-1] if states is not None else batch.spread(found["last_hidden_state"])
        attentions = None
        if self._attentions:
            layers = range(self._config.n_layer)
            attentions = tuple(batch.spread_attentions(found["attentions"], layer) for layer in layers)
        logits = None
        if logits_to_keep is not None:
            logits = batch.spread(found["logits"], first)
            logits = logits if chosen is None else logits[:, chosen]
        kept = cache if self._use_cache or self._past is not None else None
        return Result(logits, last, kept, states, attentions)

    def output(self, output: Output) -> Output | tuple[Any, ...]:
        """Convert an output to what the caller wants: numpy arrays or torch tensors, an object or a tuple."""
        if self.batch.torch:
            for name, value in output.items():
                if isinstance(value, tuple):
                    setattr(output, name, tuple(to_torch(item) for item in value))
                elif isinstance(value, np.ndarray | np.float32):
                    setattr(output, name, to_torch(np.asarray(value)))
        return output if self._return_dict else output.to_tuple()


def _kept_columns(logits_to_keep: Any, columns: int) -> tuple[int, NDArray[np.int64] | None]:
    """Interpret `logits_to_keep`.

    Returns:
        The first column whose logits are needed, and the wanted columns counted from there; None: all of them.

    Raises:
        InputError: The number is negative, or a column is outside the input.
    """
    wanted = to_int_array(logits_to_keep, "logits_to_keep")
    if wanted.ndim == 0:
        if wanted < 0:
            raise InputError(f"logits_to_keep must not be negative, not {wanted}")
        return (columns - min(int(wanted), columns) if wanted else 0), None
    if wanted.ndim != 1 or not wanted.size:
        raise InputError("logits_to_keep must be a number, or a vector of columns that is not empty")
    outside = wanted[(wanted < -columns) | (wanted >= columns)]
    if len(outside):
        raise InputError(f"logits_to_keep names column {outside[0]}, the input has {columns}")
    wanted = np.where(wanted < 0, wanted + columns, wanted)
    first = int(wanted.min())
    return first, wanted - first


def _past(past_key_values: DynamicCache | None, unknown: dict[str, Any]) -> DynamicCache | None:
    newer = unknown.pop("cache", None)
    refuse_unknown_inputs(unknown, (*NAMES, "labels", "logits_to_keep"))
    return given_cache(past_key_values, newer)


def _switch(name: str, value: object, default: bool) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} must be True or False, not {value!r}")
    return bool(value)
