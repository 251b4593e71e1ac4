"""The token-classification pipeline: labels for tokens, words and entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.suggest import check_choice
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.pipelines.base import Pipeline, checked_batch_size, is_lazy
from gptbigcode_cpu.pipelines.text_classification import apply_function

STRATEGIES = (None, "none", "simple", "first", "average", "max")
_Entity = dict[str, Any]


class TokenClassificationPipeline(Pipeline):
    """Labels tokens, for example to find names.

    Args:
        model: A `GPTBigCodeForTokenClassification`.
        tokenizer: Its tokenizer.
        **options: Options for all calls; see `__call__`.
    """

    task: ClassVar[str] = "token-classification"
    model_class: ClassVar[str] = "AutoModelForTokenClassification"
    known_options: ClassVar[tuple[str, ...] | None] = (
        "aggregation_strategy", "ignore_labels", "stride", "is_split_into_words", "delimiter", "batch_size",
    )  # fmt: skip

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Label the tokens of one text or several.

        Args:
            inputs: A text, or a list, an iterator or a data set of texts. With `is_split_into_words`, texts are lists of words.
            aggregation_strategy: ``"none"``: label every token. ``"simple"``: merge neighbouring tokens with the same label
                into one entity; B- and I- tags are respected. ``"first"``, ``"average"``, ``"max"``: first give all tokens of
                a word one label, from its first token, its mean scores, or its highest score. A word begins at the start of
                the text or after a space.
            ignore_labels: Labels that are left out of the result; default: ``["O"]``.
            stride: Split a long text into pieces of ``model_max_length`` tokens that overlap by `stride` tokens. Needs an
                aggregation strategy. Default: a long text is cut.
            is_split_into_words: Whether the texts are lists of words.
            delimiter: The text that joins the words; ``start`` and ``end`` refer to the joined text. Default: a space.
            batch_size: Number of texts or pieces that run together.

        Returns:
            For each text, a list of dicts with ``entity`` (``entity_group`` if aggregated), ``score``, ``word``, ``start``
            and ``end`` in characters, and, if not aggregated, the token's ``index``. A single list of words gives a list with
            one such list, as in transformers. For an iterator or a data set, an iterator of these.

        Raises:
            InputError: An input is not a text, an option is unknown, or a value is bad.
        """
        if is_lazy(inputs):
            return self._one_by_one(inputs, options)
        given = self._given(options)
        strategy = given.get("aggregation_strategy") or "none"
        check_choice("aggregation_strategy", strategy, STRATEGIES)
        words, delimiter = bool(given.get("is_split_into_words")), given.get("delimiter")
        if delimiter is not None and not words:
            raise InputError("delimiter joins words; it needs is_split_into_words=True")
        stride = given.get("stride")
        if stride is not None and strategy == "none":
            raise InputError("stride merges pieces of a text; it needs an aggregation_strategy")
        several = isinstance(inputs, (list, tuple)) and not (words and bool(inputs) and isinstance(inputs[0], str))
        ignored = ["O"] if given.get("ignore_labels") is None else list(given["ignore_labels"])
        batch_size = checked_batch_size(given.get("batch_size", 1))
        results = [
            self._entities(text, strategy, ignored, stride, " " if delimiter is None and words else delimiter, batch_size)
            for text in (inputs if several else [inputs])
        ]
        return results if several or words else results[0]

    def _entities(
        self, text: Any, strategy: str, ignored: Sequence[str], stride: int | None, delimiter: str | None, batch_size: int
    ) -> list[_Entity]:
        sentence = text if delimiter is None else delimiter.join(text)
        if not isinstance(sentence, str):
            raise InputError(f"a text is a string, not {type(sentence).__name__}")
        rows = self.tokenizer(
            [text],
            is_split_into_words=delimiter is not None,
            truncation=True,
            stride=stride or 0,
            return_overflowing_tokens=stride is not None,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
        )
        scores = [
            apply_function(np.asarray(logits[: int(row_mask.sum())], dtype=np.float32), "softmax")
            for ids, mask in self._rows(rows["input_ids"], batch_size)
            for logits, row_mask in zip(self.model(input_ids=ids, attention_mask=mask).logits, mask, strict=True)
        ]
        entities: list[_Entity] = []
        for i, row_scores in enumerate(scores):
            starts = _word_starts(text, delimiter, rows.word_ids(i)) if delimiter is not None else [0] * len(row_scores)
            tokens = [
                self._token(sentence, rows["input_ids"][i][k], row_scores[k], k, begin + start, end + start)
                for k, ((begin, end), start) in enumerate(zip(rows["offset_mapping"][i], starts, strict=True))
                if not rows["special_tokens_mask"][i][k]
            ]
            found = self._aggregate(tokens, strategy)
            entities += [item for item in found if item.get("entity", item.get("entity_group")) not in ignored]
        return _longest(entities) if len(scores) > 1 else entities

    def _token(self, sentence: str, token_id: int, scores: NDArray[np.float32], index: int, start: int, end: int) -> _Entity:
        unknown = token_id == self.tokenizer.unk_token_id
        return {
            "word": sentence[start:end] if unknown else self.tokenizer.convert_ids_to_tokens(token_id),
            "scores": scores,
            "start": start,
            "end": end,
            "index": index,
            "is_subword": not unknown and start > 0 and " " not in sentence[start - 1 : start + 1],
        }

    def _aggregate(self, tokens: list[_Entity], strategy: str) -> list[_Entity]:
        if strategy in ("none", "simple"):
            keys = ("index", "word", "start", "end")
            entities = [{**self._label(token["scores"]), **{key: token[key] for key in keys}} for token in tokens]
            return entities if strategy == "none" else self._grouped(entities)
        words: list[list[_Entity]] = []
        for token in tokens:
            if words and token["is_subword"]:
                words[-1].append(token)
            else:
                words.append([token])
        return self._grouped([self._word(word, strategy) for word in words])

    def _label(self, scores: NDArray[np.float32]) -> _Entity:
        best = int(scores.argmax())
        return {"entity": self.model.config.id2label[best], "score": float(scores[best])}

    def _word(self, tokens: list[_Entity], strategy: str) -> _Entity:
        if strategy == "first":
            scores = tokens[0]["scores"]
        elif strategy == "max":
            scores = max(tokens, key=lambda token: float(token["scores"].max()))["scores"]
        else:
            scores = np.nanmean(np.stack([token["scores"] for token in tokens]), axis=0)
        return {**self._label(scores), **self._span(tokens)}

    def _span(self, parts: list[_Entity]) -> _Entity:
        word = self.tokenizer.convert_tokens_to_string([part["word"] for part in parts])
        return {"word": word, "start": parts[0]["start"], "end": parts[-1]["end"]}

    def _grouped(self, entities: list[_Entity]) -> list[_Entity]:
        groups: list[list[_Entity]] = []
        for entity in entities:
            begins, tag = _tag(entity["entity"])
            if groups and tag == _tag(groups[-1][-1]["entity"])[1] and not begins:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [
            {
                "entity_group": group[0]["entity"].split("-", 1)[-1],
                "score": float(np.nanmean(np.array([entity["score"] for entity in group], dtype=np.float32))),
                **self._span(group),
            }
            for group in groups
        ]


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and the label without its prefix B- or I-."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _word_starts(words: Sequence[str], delimiter: str, word_ids: Sequence[int | None]) -> list[int]:
    """For each token, the place in the joined text where its word starts."""
    starts, position = [], 0
    for word in words:
        starts.append(position)
        position += len(word) + len(delimiter)
    return [0 if word_id is None else starts[word_id] for word_id in word_ids]


def _longest(entities: Sequence[Mapping[str, Any]]) -> list[_Entity]:
    """Resolve overlaps between entities of overlapping pieces: keep the longest, or among equal ones the most probable."""
    kept: list[_Entity] = []
    for entity in sorted(entities, key=lambda item: item["start"]):
        if kept and entity["start"] < kept[-1]["end"]:
            old, new = kept[-1], entity
            lengths = new["end"] - new["start"], old["end"] - old["start"]
            if lengths[0] > lengths[1] or (lengths[0] == lengths[1] and new["score"] > old["score"]):
                kept[-1] = dict(new)
        else:
            kept.append(dict(entity))
    return kept
