"""What the pipelines have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.common.device import Device
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.common.suggest import check_choice, refuse_unknown
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.models.base import PreTrainedModel
from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer, own_tokenizer

# Arguments of transformers' pipelines that change nothing here, with the values for which that is so; None: any value.
_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "device": None,  # checked by itself
    "framework": (None, "pt"),
    "num_workers": None,  # texts are not read by other processes
    "binary_output": (None, False),
    "modelcard": (None,),
    "feature_extractor": (None,),
    "image_processor": (None,),
    "processor": (None,),
}


class Pipeline:
    """From texts to results: a model, its tokenizer, and options for all calls.

    Attributes:
        task: The name of the task.
        model: The model.
        tokenizer: Its tokenizer.
        options: What calls use unless they say otherwise.
    """

    task: ClassVar[str]
    # The class of the model that the task needs.
    model_class: ClassVar[str]
    # The names of options; None: the model's generation options too.
    known_options: ClassVar[tuple[str, ...] | None] = None

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        """
        Args:
            model: A model of the kind that the task needs.
            tokenizer: Its tokenizer; one of transformers is converted.
            **options: Options for all calls, and arguments of transformers that change nothing here, such as ``framework``.

        Raises:
            InputError: A model of another kind or of another library, no tokenizer, an unknown option or a bad value.
        """
        _check_model(model, self.model_class)
        self.model = model
        self.tokenizer: GPTBigCodeTokenizer = own_tokenizer(tokenizer)
        self.options = self.without_neutral(options)
        self._check_options(self.options)

    @classmethod
    def without_neutral(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a pipeline, without the arguments of transformers that change nothing.

        Everything that can be said without a model is checked: loading one may take minutes.

        Raises:
            InputError: An unknown option, or a bad value.
        """
        remaining = dict(options)
        check_choice("task", remaining.pop("task", None), (None, cls.task))
        for name in [name for name in _NEUTRAL if name in remaining]:
            value, neutral = remaining.pop(name), _NEUTRAL[name]
            if name == "device" and not (value is None or value == -1 or str(value) == "cpu"):
                raise InputError(
                    f"device={value!r} is not available: this package computes on the CPU; leave it out, or pass 'cpu'"
                )
            if neutral is not None:
                # str: of torch.device("cpu").
                check_choice(name, value if isinstance(value, int | None) else str(value), neutral)
        cls.check_names(remaining)
        return remaining

    @classmethod
    def check_names(cls, options: Mapping[str, Any]) -> None:
        """Refuse options that a pipeline of this task does not have.

        Raises:
            InputError: There is one; the message has the nearest known name.
        """
        known = cls.known_options or ()
        refuse_unknown({name: value for name, value in options.items() if name not in known}, known, cls.task)

    @property
    def device(self) -> Device:
        """Always ``"cpu"``."""
        return Device("cpu")

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save the model and its tokenizer in a directory that `pipeline` opens.

        Args:
            save_directory: Created if need be.
            **options: Arguments of `PreTrainedModel.save_pretrained`.

        Raises:
            InputError: As of `PreTrainedModel.save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **options)
        self.tokenizer.save_pretrained(save_directory)

    def _one_by_one(self, inputs: Any, options: Mapping[str, Any]) -> Iterator[Any]:
        """The results of an iterator or a data set, computed when they are asked for, `batch_size` inputs at a time."""
        run: Any = self  # each task has a call of its own
        batch_size = checked_batch_size({**self.options, **options}.get("batch_size", 1))
        items = inputs if isinstance(inputs, Iterable) else (inputs[i] for i in range(len(inputs)))
        batch: list[Any] = []
        for item in items:
            batch.append(item)
            if len(batch) == batch_size:
                yield from run(batch, **options)
                batch = []
        if batch:
            yield from run(batch, **options)

    def _check_options(self, options: Mapping[str, Any]) -> None:
        self.check_names(options)

    def _given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a call over those of the pipeline."""
        given = {name: value for name, value in options.items() if name != "num_workers"}
        self._check_options(given)
        return {**self.options, **given}

    def _rows(self, encodings: Iterable[Sequence[int]], batch_size: int) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Token ids, int64 ``[batch, tokens]``, and their attention mask, padded on the right."""
        rows = list(encodings)
        # A classifier of texts tells by this token where a text ends; to the others it is all the same.
        filler = self.model.config.pad_token_id or 0
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            if not all(batch):
                raise InputError("a text is empty; there is nothing to compute on")
            width = max(map(len, batch))
            mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in batch], dtype=np.int64)
            yield np.array([[*row, *[filler] * (width - len(row))] for row in batch], dtype=np.int64), mask


def is_lazy(inputs: object) -> bool:
    """Whether inputs are an iterator or a data set (of torch or of the datasets library), and not a list."""
    if isinstance(inputs, Iterator):
        return True
    known = isinstance(inputs, (str, bytes, list, tuple, Mapping, np.ndarray))
    return not known and hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")


def _check_model(model: object, model_class: str) -> None:
    """Refuse what is no model of the kind that a task needs."""
    kind = f"{type(model).__module__}.{type(model).__name__}"
    if {base.__module__.partition(".")[0] for base in type(model).__mro__} & {"transformers", "torch"}:
        raise InputError(
            f"model is a {kind}; pipelines of this package run its own models: pass the name or directory of the checkpoint, "
            f"or {model_class}.from_pretrained of this package (model.save_pretrained writes a checkpoint to a directory)"
        )
    if isinstance(model, PreTrainedModel) and model.auto_class != model_class:
        raise InputError(f"model is a {type(model).__name__}; this task needs one that {model_class}.from_pretrained opens")
    if not hasattr(model, "config"):
        raise InputError(f"model must be a name, a directory or a model, not {kind}")


def checked_batch_size(value: object) -> int:
    """Raises:
    InputError: `value` is no positive integer.
    """
    size = plain(value)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size < 2**31:
        raise InputError(f"batch_size must be a positive integer, not {shown(value)}")
    return size
