"""The feature-extraction pipeline: the hidden states of texts."""

from __future__ import annotations

from typing import Any, ClassVar

from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.pipelines.base import Pipeline, checked_batch_size, is_lazy


class FeatureExtractionPipeline(Pipeline):
    """Computes the last hidden states of texts.

    Args:
        model: A `GPTBigCodeModel`.
        tokenizer: Its tokenizer.
        **options: Options for all calls; see `__call__`.
    """

    task: ClassVar[str] = "feature-extraction"
    model_class: ClassVar[str] = "AutoModel"
    known_options: ClassVar[tuple[str, ...] | None] = ("truncation", "tokenize_kwargs", "return_tensors", "batch_size")

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Compute the last hidden states of one text or several.

        Args:
            inputs: A text, or a list, an iterator or a data set of texts.
            truncation: As in a call of the tokenizer.
            tokenize_kwargs: Further arguments for the tokenizer.
            return_tensors: Return numpy arrays instead of lists.
            batch_size: Number of texts that run together.

        Returns:
            For each text, float32 ``[1, tokens, n_embd]``. For an iterator or a data set, an iterator of these.

        Raises:
            InputError: An input is not a text, or an option is unknown.
            ContextLengthError: A text is too long; `truncation=True` cuts it.
        """
        if is_lazy(inputs):
            return self._one_by_one(inputs, options)
        given = self._given(options)
        arguments = dict(given.get("tokenize_kwargs") or {})
        if given.get("truncation") is not None:
            if "truncation" in arguments:
                raise InputError("truncation is given twice: as an argument and in tokenize_kwargs")
            arguments["truncation"] = given["truncation"]
        if "return_tensors" in arguments or arguments.get("padding"):
            raise InputError("tokenize_kwargs must not contain return_tensors or padding; the pipeline sets them itself")
        texts = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        rows = [self.tokenizer(text, **arguments)["input_ids"] for text in texts]
        features = [
            state[: int(row_mask.sum())][None]
            for ids, mask in self._rows(rows, checked_batch_size(given.get("batch_size", 1)))
            for state, row_mask in zip(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, strict=True)
        ]
        results = features if given.get("return_tensors") else [array.tolist() for array in features]
        return results if isinstance(inputs, (list, tuple)) else results[0]
