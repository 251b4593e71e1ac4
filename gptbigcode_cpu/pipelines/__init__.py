"""Pipelines: a task, its model and its tokenizer, loaded in one call."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, overload

from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.pipelines.base import Pipeline
from gptbigcode_cpu.pipelines.feature_extraction import FeatureExtractionPipeline
from gptbigcode_cpu.pipelines.text_classification import TextClassificationPipeline
from gptbigcode_cpu.pipelines.text_generation import TextGenerationOptions, TextGenerationPipeline
from gptbigcode_cpu.pipelines.token_classification import TokenClassificationPipeline
from gptbigcode_cpu.suggest import check_choice
from gptbigcode_cpu.tokenizer import AutoTokenizer, GPTBigCodeTokenizer

__all__ = [
    "FeatureExtractionPipeline",
    "Pipeline",
    "TextClassificationPipeline",
    "TextGenerationOptions",
    "TextGenerationPipeline",
    "TokenClassificationPipeline",
    "pipeline",
]

# The pipeline of each task and the class that loads its model.
TASKS: dict[str, tuple[type[Pipeline], str]] = {
    "text-generation": (TextGenerationPipeline, "AutoModelForCausalLM"),
    "text-classification": (TextClassificationPipeline, "AutoModelForSequenceClassification"),
    "token-classification": (TokenClassificationPipeline, "AutoModelForTokenClassification"),
    "feature-extraction": (FeatureExtractionPipeline, "AutoModel"),
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


@overload
def pipeline(
    task: Literal["text-generation"] = ..., model: Any = ..., tokenizer: Any = ..., **options: Any
) -> TextGenerationPipeline: ...
@overload
def pipeline(
    task: Literal["text-classification", "sentiment-analysis"], model: Any = ..., tokenizer: Any = ..., **options: Any
) -> TextClassificationPipeline: ...
@overload
def pipeline(
    task: Literal["token-classification", "ner"], model: Any = ..., tokenizer: Any = ..., **options: Any
) -> TokenClassificationPipeline: ...
@overload
def pipeline(
    task: Literal["feature-extraction"], model: Any = ..., tokenizer: Any = ..., **options: Any
) -> FeatureExtractionPipeline: ...
@overload
def pipeline(task: str, model: Any = ..., tokenizer: Any = ..., **options: Any) -> Pipeline: ...
def pipeline(
    task: str = "text-generation",
    model: Any = "demo",
    tokenizer: str | Path | GPTBigCodeTokenizer | None = None,
    *,
    device: Any = None,
    device_map: Any = None,
    dtype: Any = "auto",
    num_threads: int | None = None,
    prefill_threads: int | None = None,
    kv_dtype: Any = "auto",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    use_fast: bool = True,
    trust_remote_code: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """Load a model and its tokenizer.

    Args:
        task: ``"text-generation"``, ``"text-classification"`` (also ``"sentiment-analysis"``), ``"token-classification"``
            (also ``"ner"``) or ``"feature-extraction"``.
        model: A model of the kind that the task needs, or what `from_pretrained` takes.
        tokenizer: A tokenizer, or what `from_pretrained` takes; default: the model's own.
        device: The only device: ``"cpu"``, or -1.
        device_map: ``"auto"`` or ``"cpu"``, which are the same.
        dtype: As in `from_pretrained`, as are the arguments up to `local_files_only`.
        use_fast: As in `from_pretrained` of the tokenizer.
        trust_remote_code: As in `from_pretrained` of the tokenizer.
        model_kwargs: More arguments for `from_pretrained` of the model.
        **options: Options for all calls of the pipeline.

    Returns:
        The pipeline of the task: `TextGenerationPipeline`, `TextClassificationPipeline`, `TokenClassificationPipeline` or
        `FeatureExtractionPipeline`.

    Raises:
        InputError: An unknown task or option, a model object without a tokenizer, or one with arguments of `from_pretrained`,
            which have been decided.
    """
    check_choice("task", task, (*TASKS, *ALIASES))
    check_choice("device", device if device is None or device == -1 else str(device), (None, -1, "cpu"))
    check_choice("device_map", device_map, (None, "auto", "cpu"))
    pipeline_class, loader = TASKS[ALIASES.get(task, task)]
    source: dict[str, Any] = {"revision": revision, "token": token}
    source |= {"cache_dir": cache_dir, "local_files_only": local_files_only}
    is_name = isinstance(model, (str, Path))
    threads_given = num_threads is not None or prefill_threads is not None
    if not is_name and (threads_given or str(dtype) != "auto" or str(kv_dtype) != "auto" or model_kwargs):
        raise InputError(
            "dtype, num_threads, prefill_threads, kv_dtype and model_kwargs belong to from_pretrained; "
            "a model object has them already"
        )
    if tokenizer is None:
        if not is_name:
            raise InputError("pass tokenizer= along with a model object")
        tokenizer = model
    if not isinstance(tokenizer, GPTBigCodeTokenizer):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, use_fast=use_fast, trust_remote_code=trust_remote_code, **source)
    if is_name:
        computing = {"num_threads": num_threads, "prefill_threads": prefill_threads, "kv_dtype": kv_dtype}
        model_class = getattr(import_module("gptbigcode_cpu"), loader)
        model = model_class.from_pretrained(model, dtype=dtype, **computing, **source, **(model_kwargs or {}))
    return pipeline_class(model, tokenizer, **options)
