"""The requests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.drafting.drafter import Drafter
from gptbigcode_cpu.engine.logits.chain import Chain
from gptbigcode_cpu.errors import InputError

if TYPE_CHECKING:
    from gptbigcode_cpu import _core


@dataclass
class Record:
    """The scores and logits of every step, one array ``[rows, vocab]`` each.

    Attributes:
        scores: The processed scores that tokens were chosen from.
        logits: The logits that the model computed.
        for_criteria: Whether stopping criteria are given the scores.
    """

    scores: list[NDArray[np.float32]] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    for_criteria: bool = False

    def add(self, logits: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        """Store the logits and scores of a step."""
        self.logits.append(logits.copy())
        self.scores.append(scores)

    @property
    def history(self) -> list[NDArray[np.float32]] | None:
        """The scores that stopping criteria are given; None unless `for_criteria`."""
        return self.scores if self.for_criteria else None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the tokens of a request are chosen, and when its rows end.

    Attributes:
        chain_for: Function that makes the logits processors of rows. It takes the length of their prompts and their maximum
            length, both with padding.
        eos: Tokens that end a row.
        criteria: Stopping criteria: functions of the tokens, int64 ``[rows, tokens]``, and of `Record.history`.
        fill: The token that fills rows which have ended.
        needs_whole_batch: Whether processors or criteria must see all rows at once, finished ones included. If so, the rows of
            the request advance together.
        calls_back: Whether functions of the caller are among the processors and criteria. `generate` runs such a request in an
            engine of its own: the functions are called in the caller's thread and never make other threads wait.
        record: Collects scores and logits.
    """

    chain_for: Callable[[int, int], Chain]
    eos: frozenset[int]
    criteria: Sequence[Callable[..., Any]]
    fill: int
    needs_whole_batch: bool
    calls_back: bool = False
    record: Record | None = None


@dataclass(frozen=True, kw_only=True)
class BeamOptions:
    """Options of a beam search, with the names and meanings of transformers."""

    num_beams: int
    num_return_sequences: int
    length_penalty: float
    early_stopping: bool | str
    do_sample: bool
    remove_invalid_values: bool
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One or several prompts to continue by the same rules.

    The tokens of a row depend on its prompt, its seed and the rules only, not on other rows in the same steps.

    Attributes:
        prompts: int32 ``[t_i]``, none of them empty.
        limits: The most new tokens for each prompt, >= 1.
        seeds: One random seed per row; row ``i * copies + j`` is sequence j of prompt i. With `beams`, one seed per prompt.
        rules: How tokens are chosen and when rows end.
        copies: Number of sequences per prompt.
        width: Columns of the prompts with padding, if lengths count the padding; 0: there is no padding.
        max_rows: The most rows of this request that run at a time; None: no limit of its own.
        caches: For each prompt, the kv cache of its first tokens, but not of all; the caches grow. None: start with empty ones.
        keep_caches: Whether to keep the caches of finished rows, for `Ticket.caches`.
        drafter: Drafts tokens, for speculative decoding.
        beams: Options of a beam search; None: no beam search.

    Raises:
        InputError: There is a `drafter`, but the rows have to advance together.
    """

    prompts: Sequence[NDArray[np.int32]]
    limits: Sequence[int]
    seeds: Sequence[int]
    rules: Rules
    copies: int = 1
    width: int = 0
    max_rows: int | None = None
    caches: Sequence[_core.KVCache] | None = None
    keep_caches: bool = False
    drafter: Drafter | None = None
    beams: BeamOptions | None = None

    def __post_init__(self) -> None:
        if self.lockstep and self.drafter is not None:
            raise InputError(
                "with assistant_model or prompt_lookup_num_tokens rows do not advance together, so output_scores, "
                "output_logits, and functions in logits_processor and stopping_criteria need a batch of one"
            )

    @property
    def n_rows(self) -> int:
        """Number of rows of all prompts, beams aside."""
        return len(self.prompts) * self.copies

    @property
    def lockstep(self) -> bool:
        """Whether the rows advance together."""
        return self.rules.needs_whole_batch and self.n_rows > 1
