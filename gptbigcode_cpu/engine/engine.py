"""The engine: it takes requests, and each step runs all of them in one call of the core."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gptbigcode_cpu import _core
from gptbigcode_cpu.engine.beam import BeamDecoding, BeamResult
from gptbigcode_cpu.engine.decoding import Decoding, Forward, Step
from gptbigcode_cpu.engine.request import Request
from gptbigcode_cpu.engine.rows import RowsDecoding
from gptbigcode_cpu.errors import GPTBigCodeError, StoppedError

CHUNK_TOKENS = 128
"""The most prompt tokens that a step runs beside rows in decoding, which have to wait for them. Without such rows a step runs
four times as many: a call of 512 tokens takes 2 % less time than four calls of 128. A cancelled prefill ends sooner than its
step, because the core checks a flag between layers."""

# If a reader of `steps` has this many unread steps, its request pauses.
_MOST_UNREAD = 64


class Ticket:
    """A request in an engine.

    Attributes:
        request: The request.
        engine: The engine that it was submitted to.
        done: Whether the request is finished, cancelled or failed, so that no more steps will come.
        error: The exception that the request failed with, or None.
        caches: With `Request.keep_caches`, the kv cache of every row; it grows with the row.
        beams: The result of a beam search; None until it is done.
    """

    def __init__(self, engine: Engine, request: Request, decoding: Decoding, collects: bool) -> None:
        self.engine, self.request = engine, request
        self.done = False
        self.error: BaseException | None = None
        self._decoding: Decoding | None = decoding
        self._cancelled = False
        self._collects = collects
        self._steps: deque[Step] = deque()  # the unread steps
        self._rests = False  # whether it may pause while many steps are unread
        self.caches = decoding.caches
        self.beams: BeamResult | None = None

    @property
    def rests(self) -> bool:
        """Whether the request may skip the next step, because its reader has many unread steps."""
        return self._rests and len(self._steps) >= _MOST_UNREAD

    def _raise_error(self) -> None:
        """Raise the error of the request, if there is one, and forget it: its traceback holds frames that hold this ticket."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _end(self, error: BaseException | None = None) -> None:
        """Mark the request as done, and release its memory."""
        if isinstance(self._decoding, BeamDecoding):
            self.beams = self._decoding.result
        self._decoding, self.error, self.done = None, error, True


@dataclass(frozen=True)
class Output:
    """The result of a step for one request.

    Attributes:
        ticket: The request.
        tokens: The new tokens of each row that got any; usually one.
        done: Whether this was the last step of the request.
        error: The exception that the request failed with, for example in a caller's logits processor; else None.
    """

    ticket: Ticket
    tokens: Step = field(default_factory=dict)
    done: bool = False
    error: Exception | None = None


class Engine:
    """Runs requests on a model, as many at a time as there is room for.

    In one call of the core, a step runs the last token of every row in decoding and a chunk of the prompts. Requests are
    admitted in their order: while there is no room for the first waiting request, the later ones wait as well.

    Any thread may submit and cancel requests. One thread at a time runs the steps, for all requests: a loop that calls `step`,
    or one of the callers of `run`, `steps` and `finish`. The other callers wait for its results.

    Args:
        core: The model.
        max_rows: The most rows that run at a time; None: no limit.
        max_kv_bytes: The most bytes that the kv caches of these rows may need; None: no limit. A request that exceeds a limit
            by itself runs when nothing else is running.
        chunk_tokens: The most prompt tokens in a step that also decodes rows; see `CHUNK_TOKENS`.
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
        self._waits = False  # whether prompts may be waiting for room
        self._swept = True  # whether no request in the list is cancelled or done
        self._prefilling: set[Ticket] = set()  # requests whose prompts are in the running call of the core
        self._stop = _core.StopFlag()
        self._make_locks()
        _engines.add(self)

    def _make_locks(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._leader: int | None = None  # the thread that runs the steps
        self._n_waiting = 0  # number of threads that wait for the leader

    @property
    def busy(self) -> bool:
        """Whether there are requests."""
        return bool(self._tickets)

    def submit(self, request: Request, *, collects: bool = False) -> Ticket:
        """Add a request; it takes part from the next step on.

        Args:
            request: The prompts, and how to continue them.
            collects: Whether the ticket collects the new tokens, for `steps` and `finish`. If not, `step` returns them.
        """
        if self._leader == threading.get_ident():
            # A caller's function that runs inside a step submits a request. It cannot wait for that step to end, so it gets a
            # new engine.
            return Engine(self.core).submit(request, collects=collects)
        decoding = (RowsDecoding if request.beams is None else BeamDecoding)(self.core, request)
        ticket = Ticket(self, request, decoding, collects)
        with self._lock:
            self._tickets.append(ticket)
            self._waits = True
        return ticket

    def cancel(self, ticket: Ticket, *, wait: bool = False) -> None:
        """Cancel a request. Its memory is released at once, or at the end of the running step.

        Nothing happens if the request is done.

        Args:
            ticket: The request.
            wait: Return only when the running step no longer uses the kv caches of the request.
        """
        if ticket.done:
            return
        ticket._cancelled = True
        with self._lock:
            self._swept = False
            if self._leader is None:
                self._sweep()
            elif ticket in self._prefilling:
                self._stop.set()  # the next step runs the other parts of this step again
            while wait and not ticket.done and self._leader not in (None, threading.get_ident()):
                self._sleep()

    def step(self) -> list[Output]:
        """Run one step for all requests that have room.

        An error in one request, for example in a caller's logits processor, ends this request only (see `Output.error`).

        Returns:
            The results for all requests that do not collect their tokens, including the results of steps that other threads
            have run in the meantime.

        Raises:
            RuntimeError: A caller's function that runs inside a step calls this method.
            GPTBigCodeError: The core failed. This error concerns all requests.
        """
        self._refuse_inside_step()
        try:
            if self._lead(lambda: bool(self._outputs)):
                self._step()
        finally:
            self._lead_no_more()
        with self._lock:
            outputs, self._outputs = self._outputs, []
        return outputs

    def run(self, requests: Sequence[Request]) -> list[list[list[int]]]:
        """Submit requests and step until all of them are done.

        Returns:
            For each request the new tokens of each of its rows.

        Raises:
            Exception: The exception of a request that failed; the other requests are cancelled.
        """
        tickets = [self.submit(request, collects=True) for request in requests]
        try:
            return [self.finish(ticket) for ticket in tickets]
        finally:
            for ticket in tickets:
                ticket.engine.cancel(ticket)

    def steps(self, ticket: Ticket) -> Iterator[Step]:
        """Yield the new tokens of a request that collects them, step by step, as dicts from rows to tokens.

        Asking for the next tokens runs the engine's steps, unless another thread is running them. Closing the iterator cancels
        the request.

        Raises:
            Exception: The exception that the request failed with.
        """
        ticket._rests = True
        try:
            while True:
                done = ticket.done  # read this first: no steps are added after it is true
                if ticket._steps:
                    yield ticket._steps.popleft()
                elif not done:
                    ticket.engine._wait(ticket)
                else:
                    ticket._raise_error()
                    return
        finally:
            ticket.engine.cancel(ticket)

    def finish(self, ticket: Ticket) -> list[list[int]]:
        """Run a request that collects its tokens to its end. Return the new tokens of each row; none for a beam search.

        Raises:
            Exception: The exception that the request failed with.
        """
        try:
            ticket.engine._wait(ticket, until_done=True)
        finally:
            ticket.engine.cancel(ticket)
        ticket._raise_error()
        written: list[list[int]] = [[] for _ in range(ticket.request.n_rows)]
        for step in ticket._steps:
            for row, tokens in step.items():
                written[row] += tokens
        return written

    def _wait(self, ticket: Ticket, until_done: bool = False) -> None:
        """Run steps, or wait for the thread that does, until `ticket` has unread steps (unless `until_done`) or is done."""

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
        """Refuse a call from inside a step.

        Raises:
            RuntimeError: This thread is running a step.
        """
        if self._leader == threading.get_ident():
            raise RuntimeError("a function that the engine calls inside a step cannot wait for another step of the same engine")

    def _lead(self, reached: Callable[[], bool]) -> bool:
        """Become the thread that runs the steps, unless another thread reaches the goal first.

        Args:
            reached: Tells whether the goal is reached.

        Returns:
            Whether this thread now leads; `_lead_no_more` ends its lead.
        """
        with self._changed:
            while not reached():
                if self._leader is None:
                    self._leader = threading.get_ident()
                    return True
                self._sleep()
        return False

    def _sleep(self) -> None:
        """Wait, with the lock held, until the leader has ended a step or its lead."""
        self._n_waiting += 1
        try:
            self._changed.wait()
        finally:
            self._n_waiting -= 1

    def _lead_no_more(self) -> None:
        with self._changed:
            if self._leader == threading.get_ident():  # also if Ctrl-C came just after it began to lead
                self._leader = None
                self._sweep()
                if self._n_waiting:
                    self._changed.notify_all()

    def _sweep(self) -> None:
        """Remove requests that are cancelled or done. Only the leader may call this, or any thread if there is none."""
        if not self._swept:
            self._swept = True
            for ticket in self._tickets:
                if ticket._cancelled and not ticket.done:
                    ticket._end()
            self._tickets = [ticket for ticket in self._tickets if not ticket.done]

    def _step(self) -> None:
        """Run a step for all requests. The results go into their tickets, or into the list that `step` returns.

        Only the leader calls this. It takes the lock only where it must: a thread that starts to wait while results are handed
        out sees them after the next step, or when the leader stops. A request that is submitted during the step may already be
        in the list, but it runs nothing before the next step admits it.
        """
        if not self._swept:
            with self._lock:
                self._sweep()
        has_room = not self._waits or self._admit()
        tickets = self._tickets
        # No request pauses while another one waits for the room that it holds, nor if all would.
        if len(tickets) > 1 and has_room:
            tickets = [ticket for ticket in tickets if not ticket.rests] or tickets
        self._forward(tickets)
        if self._n_waiting:
            with self._lock:
                self._sweep()
                self._changed.notify_all()

    def _hand_over(self, ticket: Ticket, step: Step, done: bool, error: Exception | None) -> None:
        """Give the result of a step to the reader of a request."""
        if not ticket._collects:
            with self._lock:
                self._outputs.append(Output(ticket, step, done, error))
        elif step:
            ticket._steps.append(step)
        if done:
            ticket._end(error)
            self._swept = False

    def _admit(self) -> bool:
        """Admit prompts in the order of the requests, as far as the limits allow. Return whether there was room for all."""
        self._waits = False  # before the list is read: a request that is submitted from now on sets it again
        decodings = [ticket._decoding for ticket in self._tickets if ticket._decoding is not None]
        if not any(decoding.waits for decoding in decodings):
            return True
        self._waits = True
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

    def _forward(self, tickets: Sequence[Ticket]) -> None:
        """Run the core, let every request choose its tokens, and hand each result over at once."""
        forward = Forward()
        failed: dict[Ticket, Exception] = {}
        for ticket in tickets:
            decoding = ticket._decoding
            assert decoding is not None
            try:
                decoding.add_rows(forward)
            except Exception as error:
                failed[ticket] = _without_this_frame(error)
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
            except StoppedError:  # the next step runs everything again
                self._stop.clear()
                for ticket, failure in failed.items():
                    self._hand_over(ticket, {}, True, failure)
                return
            finally:
                if self._prefilling:
                    with self._lock:  # or `cancel` might set the flag for prompts that have been run
                        self._prefilling.clear()
                        self._stop.clear()
        without_prompts = n_tokens if n_tokens == forward.n_tokens else 0
        for ticket in tickets:
            decoding = ticket._decoding
            assert decoding is not None
            try:
                if ticket in failed:
                    self._hand_over(ticket, {}, True, failed[ticket])
                    continue
                if decoding.prefilling:
                    decoding.begin_ready()
                step = decoding.advance(without_prompts)
                if step or decoding.done:
                    self._hand_over(ticket, step, decoding.done, None)
            except Exception as error:
                self._hand_over(ticket, {}, True, _without_this_frame(error))
            except BaseException:  # Ctrl-C, possibly in the middle of another thread's request
                if not ticket.done:
                    ticket._end(GPTBigCodeError("the thread that was running this request was interrupted; send it again"))
                self._swept = False
                raise


def _without_this_frame(error: Exception) -> Exception:
    """Cut the frame of the step off a traceback. It would keep the neighbours of the request in memory as long as the error."""
    traceback = error.__traceback__
    return error.with_traceback(None if traceback is None else traceback.tb_next)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Replace the locks. A thread that held one does not exist in the forked process, so it would never be released.

    The requests stay. The core cannot compute in a forked process and refuses them with a `ForkError`.
    """
    for engine in list(_engines):
        engine._make_locks()
        engine._prefilling.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
