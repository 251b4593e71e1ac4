"""Files with options of generation, read by transformers and by this package: the same tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import AutoModelForCausalLM, DynamicCache, LogitsProcessor, StoppingCriteria
from gptbigcode_cpu.errors import InputError

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]

PROMPT = [[7, 8, 9, 10, 7]]
POSITIONS = 24
# With the options of the call; all of them greedy.
FILES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"use_cache": False, "output_attentions": True, "output_hidden_states": True}, {}),
    ({"temperature": 0.0, "top_k": -1, "top_p": 0.0, "typical_p": 0, "min_p": 2, "epsilon_cutoff": 3, "eta_cutoff": -1}, {}),
    ({"do_sample": True, "temperature": 0.0}, {"do_sample": False}),
    ({"min_length": -1, "min_new_tokens": -1, "no_repeat_ngram_size": -1, "encoder_no_repeat_ngram_size": -1}, {}),
    ({"num_assistant_tokens": 0, "num_assistant_tokens_schedule": "x", "assistant_confidence_threshold": 7}, {}),
    ({"early_stopping": True, "length_penalty": 3.0, "num_beam_groups": 3, "diversity_penalty": 1.0}, {}),
    ({"repetition_penalty": 1.7, "encoder_repetition_penalty": 1.2}, {}),
    ({"no_repeat_ngram_size": 1, "suppress_tokens": [188, 43]}, {}),
    ({"max_length": 9}, {}),
    ({"max_new_tokens": 3, "max_length": 9}, {}),
    ({"max_new_tokens": 3}, {"max_new_tokens": 5}),
    ({"num_beams": 3, "num_return_sequences": 2}, {}),
    ({"eos_token_id": [204, 188], "pad_token_id": 5}, {}),
    ({"eos_token_id": [204, 188], "min_length": 20, "min_new_tokens": 2}, {}),
    ({"sequence_bias": [[[188], -50.0], [[7, 8], 3.0]], "bad_words_ids": [[43]]}, {}),
    ({"forced_eos_token_id": 9, "max_new_tokens": 4}, {}),
    ({"low_memory": True, "guidance_scale": 1, "transformers_version": "4.30", "unknown": {"a": 1}}, {}),
]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("live") / "model", seed=8, n_positions=POSITIONS)


def both(source: Path) -> tuple[Any, Any]:
    import torch
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    return AutoModelForCausalLM.from_pretrained(source, dtype="float32", num_threads=1), theirs


@pytest.fixture
def with_options(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any], bool], tuple[Any, Any]]:
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))

    def make(options: dict[str, Any], in_config: bool) -> tuple[Any, Any]:
        source = tmp_path / "source"
        source.mkdir()
        for file in checkpoint.iterdir():
            (source / file.name).write_bytes(file.read_bytes())
        if in_config:
            (source / "generation_config.json").unlink()
            content = json.loads((source / "config.json").read_text())
            (source / "config.json").write_text(json.dumps(content | options))
        else:
            (source / "generation_config.json").write_text(json.dumps(options))
        return both(source)

    return make


@pytest.fixture(scope="module")
def models(checkpoint: Path, tmp_path_factory: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield both(checkpoint)


@pytest.mark.parametrize(("options", "given"), FILES, ids=str)
@pytest.mark.parametrize("in_config", [False, True])
def test_same_tokens(with_options: Any, options: dict[str, Any], given: dict[str, Any], in_config: bool) -> None:
    import torch

    ours, theirs = with_options(options, in_config)
    mask = torch.ones(1, 5, dtype=torch.long)
    expected = theirs.generate(torch.tensor(PROMPT), attention_mask=mask, **given)
    expected = getattr(expected, "sequences", expected)  # output_attentions in a config.json makes it an object there
    assert ours.generate(torch.tensor(PROMPT), attention_mask=mask, **given).tolist() == expected.tolist()


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_k": -1}, {"typical_p": 0}, {"top_h": 2}], ids=str)
def test_same_refusals_when_sampling(with_options: Any, options: dict[str, Any]) -> None:
    import torch

    ours, theirs = with_options(options, False)
    with pytest.raises(ValueError, match=next(iter(options))):
        theirs.generate(torch.tensor(PROMPT), do_sample=True)
    with pytest.raises(InputError, match=next(iter(options))):
        ours.generate(torch.tensor(PROMPT), do_sample=True)


@pytest.mark.parametrize("length", [1, 10, POSITIONS])
@pytest.mark.parametrize("beams", [1, 2])
def test_last_position(models: Any, length: int, beams: int) -> None:
    import torch

    ours, theirs = models
    ids = torch.arange(20, 20 + length)[None]
    options: dict[str, Any] = {"max_new_tokens": POSITIONS + 1 - length, "num_beams": beams, "eos_token_id": None}
    expected = theirs.generate(ids, do_sample=False, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)
    assert ours.generate(ids, **options).tolist() == expected.tolist()
    assert expected.shape == (1, POSITIONS + 1)


def test_caches(models: Any) -> None:
    import torch
    import transformers

    ours, theirs = models
    ids, options = torch.tensor(PROMPT), {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cache, their_cache = DynamicCache(), transformers.DynamicCache()
    for _ in range(3):
        mask = torch.ones_like(ids)
        expected = theirs.generate(ids, attention_mask=mask, past_key_values=their_cache, **options)
        ids = ours.generate(ids, attention_mask=mask.float(), past_key_values=cache, **options)
        assert ids.tolist() == expected.tolist()
        assert cache.get_seq_length() == their_cache.get_seq_length() == ids.shape[1] - 1
    wanted: dict[str, Any] = {**options, "return_dict_in_generate": True, "num_beams": 3}
    expected = theirs.generate(torch.tensor(PROMPT), attention_mask=torch.ones(1, 5, dtype=torch.long), **wanted)
    output = ours.generate(torch.tensor(PROMPT), **wanted)
    assert output.past_key_values.get_seq_length() == expected.cache.get_seq_length()
    assert output.past_key_values.batch_size == 3


def test_a_generation_config_of_theirs(models: Any) -> None:
    import torch
    import transformers

    ours, theirs = models
    config = transformers.GenerationConfig(max_new_tokens=6, temperature=0.0, use_cache=False, repetition_penalty=1.3)
    ids, mask = torch.tensor(PROMPT), torch.ones(1, 5, dtype=torch.long)
    expected = theirs.generate(ids, attention_mask=mask, generation_config=config)
    assert ours.generate(ids, generation_config=config).tolist() == expected.tolist()
    assert ours.resolve_options(transformers.GenerationConfig(), {}) == ours.resolve_options(None, {})


def test_subclasses_of_our_classes_get_tensors(models: Any) -> None:
    import torch

    seen: list[type] = []

    class Processor(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            seen.append(type(scores))
            return scores

    class Criterion(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any = None) -> Any:
            seen.append(type(input_ids))
            return input_ids[:, -1] < 0

    calls: dict[str, Any] = {"logits_processor": [Processor()], "stopping_criteria": [Criterion()], "max_new_tokens": 1}
    models[0].generate(torch.tensor(PROMPT), **calls)
    models[0].generate(np.array(PROMPT), **calls)
    assert seen == [torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]


def test_tuples_are_as_long(models: Any) -> None:
    import torch

    ours, theirs = models
    wanted: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True, "return_dict": False}
    for mine, their in ((ours, theirs), (ours.transformer, theirs.transformer)):
        assert len(mine(torch.tensor(PROMPT), **wanted)) == len(their(torch.tensor(PROMPT), **wanted))
