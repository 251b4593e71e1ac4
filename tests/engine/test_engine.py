"""The engine: requests of all kinds share steps, and none of them notices the others."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptbigcode_cpu import AutoModelForCausalLM, DynamicCache, GPTBigCodeForCausalLM, LogitsProcessor
from gptbigcode_cpu.engine.engine import Engine, Ticket
from gptbigcode_cpu.engine.request import Request
from gptbigcode_cpu.engine.rows import RowsDecoding
from gptbigcode_cpu.errors import GPTBigCodeError, InputError
from gptbigcode_cpu.generation.call import GenerateArguments
from gptbigcode_cpu.generation.requests import build_request


@pytest.fixture(scope="module")
def model(
    make_checkpoint: Callable[..., Path], converted: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    source = make_checkpoint(tmp_path_factory.mktemp("engine") / "checkpoint", n_positions=1024)
    return AutoModelForCausalLM.from_pretrained(converted("int8", source), num_threads=1)


class CountingCore:
    """A core that notes the tokens of every call."""

    def __init__(self, core: Any) -> None:
        self._core, self.calls = core, list[list[int]]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def forward(self, caches: Any, tokens: Any, counts: Any, **options: Any) -> Any:
        self.calls.append([len(part) for part in tokens])
        return self._core.forward(caches, tokens, counts, **options)


def counting(model: GPTBigCodeForCausalLM, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Engine, CountingCore]:
    """An engine whose calls of the core are counted."""
    from gptbigcode_cpu import _core

    core: Any = CountingCore(model.core)
    monkeypatch.setattr(_core, "KVCache", lambda _, make=_core.KVCache: make(model.core))
    return Engine(core, **options), core


def asked(
    model: GPTBigCodeForCausalLM, *prompts: list[int], arguments: GenerateArguments | None = None, **options: Any
) -> Request:
    """A request for prompts; ``max_rows`` is that of the request."""
    max_rows = options.pop("max_rows", None)
    config = model.resolve_options(None, {"eos_token_id": [], "max_new_tokens": 8, **options})
    limits = [config.max_new_tokens or 0] * len(prompts)
    ids = [model.prompt(prompt) for prompt in prompts]
    return build_request(model, ids, limits, config, arguments, max_rows=max_rows)


def alone(model: GPTBigCodeForCausalLM, request: Request) -> list[list[int]]:
    """What a request gives in an engine of its own."""
    return Engine(model.core).run([request])[0]


GREEDY = [3, 1, 4, 1, 5, 9, 2, 6]


class TestSteps:
    def test_requests_of_different_options_share_a_step(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def requests() -> list[Request]:
            return [
                asked(model, GREEDY, max_new_tokens=6),
                asked(model, [7, 8], [9], do_sample=True, seed=3, max_new_tokens=5),
                asked(model, [7, 8] * 4, prompt_lookup_num_tokens=3, max_new_tokens=7),
                asked(model, [5] * 3, repetition_penalty=1.3, num_return_sequences=2, do_sample=True, seed=1),
                asked(model, [4, 4], num_beams=3, max_new_tokens=4),
            ]

        expected = [alone(model, request) for request in requests()]
        engine, core = counting(model, monkeypatch)
        assert engine.run(requests()) == expected
        assert len(core.calls) <= 9  # the longest has 8 tokens, and every prompt fits into the first call
        assert len(core.calls[1]) == 1 + 2 + 1 + 2 + 3

    def test_prompts_run_beside_rows_in_chunks(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, core = counting(model, monkeypatch, chunk_tokens=16)
        writing = engine.submit(asked(model, GREEDY, max_new_tokens=20))
        assert engine.step()[0].tokens
        reading = engine.submit(asked(model, [5] * 40))
        outputs = [engine.step() for _ in range(3)]
        assert core.calls[1:] == [[1, 16], [1, 16], [1, 8]]
        assert [[output.ticket for output in step] for step in outputs] == [[writing], [writing], [writing, reading]]

    def test_a_prompt_without_company_runs_in_longer_chunks(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, core = counting(model, monkeypatch, chunk_tokens=16)
        engine.run([asked(model, [5] * 150, max_new_tokens=1)])
        assert core.calls == [[64], [64], [22]]

    def test_step_gives_what_run_gives(self, model: Any) -> None:
        request = asked(model, GREEDY, [1, 2], num_return_sequences=2, do_sample=True, seed=9)
        written: dict[int, list[int]] = {}
        engine = Engine(model.core)
        ticket = engine.submit(asked(model, GREEDY, [1, 2], num_return_sequences=2, do_sample=True, seed=9))
        while engine.busy:
            for output in engine.step():
                assert output.ticket is ticket
                for row, tokens in output.tokens.items():
                    written.setdefault(row, []).extend(tokens)
        assert output.done
        assert ticket.done
        assert engine.run([asked(model)]) == [[]]  # no prompts at all
        assert [written[row] for row in range(4)] == alone(model, request)
        assert engine.step() == []

    def test_what_goes_wrong_in_a_request_ends_this_request_only(self, model: Any) -> None:
        class Broken(LogitsProcessor):
            def __call__(self, input_ids: Any, scores: Any) -> Any:
                if input_ids.shape[1] > 10:
                    raise ZeroDivisionError("broken")
                return scores

        engine = Engine(model.core)
        bad = engine.submit(asked(model, GREEDY, arguments=GenerateArguments(logits_processor=[Broken()])), collects=True)
        good = asked(model, GREEDY)
        assert engine.run([good]) == [alone(model, asked(model, GREEDY))]
        with pytest.raises(ZeroDivisionError, match="broken"):
            list(engine.steps(bad))
        with pytest.raises(InputError, match="every token is excluded"):
            engine.run([asked(model, GREEDY, logit_bias=dict.fromkeys(range(model.config.vocab_size), -np.inf))])
        assert not engine.busy


class TestRoom:
    @pytest.mark.parametrize("bound", [1, 2, 3])
    def test_rows_are_bounded_and_requests_wait_in_their_order(
        self, model: Any, monkeypatch: pytest.MonkeyPatch, bound: int
    ) -> None:
        engine, core = counting(model, monkeypatch, max_rows=bound)
        begun: list[Ticket] = []
        tickets = [engine.submit(asked(model, [i + 1, 2], max_new_tokens=3 + i)) for i in range(5)]
        while engine.busy:
            for output in engine.step():
                if output.ticket not in begun:
                    begun.append(output.ticket)
        assert begun == tickets
        assert max(map(len, core.calls)) == bound

    def test_a_request_beyond_the_bounds_runs_by_itself(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, core = counting(model, monkeypatch, max_rows=2, max_kv_bytes=model.core.kv_bytes(64))
        wide = asked(model, GREEDY, num_return_sequences=4, do_sample=True, seed=1)
        long = asked(model, [5] * 60)
        expected = [alone(model, wide), alone(model, long), alone(model, asked(model, GREEDY))]
        wide = asked(model, GREEDY, num_return_sequences=4, do_sample=True, seed=1)
        assert engine.run([wide, asked(model, [5] * 60), asked(model, GREEDY)]) == expected
        assert {len(call) for call in core.calls} == {1, 4}

    def test_bytes_of_keys_and_values_are_bounded(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        bound = 3 * model.core.kv_bytes(64) + 1
        engine, core = counting(model, monkeypatch, max_kv_bytes=bound)
        tickets = [engine.submit(asked(model, [5] * n, max_new_tokens=8)) for n in (8, 50, 70, 8, 8, 57, 8)]
        while engine.busy:
            engine.step()
            decodings: list[Any] = [ticket._decoding for ticket in tickets if ticket._decoding is not None]
            rows = [row for decoding in decodings for row in decoding._rows]
            assert sum(row.cache.nbytes for row in rows) <= sum(decoding.nbytes for decoding in decodings) <= bound
        assert max(map(len, core.calls)) == 3

    def test_a_request_that_bounds_itself_is_not_in_the_way(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, core = counting(model, monkeypatch)
        engine.run([asked(model, *([i + 1] for i in range(4)), max_rows=1, max_new_tokens=3), asked(model, [9])])
        assert core.calls[0] == [1, 1]
        assert max(map(len, core.calls)) == 2
        assert len(core.calls) == 4 * 3

    def test_a_request_that_nobody_reads_rests(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, core = counting(model, monkeypatch)
        slow = engine.steps(engine.submit(asked(model, GREEDY, max_new_tokens=500), collects=True))
        first = next(slow)
        engine.run([asked(model, [1], max_new_tokens=300)])
        assert sum(map(len, core.calls)) < 1 + 300 + 70
        written = [token for step in (first, *slow) for token in step[0]]
        assert [written] == alone(model, asked(model, GREEDY, max_new_tokens=500))

    def test_it_does_not_rest_while_others_wait_for_its_room(self, model: Any) -> None:
        engine = Engine(model.core, max_rows=1)
        slow = engine.steps(engine.submit(asked(model, GREEDY, max_new_tokens=300), collects=True))
        next(slow)
        assert engine.run([asked(model, [1])]) == [alone(model, asked(model, [1]))]
        assert sum(len(step[0]) for step in slow) == 299


class TestCancel:
    def test_what_it_holds_is_free_at_once(self, model: Any) -> None:
        engine = Engine(model.core)
        ticket = engine.submit(asked(model, GREEDY, max_new_tokens=100))
        engine.step()
        decoding: Any = ticket._decoding
        row = decoding._rows[0]
        held = weakref.ref(decoding)
        assert row.cache.nbytes > 0
        del decoding, row
        engine.cancel(ticket)
        gc.collect()
        assert held() is None
        assert ticket.done
        assert not engine.busy
        engine.cancel(ticket)  # again: nothing happens

    @pytest.mark.parametrize("phase", ["waiting", "prefill", "decode"])
    def test_others_go_on(self, model: Any, phase: str) -> None:
        engine = Engine(model.core, max_rows=2, chunk_tokens=8)
        first = engine.submit(asked(model, GREEDY, max_new_tokens=20), collects=True)
        engine.step()
        second = engine.submit(asked(model, [5] * (30 if phase == "prefill" else 2), max_new_tokens=20))
        third = engine.submit(asked(model, [6], max_new_tokens=5), collects=True)
        engine.step()
        engine.step()
        engine.cancel(third if phase == "waiting" else second)
        written = [token for step in engine.steps(first) for token in step[0]]
        assert [written] == alone(model, asked(model, GREEDY, max_new_tokens=20))
        if phase != "waiting":
            rest = [token for step in engine.steps(third) for token in step[0]]
            assert [rest] == alone(model, asked(model, [6], max_new_tokens=5))

    def test_a_prefill_in_the_core_ends_early(self, model: Any) -> None:
        """The flag of the core is set by another thread while the call runs; what shares the step runs again."""
        stopped: list[bool] = []

        class Waiting(CountingCore):
            def forward(self, caches: Any, tokens: Any, counts: Any, **options: Any) -> Any:
                stop = options["stop"]
                if max(map(len, tokens)) > 100 and not stopped:
                    other = threading.Thread(target=engine.cancel, args=(ticket,))
                    other.start()
                    other.join()
                    stopped.append(stop.is_set)
                return model.core.forward(caches, tokens, counts, stop=stop)

        core: Any = Waiting(model.core)
        engine = Engine(core)
        from gptbigcode_cpu import _core

        make = _core.KVCache
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_core, "KVCache", lambda _: make(model.core))
            first = engine.submit(asked(model, GREEDY, max_new_tokens=12), collects=True)
            engine.step()
            ticket = engine.submit(asked(model, [5] * 700))
            written = [token for step in engine.steps(first) for token in step[0]]
        assert stopped == [True]
        assert ticket.done
        assert [written] == alone(model, asked(model, GREEDY, max_new_tokens=12))

    @pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 4}, {"assistant": True}, {"num_beams": 3}])
    def test_a_step_that_was_stopped_runs_again(self, model: Any, options: dict[str, Any]) -> None:
        """Every second call of the core is stopped: drafts and beams must survive that."""
        from gptbigcode_cpu import _core

        class Stopped(CountingCore):
            def forward(self, caches: Any, tokens: Any, counts: Any, **options: Any) -> Any:
                stop = options["stop"]
                self.calls.append([])
                if len(self.calls) % 2:
                    stop.set()
                try:
                    return model.core.forward(caches, tokens, counts, stop=stop)
                finally:
                    stop.clear()

        arguments = GenerateArguments(assistant_model=model) if options.get("assistant") else None
        chosen = {name: value for name, value in options.items() if name != "assistant"}
        prompt = [7, 8, 9] * 5
        core: Any = Stopped(model.core)
        engine, make = Engine(core), _core.KVCache
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_core, "KVCache", lambda core: make(model.core if core is engine.core else core))
            ticket = engine.submit(asked(model, prompt, arguments=arguments, **chosen), collects=True)
            rows = engine.finish(ticket)
        assert len(core.calls) > 4
        expected = Engine(model.core)
        other = expected.submit(asked(model, prompt, arguments=arguments, **chosen), collects=True)
        assert rows == expected.finish(other)
        if ticket.beams is not None and other.beams is not None:
            assert np.array_equal(ticket.beams.sequences, other.beams.sequences)


class TestThreads:
    def test_threads_share_steps(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, core = counting(model, monkeypatch)
        monkeypatch.setattr(model, "_engine", engine, raising=False)
        inner = core.forward

        def forward(*arguments: Any, **options: Any) -> Any:
            """The first call waits for all threads, which on this small model would come too late."""
            deadline = threading.Event()
            while not core.calls and len(engine._tickets) < 3:
                deadline.wait(0.001)
            return inner(*arguments, **options)

        monkeypatch.setattr(core, "forward", forward)
        found: dict[int, list[int]] = {}

        def work(number: int) -> None:
            found[number] = model.generate([[number + 1] * 3], max_new_tokens=200, eos_token_id=[])[0, 3:].tolist()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(core.calls) <= 202  # one after the other, they would be 600
        for number, written in found.items():
            assert [written] == alone(model, asked(model, [number + 1] * 3, max_new_tokens=200))

    def test_a_step_does_not_wait_for_itself(self, model: Any) -> None:
        engine = Engine(model.core)

        other = engine.submit(asked(model, [9]), collects=True)
        refused: list[str] = []

        class Nosy(LogitsProcessor):
            def __call__(self, input_ids: Any, scores: Any) -> Any:
                for call in () if refused else (engine.step, lambda: list(engine.steps(other))):
                    with pytest.raises(RuntimeError) as error:
                        call()
                    refused.append(str(error.value))
                return scores

        engine.run([asked(model, GREEDY, arguments=GenerateArguments(logits_processor=[Nosy()]))])
        assert len(refused) == 2
        assert "cannot wait for another step" in refused[0]

    def test_a_loop_that_steps_and_callers_of_generate_get_what_is_theirs(self, model: Any) -> None:
        engine = Engine(model.core)
        ticket = engine.submit(asked(model, GREEDY, max_new_tokens=60))
        written: list[int] = []

        def serve() -> None:
            while not ticket.done or engine._outputs:
                for output in engine.step():
                    assert output.ticket is ticket
                    written.extend(output.tokens[0])

        loop = threading.Thread(target=serve)
        loop.start()
        for n in (5, 20, 9):
            assert engine.run([asked(model, [n], max_new_tokens=n)]) == [alone(model, asked(model, [n], max_new_tokens=n))]
        loop.join()
        assert [written] == alone(model, asked(model, GREEDY, max_new_tokens=60))

    def test_an_interrupted_leader_does_not_block_the_others(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        engine, core = counting(model, monkeypatch)
        first = engine.submit(asked(model, GREEDY), collects=True)
        second = engine.submit(asked(model, [1, 2]), collects=True)
        inner = core.forward

        def interrupted(*arguments: Any, **options: Any) -> Any:
            """Ctrl-C, which Python hears when the call of the core has ended: the logits are lost, the caches have grown."""
            result = inner(*arguments, **options)
            if len(core.calls) == 3:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(core, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(engine.steps(first))
        assert first.done
        written = [token for step in engine.steps(second) for token in step[0]]
        assert [written] == alone(model, asked(model, [1, 2]))

    def test_a_processor_may_generate(self, model: Any) -> None:
        class Asking(LogitsProcessor):
            seen: list[list[int]]

            def __call__(self, input_ids: Any, scores: Any) -> Any:
                self.seen.append(model.generate(input_ids, max_new_tokens=2, eos_token_id=[])[0, -2:].tolist())
                return scores

        processor = Asking()
        processor.seen = []
        ids = model.generate([GREEDY], logits_processor=[processor], max_new_tokens=5, eos_token_id=[])[0, len(GREEDY) :]
        assert [pair[0] for pair in processor.seen] == ids.tolist()

    def test_an_iterator_that_is_dropped_leaves_nothing(self, model: Any) -> None:
        for _ in range(3):
            tokens = model.stream(GREEDY, max_new_tokens=50, eos_token_id=[])
            del tokens  # never begun
        tokens = model.stream(GREEDY, max_new_tokens=50, eos_token_id=[])
        next(tokens)
        assert model.engine.busy
        del tokens
        gc.collect()
        assert not model.engine.busy

    def test_a_request_that_comes_while_the_leader_looks_for_waiting_ones(
        self, model: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The leader must not overwrite that there is something to admit."""
        engine = Engine(model.core)
        late: list[Ticket] = []

        class Looked(RowsDecoding):
            @property
            def waits(self) -> bool:
                found = super().waits
                if not found and not late:  # the leader has seen all requests, and none waits
                    late.append(engine.submit(asked(model, [1, 2]), collects=True))
                return found

        monkeypatch.setattr("gptbigcode_cpu.engine.engine.RowsDecoding", Looked)
        first = engine.submit(asked(model, GREEDY), collects=True)
        engine._waits = True
        assert engine.finish(first) == alone(model, asked(model, GREEDY))
        assert engine.finish(late[0]) == alone(model, asked(model, [1, 2]))

    def test_a_cancellation_that_comes_too_late_stops_nothing(self, model: Any) -> None:
        """A flag that is set for prompts which have been run already would stop every later step."""
        engine = Engine(model.core)
        first = engine.submit(asked(model, GREEDY, max_new_tokens=5), collects=True)
        second = engine.submit(asked(model, [4] * 20, max_new_tokens=5), collects=True)
        cancelled: list[bool] = []

        class Late(set[Ticket]):
            def clear(self) -> None:
                if second in self and not cancelled:
                    cancelled.append(True)
                    other = threading.Thread(target=engine.cancel, args=(second,))
                    other.start()
                    other.join(0.2)  # it waits for the lock
                super().clear()

        engine._prefilling = Late()
        written = [token for step in engine.steps(first) for token in step[0]]
        assert cancelled
        assert [written] == alone(model, asked(model, GREEDY, max_new_tokens=5))

    def test_ctrl_c_in_the_request_of_another_thread_loses_no_token(self, model: Any) -> None:
        class Interrupted(LogitsProcessor):
            calls = 0

            def __call__(self, input_ids: Any, scores: Any) -> Any:
                self.calls += 1
                if self.calls == 3:
                    raise KeyboardInterrupt
                return scores

        engine = Engine(model.core)
        first = engine.submit(asked(model, GREEDY), collects=True)
        arguments = GenerateArguments(logits_processor=[Interrupted()])
        second = engine.submit(asked(model, [1, 2], arguments=arguments), collects=True)
        with pytest.raises(KeyboardInterrupt):
            for _ in range(9):
                engine._wait(first, until_done=True)
        assert engine.finish(first) == alone(model, asked(model, GREEDY))
        with pytest.raises(GPTBigCodeError, match="was interrupted"):
            engine.finish(second)

    def test_functions_of_the_caller_may_wait_for_other_threads(self, model: Any) -> None:
        """They run in the caller's thread, and others that use the model do not wait for them."""
        seen: list[Any] = []

        def asks(input_ids: Any, scores: Any) -> Any:
            with ThreadPoolExecutor(1) as pool:
                seen.append(pool.submit(model.generate, [[5]], max_new_tokens=2, eos_token_id=[]).result(30).shape)
            seen.append(threading.get_ident())
            return scores

        model.generate([GREEDY], logits_processor=[asks], max_new_tokens=2, eos_token_id=[])
        assert seen == [(1, 3), threading.get_ident()] * 2

    def test_a_stream_that_is_closed_while_another_thread_leads_leaves_a_right_cache(self, model: Any) -> None:
        stop = threading.Event()

        def others() -> None:
            while not stop.is_set():
                model.generate([[7] * 9], max_new_tokens=30, eos_token_id=[])

        thread = threading.Thread(target=others)
        thread.start()
        try:
            for count in range(1, 40):
                past = DynamicCache()
                tokens = model.stream(GREEDY, past_key_values=past, max_new_tokens=60, eos_token_id=[])
                written = [next(tokens) for _ in range(1 + count % 5)]
                tokens.close()
                assert [len(row) for row in past._rows] == [past.get_seq_length()] == [len(GREEDY) + len(written) - 1]
        finally:
            stop.set()
            thread.join()

    def test_a_streamer_that_fails_leaves_nothing(self, model: Any) -> None:
        class Failing:
            def put(self, value: Any) -> None:
                raise ZeroDivisionError("no display")

            def end(self) -> None:
                pass

        with pytest.raises(ZeroDivisionError) as error:
            model.generate([GREEDY], streamer=Failing(), max_new_tokens=50)
        assert not model.engine.busy, error  # also while somebody keeps the error

    def test_failed_requests_leave_no_memory_to_the_garbage_collector(self, model: Any) -> None:
        engine = Engine(model.core)
        gone: list[weakref.ref[Any]] = []
        gc.disable()
        try:
            for _ in range(3):
                request = asked(model, GREEDY, logit_bias=dict.fromkeys(range(model.config.vocab_size), -np.inf))
                ticket = engine.submit(request, collects=True)
                gone.append(weakref.ref(ticket._decoding))
                with pytest.raises(InputError):
                    engine.finish(ticket)
                del request, ticket
            assert [reference() for reference in gone] == [None] * 3
        finally:
            gc.enable()

    def test_steps_go_on_where_nobody_reads(self, model: Any) -> None:
        engine = Engine(model.core)
        readers = [engine.steps(engine.submit(asked(model, [n], max_new_tokens=100), collects=True)) for n in (1, 2)]
        for reader in readers:
            next(reader)
        for _ in range(200):
            engine.step()
        assert not engine.busy

    def test_many_threads_with_cancellations(self, model: Any) -> None:
        """Results are those of a request alone, whoever steps for whom, and nothing is left behind."""
        engine = Engine(model.core, max_rows=4)
        lengths = [3, 17, 40, 5, 80, 9]
        expected = [alone(model, asked(model, [n] * n, max_new_tokens=n)) for n in lengths]
        wrong: list[Any] = []

        def work(number: int) -> None:
            for i in range(len(lengths)):
                n = lengths[(i + number) % len(lengths)]
                request = asked(model, [n] * n, max_new_tokens=n)
                ticket = engine.submit(request, collects=True)
                steps: Iterator[Any] = engine.steps(ticket)
                if (i + number) % 3 == 0:
                    next(steps)
                    steps.close()  # type: ignore[attr-defined]
                    continue
                written = [token for step in steps for token in step[0]]
                if [written] != expected[lengths.index(n)]:
                    wrong.append((n, written))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert not engine.busy


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 4)),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
    ),
    min_size=3,
    max_size=30,
)


@settings(max_examples=30)
@given(actions=ACTIONS, max_rows=st.integers(1, 5), chunk=st.integers(1, 40))
def test_a_row_never_depends_on_its_neighbours(model: Any, actions: list[tuple[str, int]], max_rows: int, chunk: int) -> None:
    """Whatever is submitted and cancelled when, each request that ends has the tokens that it has alone."""
    kinds: list[Callable[[], Request]] = [
        lambda: asked(model, GREEDY),
        lambda: asked(model, [5] * 50, max_new_tokens=3),
        lambda: asked(model, [7, 8] * 6, do_sample=True, seed=2, num_return_sequences=2, max_new_tokens=6),
        lambda: asked(model, [1, 2, 3] * 7, prompt_lookup_num_tokens=4, max_new_tokens=9),
        lambda: asked(model, [9], [8] * 30, [7] * 3, max_rows=2, max_new_tokens=4),
    ]
    expected = [alone(model, kind()) for kind in kinds]
    engine = Engine(model.core, max_rows=max_rows, chunk_tokens=chunk)
    tickets: list[tuple[int, Ticket]] = []
    written: dict[Ticket, dict[int, list[int]]] = {}
    ended: set[Ticket] = set()

    def step() -> None:
        for output in engine.step():
            for row, tokens in output.tokens.items():
                written.setdefault(output.ticket, {}).setdefault(row, []).extend(tokens)
            if output.done:
                ended.add(output.ticket)

    for action, number in actions:
        if action == "submit":
            tickets.append((number, engine.submit(kinds[number]())))
        elif action == "cancel" and tickets:
            engine.cancel(tickets[number % len(tickets)][1])
        else:
            for _ in range(number):
                step()
    while engine.busy:
        step()
    for kind, ticket in tickets:
        if ticket in ended:
            rows = written[ticket]
            assert [rows[row] for row in range(len(rows))] == expected[kind]
