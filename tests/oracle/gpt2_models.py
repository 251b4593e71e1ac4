"""Checkpoints of GPTBigCode models in the layouts of GPT-2 and of the original SantaCoder, written with numpy only.

The network is the same, so a conversion has to make the same file of both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.random_models import write_checkpoint, write_safetensors

State = dict[str, NDArray[np.float32]]
_LINEAR = ("c_attn.weight", "q_attn.weight", "kv_attn.weight", "c_proj.weight", "c_fc.weight")
_ARCHITECTURES = {
    "GPTBigCodeModel": "GPT2Model",
    "GPTBigCodeForCausalLM": "GPT2LMHeadModel",
    "GPTBigCodeForSequenceClassification": "GPT2ForSequenceClassification",
    "GPTBigCodeForTokenClassification": "GPT2ForTokenClassification",
}


def gpt2_state(state: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any], *, split: bool = True) -> State:
    """The weights of a GPTBigCode model as GPT-2 stores them.

    Args:
        state: By GPTBigCode's names.
        config: Of the model.
        split: With multi-query attention, have ``q_attn`` and ``kv_attn`` in place of ``c_attn``, as SantaCoder does.
    """
    heads, width = config["n_head"], config["n_embd"]
    made: State = {}
    for name, values in state.items():
        if ".attn.c_attn." in name and not config["multi_query"]:
            by_head = values.reshape(heads, 3, width // heads, *values.shape[1:])
            made[name] = np.concatenate([by_head[:, part].reshape(width, *values.shape[1:]) for part in range(3)])
        elif ".attn.c_attn." in name and split:
            made[name.replace("c_attn", "q_attn")] = values[:width]
            made[name.replace("c_attn", "kv_attn")] = values[width:]
        else:
            made[name] = values
    return {name: np.ascontiguousarray(v.T) if name.endswith(_LINEAR) else v for name, v in made.items()}


def write_gpt2(directory: Path, *, split: bool = True, buffers: bool = True, storage: str = "float32", **config: Any) -> Path:
    """Write a random checkpoint as GPT-2 would, or with ``multi_query`` as the original SantaCoder.

    Args:
        directory: Where.
        split: See `gpt2_state`.
        buffers: Also write what old versions of transformers did: the causal masks.
        storage: Type of the weights.
        config: As for `write_checkpoint`.
    """
    from oracle.random_models import full_config, random_state

    seed, prefix = config.pop("seed", 0), config.pop("prefix", "transformer.")
    write_checkpoint(directory, seed=seed, storage=storage, **config)
    fields = full_config(**config)
    state = gpt2_state(random_state(fields, seed), fields, split=split)
    if buffers:
        length = fields["n_positions"]
        for layer in range(fields["n_layer"]):
            state[f"transformer.h.{layer}.attn.bias"] = np.tri(length, dtype=np.float32)[None, None]
            state[f"transformer.h.{layer}.attn.masked_bias"] = np.float32(-1e4).reshape(())
    state = {
        prefix + name.removeprefix("transformer.") if name.startswith("transformer.") else name: v for name, v in state.items()
    }
    write_safetensors(directory / "model.safetensors", state, storage)
    gpt2 = {key: value for key, value in fields.items() if key != "multi_query"} | {"model_type": "gpt2", "n_ctx": 1024}
    if fields["multi_query"]:
        gpt2 |= {
            "architectures": ["GPT2LMHeadCustomModel"],
            "attention_head_type": "multiquery",
            "auto_map": {
                "AutoConfig": "configuration_gpt2_mq.GPT2CustomConfig",
                "AutoModelForCausalLM": "modeling_gpt2_mq.GPT2LMHeadCustomModel",
            },
        }
    else:
        gpt2["architectures"] = [_ARCHITECTURES[name] for name in fields["architectures"]]
    (directory / "config.json").write_text(json.dumps(gpt2))
    return directory
