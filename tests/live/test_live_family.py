"""GPT-2 in transformers and here, over many shapes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptbigcode_cpu import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification
from gptbigcode_cpu.convert import convert

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]  # their warnings are not ours to fix
TOLERANCE = 2e-4


@pytest.fixture(scope="module", autouse=True)
def quiet_and_without_gradients() -> Iterator[None]:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    torch.set_grad_enabled(before)


def randomised(model: Any, seed: int) -> Any:
    """A model whose biases are not zero and whose weights have about trained size."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in model.named_parameters():
        gain = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
        scale = values.shape[0] ** -0.5 if values.dim() == 2 and ".h." in name else 0.2
        values.data = gain + scale * torch.randn(values.shape, generator=generator)
    model.tie_weights()
    return model.eval()


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    n_head = draw(st.integers(1, 6))
    return {
        "n_head": n_head,
        "n_embd": n_head * draw(st.integers(8, 40)),  # LayerNorm of very few elements amplifies rounding
        "n_inner": draw(st.none() | st.integers(1, 300)),
        "n_layer": draw(st.integers(1, 3)),
        "n_positions": draw(st.sampled_from([2, 17, 64, 150])),
        "vocab_size": draw(st.integers(2, 300)),
        "scale_attn_weights": draw(st.booleans()),
        "scale_attn_by_inverse_layer_idx": draw(st.booleans()),
        "reorder_and_upcast_attn": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-6])),
        "activation_function": draw(st.sampled_from(["gelu_new", "gelu", "gelu_fast", "relu", "silu", "gelu_pytorch_tanh"])),
        "bos_token_id": 1,
        "eos_token_id": 1,
    }


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(config=configs(), seed=st.integers(0, 2**31), prefix=st.booleans())
def test_logits(config: dict[str, Any], seed: int, prefix: bool) -> None:
    theirs = randomised(transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, attn_implementation="eager")), seed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        # Without a head and tied, the checkpoint of the bare model is that of the language model.
        (theirs if prefix or not config["tie_word_embeddings"] else theirs.transformer).save_pretrained(directory / "source")
        convert(directory / "source", directory / "out", dtype="float32")
        ours = AutoModelForCausalLM.from_pretrained(directory / "out", num_threads=1)
        tokens = np.random.default_rng(1).integers(0, config["vocab_size"], (2, config["n_positions"]))
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
        for block in theirs.transformer.h:
            block.attn.reorder_and_upcast_attn = False  # the same result, but not for float64
        exact = theirs.double()(torch.from_numpy(tokens)).logits.numpy()
        allowed = TOLERANCE + 4 * np.abs(expected - exact).max()
        np.testing.assert_allclose(ours(tokens).logits, exact, rtol=0, atol=allowed)


def test_greedy_generation(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_embd=64, n_head=4, n_layer=2, vocab_size=200, n_positions=96, eos_token_id=1)
    theirs = randomised(transformers.GPT2LMHeadModel(config), 0)
    theirs.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", dtype="float32")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", num_threads=1)
    tokens = torch.from_numpy(np.random.default_rng(4).integers(2, 200, (1, 20)))
    expected = theirs.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=40, pad_token_id=1
    )
    assert ours.generate(tokens, max_new_tokens=40, do_sample=False).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["Sequence", "Token"])
def test_classifiers(tmp_path: Path, kind: str) -> None:
    config = transformers.GPT2Config(
        n_embd=48, n_head=3, n_layer=2, vocab_size=100, n_positions=30, num_labels=5, pad_token_id=0, eos_token_id=1
    )
    theirs = randomised(getattr(transformers, f"GPT2For{kind}Classification")(config), 3)
    theirs.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "out", dtype="float32")
    auto = {"Sequence": AutoModelForSequenceClassification, "Token": AutoModelForTokenClassification}[kind]
    tokens = np.random.default_rng(2).integers(1, 100, (3, 20))
    expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    actual = auto.from_pretrained(tmp_path / "out", num_threads=1)(tokens).logits
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)
