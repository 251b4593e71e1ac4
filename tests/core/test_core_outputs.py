"""What the core takes and returns besides token ids and logits: embeddings, positions, hidden states, attentions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.arrays import assert_same_bits

from gptbigcode_cpu import _core
from gptbigcode_cpu.store.weights import load_core, open_packed

SHAPES: dict[str, dict[str, Any]] = {
    "one key head": {"n_positions": 700, "n_layer": 3},
    "a key head each": {"n_positions": 700, "multi_query": False, "n_embd": 60, "n_head": 3, "n_inner": 77, "n_layer": 2},
}
LENGTHS = [1, 600, 17, 3]  # more than a micro-batch of 512
KV_DTYPES = ["int8", "bfloat16", "float16", "float32"]


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
    model.config.n_layer = n_layer
    return load_core(model)


def left_by_rounding(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """``x [m, k]`` less what it is as int8 with a scale per 128."""
    rest = x.copy()
    for begin in range(0, x.shape[1], 128):
        block = x[:, begin : begin + 128]
        largest = np.abs(block).max(1, keepdims=True)
        scale, inverse = largest / np.float32(127), np.float32(127) / largest
        codes = np.rint(block.astype(np.float64) * inverse).astype(np.float32)
        rest[:, begin : begin + 128] -= scale * codes
    return rest


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
class TestHiddenStates:
    def test_asking_for_hidden_states_changes_no_logit(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        model = core_model(packed(shape, dtype), num_threads=2)
        texts, keep = random_texts(LENGTHS), [0, 20, 17, 1]
        plain = model.forward(fresh_caches(model, 4), texts, keep)
        logits, states = model.forward(fresh_caches(model, 4), texts, keep, hidden_states=True)
        assert_same_bits(logits, plain)
        assert states.shape == (SHAPES[shape]["n_layer"] + 1, sum(LENGTHS), SHAPES[shape].get("n_embd", 64))
        no_logits, again = model.forward(fresh_caches(model, 4), texts, [0] * 4, hidden_states=True)
        assert no_logits.shape == (0, 272)
        assert_same_bits(again, states)

    def test_the_last_hidden_states_make_the_logits(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        model = core_model(packed(shape, dtype))
        logits, states = model.forward(fresh_caches(model, 1), random_texts([40]), [40], hidden_states=True)
        tensors = open_packed(packed(shape, dtype)).tensors
        head, x = tensors["transformer.wte.weight"], states[-1]
        if dtype == "float32":
            assert_same_bits(logits, _core.linear(head, dtype, 272, x))
        else:
            # What rounding leaves of the input is rounded and multiplied as well.
            x = x * tensors["transformer.wte.column_scale"]
            assert_same_bits(logits, _core.linear(head, dtype, 272, x) + _core.linear(head, dtype, 272, left_by_rounding(x)))

    def test_hidden_states_of_a_block_are_the_last_ones_of_a_model_that_ends_there(
        self, shape: str, dtype: str, packed: Any, core_model: Any
    ) -> None:
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

    def test_the_first_hidden_states_are_the_embeddings(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        path = packed(shape, dtype)
        model, (first, second) = core_model(path), random_texts([9, 5])
        cache = _core.KVCache(model)
        model.forward([cache], [first], [0])
        states = model.forward([cache], [second], [0], hidden_states=True)[1]
        tensors = open_packed(path).tensors
        wte = _core.unpack_weight(tensors["transformer.wte.weight"], dtype, 272, states.shape[-1])
        wte = wte * tensors.get("transformer.wte.column_scale", np.float32(1))
        assert_same_bits(states[0], wte[second] + tensors["transformer.wpe.weight"][9:14].astype(np.float32))

    def test_hidden_states_do_not_depend_on_how_tokens_are_cut_into_calls(
        self, shape: str, dtype: str, packed: Any, core_model: Any
    ) -> None:
        model, (text,) = core_model(packed(shape, dtype), num_threads=3), random_texts([70])
        whole = model.forward(fresh_caches(model, 1), [text], [0], hidden_states=True)[1]
        cache = _core.KVCache(model)
        parts = [model.forward([cache], [part], [0], hidden_states=True)[1] for part in np.split(text, [1, 2, 5, 40])]
        assert_same_bits(np.concatenate(parts, axis=1), whole)

    def test_the_last_hidden_states_alone(self, shape: str, dtype: str, packed: Any, core_model: Any) -> None:
        model, texts, keep = core_model(packed(shape, dtype), num_threads=2), random_texts(LENGTHS), [1, 0, 17, 2]
        plain = model.forward(fresh_caches(model, 4), texts, keep)
        logits, last = model.forward(fresh_caches(model, 4), texts, keep, last_hidden_state=True)
        states = model.forward(fresh_caches(model, 4), texts, keep, hidden_states=True)[1]
        assert_same_bits(logits, plain)
        assert_same_bits(last, states[-1])
        both = model.forward(fresh_caches(model, 4), texts, keep, True, last_hidden_state=True, attentions=True)
        assert [type(value) for value in both] == [np.ndarray, np.ndarray, np.ndarray, list]
        for value, expected in zip(both[:3], (plain, states, last), strict=True):
            assert_same_bits(value, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int6", "int4"])
class TestEmbeddings:
    def test_embed_looks_up_rows(self, dtype: str, packed: Any, core_model: Any) -> None:
        path = packed("one key head", dtype)
        model, head = core_model(path), open_packed(path)
        name = "transformer.wte.weight"
        wte = _core.unpack_weight(head.tensors[name], head.scheme.dtype_of(name), 272, 64)
        wte = wte * head.tensors.get("transformer.wte.column_scale", np.float32(1))
        ids = np.array([271, 0, 3, 3, 18], np.int32)
        assert_same_bits(model.embed(ids), wte[ids])
        assert model.embed(ids[:0]).shape == (0, 64)

    def test_rows_of_the_position_table_are_added(self, dtype: str, packed: Any, core_model: Any) -> None:
        path = packed("one key head", dtype)
        model, opened = core_model(path), open_packed(path)
        n_positions, name = opened.config.n_positions, "transformer.wpe.weight"
        wpe = opened.tensors[name]
        if dtype in ("int6", "int4"):
            assert opened.scheme.dtype_of(name) == "int6"
            wpe = _core.unpack_weight(wpe, "int6", n_positions, 64)
        elif dtype == "bfloat16":
            wpe = (wpe.astype(np.uint32) << 16).view(np.float32)
        assert wpe.shape == (n_positions, 64)
        ids = np.arange(20, dtype=np.int32) * 13
        places = np.array([n_positions - 1, *range(15, 34)], np.int32)
        states = model.forward(fresh_caches(model, 1), [ids], [0], hidden_states=True, position_ids=[places])[1]
        assert_same_bits(states[0], model.embed(ids) + wpe[places].astype(np.float32))

    def test_embeddings_in_place_of_ids_change_no_bit(self, dtype: str, packed: Any, core_model: Any) -> None:
        model, texts = core_model(packed("one key head", dtype), num_threads=2), random_texts([5, 600, 17])
        expected = model.forward(fresh_caches(model, 3), texts, [5, 40, 0], hidden_states=True)
        caches = fresh_caches(model, 3)
        given = [model.embed(texts[0]), model.embed(texts[1]), texts[2]]
        actual = model.forward(caches, given, [5, 40, 0], hidden_states=True)
        for value, wanted in zip(actual, expected, strict=True):
            assert_same_bits(value, wanted)
        assert [len(cache) for cache in caches] == [5, 600, 17]


class TestPositionIds:
    def test_the_usual_position_ids_change_no_bit(self, packed: Any, core_model: Any) -> None:
        model, (first, second) = core_model(packed("one key head", "int8")), random_texts([600, 9])
        caches = fresh_caches(model, 2)
        places = [np.arange(600, dtype=np.int32), np.arange(9, dtype=np.int32)]
        logits = model.forward(caches, [first, second], [600, 9], position_ids=places)
        assert_same_bits(logits, model.forward(fresh_caches(model, 2), [first, second], [600, 9]))

    def test_other_position_ids_choose_rows_of_the_position_table_only(self, packed: Any, core_model: Any) -> None:
        path = packed("a key head each", "float32")
        model, (text,), places = core_model(path), random_texts([6]), np.array([4, 4, 0, 699, 2, 1], np.int32)
        cache = _core.KVCache(model)
        states = model.forward([cache], [text], [0], hidden_states=True, position_ids=[places])[1]
        wpe = open_packed(path).tensors["transformer.wpe.weight"]
        assert_same_bits(states[0], model.embed(text) + wpe[places])
        assert len(cache) == 6
        prefix = model.forward(fresh_caches(model, 1), [text[:3]], [0], hidden_states=True, position_ids=[places[:3]])[1]
        assert_same_bits(prefix, states[:, :3])


def attention_by_hand(path: Path, states: NDArray[np.float32], layer: int) -> NDArray[np.float64]:
    """Softmax of the scores ``[n_head, tokens, tokens]`` of a layer of a float32 model, from what goes into it."""
    model = open_packed(path)
    config, name = model.config, f"transformer.h.{layer}."
    tensors = {key.removeprefix(name): value for key, value in model.tensors.items()}
    normed = _core.layer_norm(states[layer], tensors["ln_1.weight"], tensors["ln_1.bias"], config.layer_norm_epsilon)
    kv_width, bias = config.n_kv_head * config.head_dim, tensors["attn.c_attn.bias"]
    q, kv = (
        _core.linear(tensors[f"attn.c_attn.{part}.weight"], "float32", len(b), normed, b).astype(np.float64)
        for part, b in (("query", bias[: config.n_embd]), ("key_value", bias[config.n_embd :]))
    )
    k = kv[:, :kv_width]
    q = q.reshape(len(q), config.n_head, -1).transpose(1, 0, 2)
    k = np.broadcast_to(k.reshape(len(k), config.n_kv_head, -1).transpose(1, 2, 0), (config.n_head, config.head_dim, len(k)))
    scores = q @ k * config.attention_scale
    scores[:, np.triu(np.ones(scores.shape[1:], dtype=np.bool_), 1)] = -np.inf
    numerators = np.exp(scores - scores.max(axis=2, keepdims=True))
    return numerators / numerators.sum(axis=2, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
class TestAttentions:
    @pytest.mark.parametrize(
        ("kv_dtype", "tolerance"), [("float32", 2e-6), ("float16", 1e-3), ("bfloat16", 1e-2), ("int8", 3e-2)]
    )
    def test_attentions_are_the_softmax_of_the_scores(
        self, shape: str, kv_dtype: str, tolerance: float, packed: Any, core_model: Any
    ) -> None:
        path = packed(shape, "float32")
        model, (text,) = core_model(path, num_threads=2, kv_dtype=kv_dtype), random_texts([150])
        plain = model.forward(fresh_caches(model, 1), [text], [150])
        logits, states, (attentions,) = model.forward(
            fresh_caches(model, 1), [text], [150], hidden_states=True, attentions=True
        )
        assert_same_bits(logits, plain)
        assert attentions.shape == (SHAPES[shape]["n_layer"], SHAPES[shape].get("n_head", 4), 150, 150)
        for layer, actual in enumerate(attentions):
            np.testing.assert_allclose(actual, attention_by_hand(path, states, layer), rtol=0, atol=tolerance)
            np.testing.assert_allclose(actual.sum(axis=2), 1, atol=1e-5)
            assert not np.triu(actual, 1).any()

    @pytest.mark.parametrize("kv_dtype", KV_DTYPES)
    def test_attentions_do_not_depend_on_kernel_set_threads_or_batch(
        self, shape: str, kv_dtype: str, packed: Any, core_model: Any
    ) -> None:
        path = packed(shape, "float32" if kv_dtype == "float32" else "int8")
        text = random_texts([700])[0][:560]
        reference = core_model(path, "scalar", 1, kv_dtype)
        expected = reference.forward(fresh_caches(reference, 1), [text], [0], attentions=True)[1][0]
        for isa in _core.supported_kernel_names():
            model = core_model(path, isa, 3, kv_dtype)
            caches, begin = fresh_caches(model, 2), 0
            for count in (530, 1, 3, 26):  # as one of two sequences, and cut into calls
                parts = [text[begin : begin + count], text[:2]]
                actual, other = model.forward(caches, parts, [0, 0], attentions=True)[1]
                begin += count
                assert other.shape[2:] == (2, len(caches[1]))
                assert_same_bits(actual, np.ascontiguousarray(expected[:, :, begin - count : begin, :begin]), isa)


def test_bad_embeddings_and_positions_are_value_errors(packed: Any, core_model: Any) -> None:
    model = core_model(packed("one key head", "int8"))
    ids, row = np.array([1, 2], np.int32), np.zeros((2, 64), np.float32)
    calls: dict[str, tuple[list[Any], list[Any] | None]] = {
        "too narrow": ([row[:, :63].copy()], None),
        "no rows": ([row[:0]], None),
        "doubles": ([row.astype(np.float64)], None),
        "three dimensions": ([row[None]], None),
        "too few positions": ([ids], [ids[:1]]),
        "negative position": ([ids], [np.array([0, -1], np.int32)]),
        "position after the last": ([ids], [np.array([700, 0], np.int32)]),
        "positions of nothing": ([ids], []),
        "a matrix of positions": ([ids], [ids[None]]),
        "too many embeddings": ([np.zeros((701, 64), np.float32)], None),
    }
    for what, (tokens, position_ids) in calls.items():
        cache = _core.KVCache(model)
        with pytest.raises(ValueError, match=r".") as caught:
            model.forward([cache], tokens, [1], position_ids=position_ids)
        assert str(caught.value), what
        assert len(cache) == 0, what
    for bad in ([272], [-1]):
        with pytest.raises(ValueError, match="vocabulary"):
            model.embed(np.array(bad, np.int32))
