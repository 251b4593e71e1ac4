"""The losses of transformers' model classes, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.arrays import is_torch, to_float_array, to_int_array
from gptbigcode_cpu.common.softmax import log_softmax
from gptbigcode_cpu.errors import InputError

IGNORE_INDEX = -100
_ROWS = 256  # number of rows of logits that are processed at a time

Floats = NDArray[np.float32]


def cross_entropy(logits: Floats, targets: NDArray[np.int64]) -> np.float32:
    """Mean negative log-probability of the targets.

    Args:
        logits: ``[n, classes]``.
        targets: ``[n]``; targets equal to `IGNORE_INDEX` are ignored.

    Returns:
        The mean; NaN if all targets are ignored, as in torch.

    Raises:
        InputError: A target is not a class.
    """
    counted = targets != IGNORE_INDEX
    outside = targets[counted & ((targets < 0) | (targets >= logits.shape[1]))]
    if len(outside):
        raise InputError(f"label {outside[0]} is neither in 0..{logits.shape[1] - 1} nor {IGNORE_INDEX}, which means ignored")
    rows = np.flatnonzero(counted)
    total = 0.0
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS]
        total -= float(log_softmax(logits[part], np.float64)[np.arange(len(part)), targets[part]].sum())
    return np.float32(total / len(rows)) if len(rows) else np.float32(np.nan)


def next_token_loss(logits: Floats, labels: Any, mask: NDArray[np.bool_]) -> np.float32:
    """`cross_entropy` between the logits of every token and the label one column later.

    Args:
        logits: ``[batch, columns, vocab_size]``.
        labels: ``[batch, columns]``.
        mask: True for tokens, bool ``[batch, columns]``. Padding is neither predicted nor used to predict, whatever its label.

    Raises:
        InputError: The labels have a wrong shape, or one is not a token.
    """
    targets = np.full(mask.shape, IGNORE_INDEX)
    targets[:, :-1] = np.where(mask[:, 1:] & mask[:, :-1], _labels(labels, mask.shape)[:, 1:], IGNORE_INDEX)
    return cross_entropy(logits.reshape(-1, logits.shape[2]), targets.reshape(-1))


def token_loss(logits: Floats, labels: Any, mask: NDArray[np.bool_]) -> np.float32:
    """`cross_entropy` between the logits of every token and its label; arguments as of `next_token_loss`."""
    targets = np.where(mask, _labels(labels, mask.shape), IGNORE_INDEX)
    return cross_entropy(logits.reshape(-1, logits.shape[2]), targets.reshape(-1))


def sequence_loss(logits: Floats, labels: Any, problem_type: str) -> np.float32:
    """The loss of a sequence classifier.

    Args:
        logits: ``[batch, num_labels]``.
        labels: For single labels, classes ``[batch]``; for regression, floats of the shape of `logits`, or ``[batch]`` with one
            label; for several labels per text, floats in 0..1 of the shape of `logits`.
        problem_type: As in `GPTBigCodeConfig`.

    Returns:
        The mean cross entropy, mean squared error or mean binary cross entropy.

    Raises:
        InputError: The labels have a wrong shape or type.
    """
    batch, num_labels = logits.shape
    if problem_type == "single_label_classification":
        targets = to_int_array(labels, "labels").reshape(-1)
        if len(targets) != batch:
            raise InputError(f"labels holds {len(targets)} classes, the batch has {batch} rows")
        return cross_entropy(logits, targets)
    kind = _kind(labels)
    wanted = to_float_array(labels if kind == "f" else to_int_array(labels, "labels", "iub").astype(np.float32), "labels")
    if problem_type == "regression" and num_labels == 1:
        wanted = wanted.reshape(-1, 1)
    if wanted.shape != logits.shape:
        raise InputError(f"labels has the shape {list(wanted.shape)}, for {problem_type} it must have {list(logits.shape)}")
    x, y = logits.astype(np.float64), wanted.astype(np.float64)
    if problem_type == "regression":
        return np.float32(np.square(x - y).mean())
    return np.float32((np.maximum(x, 0) - x * y + np.log1p(np.exp(-np.abs(x)))).mean())


def infer_problem_type(num_labels: int, labels: Any) -> str:
    """The `problem_type` that these labels imply, as in transformers."""
    if num_labels == 1:
        return "regression"
    return "single_label_classification" if _kind(labels) in "iu" else "multi_label_classification"


def _labels(labels: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    values = np.atleast_2d(to_int_array(labels, "labels"))
    if values.shape != shape:
        raise InputError(f"labels has the shape {list(values.shape)}, the input has {list(shape)}")
    return values


def _kind(values: Any) -> str:
    """numpy's letter for the type of labels: i and u for integers, b for booleans, f for floats."""
    if is_torch(values):
        return "f" if values.is_floating_point() else "b" if str(values.dtype) == "torch.bool" else "i"
    return np.asarray(values).dtype.kind
