"""Logits and greedy tokens equal those that transformers computed in float32; the answers are committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import cases
from oracle.random_models import full_config

ORACLE = Path(__file__).parents[1] / "oracle"
TOLERANCE = 2e-4


def reference(file: str, prefix: str) -> dict[str, Any]:
    with np.load(ORACLE / f"{file}.npz") as arrays:
        return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}


def greedy(core: Any, prompt: Any, n_tokens: int, run: Callable[..., Any]) -> list[int]:
    from gptbigcode_cpu import _core

    cache = _core.KVCache(core)
    tokens = [int(run(core, prompt, cache, 1)[0].argmax())]
    while len(tokens) < n_tokens:
        tokens.append(int(run(core, tokens[-1:], cache)[0].argmax()))
    return tokens


@pytest.mark.parametrize("name", cases.RANDOM_MODELS)
def test_random_models_equal_transformers(
    name: str, tmp_path: Path, make_checkpoint: Any, core_model: Any, run_core: Any
) -> None:
    from gptbigcode_cpu.convert import convert

    convert(make_checkpoint(tmp_path / "checkpoint", **cases.random_model(name)), tmp_path / "out", dtype="float32")
    core = core_model(tmp_path / "out", num_threads=2)
    config = full_config(**cases.RANDOM_MODELS[name])
    prompt = cases.random_prompt(config["vocab_size"], config["n_positions"])
    expected = reference("random_models", f"{name}/")

    logits = run_core(core, prompt)
    assert logits.shape == (len(prompt), config["vocab_size"])
    np.testing.assert_allclose(logits[expected["rows"]], expected["logits"], rtol=0, atol=TOLERANCE)
    # The continuation fills the context to its last position, token by token from the cache.
    assert greedy(core, prompt, cases.GREEDY_TOKENS, run_core) == expected["greedy"].tolist()


def test_every_accepted_activation_has_a_reference() -> None:
    from gptbigcode_cpu import _core

    assert {*_core.activation_names()} == {*cases.ACTIVATIONS, "gelu_pytorch_tanh"}


@pytest.mark.parametrize("i", range(len(cases.CHECKPOINT_PROMPTS)))
def test_checkpoint_equals_transformers(i: int, converted: Callable[..., Path]) -> None:
    from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer

    path = converted("float32")
    expected = reference("python_8m", f"prompt{i}/")
    tokens = AutoTokenizer.from_pretrained(path)(cases.CHECKPOINT_PROMPTS[i], return_tensors="np")["input_ids"]
    assert tokens[0].tolist() == expected["tokens"].tolist()
    model = AutoModelForCausalLM.from_pretrained(path)
    logits = model(tokens).logits[0]
    np.testing.assert_allclose(logits[expected["rows"]], expected["logits"], rtol=0, atol=TOLERANCE)
    output = model.generate(tokens, max_new_tokens=cases.CHECKPOINT_GREEDY_TOKENS, eos_token_id=-1)
    assert output[0, tokens.shape[1] :].tolist() == expected["greedy"].tolist()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.01), ("int8", 0.03), ("int4", 0.3)])
def test_quantised_random_models_are_near(
    dtype: str, tolerance: float, tmp_path: Path, make_checkpoint: Any, core_model: Any, run_core: Any
) -> None:
    """A coarse check that every storage type computes the same model; test_perplexity measures the loss of quality."""
    from gptbigcode_cpu.convert import convert

    for name in ("default", "multi-head-untied", "inner-77", "width-130-head-13", "head-5"):
        source = make_checkpoint(tmp_path / name, **cases.random_model(name))
        convert(source, tmp_path / f"{name}-out", dtype=dtype)
        config = full_config(**cases.RANDOM_MODELS[name])
        expected = reference("random_models", f"{name}/")
        logits = run_core(
            core_model(tmp_path / f"{name}-out"), cases.random_prompt(config["vocab_size"], config["n_positions"])
        )
        error = (logits[expected["rows"]] - expected["logits"]).std() / expected["logits"].std()
        assert error < tolerance, name
