"""Streaming: tokens and text as they are written, streamers, and stopping in the middle."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import AutoModelForCausalLM, GPTBigCodeForCausalLM
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.streamers import BaseStreamer, TextIteratorStreamer, TextStreamer
from gptbigcode_cpu.tokenizer import AutoTokenizer, GPTBigCodeTokenizer

PROMPT = "def fibonacci(n):"
OPTIONS: dict[str, Any] = {"max_new_tokens": 24, "eos_token_id": []}


@pytest.fixture(scope="module")
def directory(converted: Callable[[str], Path]) -> Path:
    return converted("int8")


@pytest.fixture(scope="module")
def model(directory: Path) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(directory)


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> GPTBigCodeTokenizer:
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def expected(model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> list[int]:
    tokens: list[int] = model.generate(**tokenizer(PROMPT, return_tensors="np"), **OPTIONS)[0].tolist()
    return tokens


class TestIterator:
    @pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 9}])
    def test_gives_the_tokens_of_generate(
        self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer, options: dict[str, Any]
    ) -> None:
        ids = tokenizer.encode(PROMPT)
        whole = model.generate([ids], **OPTIONS, **options)[0, len(ids) :].tolist()
        assert list(model.stream(ids, **OPTIONS, **options)) == whole
        assert list(model.stream(**tokenizer(PROMPT, return_tensors="np"), **OPTIONS, **options)) == whole

    def test_end_token_is_the_last(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        free = list(model.stream(tokenizer.encode(PROMPT), **OPTIONS))
        stopped = list(model.stream(tokenizer.encode(PROMPT), max_new_tokens=24, eos_token_id=free[3]))
        assert stopped == free[: free.index(free[3]) + 1]

    def test_mistakes_show_at_the_call(self, model: GPTBigCodeForCausalLM) -> None:
        with pytest.raises(InputError, match="empty"):
            model.stream([])
        with pytest.raises(InputError, match="one sequence"):
            model.stream([[1], [2]])
        with pytest.raises(InputError, match="one sequence"):
            model.stream([1], num_return_sequences=2)

    def test_nothing_runs_after_close(self, model: GPTBigCodeForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = count_forward_calls(model, monkeypatch)
        steps = model.stream([1, 2, 3], **OPTIONS)
        assert not calls  # lazy: the work begins with the first token
        next(steps)
        next(steps)
        steps.close()  # type: ignore[attr-defined]
        assert len(calls) == 2
        assert list(steps) == []
        assert len(calls) == 2

    def test_long_prompts_run_in_chunks(self, model: GPTBigCodeForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = count_forward_calls(model, monkeypatch)
        next(model.stream([5] * 1100, **OPTIONS))
        assert calls == [512, 512, 76]


def count_forward_calls(model: GPTBigCodeForCausalLM, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of every call of the core from now on."""
    core, calls = model.core, []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def forward(self, caches: Any, tokens: Any, keep: Any, **options: Any) -> Any:
            calls.append(sum(map(len, tokens)))
            return core.forward(caches, tokens, keep, **options)

    from gptbigcode_cpu import _core

    monkeypatch.setattr(model.engine, "core", Counting())
    monkeypatch.setattr(_core, "KVCache", lambda _, make=_core.KVCache: make(core))
    return calls


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.values: list[Any] = []
        self.ended = 0

    def put(self, value: Any) -> None:
        self.values.append(value)

    def end(self) -> None:
        self.ended += 1


class TestStreamers:
    def test_receives_prompt_and_every_step(self, model: GPTBigCodeForCausalLM) -> None:
        recorder = Recorder()
        output = model.generate([[1, 2], [3, 4]], streamer=recorder, **OPTIONS)
        assert recorder.values[0].tolist() == [[1, 2], [3, 4]]
        assert np.array_equal(np.stack(recorder.values[1:], axis=1), output[:, 2:])
        assert recorder.ended == 1

    def test_text_streamer_writes_to_stdout(
        self,
        model: GPTBigCodeForCausalLM,
        tokenizer: GPTBigCodeTokenizer,
        expected: list[int],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        streamer = TextStreamer(tokenizer)
        for _ in range(2):  # it can be used again
            model.generate(**tokenizer(PROMPT, return_tensors="np"), streamer=streamer, **OPTIONS)
            assert capsys.readouterr().out == tokenizer.decode(expected) + "\n"

    def test_text_streamer_shows_one_sequence(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(InputError, match="one sequence"):
            model.generate([[1], [2]], streamer=TextIteratorStreamer(tokenizer), **OPTIONS)
        with pytest.raises(InputError, match="one sequence"):
            model.generate([[1]], num_return_sequences=2, streamer=TextIteratorStreamer(tokenizer), **OPTIONS)

    def test_text_of_a_thread(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer, expected: list[int]) -> None:
        inputs = tokenizer(PROMPT, return_tensors="np")
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        thread = threading.Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, **OPTIONS})
        thread.start()
        pieces = list(streamer)
        thread.join()
        assert "".join(pieces) == tokenizer.decode(expected[inputs.input_ids.shape[1] :])
        assert len(pieces) > 5
        assert all(pieces)

    def test_special_tokens_can_be_left_out(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        texts = []
        for skip in (False, True):
            streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=skip)
            model.generate([[70]], streamer=streamer, logit_bias={0: 1e4}, max_new_tokens=3)
            texts.append("".join(streamer))
        assert texts == ["<|endoftext|>", ""]

    def test_timeout(self, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(queue.Empty):
            next(TextIteratorStreamer(tokenizer, timeout=0.01))

    def test_reader_learns_of_an_error(
        self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*_: Any, **__: Any) -> Iterator[dict[int, list[int]]]:
            yield {0: [70]}
            raise RuntimeError("broken")

        monkeypatch.setattr("gptbigcode_cpu.engine.engine.Engine.steps", failing)
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=10)
        with pytest.raises(RuntimeError, match="broken"):
            model.generate([[1]], streamer=streamer)
        assert next(streamer) == "a"
        with pytest.raises(RuntimeError, match="broken"):
            next(streamer)

    def test_mistake_reaches_the_reader_too(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        streamer = TextIteratorStreamer(tokenizer, timeout=10)
        with pytest.raises(InputError):
            model.generate([[10**9]], streamer=streamer)
        with pytest.raises(InputError):
            next(streamer)

    def test_own_streamers_get_the_kind_of_array_that_the_prompt_is(self, model: GPTBigCodeForCausalLM) -> None:
        torch = pytest.importorskip("torch")

        class Plain:  # no subclass of anything
            def __init__(self) -> None:
                self.values: list[Any] = []

            put = Recorder.put

            def end(self) -> None:
                pass

        for kind in (Recorder, Plain):
            for prompt, expected in ((torch.tensor([[1, 2]]), torch.Tensor), (np.array([[1, 2]]), np.ndarray)):
                streamer: Any = kind()
                output = model.generate(prompt, streamer=streamer, **OPTIONS)
                assert all(isinstance(value, expected) for value in streamer.values)
                assert [value.item() for value in streamer.values[1:]] == output[0, 2:].tolist()

    @pytest.mark.live
    def test_streamers_of_transformers_work(
        self,
        model: GPTBigCodeForCausalLM,
        tokenizer: GPTBigCodeTokenizer,
        checkpoint_dir: Path,
        expected: list[int],
    ) -> None:
        transformers = pytest.importorskip("transformers")
        theirs = transformers.TextIteratorStreamer(transformers.AutoTokenizer.from_pretrained(checkpoint_dir), timeout=60)
        model.generate(**tokenizer(PROMPT, return_tensors="np"), streamer=theirs, **OPTIONS)
        assert "".join(theirs) == tokenizer.decode(expected)


INTERRUPTED = """
import sys, time
from gptbigcode_cpu import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=2)
before = model.generate([[1, 2, 3]], max_new_tokens=8).tolist()
work = {
    "decode": lambda: model.generate([[5]], max_new_tokens=2000, eos_token_id=[]),
    "prefill": lambda: model([[5] * 2000]),
}[sys.argv[2]]
try:
    print("started", flush=True)
    while True:
        work()
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert model.generate([[1, 2, 3]], max_new_tokens=8).tolist() == before
print("usable", flush=True)
"""


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_ctrl_c_stops_at_once_and_leaves_the_model_usable(directory: Path, phase: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(directory), phase]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == "started\n", process.stderr.read()
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            # Not communicate(), which loses what readline() has read beyond the line.
            rest, errors = process.stdout.read(), process.stderr.read()
            process.wait(60)
        finally:
            process.kill()
    assert (rest, process.returncode) == ("usable\n", 0), errors


def test_threads_share_a_model(model: GPTBigCodeForCausalLM, expected: list[int]) -> None:
    outputs: dict[int, list[int]] = {}

    def run(number: int) -> None:
        outputs[number] = list(model.stream([number + 1] * 3, **OPTIONS))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {number: list(model.stream([number + 1] * 3, **OPTIONS)) for number in range(4)}


def test_chunks_do_not_change_the_tokens(model: GPTBigCodeForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = list(range(6, 306))
    whole = list(model.stream(prompt, **OPTIONS))
    monkeypatch.setattr(model.engine, "_chunk_tokens", 37)
    assert list(model.stream(prompt, **OPTIONS)) == whole
