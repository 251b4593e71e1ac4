"""The sequences of one request while the engine works on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.engine.request import Request
from gptbigcode_cpu.engine.row import Logits
from gptbigcode_cpu.errors import FormatError

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

Step = dict[int, list[int]]
"""The new tokens of a step, usually one, for each row that got any."""


class Receiver(Protocol):
    """The object that receives the logits of a part."""

    logits: Logits | None


class Forward:
    """One call of the core, which runs new tokens of several sequences.

    Attributes:
        parts: One entry per sequence: its kv cache, which grows; its new tokens, int32 ``[n]``, n >= 1; how many of the last
            tokens need logits; and the object whose `logits` are set to these logits, float32 ``[wanted, vocab]``.
        n_tokens: Number of tokens of all parts.
    """

    __slots__ = ("n_tokens", "parts")

    def __init__(self) -> None:
        self.parts: list[tuple[_core.KVCache, NDArray[np.int32], int, Receiver]] = []
        self.n_tokens = 0

    def run(self, core: _core.Model, stop: _core.StopFlag) -> None:
        """Run all parts, and pass the logits to their receivers.

        Raises:
            StoppedError: `stop` was set. In this case nothing has been run.
        """
        caches, tokens, counts, receivers = zip(*self.parts, strict=True)
        logits = core.forward(caches, tokens, counts, stop=stop)
        first = 0
        for receiver, count in zip(receivers, counts, strict=True):
            if count:
                receiver.logits = logits[first : first + count]
                first += count


class Prefill:
    """The prefill of one prompt, which may take several steps."""

    __slots__ = ("cache", "logits", "number", "prompt")

    def __init__(self, number: int, prompt: NDArray[np.int32], cache: _core.KVCache) -> None:
        self.number, self.prompt, self.cache = number, prompt, cache
        self.logits: Logits | None = None  # [1, vocab], after the last token

    def add_to(self, forward: Forward, most: int) -> None:
        """Add to the call up to `most` of the tokens that are not in the cache yet."""
        if self.logits is not None or most <= 0:
            return
        done = len(self.cache)
        if done >= len(self.prompt):  # a step was interrupted and its logits are lost
            done = len(self.prompt) - 1
            self.cache.truncate(done)
        tokens = self.prompt[done : done + most]
        forward.parts.append((self.cache, tokens, int(done + len(tokens) == len(self.prompt)), self))
        forward.n_tokens += len(tokens)


class Decoding(ABC):
    """The sequences of one request: prompts that wait, prompts in prefill, and rows in decoding.

    Prompts that are admitted together start decoding together, after the prefill of all of them.

    Attributes:
        done: Whether nothing is left to do.
        prefilling: The prompts in prefill, one list per admission.
        caches: With `Request.keep_caches`, the kv cache of each row.
    """

    def __init__(self, core: _core.Model, request: Request) -> None:
        self.core, self.request = core, request
        self.done = not request.prompts
        self.caches: dict[int, _core.KVCache] = {}
        self._waiting = list(range(len(request.prompts)))
        self.prefilling: list[list[Prefill]] = []

    @property
    def waits(self) -> bool:
        """Whether prompts are waiting for room."""
        return bool(self._waiting)

    @property
    @abstractmethod
    def rows_per_prompt(self) -> int:
        """Number of rows that a prompt becomes."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Number of rows in decoding."""

    @property
    @abstractmethod
    def together(self) -> bool:
        """Whether all prompts must be admitted at once."""

    @abstractmethod
    def _begin(self, ready: Sequence[Prefill]) -> None:
        """Make rows of prompts that were admitted together and whose prefill is done."""

    @abstractmethod
    def add_rows(self, forward: Forward) -> None:
        """Add the last tokens of the rows to the call."""

    @abstractmethod
    def advance(self, n_tokens: int) -> Step:
        """Choose the next tokens from the logits of a step.

        Args:
            n_tokens: Number of tokens of the step, other requests included; 0 if the step ran prompts as well.

        Raises:
            InputError: The options exclude every token, or a caller's function returns a wrong result.
            FormatError: The logits are NaN.
        """

    @property
    def rows_in_use(self) -> int:
        """Number of rows in decoding, plus the rows that the prompts in prefill will become."""
        return self.n_rows + self.rows_per_prompt * sum(map(len, self.prefilling))

    @property
    def nbytes(self) -> int:
        """Maximum number of bytes that the kv caches of its rows may need."""
        return sum(self._nbytes(prefill.number) for group in self.prefilling for prefill in group) + self._row_bytes()

    def _row_bytes(self) -> int:
        return 0

    def _nbytes(self, number: int) -> int:
        tokens = len(self.request.prompts[number]) + self.request.limits[number] - 1
        return self.rows_per_prompt * self.core.kv_bytes(tokens)

    def admit(self, rows: float, nbytes: float, alone: bool) -> bool:
        """Admit prompts in their order, as far as there is room.

        Args:
            rows: Number of rows that the engine has room for.
            nbytes: Bytes of kv cache that the engine has room for.
            alone: Whether nothing else is running. If so, one prompt is admitted whatever the limits say, because there will
                never be more room.

        Returns:
            Whether the engine had room for all rows that the request may run at a time (`Request.max_rows`).
        """
        request = self.request
        wanted = self._waiting
        if request.max_rows is not None and not self.together:
            own_room = max(request.max_rows // self.rows_per_prompt, 1) - self.rows_in_use // self.rows_per_prompt
            wanted = wanted[: max(own_room, 0)]
        admitted: list[int] = []
        for number in wanted:
            rows -= self.rows_per_prompt
            nbytes -= self._nbytes(number)
            if (rows < 0 or nbytes < 0) and not (alone and (self.together or not admitted)):
                break
            admitted.append(number)
        had_room = len(admitted) == len(wanted)
        if self.together and not had_room:
            return False
        if admitted:
            from gptbigcode_cpu import _core

            caches = request.caches
            group = [
                Prefill(number, request.prompts[number], _core.KVCache(self.core) if caches is None else caches[number])
                for number in admitted
            ]
            # In one assignment, so that Ctrl-C loses no prompt.
            self.prefilling, self._waiting = [*self.prefilling, group], self._waiting[len(admitted) :]
        return had_room

    def add_prompts(self, forward: Forward, most: int) -> None:
        """Add up to `most` tokens of the prompts in prefill to the call."""
        end = forward.n_tokens + most
        for group in self.prefilling:
            for prefill in group:
                prefill.add_to(forward, end - forward.n_tokens)

    def begin_ready(self) -> None:
        """Make rows of the prompts whose prefill is done."""
        for group in list(self.prefilling):
            if all(prefill.logits is not None for prefill in group):
                self.prefilling.remove(group)
                self._begin(group)


def check_logits(logits: Logits) -> None:
    """Check the logits of a model.

    Raises:
        FormatError: A logit is NaN.
    """
    if np.isnan(logits).any():
        raise FormatError("the model computes NaN, so its weights are damaged; convert the checkpoint again")
