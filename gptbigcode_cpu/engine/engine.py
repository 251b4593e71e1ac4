"""The one place where tokens are written: requests go in, and every step runs all of them in one call of the core."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gptbigcode_cpu import _core
from gptbigcode_cpu.engine.beam import BeamDecoding, BeamResult
from gptbigcode_cpu.engine.decoding import Decoding, Forward, RowsDecoding, Step
from gptbigcode_cpu.engine.request import Request
from gptbigcode_cpu.errors import GPTBigCodeError, StoppedError

CHUNK_TOKENS = 128
"""The most tokens of prompts that a step runs beside rows that are being written, which wait for it. Without such rows a step
runs four times as many: a call of 512 tokens takes 2 % less time than four of 128. A cancelled prefill ends sooner than either,
since the core looks at a flag between its layers."""

# A request whose caller reads its steps rests while so many of them are unread.
_MOST_UNREAD = 64


class Ticket:
    """A request in an engine.

    Attributes:
        request: The request.
        engine: The engine that it was submitted to.
        done: No more steps will come: it is finished, cancelled, or has failed.
        error: Why it failed; None: it has not.
        caches: With `Request.keep_caches` the cache of every row, which grows with it.
        beams: What a beam search found, when it is done.
    """

    def __init__(self, engine: Engine, request: Request, decoding: Decoding, collects: bool) -> None:
        self.engine, self.request = engine, request
        self.done = False
        self.error: BaseException | None = None
        self._decoding: Decoding | None = decoding
        self._cancelled = False
        self._collects = collects
        self._steps: deque[Step] = deque()  # what nobody has read yet
        self._rests = False  # it may rest while much is unread
        self.caches = decoding.caches
        self.beams: BeamResult | None = None

    @property
    def rests(self) -> bool:
        """Whether its reader is so far behind that it need not take part in the next step."""
        return self._rests and len(self._steps) >= _MOST_UNREAD

    def _end(self, error: BaseException | None = None) -> None:
        """Let go of all that it holds."""
        if isinstance(self._decoding, BeamDecoding):
            self.beams = self._decoding.result
        self._decoding, self.error, self.done = None, error, True


@dataclass(frozen=True)
class Output:
    """What a step did for a request.

    Attributes:
        ticket: The request.
        tokens: The new tokens of each row that got any; usually one.
        done: It has no more steps.
        error: What it failed with, such as an exception of a caller's logits processor.
    """

    ticket: Ticket
    tokens: Step = field(default_factory=dict)
    done: bool = False
    error: Exception | None = None


class Engine:
    """Runs requests on a model, as many at a time as there is room for.

    A step runs, in one call of the core, the last token of every row that is being written and a chunk of the prompts. Requests
    are admitted in their order: as long as the first one that waits has no room, no other one overtakes it.

    Any thread may submit and cancel. One thread at a time steps, for all requests: a loop of the owner that calls `step`, or
    one of the callers of `run`, `steps` and `finish`, while the others wait for what it brings them.

    Args:
        core: The model.
        max_rows: The most rows that are written together; None: no bound.
        max_kv_bytes: The most bytes that the keys and values of these rows may come to take; None: no bound. A request that
            exceeds a bound alone runs when nothing else does.
        chunk_tokens: The most tokens of prompts in a step that also writes; see `CHUNK_TOKENS`.
    """

    def __init__(
        self,
        core: _core.Model,
        *,
        max_rows: int | None = None,
        max_kv_bytes: int | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        self.core = core
        self._max_rows = float("inf") if max_rows is None else max_rows
        self._max_kv_bytes = float("inf") if max_kv_bytes is None else max_kv_bytes
        self._chunk_tokens = chunk_tokens
        self._tickets: list[Ticket] = []  # in the order of submission
        self._outputs: list[Output] = []  # for `step`
        self._waits = False  # prompts may be waiting for room
        self._swept = True  # no request of the list is cancelled or done
        self._prefilling: set[Ticket] = set()  # whose prompts are a part of the call of the core that is running
        self._stop = _core.StopFlag()
        self._make_locks()
        _engines.add(self)

    def _make_locks(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._leader: int | None = None  # the thread that steps
        self._n_waiting = 0  # threads that wait for it

    @property
    def busy(self) -> bool:
        """Whether there are requests."""
        return bool(self._tickets)

    def submit(self, request: Request, *, collects: bool = False) -> Ticket:
        """Add a request; it takes part in the steps from the next one on.

        Args:
            request: What to write.
            collects: Keep the new tokens in the ticket, for `steps` and `finish`; else `step` returns them.
        """
        if self._leader == threading.get_ident():
            # A function of the caller, called by a step, asks for a text of its own: it cannot wait for the step to end.
            return Engine(self.core).submit(request, collects=collects)
        decoding = (RowsDecoding if request.beams is None else BeamDecoding)(self.core, request)
        ticket = Ticket(self, request, decoding, collects)
        with self._lock:
            self._tickets.append(ticket)
            self._waits = True
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: what it holds is free at once, or when the step that is being done ends.

        A request that is done stays as it is.
        """
        if ticket.done:
            return
        ticket._cancelled = True
        with self._lock:
            self._swept = False
            if self._leader is None:
                self._sweep()
            elif ticket in self._prefilling:
                self._stop.set()  # the other parts of the step run again in the next one

    def step(self) -> list[Output]:
        """Run one step for all requests that have room.

        What goes wrong in a request, such as in a caller's logits processor, ends this request only (`Output.error`).

        Returns:
            What came of it for the requests that do not collect their tokens, and of steps that other threads made meanwhile.

        Raises:
            RuntimeError: A step asks for a step, in a function of the caller.
            GPTBigCodeError: The core cannot compute, for whichever request.
        """
        self._refuse_inside_step()
        try:
            if self._lead(lambda: bool(self._outputs)):
                self._step()
        finally:
            self._lead_no_more()
        outputs, self._outputs = self._outputs, []
        return outputs

    def run(self, requests: Sequence[Request]) -> list[list[list[int]]]:
        """Submit requests and step until all of them are done.

        Returns:
            For each request the new tokens of each of its rows.

        Raises:
            Exception: What a request failed with; the others are cancelled then.
        """
        tickets = [self.submit(request, collects=True) for request in requests]
        results = []
        try:
            for ticket in tickets:
                ticket.engine._wait(ticket, until_done=True)
                if ticket.error is not None:
                    raise ticket.error
                written: list[list[int]] = [[] for _ in range(len(ticket.request.prompts) * ticket.request.copies)]
                for step in ticket._steps:
                    for row, tokens in step.items():
                        written[row] += tokens
                results.append(written)
        finally:
            for ticket in tickets:
                ticket.engine.cancel(ticket)
        return results

    def steps(self, ticket: Ticket) -> Iterator[Step]:
        """The new tokens of a request that collects them, step by step, as dicts from rows to their tokens.

        The engine steps when the next tokens are asked for and no other thread is stepping. Closing the iterator cancels the
        request.

        Raises:
            Exception: What the request failed with.
        """
        ticket._rests = True
        try:
            while True:
                done = ticket.done  # first: no steps come after it
                if ticket._steps:
                    yield ticket._steps.popleft()
                elif not done:
                    ticket.engine._wait(ticket)
                elif ticket.error is not None:
                    raise ticket.error
                else:
                    return
        finally:
            ticket.engine.cancel(ticket)

    def finish(self, ticket: Ticket) -> Iterator[Step]:
        """`steps` for who wants no token before the last one: the same, with less work between the steps."""
        try:
            ticket.engine._wait(ticket, until_done=True)
            if ticket.error is not None:
                raise ticket.error
            yield from ticket._steps
        finally:
            ticket.engine.cancel(ticket)

    def _wait(self, ticket: Ticket, until_done: bool = False) -> None:
        """Step, or wait for the thread that steps, until there is something to read, or nothing more will come."""

        def reached() -> bool:
            return ticket.done or bool(ticket._steps and not until_done)

        self._refuse_inside_step()
        try:
            if self._lead(reached):
                while not (ticket.done or (ticket._steps and not until_done)):
                    self._step()
        finally:
            self._lead_no_more()

    def _refuse_inside_step(self) -> None:
        """Raises:
        RuntimeError: This thread is in a step.
        """
        if self._leader == threading.get_ident():
            raise RuntimeError("a step cannot wait for a step: this was called by a function that the engine called in a step")

    def _lead(self, reached: Callable[[], bool]) -> bool:
        """Become the thread that steps, unless another one does what is wanted first.

        Args:
            reached: Whether there is nothing to do any more.

        Returns:
            Whether this thread leads; `_lead_no_more` ends that.
        """
        with self._changed:
            while not reached():
                if self._leader is None:
                    self._leader = threading.get_ident()
                    return True
                self._n_waiting += 1
                try:
                    self._changed.wait()
                finally:
                    self._n_waiting -= 1
        return False

    def _lead_no_more(self) -> None:
        with self._changed:
            if self._leader == threading.get_ident():  # also where Ctrl-C came just after it began to lead
                self._leader = None
                self._sweep()
                if self._n_waiting:
                    self._changed.notify_all()

    def _sweep(self) -> None:
        """Let go of what is cancelled or done. Only where nobody steps, or by who does."""
        if not self._swept:
            self._swept = True
            for ticket in self._tickets:
                if ticket._cancelled and not ticket.done:
                    ticket._end()
            self._tickets = [ticket for ticket in self._tickets if not ticket.done]

    def _step(self) -> None:
        """A step for all requests; what comes of it goes into their tickets, or into what `step` returns.

        Only the thread that leads comes here. It takes the lock only where it must: a thread that begins to wait while the
        results are handed out learns of them after the next step, or when the leader ends. A request that is submitted
        meanwhile may be in the list already; it has nothing to run before the next step admits it.
        """
        if not self._swept:
            with self._lock:
                self._sweep()
        has_room = not self._waits or self._admit()
        tickets = self._tickets
        # None rests while another request waits for the room that it holds.
        if len(tickets) > 1 and has_room:
            tickets = [ticket for ticket in tickets if not ticket.rests]
        outputs = self._forward(tickets)
        for ticket, step, done, error in outputs:
            if not ticket._collects:
                self._outputs.append(Output(ticket, step, done, error))
            elif step:
                ticket._steps.append(step)
            if done:
                ticket._end(error)
                self._swept = False
        if self._n_waiting:
            with self._lock:
                self._changed.notify_all()

    def _admit(self) -> bool:
        """Admit prompts in the order of the requests, as far as the bounds allow; whether there was room for all of them."""
        decodings = [ticket._decoding for ticket in self._tickets if ticket._decoding is not None]
        self._waits = any(decoding.waits for decoding in decodings)
        if not self._waits:
            return True
        rows = self._max_rows - sum(decoding.rows_in_use for decoding in decodings)
        nbytes = self._max_kv_bytes - sum(decoding.nbytes for decoding in decodings)
        for decoding in decodings:
            used, taken = decoding.rows_in_use, decoding.nbytes
            nothing_runs = not any(other.rows_in_use for other in decodings)
            if not decoding.admit(rows, nbytes, nothing_runs):
                return False
            rows -= decoding.rows_in_use - used
            nbytes -= decoding.nbytes - taken
        return True

    def _forward(self, tickets: Sequence[Ticket]) -> list[tuple[Ticket, Step, bool, Exception | None]]:
        """For each request that a step did something for: its new tokens, whether it is done, and what it failed with."""
        forward = Forward()
        outputs: list[tuple[Ticket, Step, bool, Exception | None]] = []
        failed: dict[Ticket, Exception] = {}
        for ticket in tickets:
            decoding = ticket._decoding
            assert decoding is not None
            try:
                decoding.add_rows(forward)
            except Exception as error:
                failed[ticket] = error
        n_tokens = forward.n_tokens
        end = n_tokens + (self._chunk_tokens if n_tokens else 4 * self._chunk_tokens)
        for ticket in tickets:
            decoding = ticket._decoding
            assert decoding is not None
            if decoding.prefilling:
                decoding.add_prompts(forward, end - forward.n_tokens)
                self._prefilling.add(ticket)
        if forward.parts:
            try:
                forward.run(self.core, self._stop)
            except StoppedError:  # what was to be run is run by the next step
                return [(ticket, {}, True, error) for ticket, error in failed.items()]
            finally:
                if self._prefilling:
                    self._prefilling.clear()
                    self._stop.clear()
        without_prompts = n_tokens if n_tokens == forward.n_tokens else 0
        for ticket in tickets:
            decoding = ticket._decoding
            assert decoding is not None
            failure = failed.get(ticket) if failed else None
            step: Step = {}
            try:
                if failure is None:
                    if decoding.prefilling:
                        decoding.begin_ready()
                    step = decoding.advance(without_prompts)
            except Exception as error:
                failure = error
            except BaseException:  # Ctrl-C, in the middle of another thread's request
                ticket._end(GPTBigCodeError("the thread that was stepping for this request was interrupted; ask again"))
                self._swept = False
                raise
            done = decoding.done or failure is not None
            if step or done:
                outputs.append((ticket, step, done, failure))
        return outputs


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A thread that held a lock does not exist in a forked process, so the lock would never be free.

    The requests stay: the core, which cannot compute in such a process, refuses them with a `ForkError`.
    """
    for engine in list(_engines):
        engine._make_locks()
        engine._prefilling.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
