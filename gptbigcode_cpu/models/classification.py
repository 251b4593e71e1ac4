"""Classifiers: a GPTBigCode model with a small head that was trained with transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import to_int_array
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import ConfigError, FormatError, InputError
from gptbigcode_cpu.generation.cache import DynamicCache
from gptbigcode_cpu.models.base import PreTrainedModel
from gptbigcode_cpu.models.causal_lm import GPTBigCodeModel
from gptbigcode_cpu.models.forward import Arguments, ForwardCall
from gptbigcode_cpu.models.inputs import InputBatch
from gptbigcode_cpu.models.loss import infer_problem_type, sequence_loss, token_loss
from gptbigcode_cpu.models.outputs import SequenceClassifierOutputWithPast, TokenClassifierOutput

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.store.weights import PackedModel

Floats = NDArray[np.float32]


class _Classifier(PreTrainedModel):
    """A model with a linear head on the last hidden state.

    Attributes:
        num_labels: Number of outputs of the head.
        transformer: The model without the head.
    """

    head: ClassVar[str]  # name of the head's tensors

    def __init__(self, packed: PackedModel, core: _core.Model | None = None) -> None:
        from gptbigcode_cpu import _core

        super().__init__(packed, core)
        self.transformer = GPTBigCodeModel(packed, self.core)
        self.num_labels = self.config.num_labels
        missing = [name for name in sorted(self._heads()) if name not in packed.tensors]
        if missing:
            raise FormatError(f"{packed.path} has no {missing[0]}; convert the checkpoint again")
        # Use the core's layout: its products do not depend on the number of rows.
        self._weight = _core.pack_weight(packed.tensors[f"{self.head}.weight"], "float32")
        self._bias = packed.tensors.get(f"{self.head}.bias")

    @classmethod
    def _check_architecture(cls, config: GPTBigCodeConfig, directory: Path) -> None:
        if cls.__name__ not in config.architectures:
            raise ConfigError(
                f"{directory} is a {', '.join(config.architectures)}, which has no trained {cls.head} head; this package does "
                f"not train models. Train a {cls.__name__} with transformers, and load its checkpoint"
            )

    def _heads(self) -> frozenset[str]:
        from gptbigcode_cpu.store.tensors import CLASSIFIERS

        return CLASSIFIERS[type(self).__name__]

    def _classify(self, hidden: Floats) -> Floats:
        """Apply the head to rows ``[n, n_embd]``."""
        from gptbigcode_cpu import _core

        return _core.linear(self._weight, "float32", self.num_labels, np.ascontiguousarray(hidden), self._bias)


class GPTBigCodeForSequenceClassification(_Classifier):
    """A classifier of texts. The head is applied to the last token."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    head = "score"

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: DynamicCache | None = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        *,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> SequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Compute the scores of every text.

        As in transformers, the last token of a text is the last one that is not ``config.pad_token_id``. With `inputs_embeds`,
        or for a batch of one without ``pad_token_id``, it is the last column.

        Args:
            input_ids: As in `GPTBigCodeModel.forward`; so are all arguments but `labels`.
            past_key_values: The kv cache of earlier tokens; it grows by the tokens of the call.
            attention_mask: ``[batch, past + tokens]``, 0 for padding.
            token_type_ids: ``[batch, tokens]``: token ids whose embeddings are added to those of the tokens.
            position_ids: ``[batch, tokens]`` or ``[1, tokens]``: rows of the position embedding.
            inputs_embeds: float ``[batch, tokens, n_embd]`` instead of `input_ids`.
            labels: Targets for the loss. For single labels, classes ``[batch]``; for regression, floats of the shape of the
                logits, or ``[batch]`` with one label; for several labels per text, floats in 0..1 of the shape of the logits.
                ``config.problem_type`` decides between these. If it is None, the first labels set it, as in transformers:
                regression if ``num_labels`` is 1, single labels if they are integers, else several labels.
            use_cache: Return the kv cache; default: ``config.use_cache``.
            output_attentions: Return the attention probabilities; default: ``config.output_attentions``.
            output_hidden_states: Return the output of every block; default: ``config.output_hidden_states``.
            return_dict: False: return a tuple; default: ``config.return_dict``.
            **unknown: Arguments of transformers that are not supported here; they must be None.

        Returns:
            The scores, and the other values that were asked for.

        Raises:
            InputError: As in `GPTBigCodeModel.forward`, or there are several texts but no ``config.pad_token_id``, the last
                token is masked, or `labels` are wrong.
            ContextLengthError: A row is longer than ``n_positions``.
        """
        arguments = Arguments(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds,
            use_cache, output_attentions, output_hidden_states, return_dict,
        )  # fmt: skip
        call = ForwardCall(self.config, self.core, arguments, unknown)
        last = self._last_columns(call.batch, input_ids)
        result = call.run(last_hidden_state=True)
        assert result.last_hidden_state is not None
        logits = self._classify(result.last_hidden_state[np.arange(len(last)), last])
        loss = None
        if labels is not None:
            problem_type = self.config.problem_type or infer_problem_type(self.num_labels, labels)
            loss = sequence_loss(logits, labels, problem_type)
            self.config.problem_type = problem_type
        output = SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=result.past_key_values,
            hidden_states=result.hidden_states,
            attentions=result.attentions,
        )
        return call.output(output)

    __call__ = forward

    def _last_columns(self, batch: InputBatch, input_ids: Any) -> NDArray[np.int64]:
        """The column of every row's last token."""
        rows, columns = batch.mask.shape
        pad = self.config.pad_token_id
        if pad is None and rows != 1:
            raise InputError(
                "several texts need a pad token that shows where each one ends: set model.config.pad_token_id, for example "
                "to tokenizer.pad_token_id"
            )
        if pad is None or input_ids is None:
            last = np.full(rows, columns - 1)
        else:
            # As in transformers, the rightmost token that is not the pad token, or the first column if there is none.
            others = np.atleast_2d(to_int_array(input_ids, "input_ids")) != pad
            last = (np.arange(columns) * others).argmax(axis=1)
        masked = ~batch.mask[np.arange(rows), last]
        if masked.any():
            row = int(masked.argmax())
            raise InputError(
                f"row {row} is classified by its column {last[row]}, but attention_mask marks it as padding; pad on the left, "
                "or with config.pad_token_id"
            )
        return last


class GPTBigCodeForTokenClassification(_Classifier):
    """A classifier of tokens."""

    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    head = "classifier"

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: DynamicCache | None = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        *,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Compute the scores of every token.

        Args:
            input_ids: As in `GPTBigCodeModel.forward`; so are all arguments but `labels`.
            past_key_values: The kv cache of earlier tokens; it grows by the tokens of the call.
            attention_mask: ``[batch, past + tokens]``, 0 for padding.
            token_type_ids: ``[batch, tokens]``: token ids whose embeddings are added to those of the tokens.
            position_ids: ``[batch, tokens]`` or ``[1, tokens]``: rows of the position embedding.
            inputs_embeds: float ``[batch, tokens, n_embd]`` instead of `input_ids`.
            labels: Classes ``[batch, tokens]`` for the loss. Labels of -100 and padding are ignored.
            use_cache: Has no effect, because the output has no kv cache. A cache that is passed grows.
            output_attentions: Return the attention probabilities; default: ``config.output_attentions``.
            output_hidden_states: Return the output of every block; default: ``config.output_hidden_states``.
            return_dict: False: return a tuple; default: ``config.return_dict``.
            **unknown: Arguments of transformers that are not supported here; they must be None.

        Returns:
            The scores, and the other values that were asked for.

        Raises:
            InputError: As in `GPTBigCodeModel.forward`, or `labels` are wrong.
            ContextLengthError: A row is longer than ``n_positions``.
        """
        arguments = Arguments(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds,
            use_cache, output_attentions, output_hidden_states, return_dict,
        )  # fmt: skip
        call = ForwardCall(self.config, self.core, arguments, unknown)
        result = call.run(last_hidden_state=True)
        assert result.last_hidden_state is not None
        logits = call.batch.spread(self._classify(result.last_hidden_state[call.batch.mask]))
        loss = None if labels is None else token_loss(logits, labels, call.batch.mask)
        output = TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=result.hidden_states, attentions=result.attentions
        )
        return call.output(output)

    __call__ = forward
