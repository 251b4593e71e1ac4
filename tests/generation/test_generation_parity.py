"""Every option of generation gives what transformers gave: tokens, beams with their scores, processed scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import generation_cases as cases

from gptbigcode_cpu import AutoModelForCausalLM, GPTBigCodeForCausalLM
from gptbigcode_cpu.engine.logits import processors, warpers
from gptbigcode_cpu.tokenizer import AutoTokenizer, GPTBigCodeTokenizer

ORACLE = Path(__file__).parents[1] / "oracle" / "generation.npz"
EXACT_SETS = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray[Any]]:
    with np.load(ORACLE) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module", params=["random", "python_8m"])
def loaded(
    request: pytest.FixtureRequest, converted: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path_factory: Any
) -> tuple[str, GPTBigCodeForCausalLM, GPTBigCodeTokenizer]:
    source = None
    if request.param == "random":
        source = make_checkpoint(tmp_path_factory.mktemp("generation") / "random", **cases.MODEL)
    directory = converted("float32", source)
    return request.param, AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)


def asked(case: str, name: str, tokenizer: GPTBigCodeTokenizer) -> dict[str, Any]:
    """The arguments of `generate` of a case."""
    letters = cases.LETTERS[name]
    ids = {letter: it if isinstance(it, int) else tokenizer.encode(it)[0] for letter, it in letters.items()}
    rows = [tokenizer.encode(text) for text in cases.PROMPTS]
    input_ids, mask = cases.left_padded([row[-1:] for row in rows] if case in cases.ONE_TOKEN else rows)
    options = {**cases.GREEDY, **cases.ONE_TOKEN, **cases.BEAMS}[case]
    given = cases.DEFAULTS | cases.with_ids(options, ids)
    given = {key: value for key, value in given.items() if value is not None}
    return {"inputs": input_ids, "attention_mask": mask, "tokenizer": tokenizer, **given}


@pytest.mark.parametrize("case", [*cases.GREEDY, *cases.ONE_TOKEN])
def test_greedy(case: str, loaded: Any, expected: dict[str, NDArray[Any]]) -> None:
    name, model, tokenizer = loaded
    output = model.generate(**asked(case, name, tokenizer))
    assert output.tolist() == expected[f"{name}/{case}/sequences"].tolist()


@pytest.mark.parametrize("case", [*cases.BEAMS])
def test_beams(case: str, loaded: Any, expected: dict[str, NDArray[Any]]) -> None:
    name, model, tokenizer = loaded
    for scores in (False, True):  # with scores, rows that are done stay in the batch
        output = model.generate(**asked(case, name, tokenizer), return_dict_in_generate=True, output_scores=scores)
        assert output.sequences.tolist() == expected[f"{name}/{case}/sequences"].tolist()
        assert output.beam_indices.tolist() == expected[f"{name}/{case}/beam_indices"].tolist()
    np.testing.assert_allclose(output.sequences_scores, expected[f"{name}/{case}/sequences_scores"], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("number", range(len(cases.PROCESSORS)))
def test_processors(number: int, expected: dict[str, NDArray[Any]]) -> None:
    name, arguments = cases.PROCESSORS[number]
    processor = getattr(processors, name, None) or getattr(warpers, name)
    scores = cases.scores()
    result = processor(**arguments)(cases.contexts(), scores)
    assert result.dtype == np.float32
    assert np.array_equal(scores, cases.scores())  # what is given stays as it is
    wanted = expected[f"processors/{number}"]
    assert np.array_equal(np.isneginf(result), np.isneginf(wanted))
    np.testing.assert_allclose(result, wanted, **EXACT_SETS)


def test_the_cases_differ(expected: dict[str, NDArray[Any]]) -> None:
    """An option that changed no answer, of neither model, would test nothing."""

    def same(name: str) -> set[str]:
        plain = expected[f"{name}/plain/sequences"].tolist()
        return {case for case in cases.GREEDY if expected[f"{name}/{case}/sequences"].tolist() == plain}

    assert same("random") & same("python_8m") == {"plain"}
