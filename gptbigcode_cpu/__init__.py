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
    from .config import GPTBigCodeConfig
    from .errors import (
        CheckpointError,
        ConfigError,
        ContextLengthError,
        DiskSpaceError,
        FormatError,
        GPTBigCodeError,
        InputError,
        KernelError,
        MissingDependencyError,
        ModelNotFoundError,
        TokenizerError,
        UnsupportedError,
    )
    from .generation import GenerationConfig
    from .incremental import IncrementalDecoder
    from .modeling import GPTBigCodeForCausalLM, GPTBigCodeModel
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
    from .pretrained import PreTrainedModel
    from .streamers import BaseStreamer, TextIteratorStreamer, TextStreamer
    from .tokenizer import AutoTokenizer, BatchEncoding, CharSpan, GPTBigCodeTokenizer, TokenSpan

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BaseModelOutputWithPastAndCrossAttentions",
    "BaseStreamer",
    "BatchEncoding",
    "CausalLMOutputWithCrossAttentions",
    "CharSpan",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "DiskSpaceError",
    "DynamicCache",
    "FeatureExtractionPipeline",
    "FormatError",
    "GPTBigCodeConfig",
    "GPTBigCodeError",
    "GPTBigCodeForCausalLM",
    "GPTBigCodeForSequenceClassification",
    "GPTBigCodeForTokenClassification",
    "GPTBigCodeModel",
    "GPTBigCodeTokenizer",
    "GenerationConfig",
    "IncrementalDecoder",
    "InputError",
    "KernelError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "ModelOutput",
    "PreTrainedModel",
    "SequenceClassifierOutputWithPast",
    "TextClassificationPipeline",
    "TextGenerationOptions",
    "TextGenerationPipeline",
    "TextIteratorStreamer",
    "TextStreamer",
    "TokenClassificationPipeline",
    "TokenClassifierOutput",
    "TokenSpan",
    "TokenizerError",
    "UnsupportedError",
    "__version__",
    "pipeline",
]

_MODULE_OF = {
    "GPTBigCodeConfig": "config",
    "GenerationConfig": "generation",
    "IncrementalDecoder": "incremental",
    **{name: "auto" for name in __all__ if name.startswith(("AutoConfig", "AutoModel"))},
    "DynamicCache": "cache",
    **dict.fromkeys(("GPTBigCodeForSequenceClassification", "GPTBigCodeForTokenClassification"), "classification"),
    **dict.fromkeys(("GPTBigCodeForCausalLM", "GPTBigCodeModel"), "modeling"),
    "PreTrainedModel": "pretrained",
    **{name: "outputs" for name in __all__ if "Output" in name},
    **dict.fromkeys(("TextGenerationOptions", "pipeline"), "pipelines"),
    **{name: "pipelines" for name in __all__ if name.endswith("Pipeline")},
    **dict.fromkeys(("BaseStreamer", "TextIteratorStreamer", "TextStreamer"), "streamers"),
    **dict.fromkeys(("AutoTokenizer", "BatchEncoding", "CharSpan", "GPTBigCodeTokenizer", "TokenSpan"), "tokenizer"),
    **{name: "errors" for name in __all__ if name.endswith("Error")},
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("gptbigcode-cpu")
    elif name in _MODULE_OF:
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
