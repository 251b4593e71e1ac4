"""What a call of a model returns, under the names of transformers.

An output is an object, a mapping and a tuple at once: ``output.logits``, ``output["logits"]`` and, where nothing comes before
them, ``output[0]`` are the same. What a call did not compute is None, and is left out of the mapping and the tuple.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptbigcode_cpu.generation.cache import DynamicCache


class ModelOutput:
    """Base class of outputs."""

    @property
    def cache(self) -> DynamicCache | None:
        """``past_key_values`` under its newer name in transformers."""
        cache: DynamicCache | None = getattr(self, "past_key_values", None)
        return cache

    def keys(self) -> tuple[str, ...]:
        """The names of what was computed, in order."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)  # type: ignore[arg-type]

    def values(self) -> tuple[Any, ...]:
        """What was computed, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names and what was computed, in order."""
        return tuple(zip(self.keys(), self.values(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        """What was computed, in order."""
        return self.values()

    def get(self, key: str, default: Any = None) -> Any:
        """What was computed under a name, or `default`."""
        return getattr(self, key) if key in self else default

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys() or (key == "cache" and self.cache is not None)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


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
        hidden_states: See there.
        attentions: See there.
        cross_attentions: See there.
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
        hidden_states: See there.
        attentions: See there.
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
        attentions: See there.
    """

    loss: Any = None
    logits: Any = None
    hidden_states: tuple[Any, ...] | None = None
    attentions: tuple[Any, ...] | None = None
