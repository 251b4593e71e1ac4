"""Merge the options of a call with the model's options, and compute how many tokens it may generate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.engine.options import DEFAULTS, RULES, by_full_names, check_token_ids
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.generation.config import GenerationConfig, logger, merged_options
from gptbigcode_cpu.generation.given import given_config
from gptbigcode_cpu.generation.unsupported import refuse

# The default number of new tokens, as in transformers.
DEFAULT_NEW_TOKENS = 20


def resolved(own: GenerationConfig, config: Any, options: Mapping[str, Any], vocab_size: int) -> GenerationConfig:
    """All options of a call. `options` win over `config`, `config` over the model's `own`, `own` over the defaults.

    Args:
        own: The model's options.
        config: The ``generation_config`` of the call, of this package or of transformers, or None.
        options: The other options of the call.
        vocab_size: Number of tokens in the model's vocabulary.

    Raises:
        InputError: An option is unknown, a value is bad, or options contradict each other.
    """
    given = given_config(config)
    sources = [own] if given is None else [own, given]
    options = by_full_names(options)
    for name, value in options.items():
        if name not in RULES:
            refuse(name, value)
    known = {name: value for name, value in options.items() if name in RULES}
    result = GenerationConfig(**merged_options(DEFAULTS, *(it.set_options() for it in sources), known))
    carried: dict[str, Any] = {}
    for source in sources:  # a later source may replace a carried value
        carried = {name: value for name, value in carried.items() if name not in source.set_options()} | source.carried
    result.carried.update({name: value for name, value in carried.items() if known.get(name) is None})
    result.check()
    for name, why in result.idle_options().items():
        if known.get(name) is not None:
            logger.warning("%s has no effect %s", name, why)
    check_token_ids(result.set_options(), vocab_size)
    return result


def new_token_limit(
    model: GPTBigCodeConfig, config: GenerationConfig, width: int, longest: int, criterion: int | None = None
) -> int:
    """How many tokens a call may generate.

    The last new token is never run through the model, so it needs no position: prompt and new tokens together may be
    ``n_positions + 1``.

    Args:
        model: The model's configuration.
        config: All options.
        width: Length of the prompts with padding.
        longest: Length of the longest prompt without padding.
        criterion: The ``max_length`` of a stopping criterion, which wins over the options.

    Raises:
        InputError: The prompt alone has `max_length` tokens or more.
        ContextLengthError: The requested tokens do not fit into the context.
    """
    if criterion is not None:
        limit = max(1, criterion - width)  # a criterion is checked after a token, so there is at least one
    elif config.max_new_tokens is not None:
        limit = config.max_new_tokens
    elif config.max_length is not None:
        limit = config.max_length - width
        if limit < 1:
            raise InputError(
                f"the prompt has {width} tokens and max_length is {config.max_length}; raise it or set max_new_tokens"
            )
    else:
        limit = max(1, min(DEFAULT_NEW_TOKENS, model.n_positions - longest))
    if longest + limit > model.n_positions + 1:
        room = model.n_positions + 1 - longest
        advice = f"ask for at most {room} new tokens, or shorten the prompt" if room > 0 else "shorten the prompt"
        raise ContextLengthError(
            f"{longest} prompt tokens and {limit} new ones exceed the model's {model.n_positions} positions; {advice}"
        )
    return limit
