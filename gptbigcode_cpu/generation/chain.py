"""Build the logits processors that the options of a call ask for, in the order of transformers."""

from __future__ import annotations

from collections.abc import Sequence

from gptbigcode_cpu.engine.logits import processors as p
from gptbigcode_cpu.engine.logits import warpers as w
from gptbigcode_cpu.engine.logits.chain import Chain
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.foreign import ForeignProcessor


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
        prompt_length: Number of tokens of the prompt, padding included.
        max_length: Maximum number of tokens of prompt and output together, padding included.
        custom: The caller's processors. One that has the class name of a built-in processor replaces it.
        guidance: The processor for `guidance_scale`.
        prefix: The processor for ``prefix_allowed_tokens_fn``.

    Raises:
        InputError: An option needs an end token, but `eos_token_id` is not set.
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
    # As in transformers, min_length is ignored if min_new_tokens is set.
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
    # A beam search must keep one token besides the end tokens, so that a beam can go on.
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
    """The built-in processors, then the caller's. A caller's processor replaces the built-in one with the same class name."""
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
