"""Processors and criteria made by hand, as scripts make them: their arguments, and calls on torch tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gptbigcode_cpu
from gptbigcode_cpu import (
    EosTokenCriteria,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    StopStringCriteria,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from gptbigcode_cpu.engine.logits.chain import Chain
from gptbigcode_cpu.errors import InputError

# Every class with arguments that are right, and the names that its errors give them.
CLASSES: list[tuple[Callable[..., Any], tuple[Any, ...], tuple[str, ...]]] = [
    (TemperatureLogitsWarper, (0.5,), ("temperature",)),
    (TopKLogitsWarper, (5, -np.inf, 1), ("top_k", "filter_value", "min_tokens_to_keep")),
    (TopPLogitsWarper, (0.7, -np.inf, 1), ("top_p", "filter_value", "min_tokens_to_keep")),
    (MinPLogitsWarper, (0.2, -np.inf, 1), ("min_p", "filter_value", "min_tokens_to_keep")),
    (TypicalLogitsWarper, (0.6, -np.inf, 1), ("typical_p", "filter_value", "min_tokens_to_keep")),
    (EpsilonLogitsWarper, (0.01, -np.inf, 1), ("epsilon_cutoff", "filter_value", "min_tokens_to_keep")),
    (EtaLogitsWarper, (0.01, -np.inf, 1), ("eta_cutoff", "filter_value", "min_tokens_to_keep")),
    (TopHLogitsWarper, (0.5, -np.inf), ("top_h", "filter_value")),
    (RepetitionPenaltyLogitsProcessor, (1.4,), ("repetition_penalty",)),
    (NoRepeatNGramLogitsProcessor, (2,), ("ngram_size",)),
    (NoBadWordsLogitsProcessor, ([[3], [4, 5]], 0), ("bad_words_ids", "eos_token_id")),
    (SequenceBiasLogitsProcessor, ({(3,): 2.0, (4, 5): -1.0},), ("sequence_bias",)),
    (MinLengthLogitsProcessor, (20, 0), ("min_length", "eos_token_id")),
    (MinNewTokensLengthLogitsProcessor, (4, 5, [0, 1]), ("prompt_length_to_skip", "min_new_tokens", "eos_token_id")),
    (ForcedBOSTokenLogitsProcessor, (3,), ("forced_bos_token_id",)),
    (ForcedEOSTokenLogitsProcessor, (9, [4, 5]), ("max_length", "eos_token_id")),
    (InfNanRemoveLogitsProcessor, (), ()),
    (LogitNormalization, (), ()),
    (
        ExponentialDecayLengthPenalty,
        ((2, 1.2), 0, 5),
        ("exponential_decay_length_penalty", "eos_token_id", "input_ids_seq_length"),
    ),
    (SuppressTokensLogitsProcessor, ([1, 2],), ("suppress_tokens",)),
    (SuppressTokensAtBeginLogitsProcessor, ([1, 2], 8), ("begin_suppress_tokens", "begin_index")),
    (PrefixConstrainedLogitsProcessor, (lambda prompt, ids: [prompt, 3], 1), ("prefix_allowed_tokens_fn", "num_beams")),
    (MaxLengthCriteria, (8,), ("max_length",)),
    (MaxTimeCriteria, (1e6,), ("max_time",)),
    (EosTokenCriteria, ([5, 6],), ("eos_token_id",)),
]
IDS = np.arange(16).reshape(2, 8) % 5
SCORES = np.sin(np.arange(60, dtype=np.float32)).reshape(2, 30) * 3


@pytest.mark.parametrize("value", [-1, float("nan"), "x", object(), [[]], 1j, pytest.param(10**400, id="huge")])
@pytest.mark.parametrize(("kind", "arguments", "names"), CLASSES)
def test_bad_arguments_are_named(kind: Any, arguments: tuple[Any, ...], names: tuple[str, ...], value: Any) -> None:
    for place, name in enumerate(names):
        if name == "filter_value" and value == -1:
            continue
        with pytest.raises(InputError, match=name) as raised:
            kind(*arguments[:place], value, *arguments[place + 1 :])
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("kind", "arguments", "names"), CLASSES)
def test_numbers_of_numpy_are_those_of_python(kind: Any, arguments: tuple[Any, ...], names: tuple[str, ...]) -> None:
    made = kind(*(np.asarray(value)[()] if isinstance(value, (int, float)) else value for value in arguments))
    np.testing.assert_array_equal(made(IDS, SCORES), kind(*arguments)(IDS, SCORES))


@pytest.mark.parametrize("value", ["", [], "\ud800", ["a", ""], 3])
def test_stop_strings(value: Any) -> None:
    with pytest.raises(InputError, match="stop_strings must be a string or a list of strings of Unicode text"):
        StopStringCriteria(None, value)  # type: ignore[arg-type]


def test_filter_value_takes_the_place_of_minus_infinity() -> None:
    scores = TopKLogitsWarper(2, -7.0)(IDS, SCORES)
    best = np.argsort(-SCORES, axis=1)[:, :2]
    np.testing.assert_array_equal(np.take_along_axis(scores, best, 1), np.take_along_axis(SCORES, best, 1))
    assert (np.sort(scores, axis=1)[:, :28] == -7).all()
    # The core's sampler knows no other value than minus infinity.
    assert Chain([], [TopKLogitsWarper(2)], sampling=True).is_native
    assert not Chain([], [TopKLogitsWarper(2, -7.0)], sampling=True).is_native


@pytest.mark.live
class TestTorch:
    @pytest.mark.parametrize(("kind", "arguments", "names"), CLASSES)
    def test_processors_answer_in_kind(self, kind: Any, arguments: tuple[Any, ...], names: tuple[str, ...]) -> None:
        torch = pytest.importorskip("torch")
        right = kind(*arguments)(IDS, SCORES)
        answer = kind(*arguments)(torch.tensor(IDS), torch.tensor(SCORES))
        np.testing.assert_array_equal(np.asarray(answer), right)
        if issubclass(kind, gptbigcode_cpu.LogitsProcessor):
            assert isinstance(answer, torch.Tensor)
            assert answer.dtype == torch.float32

    def test_lists_and_other_types(self) -> None:
        torch = pytest.importorskip("torch")
        processors = LogitsProcessorList([TemperatureLogitsWarper(0.5), TopKLogitsWarper(3)])
        right = processors(IDS, SCORES)
        np.testing.assert_array_equal(processors(torch.tensor(IDS), torch.tensor(SCORES)).numpy(), right)
        half = TopKLogitsWarper(3)(torch.tensor(IDS), torch.tensor(SCORES).bfloat16())
        assert int(torch.isfinite(half).sum()) == 6


@pytest.mark.live
def test_arguments_are_those_of_transformers() -> None:
    generation = pytest.importorskip("transformers").generation
    for kind, _, _ in CLASSES:
        theirs = inspect.signature(getattr(generation, kind.__name__).__init__)
        ours = inspect.signature(kind.__init__)  # type: ignore[misc]
        assert list(ours.parameters) == list(theirs.parameters), kind
