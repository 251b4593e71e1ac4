"""Calibration chooses codes that lose less on its text, goes on after a kill, and says what it cannot do."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle.arrays import Floats, random_floats
from oracle.kernel_sets import every_isa

from gptbigcode_cpu import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, _core
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.output import journal
from gptbigcode_cpu.convert.quantize import calibrate
from gptbigcode_cpu.convert.quantize.calibrate import error_feedback
from gptbigcode_cpu.convert.quantize.sample_text import BUILTIN, sample_texts, sample_windows
from gptbigcode_cpu.errors import InputError, TokenizerError
from gptbigcode_cpu.measure.evaluation import evaluate
from gptbigcode_cpu.store.tensors import CALIBRATED, StoredTensor


def correlated(n: int, k: int, seed: int = 0) -> Floats:
    """Inputs of which a quarter as many factors explain most."""
    factors, loadings = random_floats(seed, n, max(1, k // 4)), random_floats(seed + 1, max(1, k // 4), k)
    return np.ascontiguousarray(factors @ loadings + 0.1 * random_floats(seed + 2, n, k))


def output_error(x: Floats, weight: Floats, packed: NDArray[Any], dtype: str) -> float:
    found = _core.unpack_weight(packed, dtype, *weight.shape)
    return float(np.square(x.astype(np.float64) @ (found - weight).T.astype(np.float64)).sum())


class TestFeedback:
    @given(st.integers(1, 300), st.sampled_from([128, 256, 2048]), st.integers(0, 9))
    def test_is_the_decomposition_of_the_inverse_moments(self, k: int, span: int, seed: int) -> None:
        x = correlated(400, k, seed)
        found = error_feedback(x, span).astype(np.float64)
        assert found.shape == (-(-k // 128) * 128, min(span, -(-k // 128) * 128))
        for begin in range(0, k, span):
            columns = x[:, begin : begin + span].astype(np.float64)
            size = columns.shape[1]
            moments = columns.T @ columns
            moments += calibrate.DAMPING * np.trace(moments) / size * np.eye(size)
            block = found[begin : begin + size, :size]
            assert not np.tril(block, -1).any()
            diagonal = 1 / np.sqrt(np.diag(block))  # of U, but for a common factor
            upper = (np.triu(block, 1) + np.eye(size)) * diagonal[:, None]
            product = moments @ upper.T @ upper  # a multiple of the identity
            np.testing.assert_allclose(product / product[0, 0], np.eye(size), atol=2e-3)
            assert np.diag(block).mean() == pytest.approx(1, rel=1e-5)

    def test_of_inputs_that_are_zero_changes_nothing(self) -> None:
        weight = random_floats(1, 20, 200)
        feedback = error_feedback(np.zeros((10, 200), np.float32))
        np.testing.assert_array_equal(_core.pack_weight(weight, "int4", feedback=feedback), _core.pack_weight(weight, "int4"))

    @pytest.mark.parametrize("dtype", sorted(CALIBRATED))
    @pytest.mark.parametrize(("n", "k", "span"), [(16, 128, 2048), (33, 300, 2048), (40, 512, 128), (20, 640, 256)])
    def test_makes_outputs_more_exact(self, dtype: str, n: int, k: int, span: int) -> None:
        x, weight = correlated(2 * k, k), random_floats(7, n, k)
        plain = output_error(x, weight, _core.pack_weight(weight, dtype), dtype)
        better = output_error(x, weight, _core.pack_weight(weight, dtype, feedback=error_feedback(x, span)), dtype)
        assert better < (0.6 if span >= k else 0.85) * plain

    def test_an_error_is_made_up_for_by_the_next_column(self) -> None:
        """Two columns with the same input: what the first loses the second gains."""
        weight = random_floats(1, 64, 128)
        feedback = np.eye(128, dtype=np.float32)
        feedback[np.arange(0, 128, 2), np.arange(1, 128, 2)] = -1.0
        values = [
            _core.unpack_weight(_core.pack_weight(weight, "int4", feedback=given), "int4", 64, 128)
            for given in (None, feedback)
        ]
        plain, better = (np.abs((value - weight).reshape(64, 64, 2).sum(axis=2)).mean() for value in values)
        assert better < 0.87 * plain  # one rounding error instead of the sum of two: 0.71, but for clipping

    @pytest.mark.parametrize("dtype", sorted(CALIBRATED))
    @every_isa
    def test_gives_the_same_bytes_everywhere(self, isa: str, dtype: str) -> None:
        for n, k, span in ((1, 1, 2048), (17, 129, 128), (48, 512, 256), (100, 300, 2048)):
            weight, feedback = random_floats(n, n, k), error_feedback(correlated(2 * k, k), span)
            expected = _core.pack_weight(weight, dtype, 1, "scalar", feedback)
            np.testing.assert_array_equal(_core.pack_weight(weight, dtype, 3, isa, feedback), expected)
            parts = [_core.pack_weight(weight[begin : begin + 32], dtype, 1, isa, feedback) for begin in range(0, n, 32)]
            np.testing.assert_array_equal(np.concatenate(parts), expected)

    @pytest.mark.parametrize(
        ("dtype", "feedback", "message"),
        [
            ("int8", np.eye(256, dtype=np.float32), "int4 and int6"),
            ("int4", np.eye(200, dtype=np.float32), r"\[256, a multiple of 128\]"),
            ("int4", np.zeros((256, 100), np.float32), r"\[256, a multiple of 128\]"),
            ("int4", np.full((256, 256), np.nan, np.float32), "finite"),
        ],
    )
    def test_of_another_kind_is_refused(self, dtype: str, feedback: Floats, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            _core.pack_weight(random_floats(0, 4, 200), dtype, feedback=feedback)


class TestText:
    def test_that_comes_with_the_package_stays_as_it_is(self) -> None:
        # Another text would make other weights, and every figure of calibrated models in the documentation wrong.
        digest = "8d89853947d80ab5d9d67a964acf1dcccb6fc28334327634acf2246832dac63f"
        assert hashlib.sha256(BUILTIN.read_bytes()).hexdigest() == digest
        texts = sample_texts("builtin")
        assert sum(map(len, texts)) == 403100
        for part in ("def ", "namespace gptbigcode", "#!/usr/bin/env bash", "[project]", "\n## "):
            assert any(part in text for text in texts)

    def test_windows(self, checkpoint_dir: Path) -> None:
        tokenizer, config = AutoTokenizer.from_pretrained(checkpoint_dir), AutoConfig.from_pretrained(checkpoint_dir)
        texts = [f"def f{number}(a):\n    return a + {number}\n" * 40 for number in range(40)]
        windows = sample_windows(config, tokenizer, texts, 2000)
        assert windows.shape == (4, 512)
        assert windows.dtype == np.int32
        everything = sample_windows(config, tokenizer, texts, 10**9)
        assert {row.tobytes() for row in windows} < {row.tobytes() for row in everything}
        text = tokenizer.decode(everything.reshape(-1))
        # Of four texts one is laid out in each order, and the end-of-text token is in front of all.
        assert text.startswith("<|endoftext|>def f0(a)")
        for token, times in (("<|endoftext|>", 40), ("<fim_middle>", 20), ("<fim_prefix><fim_suffix>", 10)):
            assert times - 2 <= text.count(token) <= times
        assert text.count("return a + 38\n") == 40

    def test_that_is_too_short(self, checkpoint_dir: Path) -> None:
        with pytest.raises(InputError, match="at least 512 tokens of text; these are"):
            sample_windows(
                AutoConfig.from_pretrained(checkpoint_dir), AutoTokenizer.from_pretrained(checkpoint_dir), ["x = 1\n"], 2000
            )


def test_lowers_the_divergence_by_a_quarter(
    tmp_path: Path, checkpoint_dir: Path, converted: Callable[..., Path], eval_texts: list[str]
) -> None:
    convert(checkpoint_dir, tmp_path / "out", dtype="int4", calibrate="builtin")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    reference = AutoModelForCausalLM.from_pretrained(converted("float32"))
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (converted("int4"), tmp_path / "out")]
    plain, calibrated = (
        evaluate(model, tokenizer, eval_texts, reference=reference, max_tokens=3000).to_dict()["kl_mean"] for model in models
    )
    assert calibrated < 0.75 * plain
    assert [model.config.quantization_config["calibrated"] for model in models] == [False, True]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"multi_query": False, "n_embd": 36, "n_head": 3, "n_inner": 50},
        {"tie_word_embeddings": False, "activation_function": "relu", "n_positions": 40},
    ],
    ids=str,
)
def test_of_other_shapes(tmp_path: Path, make_checkpoint: Callable[..., Path], fields: dict[str, Any]) -> None:
    """The linear layers' inputs are what a model of these weights has: its output is closer than without calibration."""
    source = make_checkpoint(tmp_path / "source", **fields)
    text = tmp_path / "text"
    text.write_text("def add(first, second):\n    return first + second\n" * 60)
    convert(source, tmp_path / "float32", dtype="float32")
    convert(source, tmp_path / "plain", dtype="int4")
    convert(source, tmp_path / "calibrated", dtype="int4", calibrate=[text])
    tokenizer = AutoTokenizer.from_pretrained(source)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "float32")
    plain, calibrated = (
        evaluate(AutoModelForCausalLM.from_pretrained(tmp_path / name), tokenizer, [text.read_text()], reference=reference)
        for name in ("plain", "calibrated")
    )
    assert calibrated.to_dict()["kl_mean"] < plain.to_dict()["kl_mean"]


@pytest.mark.parametrize("fields", [{}, {"multi_query": False, "n_embd": 36, "n_head": 3}], ids=str)
def test_inputs_are_those_of_the_model(
    tmp_path: Path, make_checkpoint: Callable[..., Path], text: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """What runs through the layers while they are packed is bit for bit what runs through the model afterwards."""
    windows: list[NDArray[np.int32]] = []
    streams: list[Floats] = []

    class Recording(calibrate.Calibration):
        def __init__(self, config: Any, sources: Any, sample: NDArray[np.int32], *arguments: Any) -> None:
            super().__init__(config, sources, sample, *arguments)
            windows.append(sample)

        def feedback(self, stored: StoredTensor) -> Floats | None:
            found = super().feedback(stored)
            if stored.name.endswith("attn.c_attn.query.weight"):
                streams.append(self.hidden.copy())
            return found

    monkeypatch.setattr("gptbigcode_cpu.convert.output.weights_file.Calibration", Recording)
    source = make_checkpoint(tmp_path / "source", n_layer=3, **fields)
    embeddings = {
        "transformer.wte.weight": "float32",
        "transformer.wpe.weight": "float32",
    }  # the layers see those of the source
    convert(source, tmp_path / "out", dtype="int4", keep=embeddings, calibrate=[text], calibration_tokens=1024)
    model = AutoModel.from_pretrained(tmp_path / "out")
    (sample,) = windows
    expected = [
        np.concatenate([model(row[None], output_hidden_states=True).hidden_states[i][0] for row in sample]) for i in range(3)
    ]
    np.testing.assert_array_equal(np.stack(streams), np.stack(expected))


@pytest.fixture(scope="module")
def deep(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few layers."""
    return make_checkpoint(tmp_path_factory.mktemp("deep") / "source", n_layer=6, n_embd=64, n_head=4, n_inner=256)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "code.py"
    path.write_text("".join(f"def f{number}(a, b):\n    return a * {number} + b\n\n\n" for number in range(400)))
    return path


@pytest.fixture(scope="module")
def expected(deep: Path, text: Path) -> bytes:
    """What an uninterrupted conversion writes."""
    out = deep.parent / "uninterrupted"
    convert(deep, out, dtype="int4", calibrate=[text], calibration_tokens=1024)
    return (out / "model.safetensors").read_bytes()


class TestResuming:
    """Of a conversion that stops in the middle."""

    def interrupted(self, deep: Path, text: Path, out: Path, after: int, how: signal.Signals) -> str:
        """Convert in a process of its own until so many blocks are done; its output."""
        code = f"""
import os, sys
from gptbigcode_cpu.cli import main
from gptbigcode_cpu.convert.output.journal import Journal
save = Journal.save
def stop(self, layer, file, hidden):
    save(self, layer, file, hidden)
    if layer == {after}:
        os.kill(os.getpid(), {int(how)})
Journal.save = stop
sys.argv[1:] = {["convert", str(deep), str(out), "--dtype", "int4", "--calibrate", str(text), "--calibration-tokens", "1024"]!r}
main()
"""
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == (-how if how is signal.SIGKILL else 130), run.stderr
        assert not out.exists()
        return run.stderr

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
    def test_goes_on_to_the_same_bytes(
        self, tmp_path: Path, deep: Path, text: Path, expected: bytes, how: signal.Signals
    ) -> None:
        out = tmp_path / "out"
        shown = self.interrupted(deep, text, out, 4, how)
        if how is signal.SIGINT:
            assert "goes on" in shown
        left = journal.read_state(journal.directory(out))
        assert left is not None
        assert left["layer"] == 4
        seen: list[tuple[str, int]] = []
        report = convert(
            deep,
            out,
            dtype="int4",
            calibrate=[text],
            calibration_tokens=1024,
            progress=lambda name, done, _total: seen.append((name, done)),
        )
        assert "block 5 of 6" in report.notes[-1]
        assert seen[0][0] == "calibrating block 5 of 6"
        assert 0.5 < seen[0][1] / seen[-1][1] < 0.8, "what was done before counts"
        assert (out / "model.safetensors").read_bytes() == expected
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_of_another_conversion_starts_anew(self, tmp_path: Path, deep: Path, text: Path, expected: bytes) -> None:
        out = tmp_path / "out"
        self.interrupted(deep, text, out, 3, signal.SIGKILL)
        report = convert(deep, out, dtype="int4", calibrate=[text], calibration_tokens=600)
        assert not report.notes
        assert (out / "model.safetensors").read_bytes() != expected

    @pytest.mark.parametrize("damage", ["state", "hidden", "weights"])
    def test_of_a_damaged_journal_starts_anew(
        self, tmp_path: Path, deep: Path, text: Path, expected: bytes, damage: str
    ) -> None:
        out = tmp_path / "out"
        self.interrupted(deep, text, out, 3, signal.SIGKILL)
        files = {"state": "state.json", "hidden": "hidden-3.npy", "weights": "weights"}
        os.truncate(journal.directory(out) / files[damage], 40)
        convert(deep, out, dtype="int4", calibrate=[text], calibration_tokens=1024)
        assert (out / "model.safetensors").read_bytes() == expected
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_what_is_left_goes_with_any_complete_conversion(self, tmp_path: Path, deep: Path, text: Path) -> None:
        self.interrupted(deep, text, tmp_path / "out", 2, signal.SIGKILL)
        convert(deep, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_two_at_once_are_refused(self, tmp_path: Path, deep: Path, text: Path) -> None:
        with journal.opened(tmp_path / "out", "of another process"), pytest.raises(InputError, match="another process"):
            convert(deep, tmp_path / "out", dtype="int4", calibrate=[text], calibration_tokens=1024)
        assert list(tmp_path.iterdir()) == []


class TestRefusals:
    def test_a_type_that_it_does_not_change(self, tmp_path: Path, checkpoint_dir: Path) -> None:
        with pytest.raises(InputError, match=r"calibration changes tensors in int4, int6; here all are int8"):
            convert(checkpoint_dir, tmp_path / "out", calibrate="builtin")

    def test_no_text(self, tmp_path: Path, checkpoint_dir: Path) -> None:
        (tmp_path / "empty.py").write_text("")
        for files, message in (([], "needs text"), ([tmp_path / "empty.py"], "empty.py")):
            with pytest.raises(InputError, match=message):
                convert(checkpoint_dir, tmp_path / "out", dtype="int4", calibrate=files)
        with pytest.raises(FileNotFoundError):
            convert(checkpoint_dir, tmp_path / "out", dtype="int4", calibrate=[tmp_path / "missing.py"])
        with pytest.raises(InputError, match="calibration_tokens is 0"):
            convert(checkpoint_dir, tmp_path / "out", dtype="int4", calibrate="builtin", calibration_tokens=0)
        assert [path.name for path in tmp_path.iterdir()] == ["empty.py"]

    def test_no_tokenizer(self, tmp_path: Path, checkpoint_dir: Path) -> None:
        shutil.copytree(checkpoint_dir, tmp_path / "source")
        for path in (tmp_path / "source").glob("tokenizer*"):
            path.unlink()
        with pytest.raises(TokenizerError):
            convert(tmp_path / "source", tmp_path / "out", dtype="int4", calibrate="builtin")
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
