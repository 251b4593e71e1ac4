"""Call the caller's logits processors, stopping criteria and streamers with numpy arrays or torch tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import is_torch, to_torch
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.engine.logits.processors import Ids, LogitsProcessor, Scores
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.generation.stopping import StoppingCriteria
from gptbigcode_cpu.generation.streamers import BaseStreamer, Streamer


def is_own(kind: type) -> bool:
    """Whether a class is defined by this package."""
    return kind.__module__.partition(".")[0] == "gptbigcode_cpu"


def wants_torch(function: object, by_default: bool) -> bool:
    """Whether a callable takes torch tensors. Classes of transformers and torch do; classes of this package do not.

    Args:
        function: The callable.
        by_default: The answer for all other callables. Subclasses of the abstract `LogitsProcessor`, `StoppingCriteria` and
            `BaseStreamer` belong to these; subclasses of this package's other classes take numpy arrays.
    """
    homes = {base.__module__.partition(".")[0] for base in type(function).__mro__}
    if "transformers" in homes or "torch" in homes:
        return True
    abstract = (LogitsProcessor, StoppingCriteria, BaseStreamer, Streamer)
    return by_default and all(base in abstract for base in type(function).__mro__ if is_own(base))


def to_numpy(value: Any) -> Any:
    """Convert a torch tensor to a numpy array; return anything else unchanged."""
    return value.detach().cpu().numpy() if is_torch(value) else value


class ForeignProcessor(LogitsProcessor):
    """Calls a caller's logits processor with numpy arrays or torch tensors, and checks its result.

    Args:
        function: Takes ``input_ids`` and ``scores``, returns scores.
        torch: Whether `function` is given torch tensors.

    Raises:
        InputError: `function` is not callable or needs further arguments.
        MissingDependencyError: `torch` is true, but torch is not installed.
    """

    def __init__(self, function: Callable[..., Any], torch: bool) -> None:
        self.class_name = type(function).__name__
        if not callable(function):
            raise InputError(f"a logits processor is a function of input_ids and scores, not {shown(function)}")
        _check_arguments(function, f"the logits processor {self.class_name}")
        self._function, self._torch = function, torch
        if torch:
            to_torch(np.zeros(1))  # raises an error here if torch is not installed

    def __call__(self, input_ids: Ids, scores: Scores) -> Scores:
        given = (to_torch(input_ids.copy()), to_torch(scores.copy())) if self._torch else (input_ids.copy(), scores.copy())
        result = np.asarray(to_numpy(self._function(*given)))
        if result.shape != scores.shape or result.dtype.kind != "f":
            raise InputError(
                f"the logits processor {self.class_name} must return floating-point scores of the shape {list(scores.shape)}, "
                f"not {result.dtype} {list(result.shape)}"
            )
        return np.ascontiguousarray(result, dtype=np.float32)


class ForeignCriterion:
    """Calls a caller's stopping criterion with numpy arrays or torch tensors, and checks its result.

    Args:
        function: Takes ``input_ids`` and ``scores`` (a tuple of one array per step, or None), returns which rows are finished.
        torch: Whether `function` is given torch tensors.

    Raises:
        InputError: `function` is not callable.
        MissingDependencyError: `torch` is true, but torch is not installed.
    """

    def __init__(self, function: Callable[..., Any], torch: bool) -> None:
        self.class_name = type(function).__name__
        if not callable(function):
            raise InputError(f"a stopping criterion is a function of input_ids and scores, not {shown(function)}")
        self._function, self._torch = function, torch
        if torch:
            to_torch(np.zeros(1))

    def __call__(self, input_ids: Ids, scores: Sequence[Scores] | None) -> NDArray[np.bool_]:
        """Whether each row is finished, bool ``[rows]``."""
        history = None if scores is None else tuple(to_torch(step) if self._torch else step for step in scores)
        answer = np.asarray(to_numpy(self._function(to_torch(input_ids.copy()) if self._torch else input_ids.copy(), history)))
        if answer.dtype.kind not in "biuf":
            raise InputError(f"the stopping criterion {self.class_name} must return truth values, not {shown(answer.tolist())}")
        try:
            return np.broadcast_to(answer.reshape(-1) != 0, len(input_ids))
        except ValueError as error:
            raise InputError(
                f"the stopping criterion {self.class_name} must return one truth value per row, {len(input_ids)}, "
                f"not an array of the shape {list(answer.shape)}"
            ) from error


def _check_arguments(function: Callable[..., Any], what: str) -> None:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a built-in without a signature
        return
    needed = [
        parameter.name
        for parameter in parameters[2:]
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise InputError(f"{what} needs {', '.join(needed)}; it is given input_ids and scores only")
