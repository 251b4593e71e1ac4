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
    )
    from .generation import GenerationConfig
    from .incremental import IncrementalDecoder
    from .modeling import AutoModelForCausalLM, CausalLMOutput, GPTBigCodeForCausalLM
    from .pipelines import (
        FeatureExtractionPipeline,
        TextClassificationPipeline,
        TextGenerationOptions,
        TextGenerationPipeline,
        TokenClassificationPipeline,
        pipeline,
    )
    from .streamers import BaseStreamer, TextIteratorStreamer, TextStreamer
    from .tokenizer import AutoTokenizer, BatchEncoding, CharSpan, GPTBigCodeTokenizer, TokenSpan

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "BaseStreamer",
    "BatchEncoding",
    "CausalLMOutput",
    "CharSpan",
    "CheckpointError",
    "ConfigError",
    "ContextLengthError",
    "DiskSpaceError",
    "FeatureExtractionPipeline",
    "FormatError",
    "GPTBigCodeConfig",
    "GPTBigCodeError",
    "GPTBigCodeForCausalLM",
    "GPTBigCodeTokenizer",
    "GenerationConfig",
    "IncrementalDecoder",
    "InputError",
    "KernelError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "TextClassificationPipeline",
    "TextGenerationOptions",
    "TextGenerationPipeline",
    "TextIteratorStreamer",
    "TextStreamer",
    "TokenClassificationPipeline",
    "TokenSpan",
    "TokenizerError",
    "__version__",
    "pipeline",
]

_MODULE_OF = {
    "GPTBigCodeConfig": "config",
    "GenerationConfig": "generation",
    "IncrementalDecoder": "incremental",
    **dict.fromkeys(("AutoModelForCausalLM", "CausalLMOutput", "GPTBigCodeForCausalLM"), "modeling"),
    **dict.fromkeys(
        (
            "FeatureExtractionPipeline",
            "TextClassificationPipeline",
            "TextGenerationOptions",
            "TextGenerationPipeline",
            "TokenClassificationPipeline",
            "pipeline",
        ),
        "pipelines",
    ),
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
