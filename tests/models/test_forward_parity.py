"""Every argument of every model class, against the committed answers of transformers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import forward_cases
from oracle.forward_cases import MODELS, answers, assert_like, cases_of, model_arguments

import gptbigcode_cpu
from gptbigcode_cpu.models.forward import NAMES

TOLERANCE = 2e-4  # as in test_parity.py


@functools.cache
def reference() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).parents[1] / "oracle" / "forward.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=MODELS)
def named_model(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_checkpoint: Callable[..., Path],
    converted: Callable[..., Path],
) -> tuple[str, Any]:
    """A random model of `MODELS`, float32."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("model"), **model_arguments(request.param))
    model_class = getattr(gptbigcode_cpu, MODELS[request.param]["class"])
    return request.param, model_class.from_pretrained(converted("float32", checkpoint), num_threads=2)


def test_answers_equal_those_of_transformers(named_model: tuple[str, Any]) -> None:
    name, model = named_model
    config = model.config
    cases = cases_of(MODELS[name]["class"], config.vocab_size, config.n_embd, config.num_labels, config.pad_token_id)
    known = {key.split("/")[1] for key in reference() if key.startswith(f"{name}/")}
    assert known == cases.keys()
    for case, steps in cases.items():
        for i, (actual, step) in enumerate(zip(answers(model, steps, theirs=False), steps, strict=True)):
            prefix = f"{name}/{case}/{i}/"
            expected = {key.removeprefix(prefix): value for key, value in reference().items() if key.startswith(prefix)}
            assert expected, prefix
            try:
                assert_like(actual, expected, step, TOLERANCE)
            except AssertionError as error:
                raise AssertionError(f"{case}, call {i}: {error}") from error


def test_every_argument_has_a_reference() -> None:
    cases = [steps for name in MODELS for steps in cases_of(MODELS[name]["class"], 61, 36, 3, 5).values()]
    used = {key for steps in cases for step in steps for key in step}
    assert {*NAMES, "labels", "logits_to_keep"} - {"past_key_values"} <= used
    assert forward_cases.MODELS.keys() == {key.split("/")[0] for key in reference()}
