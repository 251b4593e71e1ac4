"""The results of calling a model, with the names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.generation.model_output import ModelOutput

if TYPE_CHECKING:
    from gptbigcode_cpu.generation.cache import DynamicCache


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """Output of `GPTBigCodeModel`.

    Arrays are numpy arrays, or torch tensors if the inputs were. They are zero where the attention mask is 0.

    Attributes:
        last_hidden_state: float32 ``[batch, tokens, n_embd]``, after the last LayerNorm.
        past_key_values: The kv cache, for further calls.
        hidden_states: ``n_layer + 1`` arrays of the shape of `last_hidden_state`: the embeddings, then the output of every
            block. The last one is `last_hidden_state` itself.
        attentions: The attention probabilities of every layer, float32 ``[batch, n_head, tokens, past + tokens]``.
        cross_attentions: An empty tuple if `attentions` are asked for, as in transformers; there are no such layers.
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
        loss: The mean cross entropy of the next tokens, float32 scalar; only if `labels` are given.
        logits: float32 ``[batch, tokens, vocab_size]``, for the columns of `logits_to_keep`; zero where the mask is 0.
        past_key_values: As in `BaseModelOutputWithPastAndCrossAttentions`; so are all following attributes.
        hidden_states: ``n_layer + 1`` arrays ``[batch, tokens, n_embd]``: the embeddings, then the output of every block.
        attentions: One array per layer, float32 ``[batch, n_head, tokens, past + tokens]``.
        cross_attentions: An empty tuple if `attentions` are asked for.
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
        loss: float32 scalar; only if `labels` are given.
        logits: float32 ``[batch, num_labels]``.
        past_key_values: As in `BaseModelOutputWithPastAndCrossAttentions`; so are all following attributes.
        hidden_states: ``n_layer + 1`` arrays ``[batch, tokens, n_embd]``: the embeddings, then the output of every block.
        attentions: One array per layer, float32 ``[batch, n_head, tokens, past + tokens]``.
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
        loss: float32 scalar; only if `labels` are given.
        logits: float32 ``[batch, tokens, num_labels]``, zero where the mask is 0.
        hidden_states: As in `BaseModelOutputWithPastAndCrossAttentions`.
        attentions: One array per layer, float32 ``[batch, n_head, tokens, past + tokens]``.
    """

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
