"""The base class of the pipelines."""

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

# Arguments of transformers' pipelines that have no effect here, with their accepted values; None: any value.
_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "device": None,  # checked separately
    "framework": (None, "pt"),
    "num_workers": None,  # there are no worker processes
    "binary_output": (None, False),
    "modelcard": (None,),
    "feature_extractor": (None,),
    "image_processor": (None,),
    "processor": (None,),
}


class Pipeline:
    """Runs a model on texts. It holds the model, its tokenizer, and options for all calls.

    Attributes:
        task: The name of the task.
        model: The model.
        tokenizer: Its tokenizer.
        options: Default options of all calls.
    """

    task: ClassVar[str]
    # The class of the model that the task needs.
    model_class: ClassVar[str]
    # The names of the options; None: the options are checked by the class itself.
    known_options: ClassVar[tuple[str, ...] | None] = None

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        """
        Args:
            model: A model of the class that the task needs.
            tokenizer: Its tokenizer; a tokenizer of transformers is converted.
            **options: Options for all calls, and arguments of transformers that have no effect here, such as ``framework``.

        Raises:
            InputError: The model is of another class or library, there is no tokenizer, an option is unknown or a value is bad.
        """
        _check_model(model, self.model_class)
        self.model = model
        self.tokenizer: GPTBigCodeTokenizer = own_tokenizer(tokenizer)
        self.options = self.without_neutral(options)
        self._check_options(self.options)

    @classmethod
    def without_neutral(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Remove the arguments of transformers that have no effect, and check the other options.

        All checks that need no model happen here, because loading a model may take minutes.

        Raises:
            InputError: An option is unknown, or a value is bad.
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
                # str() because the value may be torch.device("cpu").
                check_choice(name, value if isinstance(value, int | None) else str(value), neutral)
        cls.check_names(remaining)
        return remaining

    @classmethod
    def check_names(cls, options: Mapping[str, Any]) -> None:
        """Refuse options that a pipeline of this task does not have.

        Raises:
            InputError: An option is unknown; the message suggests the nearest known name.
        """
        known = cls.known_options or ()
        refuse_unknown({name: value for name, value in options.items() if name not in known}, known, cls.task)

    @property
    def device(self) -> Device:
        """Always ``"cpu"``."""
        return Device("cpu")

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save the model and its tokenizer in a directory that `pipeline` can load.

        Args:
            save_directory: The directory; it is created if it does not exist.
            **options: Arguments of `PreTrainedModel.save_pretrained`.

        Raises:
            InputError: See `PreTrainedModel.save_pretrained`.
        """
        self.model.save_pretrained(save_directory, **options)
        self.tokenizer.save_pretrained(save_directory)

    def _one_by_one(self, inputs: Any, options: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the results of an iterator or a data set. They are computed on demand, `batch_size` inputs at a time."""
        run: Any = self  # each subclass defines __call__
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
        """Merge the options of a call with those of the pipeline; the call's options win."""
        given = {name: value for name, value in options.items() if name != "num_workers"}
        self._check_options(given)
        return {**self.options, **given}

    def _rows(self, encodings: Iterable[Sequence[int]], batch_size: int) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Yield batches: token ids, int64 ``[batch, tokens]``, padded on the right, and their attention mask."""
        rows = list(encodings)
        # Text classification finds the end of a text by the pad token; the other tasks do not need it.
        filler = self.model.config.pad_token_id or 0
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            if not all(batch):
                raise InputError("a text has no tokens; pass texts that are not empty")
            width = max(map(len, batch))
            mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in batch], dtype=np.int64)
            yield np.array([[*row, *[filler] * (width - len(row))] for row in batch], dtype=np.int64), mask


def is_lazy(inputs: object) -> bool:
    """Whether `inputs` is an iterator or a data set (of torch or of the datasets library), rather than a list."""
    if isinstance(inputs, Iterator):
        return True
    known = isinstance(inputs, (str, bytes, list, tuple, Mapping, np.ndarray))
    return not known and hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")


def _check_model(model: object, model_class: str) -> None:
    """Refuse objects that are not a model of the class that a task needs."""
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
    """Check a batch size, and return it as an int.

    Raises:
        InputError: `value` is not a positive integer.
    """
    size = plain(value)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size < 2**31:
        raise InputError(f"batch_size must be a positive integer, not {shown(value)}")
    return size
