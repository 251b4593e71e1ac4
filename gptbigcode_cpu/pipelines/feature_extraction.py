"""The hidden states of a text."""

from __future__ import annotations

from typing import Any, ClassVar

from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.pipelines.base import Pipeline, checked_batch_size, is_lazy


class FeatureExtractionPipeline(Pipeline):
    """Computes the last hidden states of texts.

    Args:
        model: A `GPTBigCodeModel`.
        tokenizer: Its tokenizer.
        **options: Options of all calls, see `__call__`.
    """

    task: ClassVar[str] = "feature-extraction"
    model_class: ClassVar[str] = "AutoModel"
    known_options: ClassVar[tuple[str, ...] | None] = ("truncation", "tokenize_kwargs", "return_tensors", "batch_size")

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """The features of one text or several.

        Args:
            inputs: A text or a list of texts; also an iterator or a data set of texts.
            truncation: As in a call of the tokenizer.
            tokenize_kwargs: More arguments for that call.
            return_tensors: Return arrays instead of lists.
            batch_size: Texts that run together.

        Returns:
            For each text float32 ``[1, tokens, n_embd]``; for an iterator or a data set an iterator of these.

        Raises:
            InputError: Something that is no text, or an unknown option.
            ContextLengthError: A text is too long; `truncation` cuts it.
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
            raise InputError("tokenize_kwargs: return_tensors and padding are the pipeline's own")
        texts = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        rows = [self.tokenizer(text, **arguments)["input_ids"] for text in texts]
        features = [
            state[: int(row_mask.sum())][None]
            for ids, mask in self._rows(rows, checked_batch_size(given.get("batch_size", 1)))
            for state, row_mask in zip(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, strict=True)
        ]
        results = features if given.get("return_tensors") else [array.tolist() for array in features]
        return results if isinstance(inputs, (list, tuple)) else results[0]
