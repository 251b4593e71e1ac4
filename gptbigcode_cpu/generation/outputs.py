"""The results of `generate` with ``return_dict_in_generate=True``, with the names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.generation.model_output import ModelOutput

if TYPE_CHECKING:
    from gptbigcode_cpu.generation.cache import DynamicCache


@dataclass
class GenerateDecoderOnlyOutput(ModelOutput):
    """Result of decoding without beams.

    Arrays are numpy arrays, or torch tensors if the prompt was one.

    Attributes:
        sequences: int64 ``[batch * num_return_sequences, tokens]``, prompt included.
        scores: With `output_scores`, the processed scores of every step, float32 ``[rows, vocab]`` each.
        logits: With `output_logits`, the logits of every step, float32 ``[rows, vocab]`` each.
        past_key_values: Unless ``use_cache=False``, the kv cache of all columns but the last. Other name: ``cache``.
    """

    sequences: Any
    scores: tuple[Any, ...] | None = None
    logits: tuple[Any, ...] | None = None
    past_key_values: DynamicCache | None = None


@dataclass
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Result of a beam search.

    Attributes:
        sequences: int64 ``[batch * num_return_sequences, tokens]``, prompt included.
        sequences_scores: With `output_scores`, the log-probability of each sequence divided by
            ``n_new_tokens ** length_penalty``, float32 ``[rows]``.
        scores: With `output_scores`, the processed log-probabilities of every step, float32
            ``[batch * num_beams, vocab]`` each.
        logits: With `output_logits`, the logits of every step, float32 ``[batch * num_beams, vocab]`` each.
        beam_indices: The row of `scores` that each new token comes from, int64 ``[rows, new tokens]``; -1 after the end.
        past_key_values: Unless ``use_cache=False``, the kv cache of the beams that a further step would continue,
            ``batch * num_beams`` rows. Other name: ``cache``.
    """

    sequences: Any
    sequences_scores: Any = None
    scores: tuple[Any, ...] | None = None
    logits: tuple[Any, ...] | None = None
    beam_indices: Any = None
    past_key_values: DynamicCache | None = None
