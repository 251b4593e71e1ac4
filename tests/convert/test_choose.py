"""The storage types that a conversion chooses to meet a file size or a loss."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.cli.convert import convert as command
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.quantize import sensitivity
from gptbigcode_cpu.convert.quantize.choose import CHOICES, Choice, Part, choose
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.measure.evaluation import evaluate
from gptbigcode_cpu.store.weights import open_packed

BITS = {"int4": 4, "int6": 6, "int8": 8}


def problems() -> st.SearchStrategy[tuple[list[Part], dict[str, dict[str, float]]]]:
    def build(rows: list[tuple[int, float, float, float]]) -> tuple[list[Part], dict[str, dict[str, float]]]:
        parts = [
            Part(f"part {i}", (f"tensor {i}",), {dtype: bits * size for dtype, bits in BITS.items()})
            for i, (size, *_) in enumerate(rows)
        ]
        losses = {
            part.name: dict(zip(CHOICES, (loss, loss * factor, loss * factor * another), strict=True))
            for part, (_, loss, factor, another) in zip(parts, rows, strict=True)
        }
        return parts, losses

    share = st.just(0.0) | st.floats(1e-6, 1)
    return st.lists(st.tuples(st.integers(1, 1000), st.floats(1e-6, 1), share, share), min_size=1, max_size=4).map(build)


def every_choice(parts: list[Part], losses: dict[str, dict[str, float]]) -> list[tuple[int, float]]:
    return [
        (
            sum(part.nbytes[dtype] for part, dtype in zip(parts, dtypes, strict=True)),
            sum(losses[part.name][dtype] for part, dtype in zip(parts, dtypes, strict=True)),
        )
        for dtypes in itertools.product(CHOICES, repeat=len(parts))
    ]


def assert_adds_up(choice: Choice, parts: list[Part], losses: dict[str, dict[str, float]]) -> None:
    assert choice.nbytes == sum(part.nbytes[choice.dtypes[part.name]] for part in parts)
    assert choice.loss == pytest.approx(sum(losses[part.name][choice.dtypes[part.name]] for part in parts), abs=1e-9)


class TestChoose:
    @given(problems(), st.floats(0, 1.2))
    def test_fits_a_size_and_wastes_none_of_it(self, problem: tuple[list[Part], Any], share: float) -> None:
        parts, losses = problem
        smallest, largest = (sum(part.nbytes[dtype] for part in parts) for dtype in ("int4", "int8"))
        room = int(smallest + share * (largest - smallest))
        choice = choose(parts, losses, max_bytes=room)
        assert_adds_up(choice, parts, losses)
        assert choice.nbytes <= room
        for part in parts:  # nothing that still fits would help
            now = choice.dtypes[part.name]
            for finer in CHOICES[CHOICES.index(now) + 1 :]:
                fits = choice.nbytes - part.nbytes[now] + part.nbytes[finer] <= room
                assert not (fits and losses[part.name][finer] < losses[part.name][now])
        best = min(loss for nbytes, loss in every_choice(parts, losses) if nbytes <= room)
        # Greedy, so not always the best, but where there is room for everything it is.
        assert choice.loss >= best - 1e-9
        if room >= largest:
            assert choice.loss == pytest.approx(best, abs=1e-9)

    @given(problems(), st.floats(0, 1))
    def test_meets_a_loss(self, problem: tuple[list[Part], Any], share: float) -> None:
        parts, losses = problem
        most, least = (sum(losses[part.name][dtype] for part in parts) for dtype in ("int4", "int8"))
        limit = least + share * (most - least) + 1e-6
        choice = choose(parts, losses, max_loss=limit)
        assert_adds_up(choice, parts, losses)
        assert choice.loss <= limit
        assert choice.nbytes <= sum(part.nbytes["int8"] for part in parts)
        if most <= limit:
            assert set(choice.dtypes.values()) == {"int4"}
        for part in parts:  # nothing is finer than it has to be
            now = choice.dtypes[part.name]
            for coarser in CHOICES[: CHOICES.index(now)]:
                assert choice.loss - losses[part.name][now] + losses[part.name][coarser] > limit - 1e-9

    def test_takes_what_gains_most_per_byte(self) -> None:
        sizes = {"a": 1, "b": 10}
        parts = [Part(name, (name,), {dtype: bits * size for dtype, bits in BITS.items()}) for name, size in sizes.items()]
        losses = {"a": {"int4": 1.0, "int6": 0.1, "int8": 0.01}, "b": {"int4": 2.0, "int6": 0.2, "int8": 0.02}}
        assert choose(parts, losses, max_bytes=46).dtypes == {"a": "int6", "b": "int4"}
        assert choose(parts, losses, max_bytes=66).dtypes == {"a": "int6", "b": "int6"}
        assert choose(parts, losses, max_loss=2.2).dtypes == {"a": "int6", "b": "int4"}

    def test_takes_back_what_was_not_needed(self) -> None:
        """The small part gains most per byte and comes first, but only the large one brings the loss down far enough."""
        sizes = {"small": 1, "large": 10}
        parts = [Part(name, (name,), {dtype: bits * size for dtype, bits in BITS.items()}) for name, size in sizes.items()]
        losses = {"small": {"int4": 0.3, "int6": 0.1, "int8": 0.0}, "large": {"int4": 1.0, "int6": 0.1, "int8": 0.0}}
        assert choose(parts, losses, max_loss=0.5).dtypes == {"small": "int4", "large": "int6"}

    def test_what_is_out_of_reach(self) -> None:
        parts = [Part("a", ("a",), {"int4": 4, "int6": 6, "int8": 8})]
        losses = {"a": {"int4": 1.0, "int6": 0.1, "int8": 0.01}}
        with pytest.raises(InputError, match="1 bytes more"):
            choose(parts, losses, max_bytes=3)
        with pytest.raises(InputError, match=r"0\.001 is out of reach: all of it in int8 loses 0\.01"):
            choose(parts, losses, max_loss=0.001)


def loss(model: Path, checkpoint: Path, reference: Path, texts: list[str]) -> float:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ours, theirs = (AutoModelForCausalLM.from_pretrained(path) for path in (model, reference))
    found: float = evaluate(ours, tokenizer, texts, reference=theirs, max_tokens=3000).to_dict()["kl_mean"]
    return found


@pytest.fixture
def fixed_sample(monkeypatch: pytest.MonkeyPatch, eval_texts: list[str]) -> None:
    """Sample text other than what is measured on; the built-in one, this package's source, changes with every commit."""
    monkeypatch.setattr("gptbigcode_cpu.convert.sample_texts", lambda _: eval_texts[10:])


@pytest.fixture(scope="module", autouse=True)
def measured_once() -> Iterator[None]:
    """What a choice of types loses is measured once for each model and text: it takes a second, and tests ask for the same."""
    measure: Callable[[Any, Mapping[str, str]], float] = sensitivity._Meter.loss
    losses: dict[Any, float] = {}

    def remembered(meter: Any, dtypes: Mapping[str, str]) -> float:
        expected = getattr(meter, "digest", None) or hashlib.sha256(np.stack(meter._expected)).digest()
        meter.digest = expected
        types = meter._reference.scheme.overrides | meter._sensitivity.of_tensors(dtypes)
        key = (expected, *sorted(types.items()))
        if key not in losses:
            losses[key] = measure(meter, dtypes)
        return losses[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity._Meter, "loss", remembered)
        yield


class TestOfAModel:
    @pytest.mark.usefixtures("fixed_sample")
    def test_a_target_size_is_met(
        self, tmp_path: Path, checkpoint_dir: Path, converted: Callable[..., Path], eval_texts: list[str]
    ) -> None:
        """A choice from measurements is no worse than int4's own at the same size, and twice as good at 15 % more."""
        plain = (converted("int4") / "model.safetensors").stat().st_size
        report = convert(checkpoint_dir, tmp_path / "same", target_size=plain)
        convert(checkpoint_dir, tmp_path / "more", target_size=int(1.15 * plain))
        sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("same", "more")]
        assert 0.97 * plain < sizes[0] <= plain
        assert 1.1 * plain < sizes[1] <= 1.15 * plain
        assert "KL divergence from int8 on the sample text" in report.notes[-1]
        assert {path.name for path in tmp_path.iterdir()} == {"same", "more"}
        built_in, same, more = (
            loss(path, checkpoint_dir, converted("float32"), eval_texts)
            for path in (converted("int4"), tmp_path / "same", tmp_path / "more")
        )
        assert same < 1.1 * built_in
        assert more < 0.5 * built_in

    @pytest.mark.usefixtures("fixed_sample")
    def test_a_target_loss_is_met(
        self, tmp_path: Path, checkpoint_dir: Path, converted: Callable[..., Path], eval_texts: list[str]
    ) -> None:
        """The smallest file that loses no more on the sample text; on other text it loses about as much."""
        sizes = []
        for limit in (0.02, 0.005):
            out = tmp_path / str(limit)
            note = convert(checkpoint_dir, out, target_kld=limit).notes[-1]
            on_sample = float(note.rpartition(" ")[2])
            assert 0.6 * limit < on_sample <= limit
            assert 0.5 * on_sample < loss(out, checkpoint_dir, converted("int8"), eval_texts) < 1.5 * on_sample
            sizes.append((out / "model.safetensors").stat().st_size)
        assert sizes[0] < 0.95 * sizes[1]

    def test_a_loose_target_loss_leaves_all_parts_in_int4(self, tmp_path: Path, checkpoint_dir: Path) -> None:
        report = convert(checkpoint_dir, tmp_path / "out", target_kld=1.0)
        assert "0 parts int6, 0 parts int8" in report.notes[-1]

    def test_tensors_named_by_keep_have_their_types(self, tmp_path: Path, checkpoint_dir: Path) -> None:
        keep = {"*.mlp.*": "bfloat16", "transformer.h.3.*": "int4"}
        convert(checkpoint_dir, tmp_path / "out", target_kld=0.01, keep=keep)
        scheme = open_packed(tmp_path / "out").scheme
        assert scheme.dtype_of("transformer.h.2.mlp.c_fc.weight") == "bfloat16"
        assert {scheme.dtype_of(f"transformer.h.3.{name}.weight") for name in ("mlp.c_fc", "attn.c_attn.key_value")} == {"int4"}
        assert scheme.dtype_of("transformer.h.2.attn.c_attn.key_value.weight") != "bfloat16"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"target_size": 1000}, r"a file of 1,000 bytes is out of reach: with all parts in int4 it has \d,\d{3},\d{3}"),
            ({"target_kld": 1e-9}, "out of reach"),
            ({"target_size": 10**7, "target_kld": 0.1}, "either"),
            ({"target_size": 10**7, "dtype": "int8"}, "leave out dtype='int8'"),
            ({"target_size": 0}, "target_size is 0, must be positive"),
            ({"target_kld": float("nan")}, "target_kld is nan, must be positive"),
        ],
    )
    def test_targets_out_of_reach_or_contradictory_are_refused(
        self, tmp_path: Path, checkpoint_dir: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            convert(checkpoint_dir, tmp_path / "out", **options)
        assert list(tmp_path.iterdir()) == []

    def test_models_of_other_shapes(self, tmp_path: Path, make_checkpoint: Callable[..., Path]) -> None:
        fields = {"multi_query": False, "tie_word_embeddings": False, "n_embd": 36, "n_head": 3, "n_inner": 50}
        source = make_checkpoint(tmp_path / "source", **fields)
        text = tmp_path / "text"
        text.write_text("def add(first, second):\n    return first + second\n" * 60)
        convert(source, tmp_path / "out", target_kld=0.001, calibrate=[text])
        assert np.isfinite(AutoModelForCausalLM.from_pretrained(tmp_path / "out")(np.array([[3, 4]])).logits).all()


class TestCommand:
    @pytest.mark.parametrize(
        ("size", "shown"),
        [
            ("9MB", "needs"),
            ("8.5MiB", "needs"),
            ("9000000", "needs"),
            ("1k", "a file of 1,000 bytes is out of reach"),
            ("1KiB", "a file of 1,024 bytes is out of reach"),
            ("much", "'much' is no size; write 620MB"),
            ("5ib", "'5ib' is no size"),
        ],
    )
    def test_sizes_on_the_command_line(self, tmp_path: Path, checkpoint_dir: Path, size: str, shown: str) -> None:
        arguments = [str(checkpoint_dir), str(tmp_path / "out"), "--target-size", size, "--dry-run"]
        result = CliRunner().invoke(command, arguments)
        assert shown in f"{result.output} {result.exception}"
