"""The options of text generation and the loops that run the core: prefill, decoding steps, logits of whole texts."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError, FormatError, InputError

if TYPE_CHECKING:
    from . import _core

logger = logging.getLogger(__name__)

# Tokens run by one call of the core: what Ctrl-C or a closed iterator waits for at most.
CHUNK_TOKENS = 512
# Tokens generated when nothing says how many, as in transformers.
DEFAULT_NEW_TOKENS = 20
# Options of transformers that are not offered. Their neutral value may be passed, any other is refused.
NEUTRAL: dict[str, Any] = {
    "use_cache": True,
    "num_beams": 1,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "sequence_bias": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "stop_strings": None,
    "return_dict_in_generate": False,
}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Options of `generate`, `stream` and the pipeline. None means: not set here.

    What is not set comes from the model's ``generation_config.json`` and then from transformers' defaults: greedy; when
    sampling, ``temperature=1``, ``top_k=50``, ``top_p=1``; 20 new tokens.

    Attributes:
        max_new_tokens: Tokens to generate at most; wins over a `max_length` from the same or an earlier source.
        max_length: Tokens of prompt (padding included) and output together.
        min_new_tokens: No end token before this many tokens.
        do_sample: Draw tokens at random instead of taking the most probable one.
        temperature: Divides the logits when sampling, > 0.
        top_k: Sample from the k most probable tokens; 0 = off.
        top_p: Sample from the most probable tokens that together reach p, in (0, 1].
        min_p: Sample from tokens with at least min_p times the best probability, in [0, 1].
        repetition_penalty: > 1 makes tokens of prompt and output less likely.
        logit_bias: Token id -> what is added to its logit.
        seed: For repeatable sampling, 0 <= seed < 2**64; without it every call draws another one.
        num_return_sequences: Outputs per prompt.
        eos_token_id: Token id or ids that end a sequence; -1 or an empty list: none.
        pad_token_id: What fills finished rows; default: the first end token.
        bos_token_id: Kept for the model's records; prompts are used as given.

    Raises:
        InputError: A value of the wrong type or outside its range.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    num_return_sequences: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "max_length", "num_return_sequences"):
            self._check_int(name, 1)
        for name in ("min_new_tokens", "top_k", "pad_token_id", "bos_token_id"):
            self._check_int(name, 0)
        self._check_int("seed", 0, 2**64 - 1)
        if self.do_sample is not None and not isinstance(self.do_sample, (bool, np.bool_)):
            raise InputError(f"do_sample must be True or False, not {self.do_sample!r}")
        self._check_real("temperature", 0, np.inf, "a positive number; for greedy decoding pass do_sample=False", above=True)
        self._check_real("top_p", 0, 1, "a number in (0, 1]", above=True)
        self._check_real("min_p", 0, 1, "a number in [0, 1]")
        self._check_real("repetition_penalty", 0, np.inf, "a positive number", above=True)
        if not all(_is_int(token_id) and token_id >= -1 for token_id in self._eos_list):
            raise InputError(f"eos_token_id must be a token id or a list of them, not {self.eos_token_id!r}")
        if self.logit_bias is not None and not isinstance(self.logit_bias, Mapping):
            raise InputError(f"logit_bias must map token ids to numbers, not be {self.logit_bias!r}")
        for token_id, bias in (self.logit_bias or {}).items():
            if not _is_int(token_id) or token_id < 0 or not _is_real(bias) or not bias < np.inf:
                raise InputError(f"logit_bias maps token ids to finite numbers or -inf, not {token_id!r} to {bias!r}")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a sequence; -1, with which checkpoints say "none", is left out."""
        return tuple(int(token_id) for token_id in self._eos_list if token_id >= 0)

    @property
    def _eos_list(self) -> Sequence[int]:
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, Sequence) else (self.eos_token_id,)

    def set_options(self) -> dict[str, Any]:
        """The options that are not None."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], origin: str = "options") -> GenerationConfig:
        """Read the content of a ``generation_config.json``; what is not about the choice of tokens is left aside.

        Raises:
            ConfigError: A value is out of range; the message names `origin`.
        """
        known = {field.name for field in fields(cls)}
        dropped = sorted(name for name, neutral in NEUTRAL.items() if options.get(name) not in (None, neutral))
        if dropped:
            logger.warning("%s: not supported and therefore not applied: %s", origin, ", ".join(dropped))
        # Checkpoints without such a token write null or -1.
        absent = {name for name in ("pad_token_id", "bos_token_id") if options.get(name) == -1}
        try:
            return cls(**{name: value for name, value in options.items() if name in known - absent})
        except InputError as error:
            raise ConfigError(f"{origin}: {error}") from error

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> GenerationConfig:
        """Read ``generation_config.json`` of a model directory; without one nothing is set.

        Raises:
            ConfigError: It is damaged or a value is out of range.
        """
        path = Path(directory) / "generation_config.json"
        if not path.is_file():
            return cls()
        try:
            options = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is damaged: {error}") from error
        if not isinstance(options, dict):
            raise ConfigError(f"{path} must hold a JSON object")
        return cls.from_dict(options, str(path))

    def updated(self, options: Mapping[str, Any]) -> GenerationConfig:
        """A copy with `options` set, see `merged_options`.

        Raises:
            InputError: An option is unknown or its value is wrong.
        """
        known = {field.name for field in fields(self)}
        kept = {}
        for name, value in options.items():
            if name in known:
                kept[name] = value
            elif name not in NEUTRAL:
                from difflib import get_close_matches

                near = get_close_matches(name, known, n=1)
                raise InputError(f"unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            elif value is not None and value != NEUTRAL[name]:
                raise InputError(f"{name} is not supported; only its neutral value {NEUTRAL[name]!r} may be passed")
        return GenerationConfig(**merged_options(self.set_options(), kept))

    def _check_int(self, name: str, low: int, high: int | None = None) -> None:
        value = getattr(self, name)
        if value is None or (_is_int(value) and value >= low and (high is None or value <= high)):
            return
        bound = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"{name} must be an integer {bound}, not {value!r}")

    def _check_real(self, name: str, low: float, high: float, expected: str, above: bool = False) -> None:
        value = getattr(self, name)
        if value is None:
            return
        number = float(value) if _is_real(value) else np.nan
        if not low <= number <= high or np.isinf(number) or (above and number == low):
            raise InputError(f"{name} must be {expected}, not {value!r}")


def merged_options(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Options of several sources, later ones win; a `max_length` replaces the `max_new_tokens` of an earlier source."""
    merged: dict[str, Any] = {}
    for source in sources:
        if source.get("max_length") is not None:
            merged.pop("max_new_tokens", None)
        merged |= source
    return merged


@dataclass(slots=True)
class _Row:
    """One sequence while it is being written."""

    index: int
    cache: _core.KVCache
    tokens: NDArray[np.int32]  # prompt and output; the part beyond `length` is free
    length: int
    prompt_length: int
    sampler: _core.Sampler

    @property
    def new_tokens(self) -> int:
        return self.length - self.prompt_length

    @property
    def full(self) -> bool:
        return self.length == len(self.tokens)


def token_steps(
    core: _core.Model,
    prompts: Sequence[NDArray[np.int32]],
    limits: Sequence[int],
    config: GenerationConfig,
    first_row: int = 0,
) -> Iterator[dict[int, int]]:
    """Continue several prompts in one ragged batch; rows that are finished leave it.

    A row's tokens depend on its prompt, the options and its own number only, not on the other rows.

    Args:
        core: The model.
        prompts: int32 ``[t_i]``, valid and not empty.
        limits: New tokens per prompt at most, >= 1.
        config: All options, defaults included.
        first_row: Number of the first row, for its seed.

    Yields:
        Per step the new token of each row that is not finished yet; row ``i * num_return_sequences + j`` is sequence j
        of prompt i. Closing the iterator stops the work.

    Raises:
        InputError: The options exclude every token.
        FormatError: The logits are NaN.
    """
    eos = config.eos_token_ids
    seed = int.from_bytes(os.urandom(8), "little") if config.seed is None else int(config.seed)
    copies = config.num_return_sequences or 1
    rows: list[_Row] = []
    first_logits: list[NDArray[np.float32]] = []
    for prompt, limit, (cache, logits) in zip(prompts, limits, _prefill(core, prompts), strict=True):
        for copy in range(copies):
            index = len(rows)
            tokens = np.concatenate([prompt, np.zeros(limit, dtype=np.int32)])
            sampler = _sampler(config, _row_seed(seed, first_row + index))
            rows.append(_Row(index, cache.fork() if copy else cache, tokens, len(prompt), len(prompt), sampler))
            first_logits.append(logits)
    logits_of_rows: Sequence[NDArray[np.float32]] | NDArray[np.float32] = first_logits
    while True:
        step: dict[int, int] = {}
        for row, logits in zip(rows, logits_of_rows, strict=True):
            if row.new_tokens < (config.min_new_tokens or 0):
                logits = logits.copy()
                logits[[token_id for token_id in eos if token_id < logits.size]] = -np.inf
            step[row.index] = token = _sample(row, logits)
            row.tokens[row.length] = token
            row.length += 1
        yield step
        rows = [row for row in rows if not row.full and step[row.index] not in eos]
        if not rows:
            return
        last = [row.tokens[row.length - 1 : row.length] for row in rows]
        logits_of_rows = core.forward([row.cache for row in rows], last, [1] * len(rows))


def _sample(row: _Row, logits: NDArray[np.float32]) -> int:
    try:
        return row.sampler.sample(logits, row.tokens[: row.length])
    except ValueError as error:
        if np.isnan(logits).any():
            raise FormatError("the model computes NaN, so its weights are damaged; convert the checkpoint again") from error
        raise InputError(f"no token can be chosen: {error}; look at logit_bias") from error


def text_logits(core: _core.Model, prompts: Sequence[NDArray[np.int32]]) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Logits at every position of several texts.

    Yields:
        ``(i, start, logits)`` with the logits, float32 ``[tokens, vocab]``, of text i from position `start` on.
    """
    from . import _core

    caches = [_core.KVCache(core) for _ in prompts]
    for parts in _chunks([len(prompt) for prompt in prompts]):
        logits = core.forward(
            [caches[i] for i, _, _ in parts],
            [prompts[i][start:stop] for i, start, stop in parts],
            [stop - start for _, start, stop in parts],
        )
        done = 0
        for i, start, stop in parts:
            yield i, start, logits[done : done + stop - start]
            done += stop - start


def _prefill(core: _core.Model, prompts: Sequence[NDArray[np.int32]]) -> list[tuple[_core.KVCache, NDArray[np.float32]]]:
    """Run the prompts; for each its cache and the logits ``[vocab]`` after its last token."""
    from . import _core

    caches = [_core.KVCache(core) for _ in prompts]
    last_logits: dict[int, NDArray[np.float32]] = {}
    for parts in _chunks([len(prompt) for prompt in prompts]):
        ends = [i for i, _, stop in parts if stop == len(prompts[i])]
        logits = core.forward(
            [caches[i] for i, _, _ in parts],
            [prompts[i][start:stop] for i, start, stop in parts],
            [int(stop == len(prompts[i])) for i, _, stop in parts],
        )
        last_logits.update(zip(ends, logits, strict=True))
    return [(cache, last_logits[i]) for i, cache in enumerate(caches)]


def _chunks(lengths: Sequence[int]) -> Iterator[list[tuple[int, int, int]]]:
    """Cut sequences, one after the other, into calls of `CHUNK_TOKENS` tokens: lists of ``(sequence, start, stop)``."""
    parts: list[tuple[int, int, int]] = []
    room = CHUNK_TOKENS
    for i, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            parts.append((i, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield parts
                parts, room = [], CHUNK_TOKENS
    if parts:
        yield parts


def _sampler(config: GenerationConfig, seed: int) -> _core.Sampler:
    from . import _core

    options: dict[str, Any] = {"seed": seed, "repetition_penalty": config.repetition_penalty or 1.0}
    options["logit_bias"] = {int(token_id): float(bias) for token_id, bias in (config.logit_bias or {}).items()}
    if config.do_sample:
        options |= {"temperature": config.temperature or 1.0, "top_k": config.top_k or 0}
        options |= {"top_p": config.top_p or 1.0, "min_p": config.min_p or 0.0}
    return _core.Sampler(**options)


def _row_seed(seed: int, row: int) -> int:
    """A seed per row: steps of the 64-bit golden ratio, the increments of SplitMix64, never repeat."""
    return (seed + row * 0x9E3779B97F4A7C15) % 2**64


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


# What transformers uses where nothing else is set.
DEFAULTS = GenerationConfig(do_sample=False, temperature=1.0, top_k=50, num_return_sequences=1)
