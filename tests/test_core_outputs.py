"""What the core returns besides logits: hidden states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.arrays import assert_same_bits

from gptbigcode_cpu import _core
from gptbigcode_cpu.weights import open_packed

SHAPES: dict[str, dict[str, Any]] = {
    "one key head": {"n_positions": 700, "n_layer": 3},
    "a key head each": {"n_positions": 700, "multi_query": False, "n_embd": 60, "n_head": 3, "n_inner": 77, "n_layer": 2},
}
LENGTHS = [1, 600, 17, 3]  # more than a micro-batch of 512


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Any, converted: Any) -> Callable[[str, str], Path]:
    """``packed(shape, dtype)``: a converted random model."""
    sources = {name: make_checkpoint(tmp_path_factory.mktemp("model"), seed=7, **shape) for name, shape in SHAPES.items()}
    return lambda shape, dtype: converted(dtype, sources[shape])


def random_texts(lengths: list[int]) -> list[NDArray[np.int32]]:
    random = np.random.default_rng(len(lengths))
    return [random.integers(0, 272, length, dtype=np.int32) for length in lengths]


def fresh_caches(model: Any, count: int) -> list[Any]:
    return [_core.KVCache(model) for _ in range(count)]


def without_last_layers(path: Path, n_layer: int) -> Any:
    """The model that ends after block `n_layer`."""
    model = open_packed(path)
    config = model.config
    return _core.Model(
        dict(model.tensors),
        dtype=model.dtype,
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        n_embd=config.n_embd,
        n_layer=n_layer,
        n_head=config.n_head,
        n_kv_head=config.n_kv_head,
        n_inner=config.n_inner,
        activation=config.activation_function,
        layer_norm_epsilon=config.layer_norm_epsilon,
        attention_scale=config.attention_scale,
        kv_dtype="int8" if model.dtype == "int8" else model.dtype,
    )


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
class TestHiddenStates:
    def test_they_change_no_logit(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        model = core_model(packed(shape, dtype), num_threads=2)
        texts, keep = random_texts(LENGTHS), [0, 20, 17, 1]
        plain = model.forward(fresh_caches(model, 4), texts, keep)
        logits, states = model.forward(fresh_caches(model, 4), texts, keep, hidden_states=True)
        assert_same_bits(logits, plain)
        assert states.shape == (SHAPES[shape]["n_layer"] + 1, sum(LENGTHS), SHAPES[shape].get("n_embd", 64))
        no_logits, again = model.forward(fresh_caches(model, 4), texts, [0] * 4, hidden_states=True)
        assert no_logits.shape == (0, 272)
        assert_same_bits(again, states)

    def test_the_last_ones_make_the_logits(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        model = core_model(packed(shape, dtype))
        logits, states = model.forward(fresh_caches(model, 1), random_texts([40]), [40], hidden_states=True)
        head = open_packed(packed(shape, dtype)).tensors["transformer.wte.weight"]
        assert_same_bits(logits, _core.linear(head, dtype, 272, states[-1]))

    def test_those_of_a_block_end_a_shorter_model(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        path = packed(shape, dtype)
        model, texts = core_model(path, num_threads=2), random_texts(LENGTHS)
        config, tensors = open_packed(path).config, open_packed(path).tensors
        states = model.forward(fresh_caches(model, 4), texts, [0] * 4, hidden_states=True)[1]
        for n_layer in range(1, config.n_layer):
            shorter = without_last_layers(path, n_layer)
            expected = shorter.forward(fresh_caches(shorter, 4), texts, [0] * 4, hidden_states=True)[1]
            assert_same_bits(states[:n_layer], expected[:n_layer])
            normed = _core.layer_norm(
                states[n_layer],
                tensors["transformer.ln_f.weight"],
                tensors["transformer.ln_f.bias"],
                config.layer_norm_epsilon,
            )
            assert_same_bits(normed, expected[-1])

    def test_the_first_ones_are_the_embeddings(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        path = packed(shape, dtype)
        model, (first, second) = core_model(path), random_texts([9, 5])
        cache = _core.KVCache(model)
        model.forward([cache], [first], [0])
        states = model.forward([cache], [second], [0], hidden_states=True)[1]
        tensors = open_packed(path).tensors
        wte = _core.unpack_weight(tensors["transformer.wte.weight"], dtype, 272, states.shape[-1])
        assert_same_bits(states[0], wte[second] + tensors["transformer.wpe.weight"][9:14].astype(np.float32))

    def test_however_the_tokens_are_cut_into_calls(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        model, (text,) = core_model(packed(shape, dtype), num_threads=3), random_texts([70])
        whole = model.forward(fresh_caches(model, 1), [text], [0], hidden_states=True)[1]
        cache = _core.KVCache(model)
        parts = [model.forward([cache], [part], [0], hidden_states=True)[1] for part in np.split(text, [1, 2, 5, 40])]
        assert_same_bits(np.concatenate(parts, axis=1), whole)
