"""The forward call of the core: the same bits for every kernel set, thread count, batch and chunk; caches fork and truncate."""

from __future__ import annotations

import functools
import gc
import signal
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray
from oracle.kernel_sets import every_isa

from gptbigcode_cpu import _core
from gptbigcode_cpu.errors import StoppedError
from gptbigcode_cpu.hub import paths as hub

DTYPES = ["float32", "bfloat16", "int8", "int6", "int4"]
SHAPES: dict[str, dict[str, Any]] = {
    "one key head": {"n_positions": 200},
    "a key head each": {"n_positions": 200, "multi_query": False, "n_embd": 60, "n_head": 3, "n_inner": 77, "vocab_size": 97},
    "wide": {"n_positions": 200, "n_embd": 256, "n_head": 2, "n_inner": 640, "n_layer": 1, "activation_function": "gelu"},
}
KV_DTYPES = ["int8", "bfloat16", "float16", "float32"]
VOCAB = {name: shape.get("vocab_size", 272) for name, shape in SHAPES.items()}


def assert_same_bits(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def random_tokens(seed: int, count: int, vocab_size: int = 97) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, vocab_size, count, dtype=np.int32)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Any, converted: Any) -> Callable[[str, str], Path]:
    """``packed(shape, dtype)``: a converted random model."""
    sources = {name: make_checkpoint(tmp_path_factory.mktemp("model"), seed=5, **shape) for name, shape in SHAPES.items()}
    return lambda shape, dtype: converted(dtype, sources[shape])


@pytest.fixture(scope="module")
def small(packed: Any, core_model: Any) -> Any:
    return core_model(packed("one key head", "int8"))


@every_isa
def test_the_demo_model_answers_alike_on_every_machine(isa: str, core_model: Any) -> None:
    """One checksum for every CPU and compiler; it changes only with the arithmetic or the model."""
    core = core_model(hub.resolve("demo"), isa)
    tokens = (np.arange(200) * 37 % 8192).astype(np.int32)
    logits = core.forward([_core.KVCache(core)], [tokens], [len(tokens)])
    assert zlib.crc32(logits.tobytes()) == 3754509362


@pytest.fixture(scope="module")
def scalar_logits(core_model: Any, run_core: Any) -> Callable[..., NDArray[np.float32]]:
    """``scalar_logits(directory, tokens, kv_dtype="auto")``: what the scalar kernels answer on one thread; computed once."""

    @functools.cache
    def compute(directory: Path, tokens: bytes, kv_dtype: str) -> NDArray[np.float32]:
        model = core_model(directory, "scalar", kv_dtype=kv_dtype)
        assert model.isa == "scalar"
        logits: NDArray[np.float32] = run_core(model, np.frombuffer(tokens, np.int32))
        assert np.isfinite(logits).all()
        return logits

    return lambda directory, tokens, kv_dtype="auto": compute(directory, tokens.tobytes(), kv_dtype)


@every_isa
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_kernel_set_or_threads(
    shape: str, dtype: str, isa: str, packed: Any, core_model: Any, run_core: Any, scalar_logits: Any
) -> None:
    tokens = random_tokens(1, 150)
    expected = scalar_logits(packed(shape, dtype), tokens)
    for num_threads in (2, 5) if isa == "scalar" else range(1, 9):
        model = core_model(packed(shape, dtype), isa, num_threads)
        assert (model.isa, model.num_threads) == (isa, num_threads)
        assert_same_bits(run_core(model, tokens), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_ragged_batch_equals_single_runs(shape: str, dtype: str, packed: Any, core_model: Any, run_core: Any) -> None:
    model = core_model(packed(shape, dtype), num_threads=2)
    lengths = [1, 63, 64, 65, 2, 130, 17]
    keeps = [1, 0, 64, 3, 2, 1, 17]
    texts = [random_tokens(i, length + 9) for i, length in enumerate(lengths)]
    caches = [_core.KVCache(model) for _ in texts]
    expected = [run_core(model, text) for text in texts]

    logits = model.forward(caches, [text[:-9] for text in texts], keeps)
    rows = [full[length - keep : length] for full, length, keep in zip(expected, lengths, keeps, strict=True)]
    assert_same_bits(logits, np.concatenate(rows))
    assert [len(cache) for cache in caches] == lengths
    # Steps of different size on caches of different length.
    steps = [1, 2, 3, 1, 9, 1, 4]
    logits = model.forward(caches, [text[n : n + step] for text, n, step in zip(texts, lengths, steps, strict=True)], steps)
    rows = [full[n : n + step] for full, n, step in zip(expected, lengths, steps, strict=True)]
    assert_same_bits(logits, np.concatenate(rows))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 63, 64, 65, 100])
def test_prefill_in_chunks_equals_one_go(dtype: str, chunk: int, packed: Any, core_model: Any, run_core: Any) -> None:
    model = core_model(packed("one key head", dtype))
    tokens = random_tokens(2, 200)
    cache = _core.KVCache(model)
    parts = [run_core(model, tokens[begin : begin + chunk], cache) for begin in range(0, 200, chunk)]
    assert_same_bits(np.concatenate(parts), run_core(model, tokens))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Any, converted: Any) -> Path:
    """A model whose context has several chunks of the KV cache."""
    shape = {"n_positions": 1250, "n_embd": 48, "n_head": 6, "n_inner": 64, "n_layer": 2}
    source = make_checkpoint(tmp_path_factory.mktemp("deep"), seed=6, **shape)
    return converted("int8", source)


@every_isa
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_deep_cache_gives_the_same_bits_however_it_was_filled(
    kv_dtype: str, isa: str, deep: Path, core_model: Any, run_core: Any, scalar_logits: Any
) -> None:
    tokens = random_tokens(7, 1200)
    expected = scalar_logits(deep, tokens, kv_dtype)
    for num_threads in (1, 2, 5):
        model = core_model(deep, isa, num_threads, kv_dtype)
        assert model.kv_dtype == kv_dtype
        cache = _core.KVCache(model)
        # One call, single tokens across the edge of a chunk, few, many.
        begin = 0
        for count in (1010, 1, 1, *[3] * 5, 40, 31, 1):
            logits = run_core(model, tokens[begin : begin + count], cache, min(count, 45))
            begin += count
            assert_same_bits(logits, expected[begin - len(logits) : begin])
        fork = cache.fork()
        fork.truncate(1024)
        run_core(model, tokens[:3], cache)
        assert_same_bits(run_core(model, tokens[1024:1130], fork), expected[1024:1130])


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_a_batch_of_deep_and_shallow_caches_equals_single_runs(
    kv_dtype: str, deep: Path, core_model: Any, run_core: Any
) -> None:
    model = core_model(deep, num_threads=3, kv_dtype=kv_dtype)
    lengths = [1100, 5, 513, 64]
    texts = [random_tokens(i, length + 12) for i, length in enumerate(lengths)]
    expected = [run_core(model, text, keep=12) for text in texts]
    for steps in ([1, 1, 1, 1], [1, 12, 3, 5], [9, 11, 10, 12]):
        caches = [_core.KVCache(model) for _ in texts]
        for cache, text in zip(caches, texts, strict=True):
            run_core(model, text[:-12], cache, 0)
        logits = model.forward(caches, [text[n : n + step] for text, n, step in zip(texts, lengths, steps, strict=True)], steps)
        assert_same_bits(logits, np.concatenate([rows[:step] for rows, step in zip(expected, steps, strict=True)]))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_bytes_of_the_cache_follow_its_type(kv_dtype: str, packed: Any, core_model: Any) -> None:
    for shape in SHAPES:
        model = core_model(packed(shape, "float32"), kv_dtype=kv_dtype)
        n_embd, n_head = SHAPES[shape].get("n_embd", 64), SHAPES[shape].get("n_head", 4)
        kv_heads = n_head if shape == "a key head each" else 1
        exact = 2 * (n_embd // n_head) * kv_heads * {"int8": 1, "bfloat16": 2, "float16": 2, "float32": 4}[kv_dtype]
        exact *= SHAPES[shape].get("n_layer", 2)
        assert exact <= model.kv_bytes_per_token <= 1.6 * exact  # padding, and the scales of int8


def test_logits_to_keep(small: Any, run_core: Any) -> None:
    tokens = random_tokens(3, 70)
    full = run_core(small, tokens)
    for keep in (0, 1, 2, 69, 70):
        assert_same_bits(run_core(small, tokens, keep=keep), full[70 - keep :])


class CacheLaws(RuleBasedStateMachine):
    """Random appends, forks and truncations; every cache stays equal to a fresh run over the tokens it should hold."""

    model: Any
    caches: Bundle[list[Any]] = Bundle("caches")  # [cache, tokens]

    @initialize(target=caches)
    def start(self) -> list[Any]:
        self.all: list[list[Any]] = []
        return self.remember(_core.KVCache(self.model), [])

    def remember(self, cache: Any, tokens: list[int]) -> list[Any]:
        self.all.append([cache, tokens])
        return self.all[-1]

    @rule(entry=caches, seed=st.integers(0, 1000), count=st.sampled_from([1, 2, 5, 30, 63, 64, 65]))
    def append(self, entry: list[Any], seed: int, count: int) -> None:
        cache, tokens = entry
        new = random_tokens(seed, min(count, 200 - len(tokens)))
        if not len(new):
            return
        logits = self.model.forward([cache], [new], [1])
        entry[1] = tokens + new.tolist()
        fresh = self.model.forward([_core.KVCache(self.model)], [np.array(entry[1], np.int32)], [1])
        assert_same_bits(logits, fresh)

    @rule(target=caches, entry=caches)
    def fork(self, entry: list[Any]) -> list[Any]:
        return self.remember(entry[0].fork(), list(entry[1]))

    @rule(entry=caches, fraction=st.floats(0, 1))
    def truncate(self, entry: list[Any], fraction: float) -> None:
        kept = round(len(entry[1]) * fraction)
        entry[0].truncate(kept)
        entry[1] = entry[1][:kept]

    @rule(left=caches, right=caches)
    def step_together(self, left: list[Any], right: list[Any]) -> None:
        entries = [entry for entry in ([left] if left is right else [left, right]) if 0 < len(entry[1]) < 200]
        if not entries:
            return
        logits = self.model.forward(
            [entry[0] for entry in entries], [np.array([3], np.int32)] * len(entries), [1] * len(entries)
        )
        for entry, row in zip(entries, logits, strict=True):
            entry[1] = [*entry[1], 3]
            assert_same_bits(row[None], self.model.forward([_core.KVCache(self.model)], [np.array(entry[1], np.int32)], [1]))

    @invariant()
    def lengths(self) -> None:
        for cache, tokens in getattr(self, "all", []):
            assert len(cache) == len(tokens)
            assert cache.nbytes >= len(tokens) * self.model.kv_bytes_per_token


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_cache_laws(kv_dtype: str, packed: Any, core_model: Any) -> None:
    model = core_model(packed("one key head", "int8"), kv_dtype=kv_dtype)
    machine = type("CacheLawsOfSmall", (CacheLaws,), {"model": model})
    run_state_machine_as_test(machine, settings=settings(max_examples=12, stateful_step_count=14, deadline=None))


def test_a_fork_outlives_its_parent(small: Any, run_core: Any) -> None:
    tokens = random_tokens(4, 130)
    parent = _core.KVCache(small)
    run_core(small, tokens, parent, 0)
    children = [parent.fork() for _ in range(3)]
    del parent
    gc.collect()
    steps = [run_core(small, [i], child) for i, child in enumerate(children)]
    for i, logits in enumerate(steps):
        assert_same_bits(logits, run_core(small, [*tokens, i], keep=1))


def test_cache_bytes_come_in_blocks_and_go_with_truncation(small: Any, run_core: Any) -> None:
    cache = _core.KVCache(small)
    assert cache.nbytes == 0
    block = 64 * small.kv_bytes_per_token
    run_core(small, random_tokens(1, 65), cache, 0)
    assert cache.nbytes == 2 * block
    cache.truncate(64)
    assert cache.nbytes == block
    cache.truncate(0)
    assert (len(cache), cache.nbytes) == (0, 0)


@pytest.mark.parametrize("n_tokens", [-1, 6, 2**40])
def test_truncate_refuses_what_the_cache_does_not_hold(small: Any, run_core: Any, n_tokens: int) -> None:
    cache = _core.KVCache(small)
    run_core(small, random_tokens(1, 5), cache)
    with pytest.raises(ValueError, match="truncate"):
        cache.truncate(n_tokens)
    assert len(cache) == 5


def test_bad_calls_are_value_errors_and_leave_the_caches_alone(small: Any, packed: Any, core_model: Any, run_core: Any) -> None:
    other = _core.KVCache(core_model(packed("one key head", "int8")))
    tokens = random_tokens(5, 70)
    first, second = _core.KVCache(small), _core.KVCache(small)
    run_core(small, tokens, first)
    run_core(small, tokens[:3], second)
    expected = run_core(small, [*tokens, 7], keep=1)

    def ids(*values: int) -> NDArray[np.int32]:
        return np.array(values, np.int32)

    bad_calls: dict[str, tuple[list[Any], list[Any], list[int]]] = {
        "id too large": ([first, second], [ids(1), ids(1, 272)], [1, 1]),
        "negative id": ([first, second], [ids(1, -1), ids(1)], [1, 1]),
        "largest int": ([first], [ids(2**31 - 1)], [1]),
        "too many positions": ([first, second], [random_tokens(1, 131), ids(1)], [1, 1]),
        "too many positions at the end": ([second, first], [ids(1), random_tokens(1, 131)], [1, 1]),
        "no tokens": ([first, second], [ids(1), ids()], [1, 0]),
        "no sequences": ([], [], []),
        "keep too many": ([first, second], [ids(1), ids(1)], [1, 2]),
        "keep negative": ([first], [ids(1)], [-1]),
        "twice the same cache": ([first, first], [ids(1), ids(1)], [1, 1]),
        "cache of another model": ([first, other], [ids(1), ids(1)], [1, 1]),
        "fewer tokens than caches": ([first, second], [ids(1)], [1, 1]),
        "fewer caches than tokens": ([first], [ids(1), ids(1)], [1, 1]),
        "fewer counts": ([first, second], [ids(1), ids(1)], [1]),
        "a matrix": ([first], [ids(1)[None]], [1]),
        "a number": ([first], [np.array(1, np.int32)], [1]),
    }
    for what, arguments in bad_calls.items():
        try:
            small.forward(*arguments)
        except ValueError as error:
            assert str(error), what
        else:
            raise AssertionError(f"accepted: {what}")
        assert (len(first), len(second), len(other)) == (70, 3, 0), what
    for arguments in (
        ([None], [ids(1)], [1]),
        ([first], [np.array([1.5], np.float32)], [1]),
        ([first], [np.array([1 << 40])], [1]),
    ):
        with pytest.raises((TypeError, ValueError)):
            small.forward(*arguments)
    assert_same_bits(run_core(small, [7], first), expected)


def test_the_context_can_be_filled_to_its_last_position(small: Any, run_core: Any) -> None:
    cache = _core.KVCache(small)
    run_core(small, random_tokens(1, 199), cache, 1)
    run_core(small, [1], cache)
    assert len(cache) == 200
    with pytest.raises(ValueError, match="200"):
        run_core(small, [1], cache)
    cache.truncate(199)
    run_core(small, [1], cache)


def test_a_signal_stops_a_prefill_between_layers_and_leaves_the_cache_alone(run_core: Any, core_model: Any) -> None:
    class StopError(Exception):
        pass

    def stop(signum: int, frame: object) -> None:
        raise StopError

    core = core_model(hub.resolve("demo"))
    ids = random_tokens(2, 1500)
    cache = _core.KVCache(core)
    run_core(core, ids[:20], cache, 1)
    # Both the timer and the clock count CPU time, so that other work on this machine changes neither.
    before = signal.signal(signal.SIGPROF, stop)
    try:
        start = time.process_time()
        run_core(core, ids, cache.fork(), 0)
        whole = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, whole / 20)
        start = time.process_time()
        with pytest.raises(StopError):
            run_core(core, ids, cache, 0)
        assert time.process_time() - start < 0.8 * whole
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert len(cache) == 20
    fresh = run_core(core, ids[:21], keep=1)
    assert np.array_equal(run_core(core, ids[20:21], cache), fresh)


def test_a_stop_flag_that_is_set_ends_every_call_and_leaves_the_caches_alone(small: Any, run_core: Any) -> None:
    stop, caches = _core.StopFlag(), [_core.KVCache(small), _core.KVCache(small)]
    assert not stop.is_set
    run_core(small, random_tokens(3, 70), caches[0], 0)
    expected = small.forward([cache.fork() for cache in caches], [random_tokens(4, 1), random_tokens(5, 9)], [1, 2])
    stop.set()
    assert stop.is_set
    for count in (1, 9, 100):  # a step, a few tokens, and a prefill
        with pytest.raises(StoppedError, match="ended early"):
            small.forward(caches, [random_tokens(6, count)] * 2, [1, 0], stop=stop)
        assert [len(cache) for cache in caches] == [70, 0]
    stop.clear()
    assert_same_bits(small.forward(caches, [random_tokens(4, 1), random_tokens(5, 9)], [1, 2], stop=stop), expected)
    assert [len(cache) for cache in caches] == [71, 9]


@pytest.mark.parametrize("num_threads", [1, 3])
def test_another_thread_stops_a_prefill(num_threads: int, run_core: Any, core_model: Any) -> None:
    core = core_model(hub.resolve("demo"), num_threads=num_threads)
    ids, stop = random_tokens(2, 1900), _core.StopFlag()
    cache = _core.KVCache(core)
    run_core(core, ids[:20], cache, 1)
    # CPU time, which other work on this machine does not change.
    start = time.process_time()
    expected = core.forward([cache.fork()], [ids], [1])
    whole = time.process_time() - start
    nbytes = cache.nbytes
    start = time.process_time()

    def stop_after_a_tenth() -> None:
        while time.process_time() - start < whole / 10:
            time.sleep(0.001)
        stop.set()

    other = threading.Thread(target=stop_after_a_tenth)
    other.start()
    with pytest.raises(StoppedError):
        core.forward([cache], [ids], [1], stop=stop)
    assert time.process_time() - start < 0.8 * whole
    other.join()
    assert (len(cache), cache.nbytes) == (20, nbytes)
    assert_same_bits(core.forward([cache], [ids], [1], stop=_core.StopFlag()), expected)


@pytest.fixture
def parts(packed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and arguments of a small int8 model, to be spoiled."""
    from gptbigcode_cpu.store.weights import open_packed

    model = open_packed(packed("one key head", "int8"))
    config = model.config
    arguments = {
        "dtype": "int8",
        "dtypes": {},
        "vocab_size": config.vocab_size,
        "n_positions": config.n_positions,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_kv_head": config.n_kv_head,
        "n_inner": config.n_inner,
        "activation": config.activation_function,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "attention_scale": config.attention_scale,
        "kv_dtype": "int8",
    }
    _core.Model(dict(model.tensors), **arguments)  # good as they are
    return dict(model.tensors), arguments


def test_a_model_refuses_missing_and_misshapen_tensors(parts: Any) -> None:
    tensors, arguments = parts
    for name, array in tensors.items():
        for spoiled in (None, array[:-1], array.astype(np.float64), array[..., None], np.asfortranarray(array)):
            if (
                spoiled is not None
                and spoiled.flags.c_contiguous
                and (spoiled.dtype, spoiled.shape) == (array.dtype, array.shape)
            ):
                continue  # a vector is contiguous in either order
            changed = {key: value for key, value in tensors.items() if key != name}
            if spoiled is not None:
                changed[name] = spoiled
            with pytest.raises(ValueError, match=name.replace(".", r"\.")):
                _core.Model(changed, **arguments)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "int5"},
        {"dtype": "int4"},
        {"dtype": "float32"},
        {"vocab_size": 0},
        {"vocab_size": -1},
        {"vocab_size": 289},
        {"n_positions": 0},
        {"n_positions": 199},
        {"n_embd": 0},
        {"n_embd": 48},
        {"n_layer": -1},
        {"n_layer": 3},
        {"n_head": 0},
        {"n_head": 3},
        {"n_head": -4},
        {"n_kv_head": 0},
        {"n_kv_head": 3},
        {"n_kv_head": 4},
        {"n_inner": 0},
        {"n_inner": 255},
        {"activation": "swiglu"},
        {"layer_norm_epsilon": -1.0},
        {"layer_norm_epsilon": float("nan")},
        {"attention_scale": float("inf")},
        {"kv_dtype": "int4"},
        {"num_threads": -1},
        {"isa": "mmx"},
    ],
    ids=lambda change: "-".join(map(str, *change.items())),
)
def test_a_model_refuses_bad_numbers(parts: Any, change: dict[str, Any]) -> None:
    tensors, arguments = parts
    with pytest.raises(ValueError):
        _core.Model(tensors, **(arguments | change))


def test_a_model_keeps_its_tensors_and_a_cache_its_model(parts: Any) -> None:
    tensors, arguments = parts
    copies = {name: array.copy() for name, array in tensors.items()}
    model = _core.Model(copies, **arguments)
    tokens = random_tokens(1, 30)
    expected = model.forward([_core.KVCache(model)], [tokens], [30])
    copies.clear()
    gc.collect()
    noise = [np.full(100_000, 255, np.uint8) for _ in range(20)]
    assert_same_bits(model.forward([_core.KVCache(model)], [tokens], [30]), expected)
    del noise

    cache = _core.KVCache(model)
    del model
    gc.collect()
    fork = cache.fork()
    assert (len(cache), len(fork)) == (0, 0)


def test_several_threads_may_use_one_model(small: Any, run_core: Any) -> None:
    texts = [random_tokens(i, 40 + i) for i in range(6)]
    expected = [run_core(small, text) for text in texts]
    results: list[Any] = [None] * len(texts)

    def work(i: int) -> None:
        cache = _core.KVCache(small)
        results[i] = np.concatenate([run_core(small, part, cache) for part in np.array_split(texts[i], 7)])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for actual, wanted in zip(results, expected, strict=True):
        assert_same_bits(actual, wanted)


def test_models_come_and_go(packed: Any, core_model: Any, run_core: Any) -> None:
    for num_threads in (1, 2, 8, 3):
        model = core_model(packed("one key head", "int4"), num_threads=num_threads)
        run_core(model, random_tokens(1, 3))
