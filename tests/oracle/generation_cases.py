"""Questions about generation that transformers has answered: options, prompts, and scores to process."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAD = 4  # <fim_pad> in both vocabularies
PROMPTS = ["def fibonacci(n):\n    ", "import os\nimport sys\n\n\ndef main(", "class A:\n"]
MODEL = {"seed": 21, "n_embd": 96, "n_layer": 3}
"""Of the small model with random weights, whose answers need no checkpoint."""

GREEDY: dict[str, dict[str, Any]] = {
    "plain": {},
    "max_length": {"max_length": 40, "max_new_tokens": None},
    "repetition_penalty": {"repetition_penalty": 1.4},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.6},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_size_1": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [["A"], ["B", "C"], ["E"]], "repetition_penalty": 1.1},
    "sequence_bias": {"sequence_bias": [[["A"], -8.0], [["B", "C"], -20.0], [["D"], 2.0]]},
    "suppress_tokens": {"suppress_tokens": ["A", "B"]},
    "begin_suppress_tokens": {"begin_suppress_tokens": ["A", "B"]},
    "forced_eos_token_id": {"forced_eos_token_id": "E", "eos_token_id": "E"},
    "eos": {"eos_token_id": ["E", "B"]},
    "min_new_tokens": {"eos_token_id": ["E", "B"], "min_new_tokens": 14},
    "min_length": {"eos_token_id": ["E", "B"], "min_length": 30},
    "decay": {"eos_token_id": "E", "exponential_decay_length_penalty": (4, 1.15)},
    "remove_invalid_values": {"remove_invalid_values": True, "suppress_tokens": ["A"]},
    "guidance": {"guidance_scale": 1.5},
    "many": {
        "eos_token_id": ["E"],
        "no_repeat_ngram_size": 3,
        "repetition_penalty": 1.2,
        "suppress_tokens": ["A"],
        "min_new_tokens": 5,
        "sequence_bias": [[["B", "C"], -4.0], [["D"], 1.0]],
        "exponential_decay_length_penalty": (8, 1.3),
        "renormalize_logits": True,
    },
    "stop_strings": {"stop_strings": ["bona", "e.n", "py a"]},
}
ONE_TOKEN: dict[str, dict[str, Any]] = {
    "forced_bos_token_id": {"forced_bos_token_id": "B", "begin_suppress_tokens": ["A", "D"]},
    "begin": {"begin_suppress_tokens": ["A", "D"]},
}
BEAMS: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 4, "num_return_sequences": 4},
    "beams_2": {"num_beams": 2, "eos_token_id": ["E", "B"]},
    "beams_early": {"num_beams": 4, "early_stopping": True, "eos_token_id": ["E"], "num_return_sequences": 3},
    "beams_never": {"num_beams": 4, "early_stopping": "never", "eos_token_id": ["E"], "num_return_sequences": 3},
    "beams_long": {"num_beams": 3, "length_penalty": 2.0, "eos_token_id": ["E"], "num_return_sequences": 2},
    "beams_short": {"num_beams": 3, "length_penalty": -1.0, "eos_token_id": ["E"], "num_return_sequences": 2},
    "beams_zero": {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never", "eos_token_id": ["E", "D"]},
    "beams_processors": {
        "num_beams": 4,
        "eos_token_id": ["E"],
        "no_repeat_ngram_size": 2,
        "repetition_penalty": 1.3,
        "min_new_tokens": 6,
        "renormalize_logits": True,
        "num_return_sequences": 2,
    },
    "beams_forced": {"num_beams": 3, "forced_eos_token_id": "E", "eos_token_id": "E"},
    "beams_stop_strings": {"num_beams": 3, "stop_strings": ["bona", "le o", "py a"], "eos_token_id": ["E"]},
}
DEFAULTS: dict[str, Any] = {"max_new_tokens": 24, "pad_token_id": PAD, "eos_token_id": 0}

# Tokens by letter: frequent ones, so that options about them show. D is rarer, E ends texts.
LETTERS = {
    "python_8m": {"A": "\n", "B": ",", "C": " n", "D": " return", "E": "."},
    "random": {"A": 43, "B": 227, "C": 136, "D": 100, "E": 122},
}


def with_ids(value: Any, ids: dict[str, int]) -> Any:
    """Options in which letters have become token ids."""
    if isinstance(value, str):
        return ids.get(value, value)
    if isinstance(value, dict):
        return {name: with_ids(item, ids) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(with_ids(item, ids) for item in value)
    return value


def left_padded(rows: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask, int64 ``[rows, tokens]``."""
    width = max(map(len, rows))
    ids = np.array([[PAD] * (width - len(row)) + row for row in rows])
    return ids, np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows])


# Class of the processor, its arguments; scores and tokens come from `scores` and `contexts`.
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("TemperatureLogitsWarper", {"temperature": 0.3}),
    ("TopKLogitsWarper", {"top_k": 7}),
    ("TopKLogitsWarper", {"top_k": 1, "min_tokens_to_keep": 3}),
    ("TopKLogitsWarper", {"top_k": 1000}),
    ("TopPLogitsWarper", {"top_p": 0.8}),
    ("TopPLogitsWarper", {"top_p": 0.01, "min_tokens_to_keep": 2}),
    ("MinPLogitsWarper", {"min_p": 0.1}),
    ("MinPLogitsWarper", {"min_p": 1.0, "min_tokens_to_keep": 3}),
    ("TypicalLogitsWarper", {"mass": 0.6}),
    ("TypicalLogitsWarper", {"mass": 0.05, "min_tokens_to_keep": 4}),
    ("EpsilonLogitsWarper", {"epsilon": 0.02}),
    ("EpsilonLogitsWarper", {"epsilon": 0.9, "min_tokens_to_keep": 2}),
    ("EtaLogitsWarper", {"epsilon": 0.05}),
    ("EtaLogitsWarper", {"epsilon": 0.5, "min_tokens_to_keep": 2}),
    ("TopHLogitsWarper", {"top_h": 0.4}),
    ("TopHLogitsWarper", {"top_h": 0.9}),
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 1.7}),
    ("RepetitionPenaltyLogitsProcessor", {"penalty": 0.5, "prompt_ignore_length": 3}),
    ("NoRepeatNGramLogitsProcessor", {"ngram_size": 1}),
    ("NoRepeatNGramLogitsProcessor", {"ngram_size": 3}),
    ("NoRepeatNGramLogitsProcessor", {"ngram_size": 40}),
    ("SequenceBiasLogitsProcessor", {"sequence_bias": {(3,): 2.5, (1, 2): -1.5, (0, 1, 2): float("-inf"), (5, 3): 1.0}}),
    ("NoBadWordsLogitsProcessor", {"bad_words_ids": [[3], [9], [1, 2], [0, 1, 2]], "eos_token_id": [9]}),
    ("MinLengthLogitsProcessor", {"min_length": 13, "eos_token_id": [2, 7]}),
    ("MinLengthLogitsProcessor", {"min_length": 12, "eos_token_id": 2}),
    ("MinNewTokensLengthLogitsProcessor", {"prompt_length_to_skip": 8, "min_new_tokens": 5, "eos_token_id": [2, 7]}),
    ("ForcedEOSTokenLogitsProcessor", {"max_length": 13, "eos_token_id": [2, 7]}),
    ("ForcedBOSTokenLogitsProcessor", {"bos_token_id": 2}),
    ("InfNanRemoveLogitsProcessor", {}),
    (
        "ExponentialDecayLengthPenalty",
        {"exponential_decay_length_penalty": (2, 1.3), "eos_token_id": [2, 7], "input_ids_seq_length": 6},
    ),
    ("LogitNormalization", {}),
    ("SuppressTokensLogitsProcessor", {"suppress_tokens": [1, 5, 8]}),
    ("SuppressTokensAtBeginLogitsProcessor", {"begin_suppress_tokens": [1, 5], "begin_index": 12}),
]


def contexts() -> NDArray[np.int64]:
    """Tokens so far, ``[rows, tokens]``, in which short sequences come again."""
    return np.random.RandomState(5).randint(0, 4, (6, 12)).astype(np.int64)


def scores() -> NDArray[np.float32]:
    """Scores ``[rows, vocab]``, from flat to peaked, some rows with excluded tokens."""
    random = np.random.RandomState(6)
    values = random.standard_normal((6, 150)).astype(np.float32) * np.array([[0.1], [1], [2], [3], [5], [1]], dtype=np.float32)
    values[4, random.randint(0, 150, 60)] = -np.inf
    return values
