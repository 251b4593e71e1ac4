"""The methods of a language model that generate text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import is_torch, to_torch
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import ContextLengthError, InputError
from gptbigcode_cpu.generation.cache import DynamicCache, given_cache
from gptbigcode_cpu.generation.call import GenerateArguments
from gptbigcode_cpu.generation.config import GenerationConfig
from gptbigcode_cpu.generation.resolving import new_token_limit, resolved
from gptbigcode_cpu.generation.streamers import Streamer
from gptbigcode_cpu.generation.streaming import informed
from gptbigcode_cpu.generation.unsupported import refuse

# Importing the decoding code takes milliseconds, so the first call does it.
if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.engine.engine import Engine
    from gptbigcode_cpu.generation.language_model import LanguageModel, PromptBatch


class GenerationMixin:
    """Adds `generate`, `stream`, `score` and related methods to a model class.

    Attributes:
        config: The checkpoint's configuration.
        generation_config: Default options of every call; may be changed.
        core: The compiled model.
    """

    config: GPTBigCodeConfig
    generation_config: GenerationConfig
    core: _core.Model

    @property
    def engine(self) -> Engine:
        """The engine that runs all requests of this model. Threads that call `generate` at the same time share its steps."""
        raise NotImplementedError

    def prompt(self, token_ids: Sequence[int]) -> NDArray[np.int32]:
        """The checked form of one prompt, int32 ``[tokens]``."""
        raise NotImplementedError

    def prompt_batch(
        self, input_ids: Any, attention_mask: Any, padding_token: int | None = None, past: DynamicCache | None = None
    ) -> PromptBatch:
        """The checked form of several prompts."""
        raise NotImplementedError

    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: Sequence[Callable[..., Any]] | None = None,
        stopping_criteria: Sequence[Callable[..., Any]] | None = None,
        prefix_allowed_tokens_fn: Callable[[int, Any], Sequence[int]] | None = None,
        synced_gpus: bool | None = None,
        assistant_model: LanguageModel | None = None,
        streamer: Streamer | None = None,
        negative_prompt_ids: Any = None,
        negative_prompt_attention_mask: Any = None,
        *,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        past_key_values: DynamicCache | None = None,
        cache: DynamicCache | None = None,
        tokenizer: Any = None,
        json_schema: Any = None,
        regex: str | None = None,
        grammar: str | None = None,
        **options: Any,
    ) -> Any:
        """Continue every row of a batch.

        Args:
            inputs: Token ids ``[batch, tokens]``: list, numpy array or torch tensor; `input_ids` is another name. Default: a
                prompt of one token, the bos token.
            generation_config: Options. An option that it does not set comes from the model's `generation_config`.
            logits_processor: Functions of the tokens, int64 ``[rows, tokens]``, and the scores, float32 ``[rows, vocab]``, that
                return new scores. They run after the processors of the options and before those of sampling. Processors of
                transformers are given torch tensors, and so are all functions if the prompt is a torch tensor.
            stopping_criteria: Functions of the tokens and the scores of every step (None without `output_scores`) that
                return which rows are finished.
            prefix_allowed_tokens_fn: Function of a prompt's number and the tokens ``[tokens]`` so far that returns the tokens
                allowed next.
            synced_gpus: Must be None or False.
            assistant_model: A smaller model with the same tokenizer that drafts tokens; it changes the speed only.
            streamer: Receives the prompt and then the tokens of every step. Streamers of transformers are given torch tensors,
                and so are the caller's own streamers if the prompt is a torch tensor.
            negative_prompt_ids: The negative prompts of `guidance_scale`: one for each row, or one for all rows.
            negative_prompt_attention_mask: The mask of `negative_prompt_ids`, in the form of `attention_mask`.
            input_ids: Another name for `inputs`.
            attention_mask: ``[batch, tokens]``, 1 for tokens and 0 for padding (also as bool or float), on either side. Without
                a mask, pad tokens count as padding unless the pad token is an end token, as in transformers.
            token_type_ids: Ignored; some tokenizers produce them.
            past_key_values: The kv cache of the first columns of the prompt, which are not run again. The prompt is passed
                whole. The cache grows by the rest of the prompt and by all new tokens but the last. It may be empty.
            cache: Another name for `past_key_values`.
            tokenizer: Needed by `stop_strings`, `json_schema`, `regex` and `grammar`.
            json_schema: The output is JSON that follows this schema, a dict or its text; True: any JSON.
            regex: The output matches this regular expression.
            grammar: The output follows this grammar, in the format of Lark.
            **options: Fields of `GenerationConfig`; they win over everything else.

        Returns:
            int64 ``[batch * num_return_sequences, tokens]``, prompt included; rows that ended early are filled with the
            pad token. A torch tensor if the prompt is one, else a numpy array. With `return_dict_in_generate`, an object
            whose attribute ``sequences`` is this array.

        Raises:
            InputError: A shape or a token id is wrong, an option is unknown, or a value is bad.
            ContextLengthError: Prompt and requested tokens exceed ``n_positions``.
            MissingDependencyError: An argument needs a package that is not installed.
        """
        if inputs is not None and input_ids is not None:
            raise InputError("inputs and input_ids are two names for the prompt; pass one of them")
        prompt = inputs if inputs is not None else input_ids
        call = GenerateArguments(
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            assistant_model=assistant_model,
            tokenizer=tokenizer,
            json_schema=json_schema,
            regex=regex,
            grammar=grammar,
            torch=is_torch(prompt),
        )
        from gptbigcode_cpu.engine.request import Record
        from gptbigcode_cpu.generation.results import decode_beams, decode_rows

        with informed(streamer):
            refuse("synced_gpus", synced_gpus)
            config = self.resolve_options(generation_config, options)
            past = given_cache(past_key_values, cache)
            if prompt is None:
                prompt = self._first_token(config)
            batch = self.prompt_batch(prompt, attention_mask, self._padding_token(config), past)
            call = replace(call, negative_prompts=self._negative(negative_prompt_ids, negative_prompt_attention_mask, batch))
            # As in transformers, max_length counts padding. Only the tokens must fit into the context.
            limit = self.new_token_limit(config, call, batch.ids.shape[1], max(map(len, batch.rows)))
            self._check_negative(call, limit)
            record = Record() if config.return_dict_in_generate and (config.output_scores or config.output_logits) else None
            decode = decode_rows if config.num_beams == 1 else decode_beams
            result = decode(self, batch, limit, config, call, record=record, streamer=streamer, past=past)
        if not call.torch:
            return result if config.return_dict_in_generate else result["sequences"]
        for name, value in result.items():
            if isinstance(value, tuple):
                setattr(result, name, tuple(map(to_torch, value)))
            elif isinstance(value, np.ndarray):
                setattr(result, name, to_torch(value))
        return result if config.return_dict_in_generate else result["sequences"]

    def stream(
        self,
        input_ids: Any,
        generation_config: GenerationConfig | None = None,
        *,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        past_key_values: DynamicCache | None = None,
        cache: DynamicCache | None = None,
        **options: Any,
    ) -> Iterator[int]:
        """Yield the new tokens of one sequence one by one, an end token included. They are the same as those of `generate`.

        Takes the arguments and raises the errors of `generate`. Errors are raised by the call, not by the first step. Closing
        the iterator stops the work.
        """
        from gptbigcode_cpu.generation.results import check_stream, stream_row

        call, options = GenerateArguments.taken_from(options)
        call = replace(call, torch=is_torch(input_ids))
        check_stream(None, call)
        config = self.resolve_options(generation_config, options)
        past = given_cache(past_key_values, cache)
        batch = self.prompt_batch(input_ids, attention_mask, self._padding_token(config), past)
        if len(batch.rows) != 1:
            raise InputError("stream writes one sequence; use generate for several")
        check_stream(config, call)
        limit = self.new_token_limit(config, call, batch.ids.shape[1], len(batch.rows[0]))
        return stream_row(self, batch, limit, config, call, past)

    def resolve_options(self, config: Any, options: Mapping[str, Any]) -> GenerationConfig:
        """All options of a call. `options` win over `config`, which wins over the model's; see `resolving.resolved`."""
        return resolved(self.generation_config, config, options, self.config.vocab_size)

    def new_token_limit(self, config: GenerationConfig, arguments: GenerateArguments, width: int, longest: int) -> int:
        """How many tokens a call may generate; see `resolving.new_token_limit`."""
        return new_token_limit(self.config, config, width, longest, arguments.max_length)

    def continuations(
        self,
        prompts: Sequence[NDArray[np.int32]],
        limits: Sequence[int],
        config: GenerationConfig,
        call: GenerateArguments | None = None,
        max_rows: int | None = None,
    ) -> list[list[int]]:
        """The new tokens of every row, without padding; used by the pipelines.

        Args:
            prompts: int32 ``[t_i]``, from `prompt`.
            limits: Maximum number of new tokens for each prompt.
            config: All options, from `resolve_options`.
            call: The other arguments.
            max_rows: Maximum number of rows that run at a time; when a row is finished, the next one starts. Default: no limit.

        Returns:
            Row ``i * num_return_sequences + j`` is sequence j of prompt i.
        """
        from gptbigcode_cpu.generation.results import continued

        return continued(self, prompts, limits, config, call or GenerateArguments(), max_rows)

    def compute_transition_scores(
        self, sequences: Any, scores: Sequence[Any], beam_indices: Any = None, normalize_logits: bool = False
    ) -> Any:
        """The scores of the chosen tokens, from a result of `generate`; see `scoring.transition_scores`."""
        from gptbigcode_cpu.generation.scoring import transition_scores

        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    def score(
        self,
        texts: Any,
        tokenizer: Any = None,
        *,
        top_logprobs: int = 0,
        prefix_token_id: int | None = None,
        add_special_tokens: bool = True,
    ) -> Any:
        """Log-probabilities of the tokens of given texts, for evaluation; see `scoring.score`."""
        from gptbigcode_cpu.generation.scoring import score

        return score(self, texts, tokenizer, top_logprobs, prefix_token_id, add_special_tokens)

    def _negative(self, ids: Any, mask: Any, batch: PromptBatch) -> list[NDArray[np.int32]] | None:
        if ids is None:
            return None
        rows = self.prompt_batch(ids, mask).rows
        if len(rows) not in (1, len(batch.rows)):
            raise InputError(f"negative_prompt_ids has {len(rows)} rows and the prompt {len(batch.rows)}; pass as many, or one")
        return rows if len(rows) == len(batch.rows) else rows * len(batch.rows)

    def _check_negative(self, call: GenerateArguments, limit: int) -> None:
        longest = max((len(prompt) for prompt in call.negative_prompts or ()), default=0)
        if longest + limit - 1 > self.config.n_positions:
            raise ContextLengthError(
                f"negative_prompt_ids has {longest} tokens; with {limit} new ones they exceed the model's "
                f"{self.config.n_positions} positions"
            )

    def _first_token(self, config: GenerationConfig) -> list[list[int]]:
        if config.bos_token_id is None:
            raise InputError("there is no prompt and no bos_token_id to begin with; pass inputs")
        return [[config.bos_token_id]]

    def _padding_token(self, config: GenerationConfig) -> int | None:
        return None if config.pad_token_id in config.eos_token_ids else config.pad_token_id
