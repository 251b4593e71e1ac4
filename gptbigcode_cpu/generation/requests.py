"""Turn the options and arguments of a call into a request for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.drafter import Drafter
from gptbigcode_cpu.engine.request import BeamOptions, Record, Request
from gptbigcode_cpu.engine.row import row_seed
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.call import GenerateArguments
from gptbigcode_cpu.generation.chain import build_chain
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.language_model import LanguageModel
from gptbigcode_cpu.generation.rules import build_rules
from gptbigcode_cpu.generation.seeding import drawn_seed

if TYPE_CHECKING:
    from gptbigcode_cpu import _core


def build_request(
    model: LanguageModel,
    prompts: Sequence[NDArray[np.int32]],
    limits: Sequence[int],
    config: GenerationConfig,
    call: GenerateArguments | None = None,
    *,
    width: int = 0,
    first_row: int = 0,
    max_rows: int | None = None,
    record: Record | None = None,
    caches: Sequence[_core.KVCache] | None = None,
    keep_caches: bool = False,
) -> Request:
    """The request of a call to the engine.

    Args:
        model: The model.
        prompts: int32 ``[t_i]``, valid and not empty.
        limits: The most new tokens for each prompt, >= 1.
        config: All options, defaults included.
        call: The other arguments.
        width: Columns of the prompts with padding, if lengths count the padding.
        first_row: Number of the first row within the call; decides the rows' seeds.
        max_rows: The most rows that run at a time; default: no limit.
        record: Collects scores and logits.
        caches: For each prompt, the kv cache of its first tokens, but not of all; the caches grow. Default: none.
        keep_caches: Keep the caches of finished rows.

    Raises:
        InputError: An argument has a wrong type or is missing, or two arguments exclude each other.
        MissingDependencyError: An argument needs a package that is not installed.
    """
    call = call or GenerateArguments()
    drafter = _drafter(model, config, call)
    rules = build_rules(config, call, model.core, record)
    copies = config.num_return_sequences or 1
    beams = _beams(config)
    n_seeds = len(prompts) * (1 if beams else copies)
    seed = _call_seed(config)
    request = Request(
        prompts=prompts,
        limits=limits,
        seeds=[row_seed(seed, first_row + row) for row in range(n_seeds)],
        rules=rules,
        copies=copies,
        width=width,
        max_rows=max_rows,
        caches=caches,
        keep_caches=keep_caches,
        drafter=drafter,
        beams=beams,
    )
    if request.lockstep and rules.fill >= model.config.vocab_size:
        raise InputError(
            f"pad_token_id is {rules.fill}, and the vocabulary has {model.config.vocab_size} tokens; choose one of them"
        )
    return request


def _beams(config: GenerationConfig) -> BeamOptions | None:
    if (config.num_beams or 1) == 1:
        return None
    return BeamOptions(
        num_beams=int(config.num_beams or 1),
        num_return_sequences=int(config.num_return_sequences or 1),
        length_penalty=float(1.0 if config.length_penalty is None else config.length_penalty),
        early_stopping=config.early_stopping if config.early_stopping is not None else False,
        do_sample=bool(config.do_sample),
        remove_invalid_values=bool(config.remove_invalid_values),
        eos_token_ids=tuple(config.eos_token_ids),
    )


def check_assistant(model: LanguageModel, assistant: object) -> None:
    """Refuse an `assistant_model` that cannot draft tokens for a model.

    Raises:
        InputError: `assistant` is no language model of this package, or has another vocabulary.
    """
    if assistant is None:
        return
    if not isinstance(assistant, LanguageModel):
        raise InputError(f"assistant_model must be a GPTBigCodeForCausalLM, not {type(assistant).__name__}")
    if assistant.config.vocab_size != model.config.vocab_size:
        raise InputError(
            f"assistant_model has a vocabulary of {assistant.config.vocab_size} tokens and the model one of "
            f"{model.config.vocab_size}; both need the same tokenizer"
        )


def _drafter(model: LanguageModel, config: GenerationConfig, call: GenerateArguments) -> Drafter | None:
    """The object that drafts tokens in a call; None without speculation.

    Raises:
        InputError: `assistant_model` and prompt lookup are both given, there are beams, or the assistant does not fit.
    """
    check_assistant(model, call.assistant_model)
    assistant, lookup = call.assistant_model, config.prompt_lookup_num_tokens
    if assistant is None and lookup is None:
        return None
    if (config.num_beams or 1) > 1:
        raise InputError("assistant_model and prompt_lookup_num_tokens are not supported with num_beams")
    if assistant is None:
        from gptbigcode_cpu.engine.drafting.lookup import LookupDrafter

        return LookupDrafter(lookup or 0, config.max_matching_ngram_size)
    if lookup is not None:
        raise InputError("pass either assistant_model or prompt_lookup_num_tokens")
    from gptbigcode_cpu.engine.drafting.assistant import ModelDrafter

    return ModelDrafter(
        assistant.core,
        assistant.config.n_positions,
        lambda prompt_length, max_length: build_chain(config, prompt_length, max_length),
        do_sample=bool(config.do_sample),
        num_tokens=int(config.num_assistant_tokens or 1),
        adapts=config.num_assistant_tokens_schedule != "constant",
        confidence_threshold=float(config.assistant_confidence_threshold or 0.0),
    )


def _call_seed(config: GenerationConfig) -> int:
    """The seed of a call. A greedy call draws none, so that it leaves the caller's random generators unchanged."""
    if config.seed is not None:
        return int(config.seed)
    return drawn_seed() if config.do_sample else 0
