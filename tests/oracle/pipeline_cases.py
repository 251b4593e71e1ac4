"""The calls of pipelines whose results from transformers are committed (pipelines.json).

The models' logits are a function of the token ids, the same on both sides, so that the results show the pipelines' own work.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = [
    "My name is Sarah Jessica Parker and I live in New York.",
    "import numpy as np",
    "naïve 日本 🙂 <|endoftext|> x",
    "x",
    "def fibonacci(number, cache=None):\n    return cache[number] if number in cache else 123456789\n",
]
LONG = " ".join(f"word{i} Berlin Smith" for i in range(20))
WORDS = [["My", "name", "is", "Sarah", "Smith-Jones"], ["x=1", "", "日本"]]

TOKEN_CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "nothing ignored": {"ignore_labels": []},
    "one text": {"inputs": TEXTS[0]},
    "words": {"inputs": WORDS, "is_split_into_words": True, "aggregation_strategy": "simple"},
    "words of one text": {
        "inputs": WORDS[0], "is_split_into_words": True, "delimiter": "--", "aggregation_strategy": "first",
        "ignore_labels": [],
    },
    "long": {"inputs": LONG, "aggregation_strategy": "simple", "stride": 5},
    "long, no label ignored": {"inputs": [LONG], "aggregation_strategy": "first", "stride": 3, "ignore_labels": ["B-PER"]},
    "long, cut": {"inputs": LONG},
} | {name: {"aggregation_strategy": name} for name in ("none", "simple", "first", "average", "max")}  # fmt: skip
TEXT_CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one text": {"inputs": TEXTS[0]},
    "best": {"inputs": TEXTS[0], "top_k": 1},
    "two": {"top_k": 2},
    "all of one": {"inputs": TEXTS[1], "top_k": None},
    "sigmoid": {"top_k": None, "function_to_apply": "sigmoid"},
    "no function": {"function_to_apply": "none"},
    "pair": {"inputs": {"text": TEXTS[0], "text_pair": TEXTS[1]}},
    "pairs": {"inputs": [{"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": "x"}], "top_k": 3},
    "cut": {"truncation": True, "max_length": 3, "top_k": None},
}
PROBLEMS = {
    "several labels": {},
    "regression": {"problem_type": "regression"},
    "multi": {"problem_type": "multi_label_classification"},
    "single": {"problem_type": "single_label_classification"},
    "one label": {"id2label": {0: "SCORE"}},
}
FEATURE_CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one text": {"inputs": TEXTS[0]},
    "cut": {"truncation": True, "tokenize_kwargs": {"max_length": 2}},
}


def token_logits(ids: NDArray[np.int64], labels: int = len(LABELS)) -> NDArray[np.float32]:
    """Something for every token, float32 ``[batch, tokens, labels]``."""
    factors = np.array([0.83, 1.37, 2.11, 0.71, 3.93])[:labels]
    return (3 * np.sin(ids[..., None] * factors + factors)).astype(np.float32)


def text_logits(ids: NDArray[np.int64], mask: NDArray[np.int64], labels: int) -> NDArray[np.float32]:
    """Something for every text, float32 ``[batch, labels]``."""
    weights = mask[..., None].astype(np.float32)
    return ((token_logits(ids, labels) * weights).sum(1) / weights.sum(1)).astype(np.float32)


def plain(value: Any) -> Any:
    """A result as JSON has it."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def results(calls: dict[str, dict[str, Any]], pipe: Any) -> dict[str, Any]:
    """What a pipeline returns for the calls."""
    given = {name: {"inputs": TEXTS, **copy.deepcopy(call)} for name, call in calls.items()}
    return {name: plain(pipe(call.pop("inputs"), **call)) for name, call in given.items()}
