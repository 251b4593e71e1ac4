"""Options of transformers that are not supported: their neutral values, which are accepted, and why others are refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gptbigcode_cpu.common.arrays import plain
from gptbigcode_cpu.common.suggest import nearest
from gptbigcode_cpu.engine.options import ALIASES, RULES
from gptbigcode_cpu.errors import InputError

_REMOVED = "transformers 5 has removed it"
_ENCODER = "it belongs to encoder-decoder models"
_COMPILED = "nothing is compiled when a model runs"
_CACHE = "there is one cache, of reference-counted blocks; see kv_dtype of from_pretrained"
# For each unsupported option: its neutral values, which are accepted because they change nothing, and the reason.
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

# Entries of a generation_config.json that are not options.
METADATA = ("transformers_version", "_from_model_config", "_commit_hash")

# Unsupported options that change which tokens are generated. The others are about speed, memory and additional results, so
# their values in files are ignored.
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
    """Whether the value of an unsupported option changes nothing."""
    value = plain(value)
    return value is None or any(type(value) is type(neutral) and value == neutral for neutral in UNSUPPORTED[name][0])


def refuse(name: str, value: Any, others: Iterable[str] = ()) -> None:
    """Refuse an option that `GenerationConfig` does not have, unless it is an option of transformers with a neutral value.

    Args:
        name: The option.
        value: The value of the option.
        others: Further names to suggest for a misspelt one.

    Raises:
        InputError: The option is unknown, or it is unsupported; the message gives the reason.
    """
    if name not in UNSUPPORTED:
        raise InputError(f"unknown option {name!r}{nearest(name, [*RULES, *ALIASES, *others])}")
    if not is_neutral(name, value):
        neutral, reason = UNSUPPORTED[name]
        allowed = f"; only its neutral value {neutral[0]!r} may be passed" if neutral else ""
        raise InputError(f"{name} is not supported: {reason}{allowed}")
