"""GPT-2's configuration in the words of GPTBigCode's: the two are the same network, whose weights are stored differently.

``bigcode/santacoder`` and its fine-tunes are GPT-2 with code of their own, which adds ``attention_head_type``: ``multiquery``
is what GPTBigCode calls ``multi_query``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptbigcode_cpu.config.checks import MODEL_TYPE, switch
from gptbigcode_cpu.errors import ConfigError

GPT2 = "gpt2"
_MULTI_QUERY = {"multihead": False, "multiquery": True}
_ARCHITECTURES = {
    "GPT2Model": "GPTBigCodeModel",
    "GPT2CustomModel": "GPTBigCodeModel",
    "GPT2LMHeadModel": "GPTBigCodeForCausalLM",
    "GPT2LMHeadCustomModel": "GPTBigCodeForCausalLM",
    "GPT2DoubleHeadsModel": "GPTBigCodeForCausalLM",
    "GPT2ForSequenceClassification": "GPTBigCodeForSequenceClassification",
    "GPT2ForTokenClassification": "GPTBigCodeForTokenClassification",
}
# What says how weights are stored or scaled, which the converted ones are not, and the code that a model came with.
_DROPPED = ("attention_head_type", "auto_map", "reorder_and_upcast_attn", "scale_attn_by_inverse_layer_idx")


def gpt_bigcode_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a ``config.json`` of GPT-2, translated to the keys of the same GPTBigCode model.

    Raises:
        ConfigError: A key that only GPT-2 has holds a wrong value.
    """
    attention = content.get("attention_head_type") or "multihead"
    if not isinstance(attention, str) or attention not in _MULTI_QUERY:
        raise ConfigError(f"attention_head_type {attention!r:.40} is not supported; supported are {', '.join(_MULTI_QUERY)}")
    has_layer_factor(content)
    given = {key: value for key, value in content.items() if key not in _DROPPED}
    given |= {"model_type": MODEL_TYPE, "multi_query": _MULTI_QUERY[attention]}
    given.setdefault("activation_function", "gelu_new")
    if isinstance(names := given.get("architectures"), list):
        given["architectures"] = [_ARCHITECTURES.get(name, name) if isinstance(name, str) else name for name in names]
    return given


def is_original_gpt2(content: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of GPT-2 and not of SantaCoder, whose tokenizer is BigCode's."""
    return content.get("model_type") == GPT2 and content.get("attention_head_type") != "multiquery"


def has_layer_factor(content: Mapping[str, Any]) -> bool:
    """Whether the scores of attention are divided by the number of the layer, counted from 1.

    Raises:
        ConfigError: ``scale_attn_by_inverse_layer_idx`` is neither true nor false.
    """
    return switch("scale_attn_by_inverse_layer_idx", content.get("scale_attn_by_inverse_layer_idx", False))
