"""How the tokens of a run are chosen and when its rows end, from options and arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.engine.logits.chain import Chain, build_chain
from gptbigcode_cpu.engine.logits.processors import LogitsProcessor, PrefixConstrainedLogitsProcessor, token_list
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.call import Call
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.foreign import ForeignCriterion, ForeignProcessor, is_own, wants_torch
from gptbigcode_cpu.generation.stopping import MaxTimeCriteria, StoppingCriteria, StopStringCriteria

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

GRAMMARS = ("json_schema", "regex", "grammar")


class Rules:
    """How the tokens of a run are chosen and when its rows end.

    Attributes:
        config: All options, defaults included.
        eos: Tokens that end a row.
        criteria: What else ends a row.
        needs_whole_batch: The caller's functions must see all rows at once, finished ones included, as in transformers.
    """

    def __init__(self, config: GenerationConfig, call: Call, core: _core.Model) -> None:
        """
        Args:
            config: All options.
            call: The other arguments.
            core: The model, for `guidance_scale`.

        Raises:
            InputError: An argument is of a wrong kind, or one that is needed is missing.
            MissingDependencyError: A package is not installed that an argument needs.
        """
        self.config = config
        self.custom = [self._processor(it, call) for it in call.logits_processor or ()]
        self.custom += _structured(call)
        records = bool(config.return_dict_in_generate and (config.output_scores or config.output_logits))
        width = max(config.num_beams or 1, config.num_return_sequences or 1)
        self._prefix = _prefix(call, width)
        self._guidance = _guidance(config, call, core, width)
        self.eos, self.criteria = _criteria(config, call)
        for processor in self.custom:  # a grammar has an end of its own
            self.eos |= {*getattr(processor, "end_token_ids", ())}
            if (reset := getattr(processor, "reset", None)) is not None:
                reset()
        foreign = [it for it in (*self.custom, *self.criteria) if isinstance(it, (ForeignProcessor, ForeignCriterion))]
        self.needs_whole_batch = bool(foreign) or records
        self._chains: dict[tuple[int, int], Chain] = {}

    def chain(self, prompt_length: int, max_length: int) -> Chain:
        """The processors of rows of these lengths, see `build_chain`."""
        key = prompt_length, max_length
        if key not in self._chains:
            self._chains[key] = build_chain(self.config, *key, custom=self.custom, guidance=self._guidance, prefix=self._prefix)
        return self._chains[key]

    @property
    def fill(self) -> int:
        """What finished rows are filled with."""
        pad = self.config.pad_token_id
        return int(pad) if pad is not None else next(iter(self.config.eos_token_ids), 0)

    @staticmethod
    def _processor(function: Callable[..., Any], call: Call) -> LogitsProcessor:
        if isinstance(function, LogitsProcessor) and is_own(type(function)):
            return function
        return ForeignProcessor(function, wants_torch(function, call.torch))


def _structured(call: Call) -> list[LogitsProcessor]:
    given = {name: getattr(call, name) for name in GRAMMARS if getattr(call, name) is not None}
    if not given:
        return []
    if call.tokenizer is None:
        raise InputError(f"{', '.join(given)} needs the tokenizer: pass tokenizer=")
    from gptbigcode_cpu.engine.logits.structured import StructuredLogitsProcessor

    return [StructuredLogitsProcessor(call.tokenizer, **given)]


def _prefix(call: Call, width: int) -> LogitsProcessor | None:
    allowed_after = call.prefix_allowed_tokens_fn
    if allowed_after is None:
        return None
    if not wants_torch(allowed_after, call.torch):
        return PrefixConstrainedLogitsProcessor(allowed_after, width)
    from gptbigcode_cpu.common.arrays import to_torch

    return PrefixConstrainedLogitsProcessor(lambda prompt, ids: allowed_after(prompt, to_torch(ids.copy())), width)


def _guidance(config: GenerationConfig, call: Call, core: _core.Model, width: int) -> LogitsProcessor | None:
    if config.guidance_scale in (None, 1):
        if call.negative_prompts is not None:
            raise InputError("negative_prompt_ids has no effect without guidance_scale")
        return None
    if (config.num_beams or 1) > 1:
        raise InputError("guidance_scale is not supported with num_beams")
    from gptbigcode_cpu.engine.logits.guidance import UnbatchedClassifierFreeGuidanceLogitsProcessor

    return UnbatchedClassifierFreeGuidanceLogitsProcessor(config.guidance_scale, core, call.negative_prompts, width)


def _criteria(config: GenerationConfig, call: Call) -> tuple[frozenset[int], list[Callable[..., Any]]]:
    """End tokens, and the criteria about anything but end tokens and length."""
    custom = list(call.stopping_criteria or ())
    eos = frozenset(config.eos_token_ids)
    for criterion in [it for it in custom if type(it).__name__ == "EosTokenCriteria"]:
        eos = frozenset(token_list(plain(criterion.eos_token_id)))  # type: ignore[attr-defined]
        custom.remove(criterion)
    custom = [it for it in custom if type(it).__name__ != "MaxLengthCriteria"]  # it has become the limit of the rows
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
