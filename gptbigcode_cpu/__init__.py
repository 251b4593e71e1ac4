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
    from .auto import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )
    from .cache import DynamicCache
    from .classification import GPTBigCodeForSequenceClassification, GPTBigCodeForTokenClassification
    from .config import GPTBigCodeConfig, PreTrainedConfig, PretrainedConfig
    from .errors import (
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
    from .generation import GenerationConfig
    from .generation.outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
    from .generation.processors import (
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
    from .generation.scoring import TokenScores
    from .generation.stopping import (
        EosTokenCriteria,
        MaxLengthCriteria,
        MaxTimeCriteria,
        StoppingCriteria,
        StoppingCriteriaList,
        StopStringCriteria,
    )
    from .generation.warpers import (
        EpsilonLogitsWarper,
        EtaLogitsWarper,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopHLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
        TypicalLogitsWarper,
    )
    from .incremental import IncrementalDecoder
    from .modeling import GPT2LMHeadModel, GPTBigCodeForCausalLM, GPTBigCodeModel
    from .outputs import (
        BaseModelOutputWithPastAndCrossAttentions,
        CausalLMOutputWithCrossAttentions,
        ModelOutput,
        SequenceClassifierOutputWithPast,
        TokenClassifierOutput,
    )
    from .pipelines import (
        FeatureExtractionPipeline,
        TextClassificationPipeline,
        TextGenerationOptions,
        TextGenerationPipeline,
        TokenClassificationPipeline,
        pipeline,
    )
    from .precision import BitsAndBytesConfig
    from .pretrained import PreTrainedModel
    from .seeding import set_seed
    from .streamers import AsyncTextIteratorStreamer, BaseStreamer, TextIteratorStreamer, TextStreamer
    from .structured import StructuredLogitsProcessor
    from .tokenizer import (
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
    from .utils import logging

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
    "BitsAndBytesConfig": "precision",
    "logging": "utils",
    "set_seed": "seeding",
    "GenerationConfig": "generation",
    "StructuredLogitsProcessor": "structured",
    "TokenScores": "generation.scoring",
    "IncrementalDecoder": "incremental",
    **{name: "auto" for name in __all__ if name.startswith(("AutoConfig", "AutoModel"))},
    "DynamicCache": "cache",
    **dict.fromkeys(("GPTBigCodeForSequenceClassification", "GPTBigCodeForTokenClassification"), "classification"),
    **dict.fromkeys(("GPT2LMHeadModel", "GPTBigCodeForCausalLM", "GPTBigCodeModel"), "modeling"),
    "PreTrainedModel": "pretrained",
    **{name: "outputs" for name in __all__ if "Output" in name},
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
        "generation.processors",
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
        "generation.warpers",
    ),
    **dict.fromkeys(("GenerateBeamDecoderOnlyOutput", "GenerateDecoderOnlyOutput"), "generation.outputs"),
    **{name: "streamers" for name in __all__ if name.endswith("Streamer")},
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
