"""Text in, text out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from . import fim
from .errors import InputError
from .generation import Call, GenerationConfig, merged_options, token_steps
from .incremental import IncrementalDecoder
from .modeling import AutoModelForCausalLM, GPTBigCodeForCausalLM
from .tokenizer import AutoTokenizer, GPTBigCodeTokenizer

TASK = "text-generation"
# What transformers' text-generation pipeline uses where neither the caller nor the model's generation_config.json decides.
DEFAULTS: dict[str, Any] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}
# The middle of a given text is less open than its continuation: the most probable one is wanted.
FILL_DEFAULTS: dict[str, Any] = {"max_new_tokens": 256, "do_sample": False}


def pipeline(
    task: str = TASK,
    model: str | Path | GPTBigCodeForCausalLM = "demo",
    tokenizer: str | Path | GPTBigCodeTokenizer | None = None,
    *,
    dtype: Any = "auto",
    num_threads: int | None = None,
    prefill_threads: int | None = None,
    kv_dtype: Any = "auto",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> TextGenerationPipeline:
    """Load a model and its tokenizer.

    Args:
        task: ``"text-generation"``.
        model: A model, or what `from_pretrained` takes.
        tokenizer: A tokenizer, or what `from_pretrained` takes; default: the model's own.
        dtype: As in `from_pretrained`, as are the arguments up to `local_files_only`.
        **options: Fields of `GenerationConfig` for all calls.

    Raises:
        InputError: An unknown task or option, a model object without a tokenizer, or one with `dtype`, `num_threads` or
            `prefill_threads` or `kv_dtype`, which it has already.
    """
    if task != TASK:
        raise InputError(f"unknown task {task!r}; this package offers {TASK!r}")
    threads_given = num_threads is not None or prefill_threads is not None
    if isinstance(model, GPTBigCodeForCausalLM) and (threads_given or str(dtype) != "auto" or str(kv_dtype) != "auto"):
        raise InputError(
            "dtype, num_threads, prefill_threads and kv_dtype belong to from_pretrained; a model object has them already"
        )
    source: dict[str, Any] = {"revision": revision, "token": token}
    source |= {"cache_dir": cache_dir, "local_files_only": local_files_only}
    if tokenizer is None:
        if isinstance(model, GPTBigCodeForCausalLM):
            raise InputError("pass tokenizer= along with a model object")
        tokenizer = model
    if not isinstance(tokenizer, GPTBigCodeTokenizer):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, **source)
    if not isinstance(model, GPTBigCodeForCausalLM):
        model = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, num_threads=num_threads, prefill_threads=prefill_threads, kv_dtype=kv_dtype, **source
        )
    return TextGenerationPipeline(model, tokenizer, **options)


class TextGenerationPipeline:
    """Completes texts, and fills gaps in them.

    As in transformers, completion samples with ``temperature=0.7`` and writes up to 256 tokens unless the call or the
    model's ``generation_config.json`` says otherwise; ``do_sample=False`` gives the same text every time. The default of 256
    shrinks to what the context has room for; a requested ``max_new_tokens`` does not.
    """

    def __init__(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer, **options: Any) -> None:
        """
        Args:
            model: The model.
            tokenizer: Its tokenizer.
            **options: Fields of `GenerationConfig` for all calls.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.options = options
        model.resolve_options(None, Call.taken_from(options)[1])  # so that a mistake shows here

    @overload
    def __call__(
        self, text_inputs: str, *, return_full_text: bool = ..., batch_size: int = ..., **options: Any
    ) -> list[dict[str, str]]: ...

    @overload
    def __call__(
        self, text_inputs: Sequence[str], *, return_full_text: bool = ..., batch_size: int = ..., **options: Any
    ) -> list[list[dict[str, str]]]: ...

    def __call__(
        self, text_inputs: str | Sequence[str], *, return_full_text: bool = True, batch_size: int = 1, **options: Any
    ) -> list[dict[str, str]] | list[list[dict[str, str]]]:
        """Complete one prompt or several.

        Args:
            text_inputs: The prompt or prompts.
            return_full_text: Begin each text with its prompt.
            batch_size: Prompts that run together; faster, needs more memory, changes no result.
            **options: Fields of `GenerationConfig`, and `generate`'s `json_schema`, `regex`, `grammar`, `logits_processor`,
                `stopping_criteria`, `prefix_allowed_tokens_fn` and `assistant_model`.

        Returns:
            ``[{"generated_text": ...}]`` with `num_return_sequences` texts, or for several prompts a list of these.

        Raises:
            InputError: An empty prompt, something that is no text, an unknown option or a bad value.
            ContextLengthError: Prompt and requested tokens exceed the context.
        """
        texts = _texts(text_inputs)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size must be a positive integer, not {batch_size!r}")
        call, options = self._call(options)
        config = self._config(options, DEFAULTS)
        prompts = [self.model.prompt(self.tokenizer.encode(text)) for text in texts]
        limits = [self._limit(config, options, len(prompt)) for prompt in prompts]
        copies = config.num_return_sequences or 1
        rows = self.model.continuations(prompts, limits, config, call, batch_size * copies)
        outputs = [self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        results: list[list[dict[str, str]]] = []
        for i, text in enumerate(texts):
            head = text if return_full_text else ""
            results.append([{"generated_text": head + tail} for tail in outputs[i * copies : (i + 1) * copies]])
        return results[0] if isinstance(text_inputs, str) else results

    def stream(self, text: str, **options: Any) -> Iterator[str]:
        """Complete one prompt; yields the new text piece by piece, never a part of a character.

        Closing the iterator stops the work. Options and errors are those of a call; the errors are raised at once.
        """
        return self._stream(self.tokenizer.encode(text), options, DEFAULTS, frozenset())

    def fill(self, prefix: str, suffix: str, *, order: fim.Order = "psm", **options: Any) -> str:
        """Write what belongs between `prefix` and `suffix`.

        Args:
            prefix: The text before the cursor.
            suffix: The text after it.
            order: Order of the parts in the prompt, see `fim.build_prompt`.
            **options: Fields of `GenerationConfig`; the default is greedy and up to 256 tokens.

        Raises:
            TokenizerError: The model was not trained to fill in the middle.
            InputError: An unknown order or option, or a bad value.
            ContextLengthError: The text and the requested tokens exceed the context.
        """
        return "".join(self.stream_fill(prefix, suffix, order=order, **options))

    def stream_fill(self, prefix: str, suffix: str, *, order: fim.Order = "psm", **options: Any) -> Iterator[str]:
        """`fill`, piece by piece."""
        prompt = fim.build_prompt(self.tokenizer, prefix, suffix, order=order)
        return self._stream(prompt, options, FILL_DEFAULTS, frozenset(fim.stop_token_ids(self.tokenizer)))

    def _stream(
        self, token_ids: Sequence[int], options: Mapping[str, Any], defaults: Mapping[str, Any], stops: frozenset[int]
    ) -> Iterator[str]:
        call, options = self._call(options)
        config = self._config(options, defaults)
        if config.num_return_sequences != 1 or config.num_beams != 1:
            raise InputError("a stream is one text; call the pipeline for several and for beams")
        config = config.updated({"eos_token_id": sorted({*config.eos_token_ids, *stops})})
        prompt = self.model.prompt(token_ids)
        limit = self._limit(config, options, len(prompt))
        decoder = IncrementalDecoder(self.tokenizer)

        def pieces() -> Iterator[str]:
            steps = token_steps(self.model.core, [prompt], [limit], config, call)
            for token in itertools.takewhile(lambda token: token not in stops, (token for step in steps for token in step[0])):
                if piece := decoder.push(token):
                    yield piece
            if rest := decoder.flush():
                yield rest

        return pieces()

    def _call(self, options: Mapping[str, Any]) -> tuple[Call, dict[str, Any]]:
        """The arguments that are no options, with this tokenizer, and the options of this call."""
        call, _ = Call.taken_from({"tokenizer": self.tokenizer, **self.options, **options})
        return call, Call.taken_from(options)[1]

    def _given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What the caller or the model decided, without any defaults."""
        explicit = {name: value for name, value in options.items() if name != "generation_config"}
        config = options.get("generation_config")
        if config is None:
            config = GenerationConfig()
        elif not isinstance(config, GenerationConfig):
            raise InputError(f"generation_config must be a GenerationConfig, not {type(config).__name__}")
        return merged_options(
            self.model.generation_config.set_options(), Call.taken_from(self.options)[1], config.set_options(), explicit
        )

    def _config(self, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> GenerationConfig:
        given = self._given(options)
        merged = {**defaults, **given}
        if "max_length" in given and "max_new_tokens" not in given:
            del merged["max_new_tokens"]
        if not merged["do_sample"] and "temperature" not in given:
            merged.pop("temperature", None)
        return self.model.resolve_options(None, merged)

    def _limit(self, config: GenerationConfig, options: Mapping[str, Any], prompt_length: int) -> int:
        given = self._given(options)
        if given.get("max_new_tokens") is None and given.get("max_length") is None:
            room = max(1, self.model.config.n_positions - prompt_length)
            config = config.updated({"max_new_tokens": min(DEFAULTS["max_new_tokens"], room)})
        return self.model.new_token_limit(config, prompt_length, prompt_length)


def _texts(text_inputs: object) -> list[str]:
    if isinstance(text_inputs, str):
        return [text_inputs]
    if isinstance(text_inputs, bytes) or not isinstance(text_inputs, Iterable):
        raise InputError(f"text_inputs must be a string or several, not {type(text_inputs).__name__}")
    return list(text_inputs)
