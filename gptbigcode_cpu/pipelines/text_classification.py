"""The text-classification pipeline: labels for texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.softmax import softmax
from gptbigcode_cpu.common.suggest import check_choice
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.pipelines.base import Pipeline, checked_batch_size, is_lazy

FUNCTIONS = (None, "default", "sigmoid", "softmax", "none")


class TextClassificationPipeline(Pipeline):
    """Classifies texts.

    Args:
        model: A `GPTBigCodeForSequenceClassification`.
        tokenizer: Its tokenizer.
        **options: Options for all calls; see `__call__`.
    """

    task: ClassVar[str] = "text-classification"
    model_class: ClassVar[str] = "AutoModelForSequenceClassification"
    known_options: ClassVar[tuple[str, ...] | None] = (
        "top_k", "function_to_apply", "batch_size", "truncation", "max_length", "add_special_tokens",
    )  # fmt: skip

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Classify one text or several.

        Args:
            inputs: A text, a dict with ``text`` and ``text_pair``, or a list, an iterator or a data set of either.
            top_k: Number of labels per text, the most probable first; None = all. Default: only the most probable label.
            function_to_apply: ``"softmax"``, ``"sigmoid"`` or ``"none"``. Default: depends on the configuration's
                ``problem_type``; without one, sigmoid for one label and softmax for several.
            batch_size: Number of texts that run together.
            truncation: As in a call of the tokenizer; so are `max_length` and `add_special_tokens`.

        Returns:
            For each text, ``{"label": ..., "score": ...}``, or with `top_k` a list of these. For a single string without
            `top_k`, a list with one result. For an iterator or a data set, an iterator of these.

        Raises:
            InputError: An input is not a text, or an option is unknown.
            ContextLengthError: A text is too long; `truncation=True` cuts it.
        """
        if is_lazy(inputs):
            return self._one_by_one(inputs, options)
        given = self._given(options)
        function = given.pop("function_to_apply", None)
        check_choice("function_to_apply", function, FUNCTIONS)
        batch_size = checked_batch_size(given.pop("batch_size", 1))
        listed = "top_k" in given
        top_k = given.pop("top_k", 1)
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise InputError(f"top_k must be a positive integer or None, not {top_k!r}")
        several = isinstance(inputs, (list, tuple))
        encodings = [self._encode(item, given) for item in (inputs if several else [inputs])]
        logits = [row for ids, mask in self._rows(encodings, batch_size) for row in self._logits(ids, mask)]
        results = [self._result(row, function, top_k, listed) for row in logits]
        if several:
            return results
        return [results[0]] if isinstance(inputs, str) and "top_k" not in options else results[0]

    def _encode(self, item: Any, options: Mapping[str, Any]) -> Sequence[int]:
        if isinstance(item, Mapping):
            if not {"text"} <= set(item) <= {"text", "text_pair"}:
                raise InputError(f"a pair of texts is a dict with 'text' and 'text_pair', not with {', '.join(map(str, item))}")
            text, pair = item["text"], item.get("text_pair")
        else:
            text, pair = item, None
        if not isinstance(text, str):
            raise InputError(f"a text is a string, or a dict with 'text' and 'text_pair'; not {type(text).__name__}")
        ids: Sequence[int] = self.tokenizer(text, pair, **options)["input_ids"]
        return ids

    def _logits(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self.model(input_ids=ids, attention_mask=mask).logits, dtype=np.float32)

    def _result(self, logits: NDArray[np.float32], function: str | None, top_k: int | None, listed: bool) -> Any:
        scores = apply_function(logits, self._function() if function in (None, "default") else function)
        names = self.model.config.id2label
        if not listed:
            return {"label": names[int(scores.argmax())], "score": float(scores.max())}
        labels = [{"label": names[i], "score": float(score)} for i, score in enumerate(scores)]
        return sorted(labels, key=lambda label: -label["score"])[:top_k]

    def _function(self) -> str:
        config = self.model.config
        match config.problem_type:
            case "regression":
                return "none"
            case "multi_label_classification":
                return "sigmoid"
            case "single_label_classification":
                return "softmax"
        return "sigmoid" if config.num_labels == 1 else "softmax"


def apply_function(logits: NDArray[np.float32], function: str | None) -> NDArray[np.float32]:
    """Apply ``"sigmoid"``, ``"softmax"`` over the last axis, or nothing to logits."""
    scores: NDArray[np.float32] = logits
    if function == "sigmoid":
        scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    elif function == "softmax":
        scores = softmax(logits, sum_dtype=np.float32)  # as in transformers
    return scores.astype(np.float32, copy=False)
