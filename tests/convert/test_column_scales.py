"""The scales of the columns of token embedding and LM head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle.random_models import full_config, random_state, write_safetensors

from gptbigcode_cpu import AutoModelForCausalLM, _core
from gptbigcode_cpu.common.softmax import divergence, log_softmax
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.sources.read import read_checkpoint
from gptbigcode_cpu.store.weights import PackedModel, open_packed

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 2}


def opened(source: Path, out: Path, dtype: str) -> PackedModel:
    convert(source, out, dtype=dtype)
    return open_packed(out)


@pytest.mark.parametrize("tied", [True, False])
def test_column_scales(tmp_path: Path, make_checkpoint: MakeCheckpoint, tied: bool) -> None:
    fields = SMALL | {"tie_word_embeddings": tied}
    packed = opened(make_checkpoint(tmp_path / "source", **fields), tmp_path / "out", "int8")
    state = random_state(full_config(**fields))
    inputs = np.hypot(state["transformer.ln_f.weight"], state["transformer.ln_f.bias"])
    for name, head in {"transformer.wte": tied, "lm_head": True}.items():
        if name == "lm_head" and tied:
            continue
        weights = np.sqrt(np.square(state[f"{name}.weight"].astype(np.float64)).mean(0))
        expected = np.sqrt(weights / (inputs if head else 1))
        np.testing.assert_allclose(packed.tensors[f"{name}.column_scale"], expected, rtol=1e-5)


def test_columns_that_are_zero_or_not_used(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    config = full_config(**SMALL)
    state = dict(random_state(config))
    state["transformer.wte.weight"] = state["transformer.wte.weight"].copy()
    state["transformer.wte.weight"][:, 3] = 0
    for part in ("weight", "bias"):
        state[f"transformer.ln_f.{part}"] = state[f"transformer.ln_f.{part}"].copy()
        state[f"transformer.ln_f.{part}"][5] = 0
    source = make_checkpoint(tmp_path / "source", **SMALL)
    write_safetensors(source / "model.safetensors", state)
    packed = opened(source, tmp_path / "out", "int8")
    scale = packed.tensors["transformer.wte.column_scale"]
    assert np.isfinite(scale).all()
    assert scale.min() > 0
    assert scale.max() <= 64 * 64 * scale.min()
    looked_up = _core.unpack_weight(packed.tensors["transformer.wte.weight"], "int8", 270, 36) * scale
    assert not looked_up[:, 3].any()
    # The head does not see column 5, but a look-up does.
    column = state["transformer.wte.weight"][:, 5]
    assert np.corrcoef(looked_up[:, 5], column)[0, 1] > 0.999


@pytest.mark.parametrize("gain", [0.0, 0.01])
@pytest.mark.parametrize("dead", [1, 8, 100])
def test_channels_that_a_tied_head_does_not_use(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, dead: int, gain: float
) -> None:
    """They are looked up all the same: the model loses about as much as with an untied head, which has scales of its own."""
    losses: dict[tuple[str, bool], float] = {}
    for tied in (True, False):
        fields = {"n_embd": 128, "n_layer": 2, "n_positions": 64, "vocab_size": 512, "tie_word_embeddings": tied}
        state = dict(random_state(full_config(**fields)))
        for part in ("weight", "bias"):
            state[f"transformer.ln_f.{part}"] = state[f"transformer.ln_f.{part}"].copy()
            state[f"transformer.ln_f.{part}"][:dead] *= gain
        if not tied:
            state["lm_head.weight"] = state["transformer.wte.weight"]
        source = make_checkpoint(tmp_path / f"source-{tied}", **fields)
        write_safetensors(source / "model.safetensors", state)
        found = {}
        for dtype in ("float32", "int8", "int6", "int4"):
            convert(source, tmp_path / f"{dtype}-{tied}", dtype=dtype)
            model = AutoModelForCausalLM.from_pretrained(tmp_path / f"{dtype}-{tied}", num_threads=1)
            found[dtype] = [log_softmax(model([list(range(i, i + 50))]).logits[0], np.float64) for i in (0, 100, 200, 300)]
        for dtype in ("int8", "int6", "int4"):
            pairs = zip(found["float32"], found[dtype], strict=True)
            losses[dtype, tied] = float(np.mean([divergence(right, values).mean() for right, values in pairs]))
    for dtype in ("int8", "int6", "int4"):
        assert losses[dtype, True] < 1.5 * losses[dtype, False], (dtype, losses)


def test_a_trained_head_uses_every_column_more(checkpoint_dir: Path) -> None:
    """What a look-up is worth changes nothing for such a model."""
    magnitude: NDArray[np.float64] = np.zeros(256)
    for part in ("weight", "bias"):
        with read_checkpoint(checkpoint_dir)[f"transformer.ln_f.{part}"].open() as view:
            magnitude += np.square((view[:].astype(np.uint32) << 16).view(np.float32).astype(np.float64))
    inputs = np.sqrt(magnitude)
    assert inputs.min() > np.sqrt(np.square(inputs).mean()) / 6
    assert inputs.max() > 5 * inputs.min(), "they do differ"


def test_magnitudes_beyond_float32(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    fields = SMALL | {"tie_word_embeddings": False}
    state = {name: values.copy() for name, values in random_state(full_config(**fields)).items()}
    state["transformer.ln_f.weight"][:] = state["transformer.ln_f.bias"][:] = 1e-45
    state["lm_head.weight"] *= np.float32(1e37)
    source = make_checkpoint(tmp_path / "source", **fields)
    write_safetensors(source / "model.safetensors", state)
    packed = opened(source, tmp_path / "out", "int8")
    scale = packed.tensors["lm_head.column_scale"]
    assert np.isfinite(scale).all()
    values = _core.unpack_weight(packed.tensors["lm_head.weight"], "int8", 270, 36) * scale
    assert np.corrcoef(values.ravel(), state["lm_head.weight"].ravel())[0, 1] > 0.999
