"""How many tokens to guess: weighs how likely guesses are right against what checking them costs."""

from __future__ import annotations

from collections.abc import Sequence

# How fast old observations lose their weight, per observation: about the last 50 and 100 count.
_GUESS_DECAY = 0.98
_COST_DECAY = 0.99
# Probability that a guess is right after matches of 1, 2..3, 4..7, ... tokens, before anything is known, and how many
# observations that is worth. Copied code has long matches; short ones are mostly chance.
_PRIOR = (0.15, 0.3, 0.5, 0.7, 0.85, 0.95)
_PRIOR_WEIGHT = 8.0
# What a further token costs in a step, relative to the step's fixed part, before it is known.
_COST_PRIOR = 0.3
# A guess has to promise this much more than it costs, since both are estimates.
_MARGIN = 1.25
# Times are trusted up to this multiple of what was expected; more is somebody else's work on the machine.
_OUTLIER = 2.0


class Pace:
    """Learns both while a text is written. The tokens do not depend on it, only the time."""

    def __init__(self) -> None:
        self._right = [prior * _PRIOR_WEIGHT for prior in _PRIOR]
        self._seen = [_PRIOR_WEIGHT] * len(_PRIOR)
        self._probability = list(_PRIOR)
        # Weighted sums for a line through (tokens, seconds): weights, tokens, their squares, seconds, products.
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._fixed, self._each = 1.0, _COST_PRIOR

    def saw(self, match: int, right: bool) -> None:
        """A guess after a match of so many tokens was right or wrong."""
        bucket = _bucket(match)
        self._right[bucket] = self._right[bucket] * _GUESS_DECAY + right
        self._seen[bucket] = self._seen[bucket] * _GUESS_DECAY + 1
        self._probability[bucket] = self._right[bucket] / self._seen[bucket]

    def measured(self, n_tokens: int, seconds: float) -> None:
        """A step of so many tokens took so long."""
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
        # Two imagined steps keep the slope near the prior until steps of several lengths were measured.
        spread = squares - tokens * tokens / weight
        slope = products - tokens * time / weight
        prior = mean * _COST_PRIOR / (1 + _COST_PRIOR * tokens / weight)
        self._each = max((slope + prior) / (spread + 1.0), 0.001 * mean)
        self._fixed = max(mean - self._each * tokens / weight, 0.001 * mean)

    def lengths(self, matches: Sequence[int], limits: Sequence[int]) -> list[int]:
        """How many tokens to guess for each row of a step.

        Args:
            matches: Tokens that matched, per row.
            limits: Guesses allowed, per row.
        """
        least = _MARGIN * self._each / (self._fixed + self._each)  # for even the first guess of a step
        chances = []  # of every guess, that it and all before it are right
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
        """That the next guess is right after a match of so many tokens."""
        return self._probability[_bucket(match)]


def _bucket(match: int) -> int:
    return min(match.bit_length() - 1, len(_PRIOR) - 1)
