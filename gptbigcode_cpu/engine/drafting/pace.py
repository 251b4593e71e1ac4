"""Decide how many tokens to draft, from the probability that a draft is right and the time that checking it costs."""

from __future__ import annotations

from collections.abc import Sequence

# Each new observation multiplies the weight of the older ones by this: about the last 50 and 100 count.
_GUESS_DECAY = 0.98
_COST_DECAY = 0.99
# The initial probability that a drafted token is right after a match of 1, 2..3, 4..7, ... tokens, and how many observations
# it counts as. Copied code has long matches; short ones are mostly chance.
_PRIOR = (0.15, 0.3, 0.5, 0.7, 0.85, 0.95)
_PRIOR_WEIGHT = 8.0
# The initial cost of one more token in a step, relative to the fixed cost of the step.
_COST_PRIOR = 0.3
# The expected gain of a token must exceed its cost by this factor, since both are estimates.
_MARGIN = 1.25
# Measured times are cut at this multiple of the expected time: longer ones come from other programs on the machine.
_OUTLIER = 2.0


class Pace:
    """Learns both while tokens are generated. It changes the speed only, never the tokens."""

    def __init__(self) -> None:
        self._right = [prior * _PRIOR_WEIGHT for prior in _PRIOR]
        self._seen = [_PRIOR_WEIGHT] * len(_PRIOR)
        self._probability = list(_PRIOR)
        # Weighted sums for a line through (tokens, seconds): weights, tokens, their squares, seconds, products.
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._fixed, self._each = 1.0, _COST_PRIOR

    def saw(self, match: int, right: bool) -> None:
        """Record whether a token was right that was drafted after a match of `match` tokens."""
        bucket = _bucket(match)
        self._right[bucket] = self._right[bucket] * _GUESS_DECAY + right
        self._seen[bucket] = self._seen[bucket] * _GUESS_DECAY + 1
        self._probability[bucket] = self._right[bucket] / self._seen[bucket]

    def measured(self, n_tokens: int, seconds: float) -> None:
        """Record the time of a step of `n_tokens` tokens."""
        weight, tokens, squares, time, products = self._sums
        if weight > 0:
            seconds = min(seconds, _OUTLIER * (self._fixed + self._each * n_tokens))
        weight = weight * _COST_DECAY + 1.0
        tokens = tokens * _COST_DECAY + n_tokens
        squares = squares * _COST_DECAY + n_tokens * n_tokens
        time = time * _COST_DECAY + seconds
        products = products * _COST_DECAY + n_tokens * seconds
        self._sums = weight, tokens, squares, time, products
        mean = time / weight
        # The terms `prior` and 1.0 act as two imagined steps: they keep the slope near the prior until steps of different
        # lengths have been measured.
        spread = squares - tokens * tokens / weight
        slope = products - tokens * time / weight
        prior = mean * _COST_PRIOR / (1 + _COST_PRIOR * tokens / weight)
        self._each = max((slope + prior) / (spread + 1.0), 0.001 * mean)
        self._fixed = max(mean - self._each * tokens / weight, 0.001 * mean)

    def lengths(self, matches: Sequence[int], limits: Sequence[int]) -> list[int]:
        """How many tokens to draft for each row of a step.

        Args:
            matches: Number of matching tokens per row.
            limits: Maximum number of tokens to draft per row.
        """
        least = _MARGIN * self._each / (self._fixed + self._each)  # for even the first drafted token of a step
        chances = []  # for each token, the probability that it and all tokens before it are right
        for row, (match, limit) in enumerate(zip(matches, limits, strict=True)):
            chance = 1.0
            for place in range(limit):
                chance *= self.probability(match + place)
                if chance < least:
                    break
                chances.append((chance, row))
        chances.sort(reverse=True)
        counts = [0] * len(matches)
        written = float(len(matches))
        cost = self._fixed + self._each * written
        for chance, row in chances:
            if chance * cost < _MARGIN * self._each * written:
                break
            counts[row] += 1
            written += chance
            cost += self._each
        return counts

    def probability(self, match: int) -> float:
        """The probability that the next drafted token is right after a match of `match` tokens."""
        return self._probability[_bucket(match)]


def _bucket(match: int) -> int:
    return min(match.bit_length() - 1, len(_PRIOR) - 1)
