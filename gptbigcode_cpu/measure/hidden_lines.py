"""Measure how often a model fills in a hidden line of code exactly: the quality that matters for code completion."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gptbigcode_cpu import fim
from gptbigcode_cpu.common.progress import Progress
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.generation import GenerateArguments, GenerationConfig
from gptbigcode_cpu.generation.results import written_steps
from gptbigcode_cpu.tokenizer.incremental import IncrementalDecoder

if TYPE_CHECKING:
    from gptbigcode_cpu.models.causal_lm import GPTBigCodeForCausalLM
    from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer

Hidden = Literal["line", "tail"]
Order = Literal["psm", "spm"]
ORDERS: tuple[Order, ...] = ("psm", "spm")

_LINES_BEFORE = 5  # The number of lines before a hidden line; without context it cannot be known.
_LONGEST_LINE = 200  # In characters. Longer lines are mostly data.
_SPARE_TOKENS = 16  # Added to the tokens of the hidden text, for white space around it.
_MARKERS = 3  # The fill-in-the-middle tokens of a prompt.


@dataclass(frozen=True)
class Gap:
    """A text with a hidden part of a line: the text is `before` + `hidden` + `after`."""

    before: str
    hidden: str
    after: str


@dataclass(frozen=True)
class ExactMatch:
    """How many hidden texts a model filled in exactly, with prompts of one order."""

    order: Order
    matches: int
    samples: int

    @property
    def rate(self) -> float:
        return self.matches / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the rate."""
        return wilson_interval(self.matches, self.samples)

    def to_dict(self) -> dict[str, Any]:
        """All figures, as ``gptbigcode-cpu evaluate --json`` prints them."""
        return {"matches": self.matches, "samples": self.samples, "exact_match": self.rate, "interval_95": [*self.interval]}


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a rate. Unlike the normal interval, it stays within 0..1 and is valid near 0 and 1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    z = 1.959963984540054
    rate = successes / trials
    middle = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # For rates of 0 and 1, these bounds are exact.
    low = 0.0 if successes == 0 else (middle - spread) / scale
    return low, 1.0 if successes == trials else (middle + spread) / scale


def choose_gaps(texts: Sequence[str], samples: int, seed: int = 0, hide: Hidden = "line") -> list[Gap]:
    """Choose lines to hide at random, but no blank ones. The choice is the same for every model.

    Args:
        texts: Whole files. Their first five lines, and lines of more than 200 characters, are not chosen.
        samples: How many lines to choose; fewer if the texts do not have enough.
        seed: The random seed. Another seed chooses other lines.
        hide: ``"line"``: hide a line except for its indentation; ``"tail"``: hide it from a random place on, as if half of
            it had been typed.

    Raises:
        InputError: The texts have no line that can be chosen.
    """
    lines_of = [text.split("\n") for text in texts]
    places = [
        (text, line)
        for text, lines in enumerate(lines_of)
        for line in range(_LINES_BEFORE, len(lines))
        if 0 < len(lines[line].strip()) <= _LONGEST_LINE
    ]
    if not places:
        raise InputError(
            f"no line to hide: after line {_LINES_BEFORE}, the texts have no line of 1 to {_LONGEST_LINE} characters"
        )
    chance = random.Random(seed)
    gaps = []
    for text, line in sorted(chance.sample(places, min(samples, len(places)))):
        lines, whole = lines_of[text], lines_of[text][line]
        cut = len(whole) - len(whole.lstrip())
        if hide == "tail":
            cut += chance.randrange(len(whole.strip()))
        before = "".join(f"{earlier}\n" for earlier in lines[:line]) + whole[:cut]
        after = "".join(f"\n{later}" for later in lines[line + 1 :])
        gaps.append(Gap(before, whole[cut:], after))
    return gaps


def exact_match(
    model: GPTBigCodeForCausalLM,
    tokenizer: GPTBigCodeTokenizer,
    gaps: Sequence[Gap],
    *,
    context: int,
    orders: Sequence[Order] = ORDERS,
    progress: Progress | None = None,
) -> tuple[ExactMatch, ...]:
    """Fill gaps by greedy decoding, and count the answers whose first line is the hidden text, apart from outer white space.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        gaps: See `choose_gaps`.
        context: Maximum number of tokens of prompt and answer together. The text around a gap is cut to whole lines that fit.
            The text after the gap gets up to a quarter of the prompt, or more if the text before it is short.
        orders: Orders of the prompt; see `fim.build_prompt`.
        progress: Called after each answer with what is being done, the number of answers done, and their total.

    Raises:
        TokenizerError: The vocabulary lacks the fill-in-the-middle tokens.
        ContextLengthError: The line of a gap and its answer do not fit into `context`.
    """
    stops = fim.stop_token_ids(tokenizer)
    matches = dict.fromkeys(orders, 0)
    for i, gap in enumerate(gaps):
        limit = len(_encode(tokenizer, gap.hidden)) + _SPARE_TOKENS
        before, after = _shortened(tokenizer, gap, context - limit - _MARKERS)
        for j, order in enumerate(orders):
            prompt = fim.build_prompt(tokenizer, before, after, mode=order)
            matches[order] += _writes(model, tokenizer, prompt, gap.hidden.strip(), limit, stops)
            if progress:
                progress("filling gaps", i * len(orders) + j + 1, len(gaps) * len(orders))
    return tuple(ExactMatch(order, count, len(gaps)) for order, count in matches.items())


def _writes(
    model: GPTBigCodeForCausalLM,
    tokenizer: GPTBigCodeTokenizer,
    prompt: list[int],
    expected: str,
    limit: int,
    stops: Sequence[int],
) -> bool:
    """Whether the first line that the model generates is the expected text, apart from outer white space."""
    options = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=list(stops))
    decoder = IncrementalDecoder(tokenizer)
    written = ""
    for step in written_steps(model, np.array(prompt, np.int32), limit, options, GenerateArguments()):
        (token,) = step[0]
        if token in stops:
            return (written + decoder.flush()).strip() == expected
        written += decoder.push(token)
        if "\n" in written:
            return written.partition("\n")[0].strip() == expected
        if not expected.startswith(written.strip()):
            return False
    return False  # the line goes on


def _shortened(tokenizer: GPTBigCodeTokenizer, gap: Gap, budget: int) -> tuple[str, str]:
    """The lines before and after the gap that together have up to `budget` tokens."""
    before = [f"{line}\n" for line in gap.before.split("\n")]
    before[-1] = before[-1][:-1]  # the part of the gap's line before the gap
    after = [f"\n{line}" for line in gap.after.split("\n")[1:]]

    def fitting(count: int, text: Callable[[int], str], room: int) -> int:
        """How many of `count` lines fit into `room` tokens."""
        # Try at most as many lines as tokens. More could fit only if several blank lines share a token, which is not worth it.
        lines = range(1, min(count, max(room, 0)) + 1)
        return bisect_right(lines, room, key=lambda n: len(_encode(tokenizer, text(n))))

    def text_before(n: int) -> str:
        return "".join(before[len(before) - n :])

    def text_after(n: int) -> str:
        return "".join(after[:n])

    own = len(_encode(tokenizer, before[-1]))
    if own > budget:
        raise ContextLengthError(
            f"the hidden line {gap.hidden.strip()[:40]!r} and its answer do not fit into the context; raise it"
        )
    n_after = fitting(len(after), text_after, min(budget // 4, budget - own))
    room = budget - len(_encode(tokenizer, text_after(n_after)))
    n_before = max(1, fitting(len(before), text_before, room))
    if n_before == len(before):  # all of it fits, so the text after the gap gets the rest
        n_after = fitting(len(after), text_after, budget - len(_encode(tokenizer, text_before(n_before))))
    return text_before(n_before), text_after(n_after)


def _encode(tokenizer: GPTBigCodeTokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return ids
