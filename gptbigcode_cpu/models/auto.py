"""The classes that open any model of the family by its name, as in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import UnsupportedError
from gptbigcode_cpu.models.base import PreTrainedModel
from gptbigcode_cpu.models.causal_lm import GPTBigCodeForCausalLM, GPTBigCodeModel
from gptbigcode_cpu.models.classification import GPTBigCodeForSequenceClassification, GPTBigCodeForTokenClassification


class _Auto:
    """A class that makes objects of another one."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise UnsupportedError(f"{type(self).__name__} has no objects of its own; use {type(self).__name__}.from_pretrained")


class AutoConfig(_Auto):
    """Reads the configuration of a model."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> GPTBigCodeConfig:
        """The same as `GPTBigCodeConfig.from_pretrained`, which describes the arguments."""
        return GPTBigCodeConfig.from_pretrained(pretrained_model_name_or_path, **options)


class _AutoModel(_Auto):
    """Opens models of `model_class`."""

    model_class: ClassVar[type[PreTrainedModel]]

    @classmethod
    def from_config(cls, config: Any, **_: Any) -> PreTrainedModel:
        """Not supported: it would make random weights.

        Raises:
            UnsupportedError: Always.
        """
        return cls.model_class(config)


class AutoModel(_AutoModel):
    """Opens a model without a head."""

    model_class = GPTBigCodeModel

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> GPTBigCodeModel:
        """The same as `PreTrainedModel.from_pretrained`, which describes the arguments."""
        return GPTBigCodeModel.from_pretrained(pretrained_model_name_or_path, **options)


class AutoModelForCausalLM(_AutoModel):
    """Opens a language model."""

    model_class = GPTBigCodeForCausalLM

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> GPTBigCodeForCausalLM:
        """The same as `PreTrainedModel.from_pretrained`, which describes the arguments."""
        return GPTBigCodeForCausalLM.from_pretrained(pretrained_model_name_or_path, **options)


class AutoModelForSequenceClassification(_AutoModel):
    """Opens a classifier of texts."""

    model_class = GPTBigCodeForSequenceClassification

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> GPTBigCodeForSequenceClassification:
        """The same as `PreTrainedModel.from_pretrained`, which describes the arguments."""
        return GPTBigCodeForSequenceClassification.from_pretrained(pretrained_model_name_or_path, **options)


class AutoModelForTokenClassification(_AutoModel):
    """Opens a classifier of tokens."""

    model_class = GPTBigCodeForTokenClassification

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> GPTBigCodeForTokenClassification:
        """The same as `PreTrainedModel.from_pretrained`, which describes the arguments."""
        return GPTBigCodeForTokenClassification.from_pretrained(pretrained_model_name_or_path, **options)
