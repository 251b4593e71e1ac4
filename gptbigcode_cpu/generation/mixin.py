"""The methods of a language model that write text."""

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

# The loops and what they need take milliseconds to import: they are loaded by the first call.
if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.engine.engine import Engine
    from gptbigcode_cpu.generation.language_model import PromptBatch


class GenerationMixin:
    """`generate` and its relatives, for a class that has the model.

    Attributes:
        config: The checkpoint's configuration.
        generation_config: Options that hold where a call says nothing else; may be changed.
        core: The compiled model.
    """

    config: GPTBigCodeConfig
    generation_config: GenerationConfig
    core: _core.Model

    @property
    def engine(self) -> Engine:
        """What all texts of this model are written by; several threads that call `generate` share its steps."""
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
        assistant_model: Any = None,
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
            inputs: Token ids ``[batch, tokens]``: list, numpy array or torch tensor; `input_ids` is another name. Without a
                prompt the bos token is one.
            generation_config: Options; what it does not set comes from the model's own.
            logits_processor: Functions of the tokens, int64 ``[rows, tokens]``, and the scores, float32 ``[rows, vocab]``, that
                return new scores. They are applied after those of the options and before those of sampling. Processors
                of transformers, and all functions if the prompt is a torch tensor, are given torch tensors.
            stopping_criteria: Functions of the tokens and the scores of every step (None without `output_scores`) that
                return which rows are finished.
            prefix_allowed_tokens_fn: Function of a prompt's number and the tokens ``[tokens]`` so far that returns the tokens
                allowed next.
            synced_gpus: Must be None or False.
            assistant_model: A smaller model with the same tokenizer that guesses tokens; changes the speed only.
            streamer: Receives the prompt and then every step's tokens: one of transformers torch tensors, as does one of the
                caller's own if the prompt is a torch tensor.
            negative_prompt_ids: For `guidance_scale`: a prompt for every row, or one for all.
            negative_prompt_attention_mask: Its mask, as `attention_mask`.
            input_ids: Another name for `inputs`.
            attention_mask: ``[batch, tokens]``, 1 for tokens and 0 for padding (also as bool or float), on either side. Without
                one, pad tokens are taken for padding if the pad token is no end token, as in transformers.
            token_type_ids: Ignored; some tokenizers produce them.
            past_key_values: What the rows have seen before: the first columns of the prompt, which is passed whole, are not
                run again. It grows by the rest of the prompt and by the new tokens but the last. An empty one is filled.
            cache: Another name for `past_key_values`.
            tokenizer: Needed by `stop_strings` and the next three.
            json_schema: Write JSON that follows this schema, a dict or its text; True: any JSON.
            regex: Write a text that matches this regular expression.
            grammar: Write a text of this grammar, in the format of Lark.
            **options: Fields of `GenerationConfig`; they win over everything else.

        Returns:
            int64 ``[batch * num_return_sequences, tokens]``, prompt included; rows that ended early are filled with the
            pad token. A torch tensor if the prompt is one, else a numpy array. With `return_dict_in_generate` an object with
            these as ``sequences``.

        Raises:
            InputError: Wrong shapes or ids, an unknown option or a bad value.
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
        from gptbigcode_cpu.generation.decoding import decode_beams, decode_rows

        with informed(streamer):
            refuse("synced_gpus", synced_gpus)
            config = self.resolve_options(generation_config, options)
            past = given_cache(past_key_values, cache)
            if prompt is None:
                prompt = self._first_token(config)
            batch = self.prompt_batch(prompt, attention_mask, self._padding_token(config), past)
            call = replace(call, negative_prompts=self._negative(negative_prompt_ids, negative_prompt_attention_mask, batch))
            # As in transformers, max_length counts padding; what must fit into the context are the tokens.
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
        """The new tokens of one sequence, one by one, an end token included; the same tokens as `generate`.

        Arguments and errors are those of `generate`; the errors are raised by the call, not by the first step. Closing the
        iterator stops the work.
        """
        from gptbigcode_cpu.generation.decoding import check_stream, stream_row

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
        """All options of a call: `options` over `config` over the model's own over the defaults; see `resolving.resolved`."""
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
        """The new tokens of every row, without padding on either side: what a pipeline needs.

        Args:
            prompts: int32 ``[t_i]``, from `prompt`.
            limits: New tokens per prompt at most.
            config: All options, from `resolve_options`.
            call: The other arguments.
            max_rows: Rows that run together; when one is finished, the next takes its place.

        Returns:
            Row ``i * num_return_sequences + j`` is sequence j of prompt i.
        """
        from gptbigcode_cpu.generation.decoding import continued

        return continued(self, prompts, limits, config, call or GenerateArguments(), max_rows)

    def compute_transition_scores(
        self, sequences: Any, scores: Sequence[Any], beam_indices: Any = None, normalize_logits: bool = False
    ) -> Any:
        """The scores of the tokens that were chosen, from the result of `generate`; see `transition_scores`."""
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
