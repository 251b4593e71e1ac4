"""The model without a head and the language model, with the interfaces of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.file_names import GENERATION_CONFIG
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import ConfigError, InputError
from gptbigcode_cpu.fim import FillMixin
from gptbigcode_cpu.generation import GenerationConfig, GenerationMixin, given_config, read_generation_config
from gptbigcode_cpu.generation.cache import DynamicCache
from gptbigcode_cpu.generation.language_model import PromptBatch
from gptbigcode_cpu.models.base import PreTrainedModel
from gptbigcode_cpu.models.forward import Arguments, ForwardCall
from gptbigcode_cpu.models.inputs import read_prompts
from gptbigcode_cpu.models.loss import next_token_loss
from gptbigcode_cpu.models.outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithCrossAttentions

if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.engine.engine import Engine
    from gptbigcode_cpu.store.weights import PackedModel


class GPTBigCodeModel(PreTrainedModel):
    """A GPTBigCode model without a head. It computes hidden states from token ids, and loads from any GPTBigCode checkpoint."""

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: DynamicCache | None = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        *,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Run the model.

        Padding is not computed and changes no bit of the result: each row gives the same values as when it runs alone, and
        zeros at padding. Without `position_ids`, positions count tokens only, on whichever side the padding is. In contrast,
        transformers' `forward` counts padding on the left as well, unless it is given the `position_ids` of its `generate`.

        Args:
            input_ids: Token ids ``[batch, tokens]``: list, numpy array or torch tensor.
            past_key_values: The kv cache of earlier tokens; it grows by the tokens of the call. Also called ``cache``.
            attention_mask: ``[batch, past + tokens]``, 0 (or False) for padding, on either side of the new tokens, or anywhere
                with `position_ids`. Default: all new columns are tokens; earlier columns keep their mask.
            token_type_ids: Token ids ``[batch, tokens]`` whose embeddings are *added* to those of the tokens, as in
                transformers. GPTBigCode models are not trained with them.
            position_ids: ``[batch, tokens]`` or ``[1, tokens]``: rows of the position embedding. They do not affect which
                tokens a token attends to: that depends on the order of the tokens only.
            inputs_embeds: float ``[batch, tokens, n_embd]`` instead of `input_ids`; see `get_input_embeddings`.
            use_cache: Return the kv cache, for further calls; default: ``config.use_cache``. A cache that is passed is always
                returned.
            output_attentions: Return the attention probabilities, which needs much time and memory. They are computed in
                float32 from queries without rounding and keys as stored. Default: ``config.output_attentions``.
            output_hidden_states: Return the output of every block; default: ``config.output_hidden_states``.
            return_dict: False: return a tuple; default: ``config.return_dict``.
            **unknown: Arguments of transformers that are not supported here; they must be None.

        Returns:
            The hidden states, and the other values that were asked for: torch tensors if the input is one, else numpy arrays.

        Raises:
            InputError: A shape, type or value is wrong, an id is outside the vocabulary, a row has no tokens, there is padding
                between tokens without `position_ids`, the cache is of another model or batch, or an argument is unknown.
            ContextLengthError: A row is longer than ``n_positions``.
        """
        arguments = Arguments(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds,
            use_cache, output_attentions, output_hidden_states, return_dict,
        )  # fmt: skip
        call = ForwardCall(self.config, self.core, arguments, unknown)
        result = call.run(last_hidden_state=True)
        return call.output(
            BaseModelOutputWithPastAndCrossAttentions(
                last_hidden_state=result.last_hidden_state,
                past_key_values=result.past_key_values,
                hidden_states=result.hidden_states,
                attentions=result.attentions,
                cross_attentions=None if result.attentions is None else (),
            )
        )

    __call__ = forward


class GPTBigCodeForCausalLM(PreTrainedModel, GenerationMixin, FillMixin):
    """A GPTBigCode language model.

    Attributes:
        transformer: The model without the head.
    """

    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    def __init__(
        self, packed: PackedModel, core: _core.Model | None = None, generation_config: GenerationConfig | None = None
    ) -> None:
        """
        Args:
            packed: A converted model, opened.
            core: The core's model that computes with it; default: a new one.
            generation_config: Default options of `generate`.
        """
        super().__init__(packed, core)
        self.transformer = GPTBigCodeModel(packed, self.core)
        self._generation_config = generation_config or GenerationConfig()

    @property
    def engine(self) -> Engine:
        """The engine that runs all requests of this model. Threads that call `generate` at the same time share its steps."""
        engine: Engine | None = vars(self).get("_engine")
        if engine is None:
            from gptbigcode_cpu.engine.engine import Engine

            engine = vars(self).setdefault("_engine", Engine(self.core))  # of several threads, the first one decides
        return engine

    @property
    def generation_config(self) -> GenerationConfig:
        """Default options of every call. It may be changed or assigned; a `GenerationConfig` of transformers works as well."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        given = given_config(value)
        if given is None:
            raise InputError("generation_config must be a GenerationConfig, not None; use GenerationConfig() to set no option")
        self._generation_config = given

    @classmethod
    def _from_packed(cls, packed: PackedModel, core: _core.Model) -> Self:
        given = read_generation_config(packed.path / GENERATION_CONFIG)
        return cls(packed, core, GenerationConfig.from_model_config(packed.config) if given is None else given)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, generation_config: Any = None, **options: Any
    ) -> Self:
        """Load a model; see `PreTrainedModel.from_pretrained`.

        Args:
            pretrained_model_name_or_path: A directory, a GGUF file, an id on the Hub, a short name, or ``"demo"``.
            generation_config: A `GenerationConfig` of this package or of transformers that replaces the checkpoint's generation
                options.
            **options: The other arguments of `PreTrainedModel.from_pretrained`.

        Raises:
            InputError: `generation_config` is no `GenerationConfig`.
            GPTBigCodeError: See `PreTrainedModel.from_pretrained`.
        """
        given = given_config(generation_config)
        model = super().from_pretrained(pretrained_model_name_or_path, **options)
        if given is not None:
            model.generation_config = given
        return model

    @classmethod
    def _check_architecture(cls, config: GPTBigCodeConfig, directory: Path) -> None:
        from gptbigcode_cpu.store.tensors import BASE_MODEL, CLASSIFIERS

        # A classifier's checkpoint may lack an LM head, and was not trained to generate text.
        if classifiers := [name for name in config.architectures if name in CLASSIFIERS]:
            raise ConfigError(f"{directory} is a {classifiers[0]}; this class runs language models, which generate text")
        if BASE_MODEL in config.architectures and not config.tie_word_embeddings:
            raise ConfigError(f"{directory} is a {BASE_MODEL}, which has no LM head; this class runs language models")

    def _heads(self) -> frozenset[str]:
        return frozenset({"lm_head.weight"})

    def _generation_options(self) -> Mapping[str, Any]:
        return self.generation_config.file_content()

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: DynamicCache | None = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        *,
        labels: Any = None,
        logits_to_keep: Any = 0,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unknown: Any,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Compute the logits of the next token at every position.

        Args:
            input_ids: As in `GPTBigCodeModel.forward`; so are all arguments but `labels` and `logits_to_keep`.
            past_key_values: The kv cache of earlier tokens; it grows by the tokens of the call.
            attention_mask: ``[batch, past + tokens]``, 0 for padding.
            token_type_ids: ``[batch, tokens]``: token ids whose embeddings are added to those of the tokens.
            position_ids: ``[batch, tokens]`` or ``[1, tokens]``: rows of the position embedding.
            inputs_embeds: float ``[batch, tokens, n_embd]`` instead of `input_ids`.
            labels: Token ids ``[batch, tokens]``, usually `input_ids`, for the loss: the logits of each token are compared with
                the label one place later. Labels of -100 are ignored, and so is padding, as target and as predictor. (In
                contrast, transformers ignores padding only if its label is -100, and predicts the first token of a row from
                the padding on its left.)
            logits_to_keep: Compute the logits of this many last columns only, 0 = all; or a vector of columns. If rows are
                padded on the right, the logits of padding in these columns are zero.
            use_cache: Return the kv cache; default: ``config.use_cache``.
            output_attentions: Return the attention probabilities; default: ``config.output_attentions``.
            output_hidden_states: Return the output of every block; default: ``config.output_hidden_states``.
            return_dict: False: return a tuple; default: ``config.return_dict``.
            **unknown: Arguments of transformers that are not supported here; they must be None.

        Returns:
            The logits, and the other values that were asked for.

        Raises:
            InputError: As in `GPTBigCodeModel.forward`, or `labels` are wrong or given together with `logits_to_keep`.
            ContextLengthError: A row is longer than ``n_positions``.
        """
        arguments = Arguments(
            input_ids, past_key_values, attention_mask, token_type_ids, position_ids, inputs_embeds,
            use_cache, output_attentions, output_hidden_states, return_dict,
        )  # fmt: skip
        call = ForwardCall(self.config, self.core, arguments, unknown)
        result = call.run(logits_to_keep)
        assert result.logits is not None
        loss = None
        if labels is not None:
            if result.logits.shape[1] != call.batch.mask.shape[1]:
                raise InputError("labels need all logits; leave logits_to_keep at 0")
            loss = next_token_loss(result.logits, labels, call.batch.mask)
        return call.output(
            CausalLMOutputWithCrossAttentions(
                loss=loss,
                logits=result.logits,
                past_key_values=result.past_key_values,
                hidden_states=result.hidden_states,
                attentions=result.attentions,
                cross_attentions=None if result.attentions is None else (),
            )
        )

    __call__ = forward

    def prompt(self, token_ids: Sequence[int]) -> NDArray[np.int32]:
        """The checked form of one prompt, int32 ``[tokens]``.

        Raises:
            InputError: The prompt is empty, or an id is outside the vocabulary.
            ContextLengthError: The prompt is longer than ``n_positions``.
        """
        return self.prompt_batch(token_ids, None).rows[0]

    def prompt_batch(
        self, input_ids: Any, attention_mask: Any, padding_token: int | None = None, past: DynamicCache | None = None
    ) -> PromptBatch:
        return read_prompts(self.config, input_ids, attention_mask, padding_token, past)


# GPT-2 checkpoints are converted to GPTBigCode models, so transformers' name for GPT-2 is the same class.
GPT2LMHeadModel = GPTBigCodeForCausalLM
