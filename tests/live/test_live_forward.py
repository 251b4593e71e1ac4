"""Every argument of every model class, on the 8M checkpoint and on random models, against transformers itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle.forward_cases import MODELS, answers, assert_like, cases_of, model_arguments
from oracle.random_models import write_checkpoint

import gptbigcode_cpu

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]  # their warnings are not ours to fix
TOLERANCE = 2e-4
CLASSES = {
    "GPTBigCodeModel": {},
    "GPTBigCodeForCausalLM": {},
    "GPTBigCodeForSequenceClassification": {"num_labels": 3},
    "GPTBigCodeForTokenClassification": {"num_labels": 4},
}


@pytest.fixture(scope="module", autouse=True)
def quiet_and_without_gradients() -> Iterator[None]:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    torch.set_grad_enabled(before)


def open_both(checkpoint: Path, directory: Path, name: str, **options: Any) -> tuple[Any, Any]:
    """A checkpoint in transformers, with a random head where it has none, and what transformers saves of it opened here."""
    torch.manual_seed(1)
    arguments = {"dtype": torch.float32, "attn_implementation": "eager"} | options
    theirs = getattr(transformers, name).from_pretrained(checkpoint, **arguments).eval()
    theirs.save_pretrained(directory / "checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTBIGCODE_CPU_CACHE", str(directory / "cache"))
        return theirs, getattr(gptbigcode_cpu, name).from_pretrained(directory / "checkpoint", dtype="float32")


@pytest.fixture(scope="module", params=CLASSES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, checkpoint_dir: Path) -> tuple[Any, Any]:
    """The 8M checkpoint in transformers and here."""
    directory = tmp_path_factory.mktemp("pair")
    return open_both(checkpoint_dir, directory, request.param, pad_token_id=5, **CLASSES[request.param])


def test_answers_are_equal(pair: tuple[Any, Any]) -> None:
    compare(*pair)


@pytest.mark.parametrize("name", MODELS)
def test_answers_of_random_models_are_equal(name: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "random", **(model_arguments(name) | {"seed": 77, "n_layer": 3}))
    compare(*open_both(checkpoint, tmp_path, MODELS[name]["class"]))


def compare(theirs: Any, ours: Any) -> None:
    config = theirs.config
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)
    cases = cases_of(type(theirs).__name__, config.vocab_size, config.n_embd, config.num_labels, config.pad_token_id)
    for case, steps in cases.items():
        expected = answers(theirs, steps, theirs=True)
        for i, actual in enumerate(answers(ours, steps, theirs=False)):
            try:
                assert_like(actual, expected[i], steps[i], TOLERANCE)
            except AssertionError as error:
                raise AssertionError(f"{case}, call {i}: {error}") from error


def test_signatures_have_the_same_names(pair: tuple[Any, Any]) -> None:
    import inspect

    def names(function: Any) -> set[str]:
        return {name for name, value in inspect.signature(function).parameters.items() if value.kind is not value.VAR_KEYWORD}

    theirs, ours = pair
    allowed = {"cache", "encoder_hidden_states", "encoder_attention_mask"}  # taken as a keyword, or refused with the reason
    assert names(inspect.unwrap(type(theirs).forward)) - {"self"} - allowed <= names(ours.forward)
    positional = [*inspect.signature(ours.forward).parameters][:6]
    assert [*inspect.signature(inspect.unwrap(type(theirs).forward)).parameters][1:7] in (
        positional,
        ["cache" if name == "past_key_values" else name for name in positional],
    )
    tokens = torch.tensor([[7, 8, 9]])
    output, expected = ours(tokens), theirs(tokens)
    assert type(output).__name__ == type(expected).__name__
    assert [name.replace("past_key_values", "cache") for name in output] == [
        name.replace("past_key_values", "cache") for name in expected
    ]
    for name, value in output.items():
        if name != "past_key_values":
            assert isinstance(value, torch.Tensor), name


def test_their_encodings_of_text_fit(pair: tuple[Any, Any], checkpoint_dir: Path) -> None:
    theirs, ours = pair
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint_dir)
    tokenizer.pad_token_id = 5
    encoded = tokenizer(["def f(x):\n    return x", "import os"], return_tensors="pt", padding=True, padding_side="right")
    actual, expected = ours(**encoded)[0], theirs(**encoded)[0]
    if actual.ndim == 3:
        actual, expected = (value[encoded["attention_mask"] == 1] for value in (actual, expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)
