"""Options of transformers that are not offered: what may be said all the same, and why the rest is refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.common.suggest import nearest
from gptbigcode_cpu.engine.options import ALIASES, RULES
from gptbigcode_cpu.errors import InputError

_REMOVED = "transformers 5 itself does not have it any more"
_ENCODER = "it belongs to encoder-decoder models"
_COMPILED = "nothing is compiled when a model runs"
_CACHE = "there is one cache, of reference-counted blocks; see kv_dtype of from_pretrained"
# Options of transformers that are not offered: the values that change nothing, which may be passed, and the reason.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "cache_implementation": (("dynamic",), _CACHE),
    "cache_config": ((), _CACHE),
    "max_cache_len": ((), _CACHE),
    "prefill_chunk_size": ((), "prompts always run in chunks"),
    "output_attentions": ((False,), "attention weights are never stored"),
    "output_hidden_states": ((False,), "generate keeps no hidden states; call the model on the sequences it returns"),
    "use_mtp": ((False,), "these models predict one token at a time"),
    "decoder_start_token_id": ((), _ENCODER),
    "token_healing": ((False,), "cut the prompt at a token boundary instead"),
    "watermarking_config": ((), "pass a logits_processor"),
    "is_assistant": ((False,), "pass the draft model as assistant_model"),
    "assistant_early_exit": ((), "layers cannot be left out"),
    "assistant_lookbehind": ((10,), "the draft model must share the tokenizer"),
    "target_lookbehind": ((10,), "the draft model must share the tokenizer"),
    "assistant_tokenizer": ((), "the draft model must share the tokenizer"),
    "assistant_ensemble_weight": ((), "speculation never changes the distribution"),
    "speculation_type": ((), "pass assistant_model or prompt_lookup_num_tokens"),
    "compile_config": ((), _COMPILED),
    "disable_compile": ((True, False), _COMPILED),
    "continuous_batching_config": ((), "finished rows leave a batch by themselves"),
    "synced_gpus": ((False,), "there is one process and no GPU"),
    "custom_generate": ((), "pass a logits_processor or stopping_criteria"),
    "trust_remote_code": ((False,), "no code is ever loaded from a repository"),
    "low_memory": ((False,), _REMOVED),
    "penalty_alpha": ((0, 0.0), _REMOVED),
    "dola_layers": ((), _REMOVED),
    "diversity_penalty": ((0, 0.0), _REMOVED),
    "num_beam_groups": ((1, 0), _REMOVED),
    "constraints": ((), _REMOVED),
    "force_words_ids": ((), _REMOVED),
    "inputs_embeds": ((), "prompts are token ids"),
    "position_ids": ((), "positions follow from attention_mask"),
    "past_key_values": ((), "it belongs to generate and stream of a model, which take token ids"),
    "cache": ((), "it belongs to generate and stream of a model, which take token ids"),
}

# What transformers writes into files about the files.
METADATA = ("transformers_version", "_from_model_config", "_commit_hash")

# Those that can change which tokens are written. The others are about speed, memory and further results: a file may say
# what it likes about them.
CHANGE_TOKENS = frozenset(
    {
        "token_healing",
        "watermarking_config",
        "penalty_alpha",
        "dola_layers",
        "diversity_penalty",
        "num_beam_groups",
        "constraints",
        "force_words_ids",
    }
)


def is_neutral(name: str, value: Any) -> bool:
    """Whether an unsupported option has a value that asks for nothing."""
    value = plain(value)
    return value is None or any(type(value) is type(neutral) and value == neutral for neutral in UNSUPPORTED[name][0])


def refuse(name: str, value: Any, others: Iterable[str] = ()) -> None:
    """Refuse an option that is no field of `GenerationConfig`, unless it is one of transformers with a neutral value.

    Args:
        name: The option.
        value: Its value.
        others: Further names that could have been meant.

    Raises:
        InputError: It is unsupported, for the reason given, or unknown.
    """
    if name not in UNSUPPORTED:
        raise InputError(f"unknown option {name!r}{nearest(name, [*RULES, *ALIASES, *others])}")
    if not is_neutral(name, value):
        neutral, reason = UNSUPPORTED[name]
        allowed = f"; only its neutral value {neutral[0]!r} may be passed" if neutral else ""
        raise InputError(f"{name} is not supported: {reason}{allowed}")
