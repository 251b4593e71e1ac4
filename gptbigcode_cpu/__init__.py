"""Quantised CPU runtime for GPTBigCode models, with the interface of transformers.

    from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("demo")
    model = AutoModelForCausalLM.from_pretrained("demo")
    outputs = model.generate(**tokenizer("def fibonacci(n):", return_tensors="np"), max_length=50)
    print(tokenizer.decode(outputs[0]))

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptbigcode_cpu.config import GPTBigCodeConfig, PreTrainedConfig, PretrainedConfig
    from gptbigcode_cpu.engine.logits.processors import (
        EncoderNoRepeatNGramLogitsProcessor,
        EncoderRepetitionPenaltyLogitsProcessor,
        ExponentialDecayLengthPenalty,
        ForcedBOSTokenLogitsProcessor,
        ForcedEOSTokenLogitsProcessor,
        InfNanRemoveLogitsProcessor,
        LogitNormalization,
        LogitsProcessor,
        LogitsProcessorList,
        MinLengthLogitsProcessor,
        MinNewTokensLengthLogitsProcessor,
        NoBadWordsLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
        PrefixConstrainedLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        SequenceBiasLogitsProcessor,
        SuppressTokensAtBeginLogitsProcessor,
        SuppressTokensLogitsProcessor,
    )
    from gptbigcode_cpu.engine.logits.structured import StructuredLogitsProcessor
    from gptbigcode_cpu.engine.logits.warpers import (
        EpsilonLogitsWarper,
        EtaLogitsWarper,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopHLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
        TypicalLogitsWarper,
    )
    from gptbigcode_cpu.errors import (
        CheckpointError,
        ConfigError,
        ContextLengthError,
        DiskSpaceError,
        ForkError,
        FormatError,
        GPTBigCodeError,
        InputError,
        KernelError,
        MissingDependencyError,
        ModelNotFoundError,
        PicklingError,
        ThreadLimitError,
        TokenizerError,
        UnsupportedError,
    )
    from gptbigcode_cpu.generation import GenerationConfig
    from gptbigcode_cpu.generation.cache import DynamicCache
    from gptbigcode_cpu.generation.model_output import ModelOutput
    from gptbigcode_cpu.generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
    from gptbigcode_cpu.generation.scoring import TokenScores
    from gptbigcode_cpu.generation.seeding import set_seed
    from gptbigcode_cpu.generation.stopping import (
        EosTokenCriteria,
        MaxLengthCriteria,
        MaxTimeCriteria,
        StoppingCriteria,
        StoppingCriteriaList,
        StopStringCriteria,
    )
    from gptbigcode_cpu.generation.streamers import AsyncTextIteratorStreamer, BaseStreamer, TextIteratorStreamer, TextStreamer
    from gptbigcode_cpu.models.auto import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )
    from gptbigcode_cpu.models.base import PreTrainedModel
    from gptbigcode_cpu.models.causal_lm import GPT2LMHeadModel, GPTBigCodeForCausalLM, GPTBigCodeModel
    from gptbigcode_cpu.models.classification import GPTBigCodeForSequenceClassification, GPTBigCodeForTokenClassification
    from gptbigcode_cpu.models.outputs import (
        BaseModelOutputWithPastAndCrossAttentions,
        CausalLMOutputWithCrossAttentions,
        SequenceClassifierOutputWithPast,
        TokenClassifierOutput,
    )
    from gptbigcode_cpu.pipelines import (
        FeatureExtractionPipeline,
        TextClassificationPipeline,
        TextGenerationOptions,
        TextGenerationPipeline,
        TokenClassificationPipeline,
        pipeline,
    )
    from gptbigcode_cpu.store.precision import BitsAndBytesConfig
    from gptbigcode_cpu.tokenizer import (
        AutoTokenizer,
        BatchEncoding,
        CharSpan,
        GPT2Tokenizer,
        GPT2TokenizerFast,
        GPTBigCodeTokenizer,
        PreTrainedTokenizer,
        PreTrainedTokenizerBase,
        PreTrainedTokenizerFast,
        TokenSpan,
    )
    from gptbigcode_cpu.tokenizer.incremental import IncrementalDecoder
    from gptbigcode_cpu.utils import logging

__all__ = [
    "AsyncTextIteratorStreamer",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BaseModelOutputWithPastAndCrossAttentions",
    "BaseStreamer",
    "BatchEncoding",
    "BitsAndBytesConfig",
    "CausalLMOutputWithCrossAttentions",
    "CharSpan",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "DiskSpaceError",
    "DynamicCache",
    "EncoderNoRepeatNGramLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EosTokenCriteria",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ExponentialDecayLengthPenalty",
    "FeatureExtractionPipeline",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "ForkError",
    "FormatError",
    "GPT2LMHeadModel",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GPTBigCodeConfig",
    "GPTBigCodeError",
    "GPTBigCodeForCausalLM",
    "GPTBigCodeForSequenceClassification",
    "GPTBigCodeForTokenClassification",
    "GPTBigCodeModel",
    "GPTBigCodeTokenizer",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "GenerationConfig",
    "IncrementalDecoder",
    "InfNanRemoveLogitsProcessor",
    "InputError",
    "KernelError",
    "LogitNormalization",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MaxLengthCriteria",
    "MaxTimeCriteria",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "MissingDependencyError",
    "ModelNotFoundError",
    "ModelOutput",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PicklingError",
    "PreTrainedConfig",
    "PreTrainedModel",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerBase",
    "PreTrainedTokenizerFast",
    "PrefixConstrainedLogitsProcessor",
    "PretrainedConfig",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SequenceClassifierOutputWithPast",
    "StopStringCriteria",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "StructuredLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TextClassificationPipeline",
    "TextGenerationOptions",
    "TextGenerationPipeline",
    "TextIteratorStreamer",
    "TextStreamer",
    "ThreadLimitError",
    "TokenClassificationPipeline",
    "TokenClassifierOutput",
    "TokenScores",
    "TokenSpan",
    "TokenizerError",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
    "UnsupportedError",
    "__version__",
    "logging",
    "pipeline",
    "set_seed",
]

_MODULE_OF = {
    **dict.fromkeys(("GPTBigCodeConfig", "PreTrainedConfig", "PretrainedConfig"), "config"),
    "BitsAndBytesConfig": "store.precision",
    "logging": "utils",
    "set_seed": "generation.seeding",
    "GenerationConfig": "generation",
    "StructuredLogitsProcessor": "engine.logits.structured",
    "TokenScores": "generation.scoring",
    "IncrementalDecoder": "tokenizer.incremental",
    **{name: "models.auto" for name in __all__ if name.startswith(("AutoConfig", "AutoModel"))},
    "DynamicCache": "generation.cache",
    **dict.fromkeys(("GPTBigCodeForSequenceClassification", "GPTBigCodeForTokenClassification"), "models.classification"),
    **dict.fromkeys(("GPT2LMHeadModel", "GPTBigCodeForCausalLM", "GPTBigCodeModel"), "models.causal_lm"),
    "PreTrainedModel": "models.base",
    **{name: "models.outputs" for name in __all__ if "Output" in name},
    "ModelOutput": "generation.model_output",
    **dict.fromkeys(("TextGenerationOptions", "pipeline"), "pipelines"),
    **{name: "pipelines" for name in __all__ if name.endswith("Pipeline")},
    **dict.fromkeys(
        (
            "EncoderNoRepeatNGramLogitsProcessor",
            "EncoderRepetitionPenaltyLogitsProcessor",
            "ExponentialDecayLengthPenalty",
            "ForcedBOSTokenLogitsProcessor",
            "ForcedEOSTokenLogitsProcessor",
            "InfNanRemoveLogitsProcessor",
            "LogitNormalization",
            "LogitsProcessor",
            "LogitsProcessorList",
            "MinLengthLogitsProcessor",
            "MinNewTokensLengthLogitsProcessor",
            "NoBadWordsLogitsProcessor",
            "NoRepeatNGramLogitsProcessor",
            "PrefixConstrainedLogitsProcessor",
            "RepetitionPenaltyLogitsProcessor",
            "SequenceBiasLogitsProcessor",
            "SuppressTokensAtBeginLogitsProcessor",
            "SuppressTokensLogitsProcessor",
        ),
        "engine.logits.processors",
    ),
    **dict.fromkeys(
        (
            "EosTokenCriteria",
            "MaxLengthCriteria",
            "MaxTimeCriteria",
            "StopStringCriteria",
            "StoppingCriteria",
            "StoppingCriteriaList",
        ),
        "generation.stopping",
    ),
    **dict.fromkeys(
        (
            "EpsilonLogitsWarper",
            "EtaLogitsWarper",
            "MinPLogitsWarper",
            "TemperatureLogitsWarper",
            "TopHLogitsWarper",
            "TopKLogitsWarper",
            "TopPLogitsWarper",
            "TypicalLogitsWarper",
        ),
        "engine.logits.warpers",
    ),
    **dict.fromkeys(("GenerateBeamDecoderOnlyOutput", "GenerateDecoderOnlyOutput"), "generation.outputs"),
    **{name: "generation.streamers" for name in __all__ if name.endswith("Streamer")},
    **{name: "tokenizer" for name in __all__ if "Tokenizer" in name and not name.endswith("Error")},
    **dict.fromkeys(("BatchEncoding", "CharSpan", "TokenSpan"), "tokenizer"),
    **{name: "errors" for name in __all__ if name.endswith("Error")},
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("gptbigcode-cpu")
    elif name == "utils":  # a module, for `transformers.utils.logging`
        value = import_module(f"{__name__}.{name}")
    elif name in _MODULE_OF:
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
