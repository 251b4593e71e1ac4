"""The logits processors of a call, in the order of transformers, and how much of them the core's sampler does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gptbigcode_cpu.engine.logits import processors as p
from gptbigcode_cpu.engine.logits import warpers as w
from gptbigcode_cpu.engine.logits.processors import Ids, RowInfo, Scores
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.foreign import ForeignProcessor

# What the core's sampler does, in its order, with the names of its arguments.
_NATIVE: dict[type, Callable[[Any], dict[str, Any]]] = {
    p.LogitBiasLogitsProcessor: lambda it: {"logit_bias": it.logit_bias},
    p.RepetitionPenaltyLogitsProcessor: lambda it: {"repetition_penalty": float(it.penalty)},
    w.TemperatureLogitsWarper: lambda it: {"temperature": it.temperature},
    w.TopKLogitsWarper: lambda it: {"top_k": it.top_k},
    w.TopPLogitsWarper: lambda it: {"top_p": it.top_p},
    w.MinPLogitsWarper: lambda it: {"min_p": it.min_p},
}
_NATIVE_WHEN_GREEDY = (p.LogitBiasLogitsProcessor, p.RepetitionPenaltyLogitsProcessor)
_ORDER = [*_NATIVE]


class Chain:
    """The processors of rows with the same prompt and output lengths.

    Attributes:
        sampler_options: Arguments of the core's sampler, which does the end of the chain, or all of it.
        is_native: The sampler does everything.
    """

    def __init__(self, processors: Sequence[p.LogitsProcessor], warpers: Sequence[p.LogitsProcessor], sampling: bool) -> None:
        """
        Args:
            processors: What comes before the warpers.
            warpers: What only sampling does.
            sampling: Whether tokens are drawn at random.
        """
        everything = [*processors, *warpers]
        start = len(everything)
        while start > 0 and _goes_before(everything[start - 1], everything[start:], sampling):
            start -= 1
        self._everything, self._n_in_numpy = everything, start
        self._first_warper = warpers[0] if warpers else None
        self.is_native = start == 0
        self.sampler_options: dict[str, Any] = {"temperature": 1.0} if sampling else {}
        for processor in everything[start:]:
            self.sampler_options |= _NATIVE[type(processor)](processor)

    def before_sampler(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        """The scores that the sampler is to be given."""
        return self._apply(self._everything[: self._n_in_numpy], rows, input_ids, scores)

    def instead_of_sampler(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        """What the sampler makes of them, from whose softmax a token is drawn."""
        return self._apply(self._everything[self._n_in_numpy :], rows, input_ids, scores)

    def complete(self, rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        """The scores after all processors."""
        return self._apply(self._everything, rows, input_ids, scores)

    def _apply(self, chosen: Sequence[p.LogitsProcessor], rows: Sequence[RowInfo], input_ids: Ids, scores: Scores) -> Scores:
        # What becomes too large for float32 is infinite, and what becomes of that is found when a token is chosen.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for processor in chosen:
                if processor is self._first_warper and np.isneginf(scores.max(axis=-1)).any():
                    raise InputError("no token can be chosen: the logits processors exclude every one")
                if (for_rows := getattr(processor, "for_rows", None)) is not None:
                    scores = for_rows(rows, input_ids, scores)
                else:
                    scores = processor(input_ids, scores)
        return scores


def _goes_before(processor: object, rest: Sequence[object], sampling: bool) -> bool:
    """Whether the sampler does this processor, and does it before all of `rest`, which it does too."""
    # A sampler with a temperature draws: a caller's warper in a greedy call is not for it.
    native = _NATIVE if sampling else _NATIVE_WHEN_GREEDY
    if type(processor) not in native or getattr(processor, "min_tokens_to_keep", 1) > 1:
        return False
    if getattr(processor, "filter_value", p.EXCLUDED) != p.EXCLUDED:
        return False
    return not rest or _ORDER.index(type(processor)) < _ORDER.index(type(rest[0]))


def build_chain(
    config: GenerationConfig,
    prompt_length: int,
    max_length: int,
    custom: Sequence[p.LogitsProcessor] = (),
    *,
    guidance: p.LogitsProcessor | None = None,
    prefix: p.LogitsProcessor | None = None,
) -> Chain:
    """The processors of a call, in the order of transformers.

    Args:
        config: All options, defaults included.
        prompt_length: Tokens of padding and prompt.
        max_length: Tokens of padding, prompt and output at most.
        custom: The caller's processors; one of the class of a built-in one takes its place.
        guidance: What `guidance_scale` makes.
        prefix: What ``prefix_allowed_tokens_fn`` makes.

    Raises:
        InputError: An option needs an end token and there is none.
    """
    chosen = _replaced(_processors(config, prompt_length, max_length, guidance, prefix), custom)
    warpers = _warpers(config) if config.do_sample else []
    if config.renormalize_logits:
        warpers.append(p.LogitNormalization())
    return Chain(chosen, warpers, bool(config.do_sample))


def _processors(
    config: GenerationConfig,
    prompt_length: int,
    max_length: int,
    guidance: p.LogitsProcessor | None,
    prefix: p.LogitsProcessor | None,
) -> list[p.LogitsProcessor]:
    eos = config.eos_token_ids
    chosen: list[p.LogitsProcessor] = []
    if guidance is not None:
        chosen.append(guidance)
    if config.logit_bias:
        chosen.append(p.LogitBiasLogitsProcessor(config.logit_bias))
    if config.sequence_bias is not None:
        chosen.append(p.SequenceBiasLogitsProcessor(config.sequence_bias))
    if config.encoder_repetition_penalty not in (None, 1):
        chosen.append(p.EncoderRepetitionPenaltyLogitsProcessor(config.encoder_repetition_penalty))
    if config.repetition_penalty not in (None, 1):
        chosen.append(p.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        chosen.append(p.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        chosen.append(p.EncoderNoRepeatNGramLogitsProcessor(config.encoder_no_repeat_ngram_size))
    if config.bad_words_ids is not None:
        chosen.append(p.NoBadWordsLogitsProcessor(config.bad_words_ids, eos))
    # As in transformers, min_new_tokens takes the place of min_length.
    if config.min_length and config.min_new_tokens is None and eos:
        chosen.append(p.MinLengthLogitsProcessor(config.min_length, eos))
    if config.min_new_tokens and eos:
        chosen.append(p.MinNewTokensLengthLogitsProcessor(prompt_length, config.min_new_tokens, eos))
    if prefix is not None:
        chosen.append(prefix)
    if config.forced_bos_token_id is not None:
        chosen.append(p.ForcedBOSTokenLogitsProcessor(config.forced_bos_token_id))
    if config.forced_eos_token_id is not None:
        chosen.append(p.ForcedEOSTokenLogitsProcessor(max_length, config.forced_eos_token_id))
    if config.remove_invalid_values:
        chosen.append(p.InfNanRemoveLogitsProcessor())
    if config.exponential_decay_length_penalty is not None:
        if not eos:
            raise InputError("exponential_decay_length_penalty makes the end likelier, so it needs an eos_token_id")
        chosen.append(p.ExponentialDecayLengthPenalty(config.exponential_decay_length_penalty, eos, prompt_length))
    if config.suppress_tokens is not None:
        chosen.append(p.SuppressTokensLogitsProcessor(config.suppress_tokens))
    if config.begin_suppress_tokens is not None:
        after_forced = prompt_length == 1 and config.forced_bos_token_id is not None
        begin = prompt_length + after_forced
        chosen.append(p.SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, begin))
    return chosen


def _warpers(config: GenerationConfig) -> list[p.LogitsProcessor]:
    # Beams need a token besides all end tokens, to go on with.
    keep = max(2, len(config.eos_token_ids) + 1) if (config.num_beams or 1) > 1 else 1
    chosen: list[p.LogitsProcessor] = []
    if config.temperature not in (None, 1):
        chosen.append(w.TemperatureLogitsWarper(config.temperature))
    if config.top_h is not None:
        chosen.append(w.TopHLogitsWarper(config.top_h))
    if config.top_k:
        chosen.append(w.TopKLogitsWarper(config.top_k, min_tokens_to_keep=keep))
    if config.top_p is not None and config.top_p < 1:
        chosen.append(w.TopPLogitsWarper(config.top_p, min_tokens_to_keep=keep))
    if config.min_p:
        chosen.append(w.MinPLogitsWarper(config.min_p, min_tokens_to_keep=keep))
    if config.typical_p is not None and config.typical_p < 1:
        chosen.append(w.TypicalLogitsWarper(config.typical_p, min_tokens_to_keep=keep))
    if config.epsilon_cutoff:
        chosen.append(w.EpsilonLogitsWarper(config.epsilon_cutoff, min_tokens_to_keep=keep))
    if config.eta_cutoff:
        chosen.append(w.EtaLogitsWarper(config.eta_cutoff, min_tokens_to_keep=keep))
    return chosen


def _replaced(built_in: Sequence[p.LogitsProcessor], custom: Sequence[p.LogitsProcessor]) -> list[p.LogitsProcessor]:
    """The built-in processors and then the caller's, which take the place of built-in ones of their class."""
    left = list(custom)
    chosen: list[p.LogitsProcessor] = []
    for processor in built_in:
        same = [other for other in left if _class_name(other) == type(processor).__name__]
        chosen.append(same[0] if same else processor)
        if same:
            left.remove(same[0])
    return chosen + left


def _class_name(processor: p.LogitsProcessor) -> str:
    return processor.class_name if isinstance(processor, ForeignProcessor) else type(processor).__name__
