"""The outputs of models, under the names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.generation.model_output import ModelOutput

if TYPE_CHECKING:
    from gptbigcode_cpu.generation.cache import DynamicCache


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """Output of `GPTBigCodeModel`.

    Arrays are numpy arrays, or torch tensors if the inputs were; they are zero where the attention mask is 0.

    Attributes:
        last_hidden_state: float32 ``[batch, tokens, n_embd]``, after the last LayerNorm.
        past_key_values: The cache, for calls that go on.
        hidden_states: ``n_layer + 1`` arrays like `last_hidden_state`: the embeddings, then the output of every block, where
            the last one is `last_hidden_state`.
        attentions: For every layer float32 ``[batch, n_head, tokens, past + tokens]``, the probabilities of attention.
        cross_attentions: Empty where `attentions` are asked for, as in transformers: there are no such layers.
    """

    last_hidden_state: Any = None
    past_key_values: DynamicCache | None = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[()] | None = None


@dataclass
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """Output of `GPTBigCodeForCausalLM`.

    Attributes:
        loss: float32 scalar, the mean cross entropy of the next tokens; if `labels` are given.
        logits: float32 ``[batch, tokens, vocab_size]``, of the tokens that `logits_to_keep` names; zero where the mask is 0.
        past_key_values: As in `BaseModelOutputWithPastAndCrossAttentions`, like all that follows.
        hidden_states: ``n_layer + 1`` arrays ``[batch, tokens, n_embd]``: the embeddings, then the output of every block.
        attentions: For every layer float32 ``[batch, n_head, tokens, past + tokens]``.
        cross_attentions: Empty where `attentions` are asked for.
    """

    loss: Any = None
    logits: Any = None
    past_key_values: DynamicCache | None = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[()] | None = None


@dataclass
class SequenceClassifierOutputWithPast(ModelOutput):
    """Output of `GPTBigCodeForSequenceClassification`.

    Attributes:
        loss: float32 scalar; if `labels` are given.
        logits: float32 ``[batch, num_labels]``.
        past_key_values: As in `BaseModelOutputWithPastAndCrossAttentions`, like all that follows.
        hidden_states: ``n_layer + 1`` arrays ``[batch, tokens, n_embd]``: the embeddings, then the output of every block.
        attentions: For every layer float32 ``[batch, n_head, tokens, past + tokens]``.
    """

    loss: Any = None
    logits: Any = None
    past_key_values: DynamicCache | None = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """Output of `GPTBigCodeForTokenClassification`.

    Attributes:
        loss: float32 scalar; if `labels` are given.
        logits: float32 ``[batch, tokens, num_labels]``, zero where the mask is 0.
        hidden_states: As in `BaseModelOutputWithPastAndCrossAttentions`.
        attentions: For every layer float32 ``[batch, n_head, tokens, past + tokens]``.
    """

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
