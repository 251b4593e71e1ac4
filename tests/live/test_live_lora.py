"""LoRA adapters that PEFT saves, merged by PEFT and here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import AutoModelForCausalLM
from gptbigcode_cpu.convert import convert

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]  # their warnings are not ours to fix
TOLERANCE = 2e-4
SIZES: dict[str, Any] = {
    "n_embd": 48, "n_head": 3, "n_layer": 2, "vocab_size": 100, "n_positions": 30, "bos_token_id": 1, "eos_token_id": 1
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quiet_and_without_gradients() -> Iterator[None]:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    torch.set_grad_enabled(before)


def base_model(kind: str, **config: Any) -> Any:
    torch.manual_seed(0)
    name = {"gpt2": "GPT2", "gpt_bigcode": "GPTBigCode"}[kind]
    head = {"gpt2": "GPT2LMHeadModel", "gpt_bigcode": "GPTBigCodeForCausalLM"}[kind]
    model = getattr(transformers, head)(getattr(transformers, f"{name}Config")(**SIZES | config))
    for values in model.parameters():
        if values.dim() == 1:
            values.data += 0.1 * torch.randn(values.shape)
    return model.eval()


def trained(model: Any, **config: Any) -> Any:
    """A model with an adapter whose every parameter has changed."""
    torch.manual_seed(1)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    for values in model.parameters():
        if values.requires_grad:
            values.data += 0.1 * torch.randn(values.shape)
    return model


ALL = ["c_attn", "c_proj", "c_fc"]


@pytest.mark.parametrize("kind", ["gpt2", "gpt_bigcode", "heads"])
@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"target_modules": ["c_attn"]}, True),
        ({"target_modules": ALL, "r": 4, "lora_alpha": 32, "bias": "all"}, True),
        ({"target_modules": ALL, "use_rslora": True, "rank_pattern": {"c_fc": 3}, "bias": "lora_only"}, True),
        ({"target_modules": r".*\.1\.mlp\.c_proj", "alpha_pattern": {r"h\.1\.mlp\.c_proj": 3}, "lora_bias": True}, True),
        ({"target_modules": [*ALL, "lm_head"], "modules_to_save": ["ln_f"]}, False),
        ({"target_modules": ["c_fc", "wte"]}, False),
        ({"target_modules": ["c_attn"], "modules_to_save": ["wte", "lm_head", "mlp.c_proj"]}, False),
        ({"target_modules": [*ALL, "lm_head"], "use_dora": True}, False),
        ({"target_modules": ["c_attn"], "trainable_token_indices": [5, 99]}, True),
        ({"target_modules": ["c_fc"], "init_lora_weights": "orthogonal"}, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("safe", [True, False])
def test_merged(tmp_path: Path, kind: str, config: dict[str, Any], tied: bool, safe: bool) -> None:
    other = {"multi_query": False} if kind == "heads" else {}
    base = base_model("gpt2" if kind == "gpt2" else "gpt_bigcode", tie_word_embeddings=tied, **other)
    base.save_pretrained(tmp_path / "base")
    adapted = trained(base, fan_in_fan_out=kind == "gpt2", **config)
    adapted.save_pretrained(tmp_path / "adapter", safe_serialization=safe)
    tokens = torch.arange(30)[None] % 7 + 90
    theirs = adapted.merge_and_unload()(tokens).logits.numpy()
    convert(tmp_path / "base", tmp_path / "out", dtype="float32", adapter=tmp_path / "adapter")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", num_threads=1)
    np.testing.assert_allclose(ours(tokens.numpy()).logits, theirs, rtol=0, atol=TOLERANCE * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["wte"]},
        {"target_modules": ["wte", "lm_head"], "ensure_weight_tying": True},
        {"target_modules": ["wte", "lm_head"]},
        {"target_modules": ["c_fc"], "modules_to_save": ["wte"]},
        {"target_modules": ["c_fc"], "modules_to_save": ["wte", "lm_head"], "ensure_weight_tying": True},
        {"target_modules": ["c_fc"], "trainable_token_indices": [5, 99]},
        {"target_modules": ["c_fc"], "modules_to_save": ["wte", "lm_head"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["gpt2", "gpt_bigcode"])
def test_one_side_of_a_tied_head(tmp_path: Path, kind: str, config: dict[str, Any]) -> None:
    """As the adapter was trained. PEFT's merge changes embedding and head together, and then computes something else."""
    base = base_model(kind)
    base.save_pretrained(tmp_path / "base")
    adapted = trained(base, fan_in_fan_out=kind == "gpt2", **config)
    adapted.save_pretrained(tmp_path / "adapter")
    tokens = torch.arange(30)[None] % 7 + 90
    theirs = adapted(tokens).logits.numpy()
    convert(tmp_path / "base", tmp_path / "out", dtype="float32", adapter=tmp_path / "adapter")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", num_threads=1)
    np.testing.assert_allclose(ours(tokens.numpy()).logits, theirs, rtol=0, atol=TOLERANCE * max(1, np.abs(theirs).max()))


def test_a_larger_vocabulary(tmp_path: Path) -> None:
    base = base_model("gpt_bigcode")
    base.save_pretrained(tmp_path / "base")
    base = transformers.GPTBigCodeForCausalLM.from_pretrained(tmp_path / "base").eval()
    base.resize_token_embeddings(104)
    adapted = trained(base, target_modules=["c_attn"])
    adapted.save_pretrained(tmp_path / "adapter")
    tokens = torch.arange(90, 104)[None]
    theirs = adapted.merge_and_unload()(tokens).logits.numpy()
    convert(tmp_path / "base", tmp_path / "out", dtype="float32", adapter=tmp_path / "adapter")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", num_threads=1)
    assert (ours.config.vocab_size, ours.config.tie_word_embeddings) == (104, True)
    np.testing.assert_allclose(ours(tokens.numpy()).logits, theirs, rtol=0, atol=TOLERANCE * max(1, np.abs(theirs).max()))


def test_two_adapters(tmp_path: Path) -> None:
    base = base_model("gpt_bigcode")
    base.save_pretrained(tmp_path / "base")
    first = trained(base, target_modules=["c_attn", "c_fc"])
    first.save_pretrained(tmp_path / "first")
    second = trained(first.merge_and_unload(), target_modules=["c_fc", "c_proj"], use_dora=True)
    second.save_pretrained(tmp_path / "second")
    tokens = torch.arange(30)[None]
    theirs = second.merge_and_unload()(tokens).logits.numpy()
    convert(tmp_path / "base", tmp_path / "out", dtype="float32", adapter=[tmp_path / "first", tmp_path / "second"])
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", num_threads=1)
    np.testing.assert_allclose(ours(tokens.numpy()).logits, theirs, rtol=0, atol=TOLERANCE * max(1, np.abs(theirs).max()))
