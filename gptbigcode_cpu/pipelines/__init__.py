"""Pipelines: a model and its tokenizer for a task, loaded in one call."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, overload

from gptbigcode_cpu.common.suggest import check_choice
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.pipelines.base import Pipeline
from gptbigcode_cpu.pipelines.feature_extraction import FeatureExtractionPipeline
from gptbigcode_cpu.pipelines.text_classification import TextClassificationPipeline
from gptbigcode_cpu.pipelines.text_generation import TextGenerationOptions, TextGenerationPipeline
from gptbigcode_cpu.pipelines.token_classification import TokenClassificationPipeline
from gptbigcode_cpu.tokenizer import AutoTokenizer, own_tokenizer

__all__ = [
    "FeatureExtractionPipeline",
    "Pipeline",
    "TextClassificationPipeline",
    "TextGenerationOptions",
    "TextGenerationPipeline",
    "TokenClassificationPipeline",
    "pipeline",
]

TASKS: dict[str, type[Pipeline]] = {
    kind.task: kind
    for kind in (TextGenerationPipeline, TextClassificationPipeline, TokenClassificationPipeline, FeatureExtractionPipeline)
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


@overload
def pipeline(
    task: Literal["text-generation"] = ..., model: Any = ..., config: Any = ..., tokenizer: Any = ..., **options: Any
) -> TextGenerationPipeline: ...
@overload
def pipeline(
    task: Literal["text-classification", "sentiment-analysis"],
    model: Any = ...,
    config: Any = ...,
    tokenizer: Any = ...,
    **options: Any,
) -> TextClassificationPipeline: ...
@overload
def pipeline(
    task: Literal["token-classification", "ner"], model: Any = ..., config: Any = ..., tokenizer: Any = ..., **options: Any
) -> TokenClassificationPipeline: ...
@overload
def pipeline(
    task: Literal["feature-extraction"], model: Any = ..., config: Any = ..., tokenizer: Any = ..., **options: Any
) -> FeatureExtractionPipeline: ...
@overload
def pipeline(task: str, model: Any = ..., config: Any = ..., tokenizer: Any = ..., **options: Any) -> Pipeline: ...
def pipeline(
    task: str | None = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: Any = "auto",
    num_threads: int | None = None,
    prefill_threads: int | None = None,
    kv_dtype: Any = "auto",
    model_kwargs: Mapping[str, Any] | None = None,
    pipeline_class: type[Pipeline] | None = None,
    **options: Any,
) -> Pipeline:
    """Load the model and the tokenizer for a task.

    Args:
        task: ``"text-generation"`` (the default), ``"text-classification"`` (also ``"sentiment-analysis"``),
            ``"token-classification"`` (also ``"ner"``) or ``"feature-extraction"``.
        model: A directory, a Hub id or ``"demo"`` (the default), as in `from_pretrained`; or a model of the class that the task
            needs.
        config: A configuration that replaces the model's, or the name of one.
        tokenizer: A directory or a Hub id, or a tokenizer of this package or of transformers; default: the model's own.
        revision: Branch, tag or commit on the Hub.
        token: Access token for the Hub; True: use the stored one.
        dtype: Storage type of the weights, such as ``"int4"``.
        num_threads: Number of threads.
        prefill_threads: Number of threads in prefill; default: `num_threads`.
        kv_dtype: Storage type of the kv cache.
        model_kwargs: Further arguments of the model's `from_pretrained`.
        pipeline_class: A subclass of the task's pipeline class, to use instead of it.
        **options: Options for all calls of the pipeline; further arguments of `from_pretrained`, such as ``torch_dtype``,
            ``cache_dir`` or ``gguf_file``; and arguments of transformers that have no effect here, such as ``device=-1``,
            ``device_map="auto"``, ``framework="pt"`` or ``trust_remote_code``.

    Returns:
        The pipeline of the task: `TextGenerationPipeline`, `TextClassificationPipeline`, `TokenClassificationPipeline` or
        `FeatureExtractionPipeline`.

    Raises:
        InputError: The task or an option is unknown, a model object comes without a tokenizer or together with arguments of
            `from_pretrained`, or the model is of another library.
    """
    from gptbigcode_cpu.hub.paths import DEMO
    from gptbigcode_cpu.hub.source import SHARED_NAMES
    from gptbigcode_cpu.models.loading import LOADING_NAMES, check_neutral

    task = "text-generation" if task is None else task
    check_choice("task", task, (*TASKS, *ALIASES))
    kind = pipeline_class or TASKS[ALIASES.get(task, task)]
    options.pop("use_fast", None)  # all tokenizers are fast ones
    given = {name: options.pop(name) for name in (*SHARED_NAMES, *LOADING_NAMES) if name in options}
    given |= {"revision": revision, "token": token}
    shared = {name: value for name, value in given.items() if name in SHARED_NAMES}
    loading = {**given, "config": config, "dtype": dtype, "num_threads": num_threads, "kv_dtype": kv_dtype}
    loading |= {"prefill_threads": prefill_threads, **(model_kwargs or {})}
    options = kind.without_neutral(options)
    if not isinstance(model, (str, Path, type(None))):
        for name in ("device_map", "trust_remote_code"):  # neutral values are accepted
            check_neutral(name, loading.pop(name, None))
        if decided := [name for name, value in loading.items() if value is not None and str(value) != "auto"]:
            raise InputError(f"{', '.join(decided)} belong to from_pretrained; a model object is already loaded")
        if tokenizer is None:
            raise InputError("pass tokenizer= along with a model object")
        shared = {}
    model = DEMO if model is None else model
    tokenizer = model if tokenizer is None else tokenizer
    if isinstance(tokenizer, (str, Path)):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, **shared)
    if isinstance(model, (str, Path)):
        tokenizer = own_tokenizer(tokenizer)
        model_class = getattr(import_module("gptbigcode_cpu"), kind.model_class)
        model = model_class.from_pretrained(model, **loading)
    return kind(model, tokenizer, **options)
