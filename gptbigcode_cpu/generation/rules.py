"""Turn options and arguments into rules: how tokens are chosen and when rows end."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.engine.logits.processors import LogitsProcessor, PrefixConstrainedLogitsProcessor, token_list
from gptbigcode_cpu.engine.request import Record, Rules
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.call import GenerateArguments
from gptbigcode_cpu.generation.chain import build_chain
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.foreign import ForeignCriterion, ForeignProcessor, is_own, wants_torch
from gptbigcode_cpu.generation.stopping import MaxTimeCriteria, StoppingCriteria, StopStringCriteria

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

GRAMMARS = ("json_schema", "regex", "grammar")


def build_rules(config: GenerationConfig, call: GenerateArguments, core: _core.Model, record: Record | None = None) -> Rules:
    """The rules of a request: how its tokens are chosen and when its rows end.

    Args:
        config: All options, defaults included.
        call: The other arguments.
        core: The model, for `guidance_scale`.
        record: Collects scores and logits.

    Raises:
        InputError: An argument has a wrong type or is missing.
        MissingDependencyError: An argument needs a package that is not installed.
    """
    custom = [_processor(it, call) for it in call.logits_processor or ()] + _structured(call)
    width = max(config.num_beams or 1, config.num_return_sequences or 1)
    prefix = _prefix(call, width)
    guidance = _guidance(config, call, core, width)
    eos, criteria = _criteria(config, call)
    for processor in custom:  # a grammar has its own end tokens
        eos |= {*getattr(processor, "end_token_ids", ())}
        if (reset := getattr(processor, "reset", None)) is not None:
            reset()
    if record is not None:
        record.for_criteria = bool(config.output_scores)
    foreign = [it for it in (*custom, *criteria) if isinstance(it, (ForeignProcessor, ForeignCriterion))]
    return Rules(
        chain_for=cache(
            lambda prompt_length, max_length: build_chain(
                config, prompt_length, max_length, custom=custom, guidance=guidance, prefix=prefix
            )
        ),
        eos=eos,
        criteria=criteria,
        fill=fill_token(config),
        needs_whole_batch=bool(foreign) or record is not None,
        calls_back=bool(foreign) or call.prefix_allowed_tokens_fn is not None,
        record=record,
    )


def fill_token(config: GenerationConfig) -> int:
    """The token that fills rows which have ended."""
    return config.pad_token_id if config.pad_token_id is not None else next(iter(config.eos_token_ids), 0)


def _processor(function: Callable[..., Any], call: GenerateArguments) -> LogitsProcessor:
    if isinstance(function, LogitsProcessor) and is_own(type(function)):
        return function
    return ForeignProcessor(function, wants_torch(function, call.torch))


def _structured(call: GenerateArguments) -> list[LogitsProcessor]:
    given = {name: getattr(call, name) for name in GRAMMARS if getattr(call, name) is not None}
    if not given:
        return []
    if call.tokenizer is None:
        raise InputError(f"{', '.join(given)} needs the tokenizer: pass tokenizer=")
    from gptbigcode_cpu.engine.logits.structured import StructuredLogitsProcessor

    return [StructuredLogitsProcessor(call.tokenizer, **given)]


def _prefix(call: GenerateArguments, width: int) -> LogitsProcessor | None:
    allowed_after = call.prefix_allowed_tokens_fn
    if allowed_after is None:
        return None
    if not wants_torch(allowed_after, call.torch):
        return PrefixConstrainedLogitsProcessor(allowed_after, width)
    from gptbigcode_cpu.common.arrays import to_torch

    return PrefixConstrainedLogitsProcessor(lambda prompt, ids: allowed_after(prompt, to_torch(ids.copy())), width)


def _guidance(config: GenerationConfig, call: GenerateArguments, core: _core.Model, width: int) -> LogitsProcessor | None:
    if config.guidance_scale in (None, 1):
        if call.negative_prompts is not None:
            raise InputError("negative_prompt_ids has no effect without guidance_scale")
        return None
    if (config.num_beams or 1) > 1:
        raise InputError("guidance_scale is not supported with num_beams")
    from gptbigcode_cpu.engine.logits.guidance import UnbatchedClassifierFreeGuidanceLogitsProcessor

    return UnbatchedClassifierFreeGuidanceLogitsProcessor(config.guidance_scale, core, call.negative_prompts, width)


def _criteria(config: GenerationConfig, call: GenerateArguments) -> tuple[frozenset[int], list[Callable[..., Any]]]:
    """The end tokens, and the stopping criteria that are not about end tokens or length."""
    custom = list(call.stopping_criteria or ())
    eos = frozenset(config.eos_token_ids)
    for criterion in [it for it in custom if type(it).__name__ == "EosTokenCriteria"]:
        eos = frozenset(token_list(plain(criterion.eos_token_id)))  # type: ignore[attr-defined]
        custom.remove(criterion)
    custom = [it for it in custom if type(it).__name__ != "MaxLengthCriteria"]  # it is already part of the rows' limit
    classes = {type(it).__name__ for it in custom}
    criteria: list[Callable[..., Any]] = []
    if config.max_time is not None and "MaxTimeCriteria" not in classes:
        criteria.append(MaxTimeCriteria(config.max_time))
    if config.stop_strings is not None and "StopStringCriteria" not in classes:
        if call.tokenizer is None:
            raise InputError("stop_strings needs the tokenizer: pass tokenizer=")
        criteria.append(StopStringCriteria(call.tokenizer, config.stop_strings))
    for it in custom:
        own = isinstance(it, StoppingCriteria) and is_own(type(it))
        criteria.append(it if own else ForeignCriterion(it, wants_torch(it, call.torch)))
    return eos, criteria
