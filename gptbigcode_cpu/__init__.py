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

# What the modules provide. Everything that happens at run time follows from this table.
_PUBLIC: dict[str, tuple[str, ...]] = {
    "config": ("GPTBigCodeConfig", "PreTrainedConfig", "PretrainedConfig"),
    "engine.logits.processors": (
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
    "engine.logits.structured": ("StructuredLogitsProcessor",),
    "engine.logits.warpers": (
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "MinPLogitsWarper",
        "TemperatureLogitsWarper",
        "TopHLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
    ),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "ContextLengthError",
        "DiskSpaceError",
        "ForkError",
        "FormatError",
        "GPTBigCodeError",
        "InputError",
        "KernelError",
        "MissingDependencyError",
        "ModelNotFoundError",
        "PicklingError",
        "ThreadLimitError",
        "TokenizerError",
        "UnsupportedError",
    ),
    "generation": ("GenerationConfig",),
    "generation.cache": ("DynamicCache",),
    "generation.model_output": ("ModelOutput",),
    "generation.outputs": ("GenerateBeamDecoderOnlyOutput", "GenerateDecoderOnlyOutput"),
    "generation.scoring": ("TokenScores",),
    "generation.seeding": ("set_seed",),
    "generation.stopping": (
        "EosTokenCriteria",
        "MaxLengthCriteria",
        "MaxTimeCriteria",
        "StopStringCriteria",
        "StoppingCriteria",
        "StoppingCriteriaList",
    ),
    "generation.streamers": ("AsyncTextIteratorStreamer", "BaseStreamer", "TextIteratorStreamer", "TextStreamer"),
    "models.auto": (
        "AutoConfig",
        "AutoModel",
        "AutoModelForCausalLM",
        "AutoModelForSequenceClassification",
        "AutoModelForTokenClassification",
    ),
    "models.base": ("PreTrainedModel",),
    "models.causal_lm": ("GPT2LMHeadModel", "GPTBigCodeForCausalLM", "GPTBigCodeModel"),
    "models.classification": ("GPTBigCodeForSequenceClassification", "GPTBigCodeForTokenClassification"),
    "models.outputs": (
        "BaseModelOutputWithPastAndCrossAttentions",
        "CausalLMOutputWithCrossAttentions",
        "SequenceClassifierOutputWithPast",
        "TokenClassifierOutput",
    ),
    "pipelines": (
        "FeatureExtractionPipeline",
        "TextClassificationPipeline",
        "TextGenerationOptions",
        "TextGenerationPipeline",
        "TokenClassificationPipeline",
        "pipeline",
    ),
    "store.precision": ("BitsAndBytesConfig",),
    "tokenizer": (
        "AutoTokenizer",
        "BatchEncoding",
        "CharSpan",
        "GPT2Tokenizer",
        "GPT2TokenizerFast",
        "GPTBigCodeTokenizer",
        "PreTrainedTokenizer",
        "PreTrainedTokenizerBase",
        "PreTrainedTokenizerFast",
        "TokenSpan",
    ),
    "tokenizer.incremental": ("IncrementalDecoder",),
    "utils": ("logging",),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}

# Type checkers and editors run nothing: they need the names written out, with `as` where a name is public. A test compares the
# two.
if not TYPE_CHECKING:
    __all__ = sorted([*_MODULE_OF, "__version__"])
else:
    from gptbigcode_cpu.config import GPTBigCodeConfig as GPTBigCodeConfig
    from gptbigcode_cpu.config import PreTrainedConfig as PreTrainedConfig
    from gptbigcode_cpu.config import PretrainedConfig as PretrainedConfig
    from gptbigcode_cpu.engine.logits.processors import (
        EncoderNoRepeatNGramLogitsProcessor as EncoderNoRepeatNGramLogitsProcessor,
    )
    from gptbigcode_cpu.engine.logits.processors import (
        EncoderRepetitionPenaltyLogitsProcessor as EncoderRepetitionPenaltyLogitsProcessor,
    )
    from gptbigcode_cpu.engine.logits.processors import ExponentialDecayLengthPenalty as ExponentialDecayLengthPenalty
    from gptbigcode_cpu.engine.logits.processors import ForcedBOSTokenLogitsProcessor as ForcedBOSTokenLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import ForcedEOSTokenLogitsProcessor as ForcedEOSTokenLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import InfNanRemoveLogitsProcessor as InfNanRemoveLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import LogitNormalization as LogitNormalization
    from gptbigcode_cpu.engine.logits.processors import LogitsProcessor as LogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import LogitsProcessorList as LogitsProcessorList
    from gptbigcode_cpu.engine.logits.processors import MinLengthLogitsProcessor as MinLengthLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import MinNewTokensLengthLogitsProcessor as MinNewTokensLengthLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import NoBadWordsLogitsProcessor as NoBadWordsLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import NoRepeatNGramLogitsProcessor as NoRepeatNGramLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import PrefixConstrainedLogitsProcessor as PrefixConstrainedLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import RepetitionPenaltyLogitsProcessor as RepetitionPenaltyLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import SequenceBiasLogitsProcessor as SequenceBiasLogitsProcessor
    from gptbigcode_cpu.engine.logits.processors import (
        SuppressTokensAtBeginLogitsProcessor as SuppressTokensAtBeginLogitsProcessor,
    )
    from gptbigcode_cpu.engine.logits.processors import SuppressTokensLogitsProcessor as SuppressTokensLogitsProcessor
    from gptbigcode_cpu.engine.logits.structured import StructuredLogitsProcessor as StructuredLogitsProcessor
    from gptbigcode_cpu.engine.logits.warpers import EpsilonLogitsWarper as EpsilonLogitsWarper
    from gptbigcode_cpu.engine.logits.warpers import EtaLogitsWarper as EtaLogitsWarper
    from gptbigcode_cpu.engine.logits.warpers import MinPLogitsWarper as MinPLogitsWarper
    from gptbigcode_cpu.engine.logits.warpers import TemperatureLogitsWarper as TemperatureLogitsWarper
    from gptbigcode_cpu.engine.logits.warpers import TopHLogitsWarper as TopHLogitsWarper
    from gptbigcode_cpu.engine.logits.warpers import TopKLogitsWarper as TopKLogitsWarper
    from gptbigcode_cpu.engine.logits.warpers import TopPLogitsWarper as TopPLogitsWarper
    from gptbigcode_cpu.engine.logits.warpers import TypicalLogitsWarper as TypicalLogitsWarper
    from gptbigcode_cpu.errors import CheckpointError as CheckpointError
    from gptbigcode_cpu.errors import ConfigError as ConfigError
    from gptbigcode_cpu.errors import ContextLengthError as ContextLengthError
    from gptbigcode_cpu.errors import DiskSpaceError as DiskSpaceError
    from gptbigcode_cpu.errors import ForkError as ForkError
    from gptbigcode_cpu.errors import FormatError as FormatError
    from gptbigcode_cpu.errors import GPTBigCodeError as GPTBigCodeError
    from gptbigcode_cpu.errors import InputError as InputError
    from gptbigcode_cpu.errors import KernelError as KernelError
    from gptbigcode_cpu.errors import MissingDependencyError as MissingDependencyError
    from gptbigcode_cpu.errors import ModelNotFoundError as ModelNotFoundError
    from gptbigcode_cpu.errors import PicklingError as PicklingError
    from gptbigcode_cpu.errors import ThreadLimitError as ThreadLimitError
    from gptbigcode_cpu.errors import TokenizerError as TokenizerError
    from gptbigcode_cpu.errors import UnsupportedError as UnsupportedError
    from gptbigcode_cpu.generation import GenerationConfig as GenerationConfig
    from gptbigcode_cpu.generation.cache import DynamicCache as DynamicCache
    from gptbigcode_cpu.generation.model_output import ModelOutput as ModelOutput
    from gptbigcode_cpu.generation.outputs import GenerateBeamDecoderOnlyOutput as GenerateBeamDecoderOnlyOutput
    from gptbigcode_cpu.generation.outputs import GenerateDecoderOnlyOutput as GenerateDecoderOnlyOutput
    from gptbigcode_cpu.generation.scoring import TokenScores as TokenScores
    from gptbigcode_cpu.generation.seeding import set_seed as set_seed
    from gptbigcode_cpu.generation.stopping import EosTokenCriteria as EosTokenCriteria
    from gptbigcode_cpu.generation.stopping import MaxLengthCriteria as MaxLengthCriteria
    from gptbigcode_cpu.generation.stopping import MaxTimeCriteria as MaxTimeCriteria
    from gptbigcode_cpu.generation.stopping import StoppingCriteria as StoppingCriteria
    from gptbigcode_cpu.generation.stopping import StoppingCriteriaList as StoppingCriteriaList
    from gptbigcode_cpu.generation.stopping import StopStringCriteria as StopStringCriteria
    from gptbigcode_cpu.generation.streamers import AsyncTextIteratorStreamer as AsyncTextIteratorStreamer
    from gptbigcode_cpu.generation.streamers import BaseStreamer as BaseStreamer
    from gptbigcode_cpu.generation.streamers import TextIteratorStreamer as TextIteratorStreamer
    from gptbigcode_cpu.generation.streamers import TextStreamer as TextStreamer
    from gptbigcode_cpu.models.auto import AutoConfig as AutoConfig
    from gptbigcode_cpu.models.auto import AutoModel as AutoModel
    from gptbigcode_cpu.models.auto import AutoModelForCausalLM as AutoModelForCausalLM
    from gptbigcode_cpu.models.auto import AutoModelForSequenceClassification as AutoModelForSequenceClassification
    from gptbigcode_cpu.models.auto import AutoModelForTokenClassification as AutoModelForTokenClassification
    from gptbigcode_cpu.models.base import PreTrainedModel as PreTrainedModel
    from gptbigcode_cpu.models.causal_lm import GPT2LMHeadModel as GPT2LMHeadModel
    from gptbigcode_cpu.models.causal_lm import GPTBigCodeForCausalLM as GPTBigCodeForCausalLM
    from gptbigcode_cpu.models.causal_lm import GPTBigCodeModel as GPTBigCodeModel
    from gptbigcode_cpu.models.classification import GPTBigCodeForSequenceClassification as GPTBigCodeForSequenceClassification
    from gptbigcode_cpu.models.classification import GPTBigCodeForTokenClassification as GPTBigCodeForTokenClassification
    from gptbigcode_cpu.models.outputs import (
        BaseModelOutputWithPastAndCrossAttentions as BaseModelOutputWithPastAndCrossAttentions,
    )
    from gptbigcode_cpu.models.outputs import CausalLMOutputWithCrossAttentions as CausalLMOutputWithCrossAttentions
    from gptbigcode_cpu.models.outputs import SequenceClassifierOutputWithPast as SequenceClassifierOutputWithPast
    from gptbigcode_cpu.models.outputs import TokenClassifierOutput as TokenClassifierOutput
    from gptbigcode_cpu.pipelines import FeatureExtractionPipeline as FeatureExtractionPipeline
    from gptbigcode_cpu.pipelines import TextClassificationPipeline as TextClassificationPipeline
    from gptbigcode_cpu.pipelines import TextGenerationOptions as TextGenerationOptions
    from gptbigcode_cpu.pipelines import TextGenerationPipeline as TextGenerationPipeline
    from gptbigcode_cpu.pipelines import TokenClassificationPipeline as TokenClassificationPipeline
    from gptbigcode_cpu.pipelines import pipeline as pipeline
    from gptbigcode_cpu.store.precision import BitsAndBytesConfig as BitsAndBytesConfig
    from gptbigcode_cpu.tokenizer import AutoTokenizer as AutoTokenizer
    from gptbigcode_cpu.tokenizer import BatchEncoding as BatchEncoding
    from gptbigcode_cpu.tokenizer import CharSpan as CharSpan
    from gptbigcode_cpu.tokenizer import GPT2Tokenizer as GPT2Tokenizer
    from gptbigcode_cpu.tokenizer import GPT2TokenizerFast as GPT2TokenizerFast
    from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer as GPTBigCodeTokenizer
    from gptbigcode_cpu.tokenizer import PreTrainedTokenizer as PreTrainedTokenizer
    from gptbigcode_cpu.tokenizer import PreTrainedTokenizerBase as PreTrainedTokenizerBase
    from gptbigcode_cpu.tokenizer import PreTrainedTokenizerFast as PreTrainedTokenizerFast
    from gptbigcode_cpu.tokenizer import TokenSpan as TokenSpan
    from gptbigcode_cpu.tokenizer.incremental import IncrementalDecoder as IncrementalDecoder
    from gptbigcode_cpu.utils import logging as logging

    __version__: str


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
    return sorted([*_MODULE_OF, "__version__"])
