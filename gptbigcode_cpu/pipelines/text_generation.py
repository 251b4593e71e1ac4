"""The text-generation pipeline: completions, chats and fill-in-the-middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.common.suggest import check_choice
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.generation import GenerateArguments, GenerationConfig, by_full_names, given_config, merged_options
from gptbigcode_cpu.pipelines.base import Pipeline, checked_batch_size, is_lazy
from gptbigcode_cpu.tokenizer.chat import extended, is_message
from gptbigcode_cpu.tokenizer.incremental import IncrementalDecoder

# The defaults of transformers' text-generation pipeline, for options set neither by the caller nor by the model's
# generation_config.json.
DEFAULTS: dict[str, Any] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}


_SWITCHES = (
    "return_full_text",
    "return_text",
    "return_tensors",
    "continue_final_message",
    "add_special_tokens",
    "skip_special_tokens",
    "clean_up_tokenization_spaces",
)


@dataclass(frozen=True, kw_only=True)
class TextGenerationOptions:
    """Options of the text-generation pipeline that are not options of `GenerationConfig`.

    Attributes:
        return_full_text: Whether each result includes its prompt, or for a chat its messages; default: True.
        return_text: True has no effect, since text is the default. False is only accepted with `return_tensors`.
        return_tensors: Return ``generated_token_ids``, prompt included, instead of texts.
        batch_size: Number of prompts that run together. Larger batches are faster and need more memory; the results are the
            same.
        prefix: A text that is put before every prompt and is not returned.
        handle_long_generation: ``"hole"``: cut the beginning of prompts that leave no room for the new tokens.
        continue_final_message: Continue the last message of a chat; default: only if it is the assistant's.
        add_special_tokens: As in a call of the tokenizer.
        truncation: As in a call of the tokenizer; True cuts prompts to `max_length` if it is given, or else to the
            tokenizer's ``model_max_length``.
        padding: Has no effect, because prompts of different lengths run together without padding.
        skip_special_tokens: Leave special tokens out of the text (the default).
        clean_up_tokenization_spaces: As in `decode`.
        tokenizer_encode_kwargs: Further arguments for the tokenizer, or for its `apply_chat_template`.
        tools: JSON schemas of functions, for chat templates that use them.
        documents: Documents, for chat templates that use them.
    """

    return_full_text: bool | None = None
    return_text: bool | None = None
    return_tensors: bool | None = None
    batch_size: int = 1
    prefix: str = ""
    handle_long_generation: str | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    truncation: Any = None
    padding: Any = None
    skip_special_tokens: bool | None = None
    clean_up_tokenization_spaces: bool | None = None
    tokenizer_encode_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, str]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", checked_batch_size(self.batch_size))
        for name in _SWITCHES:
            if (value := getattr(self, name)) is not None and not isinstance(value, (bool, np.bool_)):
                raise InputError(f"{name} must be True or False, not {shown(value)}")
        if not isinstance(self.prefix, str):
            raise InputError(f"prefix must be a string, not {shown(self.prefix)}")
        if not isinstance(self.tokenizer_encode_kwargs, Mapping) or not all(
            isinstance(key, str) for key in self.tokenizer_encode_kwargs
        ):
            raise InputError(f"tokenizer_encode_kwargs must be a dict, not {shown(self.tokenizer_encode_kwargs)}")
        for name in ("tools", "documents"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence)):
                raise InputError(f"{name} must be a list of dicts, not {shown(value)}")
        check_choice("handle_long_generation", self.handle_long_generation, (None, "hole"))
        check_choice("padding", self.padding, (None, True, False, "longest", "do_not_pad"))
        if self.return_tensors and (self.return_text or self.return_full_text is not None):
            raise InputError("return_tensors returns no text, so it cannot be used with return_text or return_full_text")
        if self.return_text is not None and self.return_full_text is not None:
            raise InputError("return_text and return_full_text exclude each other")
        if self.return_text is False and not self.return_tensors:
            raise InputError("return_text=False needs return_tensors=True: nothing else would be returned")


@dataclass(frozen=True)
class _Prompt:
    """One prompt or chat, as given by the caller and as token ids."""

    given: Any
    ids: list[int]
    prefix_length: int
    continues: bool
    begin: list[int]  # the bos token, if the prompt is empty; as in transformers, it is then part of the text


@dataclass(frozen=True)
class _Plan:
    """The merged arguments of a call: the pipeline's own options, generation options, other arguments, and lengths."""

    own: TextGenerationOptions
    config: GenerationConfig
    call: GenerateArguments
    has_length: bool
    cut: int | None  # the length to which prompts are truncated


OWN_OPTIONS = frozenset(item.name for item in fields(TextGenerationOptions))


class TextGenerationPipeline(Pipeline):
    """Completes texts, answers in chats, and fills gaps in texts.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        **options: Fields of `TextGenerationOptions` and of `GenerationConfig` for all calls.
    """

    task: ClassVar[str] = "text-generation"
    model_class: ClassVar[str] = "AutoModelForCausalLM"

    @classmethod
    def check_names(cls, options: Mapping[str, Any]) -> None:
        """Refuse unknown options and bad values.

        Raises:
            InputError: An option is unknown, for which the message suggests the nearest known name, or a value is bad.
        """
        TextGenerationOptions(**{name: value for name, value in options.items() if name in OWN_OPTIONS})
        rest = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
        _, generation = GenerateArguments.taken_from(rest)
        given_config(generation.pop("generation_config", None))
        GenerationConfig(**generation)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        self._plan({}, options)

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """Complete one prompt or several, or answer in one chat or several.

        Args:
            text_inputs: A text, a chat (a list of ``{"role": ..., "content": ...}``), or a list, an iterator or a data set of
                texts or chats.
            **options: Fields of `TextGenerationOptions` and of `GenerationConfig`, and `generate`'s `json_schema`, `regex`,
                `grammar`, `logits_processor`, `stopping_criteria`, `prefix_allowed_tokens_fn`, `assistant_model` and
                `streamer`. A `generation_config` replaces the generation options that the pipeline was made with.
                ``stop_sequence`` and ``stop`` are other names of `stop_strings`.

        Returns:
            ``[{"generated_text": ...}]``, a list of `num_return_sequences` results; for several prompts, a list of these. For a
            chat, ``generated_text`` is the list of its messages, answer included. For an iterator or a data set, an iterator.

        Raises:
            InputError: An input is neither a text nor a chat, an option is unknown, or a value is bad.
            ContextLengthError: Prompt and requested tokens exceed the context.
            TokenizerError: An input is a chat, but the tokenizer has no chat template.
        """
        options.pop("num_workers", None)
        if is_lazy(text_inputs):
            return self._one_by_one(text_inputs, options)
        inputs, several = _inputs(text_inputs)
        plan = self._plan(self.options, options)
        own, config, call = plan.own, plan.config, plan.call
        prompts = [self._prompt(item, plan) for item in inputs]
        ids = [self.model.prompt(prompt.ids) for prompt in prompts]
        limits = [self._limit(plan, prompt) for prompt in prompts]
        copies = config.num_return_sequences or 1
        rows = self.model.continuations(ids, limits, config, call, own.batch_size * copies)
        results = [
            [self._record(prompt, row, own) for row in rows[i * copies : (i + 1) * copies]] for i, prompt in enumerate(prompts)
        ]
        return results if several else results[0]

    def stream(self, text: Any, **options: Any) -> Iterator[str]:
        """Complete one prompt, or answer in one chat, and yield the new text in pieces of whole characters.

        Takes the options and raises the errors of `__call__`. Errors are raised at once. Closing the iterator stops the work.
        """
        inputs, several = _inputs(text)
        if several:
            raise InputError("stream takes one text or chat; call the pipeline for several")
        plan = self._plan(self.options, options)
        from gptbigcode_cpu.generation.results import check_stream, written_steps

        check_stream(plan.config, plan.call)
        prompt = self._prompt(inputs[0], plan)
        ids, limit = self.model.prompt(prompt.ids), self._limit(plan, prompt)
        decoder = IncrementalDecoder(self.tokenizer, plan.own.skip_special_tokens is not False)
        steps = written_steps(self.model, ids, limit, plan.config, plan.call)  # errors are raised here

        def pieces() -> Iterator[str]:
            for tokens in chain([prompt.begin], (step[0] for step in steps)):
                for piece in map(decoder.push, tokens):
                    if piece:
                        yield piece
            if rest := decoder.flush():
                yield rest

        return pieces()

    def fill(self, prefix: str, suffix: str, **options: Any) -> str:
        """Generate the text between `prefix` and `suffix`. Takes the arguments of `GPTBigCodeForCausalLM.fill`."""
        return "".join(self.stream_fill(prefix, suffix, **options))

    def stream_fill(self, prefix: str, suffix: str, **options: Any) -> Iterator[str]:
        """Like `fill`, but yields the new text in pieces."""
        shared = {name: value for name, value in self.options.items() if name not in OWN_OPTIONS}
        pieces: Iterator[str] = self.model.stream_fill(
            prefix, suffix, tokenizer=self.tokenizer, **merged_options(by_full_names(shared), by_full_names(options))
        )
        return pieces

    def _plan(self, shared: Mapping[str, Any], options: Mapping[str, Any]) -> _Plan:
        """Merge and check the arguments of a call.

        Args:
            shared: Options for all calls.
            options: Options of this call; they win.
        """
        shared, options = by_full_names(shared), by_full_names(options)
        given = options.pop("generation_config", None)
        if given is not None:  # it replaces the generation options of the pipeline
            shared = {name: value for name, value in shared.items() if name in OWN_OPTIONS}
        given = given_config(shared.pop("generation_config", None) if given is None else given)
        merged = merged_options(shared, options)
        own = TextGenerationOptions(**{name: value for name, value in merged.items() if name in OWN_OPTIONS})
        rest = {name: value for name, value in merged.items() if name not in OWN_OPTIONS}
        call, generation = GenerateArguments.taken_from({"tokenizer": self.tokenizer, **rest})
        sources = [self.model.generation_config] if given is None else [self.model.generation_config, given]
        said = {name: value for source in sources for name, value in source.to_diff_dict().items()} | generation
        added = {name: value for name, value in DEFAULTS.items() if name not in said}
        if "max_length" in said:
            added.pop("max_new_tokens", None)
        if plain({**said, **added}["do_sample"]) is not True:
            added.pop("temperature", None)
        has_length = said.get("max_new_tokens") is not None or said.get("max_length") is not None
        config = self.model.resolve_options(given, added | generation)
        if "eos_token_id" not in generation and (given is None or "eos_token_id" not in given.to_diff_dict()):
            config = self._with_ends_of_answers(config, own)
        cuts = own.truncation not in (None, False, "do_not_truncate") and generation.get("max_length") is not None
        from gptbigcode_cpu.generation.requests import check_assistant

        check_assistant(self.model, call.assistant_model)
        return _Plan(own, config, call, has_length, config.max_length if cuts else None)

    def _with_ends_of_answers(self, config: GenerationConfig, own: TextGenerationOptions) -> GenerationConfig:
        """Add to `eos_token_id` the tokens that end an answer in the chat format, if the model's options lack them."""
        ends = self.tokenizer.end_of_answer_ids(own.tokenizer_encode_kwargs.get("chat_template"))
        if set(ends) <= {*config.eos_token_ids}:
            return config
        return config.updated({"eos_token_id": [*config.eos_token_ids, *ends]})

    def _prompt(self, item: Any, plan: _Plan) -> _Prompt:
        own, config = plan.own, plan.config
        given = {"truncation": own.truncation, "max_length": plan.cut, **own.tokenizer_encode_kwargs}
        arguments = {name: value for name, value in given.items() if value is not None}
        if isinstance(item, str):
            if own.add_special_tokens is not None:
                arguments["add_special_tokens"] = own.add_special_tokens
            ids = self.tokenizer(own.prefix + item, **arguments)["input_ids"]
            prefix_length = len(self.tokenizer.encode(own.prefix, add_special_tokens=False)) if own.prefix else 0
            continues = False
        else:
            asked = own.continue_final_message
            continues = item[-1]["role"] == "assistant" if asked is None else asked
            ids = self.tokenizer.apply_chat_template(
                item,
                tools=own.tools,
                documents=own.documents,
                add_generation_prompt=not continues,
                continue_final_message=continues,
                return_dict=False,
                **arguments,
            )
            prefix_length = 0
        begin = [] if ids or config.bos_token_id is None else [config.bos_token_id]
        ids = ids or begin
        if own.handle_long_generation == "hole":
            ids = self._with_hole(ids, config)
        return _Prompt(item, ids, prefix_length, continues, begin)

    def _with_hole(self, ids: list[int], config: GenerationConfig) -> list[int]:
        new = config.max_new_tokens
        if new is None:
            new = (config.max_length or 0) - len(ids)
            if new <= 0:
                raise InputError("handle_long_generation='hole' needs max_new_tokens, or a max_length above the prompt")
        context = min(self.tokenizer.model_max_length, self.model.config.n_positions)
        if new >= context:
            raise ContextLengthError(f"{new} new tokens fill all {context} positions; ask for fewer")
        return ids[-(context - new) :]

    def _limit(self, plan: _Plan, prompt: _Prompt) -> int:
        length, config, criterion = len(prompt.ids), plan.config, plan.call.max_length
        if not plan.has_length and criterion is None:
            room = max(1, self.model.config.n_positions + 1 - length)
            config = config.updated({"max_new_tokens": min(DEFAULTS["max_new_tokens"], room)})
        limit: int = self.model.new_token_limit(config, plan.call, length - prompt.prefix_length, length)
        return limit

    def _record(self, prompt: _Prompt, new_ids: list[int], own: TextGenerationOptions) -> dict[str, Any]:
        if own.return_tensors:
            return {"generated_token_ids": [*prompt.ids, *new_ids]}
        new = self.tokenizer.decode(
            [*prompt.begin, *new_ids], own.skip_special_tokens is not False, own.clean_up_tokenization_spaces
        )
        if own.return_full_text is False:
            return {"generated_text": new}
        if isinstance(prompt.given, str):
            return {"generated_text": prompt.given + new}
        messages = [dict(message) for message in prompt.given]
        if prompt.continues:
            messages[-1]["content"] = extended(messages[-1]["content"], new)
        else:
            messages.append({"role": "assistant", "content": new})
        return {"generated_text": messages}


def _inputs(text_inputs: object) -> tuple[list[Any], bool]:
    """The texts or chats as a list, and whether the caller passed several."""
    if isinstance(text_inputs, str):
        return [text_inputs], False
    if isinstance(text_inputs, (bytes, Mapping)) or not isinstance(text_inputs, Iterable):
        raise InputError(f"text_inputs must be a string or several, or a chat, not {type(text_inputs).__name__}")
    inputs = list(text_inputs)
    if inputs and is_message(inputs[0]):
        inputs, several = [inputs], False
    else:
        several = True
    for item in inputs:
        if not isinstance(item, str) and not (isinstance(item, (list, tuple)) and item and all(map(is_message, item))):
            raise InputError(f"text_inputs must be a string or several, or chats of 'role' and 'content'; not {shown(item)}")
    return inputs, several
