"""Streamers: objects that receive each token from `generate`, as in transformers."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from queue import Queue
from typing import TYPE_CHECKING, Any, Protocol

from gptbigcode_cpu.common.arrays import to_int_array
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer
from gptbigcode_cpu.tokenizer.incremental import IncrementalDecoder

if TYPE_CHECKING:
    import asyncio


class Streamer(Protocol):
    """The methods that `generate` calls; the streamers of transformers have them as well."""

    @abstractmethod
    def put(self, value: Any) -> None:
        """Receive the prompt, int64 ``[batch, tokens]``, and then per step the new tokens, int64 ``[batch]``."""

    @abstractmethod
    def end(self) -> None:
        """Called once after the last token."""


class BaseStreamer(Streamer):
    """A base class for streamers that handle errors."""

    def fail(self, error: BaseException) -> None:
        """Called instead of `end` when `generate` fails, just before it raises `error`."""
        self.end()


class TextStreamer(BaseStreamer):
    """Writes the text to standard output as it is generated.

    Text appears as soon as its last character is complete.

    Args:
        tokenizer: The tokenizer of the model.
        skip_prompt: Leave the prompt out.
        skip_special_tokens: Leave special tokens out.
        clean_up_tokenization_spaces: Not applied, as in `GPTBigCodeTokenizer.decode`.
    """

    def __init__(
        self,
        tokenizer: GPTBigCodeTokenizer,
        skip_prompt: bool = False,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        self.skip_prompt = skip_prompt
        self._decoder = IncrementalDecoder(tokenizer, skip_special_tokens)
        self._prompt_comes_next = True

    def put(self, value: Any) -> None:
        tokens = to_int_array(value, "value")
        # A prompt is [batch, tokens]; a step is [batch].
        if len(tokens) > 1 and (tokens.ndim > 1 or not self._prompt_comes_next):
            raise InputError("a text streamer shows one sequence; generate one prompt with num_return_sequences=1")
        is_prompt, self._prompt_comes_next = self._prompt_comes_next, False
        if is_prompt and self.skip_prompt:
            return
        text = "".join(self._decoder.push(token) for token in tokens.reshape(-1).tolist())
        if text:
            self.on_finalized_text(text)

    def end(self) -> None:
        self._prompt_comes_next = True
        self.on_finalized_text(self._decoder.flush(), stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Receives each piece of text; override it to send the text elsewhere."""
        sys.stdout.write(text + "\n" if stream_end else text)
        sys.stdout.flush()


class TextIteratorStreamer(TextStreamer):
    """Passes the text to another thread, which iterates over it while `generate` runs.

    Args:
        tokenizer: The tokenizer of the model.
        skip_prompt: Leave the prompt out.
        timeout: Seconds that the iterator waits for a piece before it raises `queue.Empty`; None waits for ever.
        skip_special_tokens: Leave special tokens out.
        clean_up_tokenization_spaces: Not applied, as in `GPTBigCodeTokenizer.decode`.

    If `generate` fails, the iterator raises the same exception, so that the reader does not take a partial text for a whole
    one.
    """

    def __init__(
        self,
        tokenizer: GPTBigCodeTokenizer,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        super().__init__(
            tokenizer,
            skip_prompt,
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
        )
        self.timeout = timeout
        # A piece of text, an exception, or None at the end.
        self._queue: Queue[str | BaseException | None] = Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._queue.put(text)
        if stream_end:
            self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        self._prompt_comes_next = True
        self._decoder.flush()
        self._queue.put(error)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._queue.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        if isinstance(piece, BaseException):
            raise piece
        return piece


class AsyncTextIteratorStreamer(TextStreamer):
    """Passes the text to a coroutine, which iterates over it with ``async for`` while `generate` runs in a thread.

    Create it inside a coroutine: the text goes to the event loop that runs this coroutine.

    Args:
        tokenizer: The tokenizer of the model.
        skip_prompt: Leave the prompt out.
        timeout: Seconds that the iterator waits for a piece before it raises `TimeoutError`; None waits for ever.
        skip_special_tokens: Leave special tokens out.
        clean_up_tokenization_spaces: Not applied, as in `GPTBigCodeTokenizer.decode`.

    If `generate` fails, the iterator raises the same exception.

    Raises:
        InputError: No event loop is running in this thread.
    """

    def __init__(
        self,
        tokenizer: GPTBigCodeTokenizer,
        skip_prompt: bool = False,
        timeout: float | None = None,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> None:
        import asyncio

        super().__init__(
            tokenizer,
            skip_prompt,
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
        )
        self.timeout = timeout
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise InputError("create an AsyncTextIteratorStreamer inside a coroutine: it needs a running event loop") from error
        # A piece of text, an exception, or None at the end.
        self._queue: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._pass(text)
        if stream_end:
            self._pass(None)

    def fail(self, error: BaseException) -> None:
        self._prompt_comes_next = True
        self._decoder.flush()
        self._pass(error)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        import asyncio

        async with asyncio.timeout(self.timeout):
            piece = await self._queue.get()
        if piece is None:
            raise StopAsyncIteration
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def _pass(self, piece: str | BaseException | None) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)
