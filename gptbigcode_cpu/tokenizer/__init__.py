"""The tokenizer of a checkpoint: it converts texts to token ids and back, and chats to prompts."""

from __future__ import annotations

from gptbigcode_cpu.tokenizer.batch_encoding import BatchEncoding, CharSpan, ReturnTensors, TokenSpan
from gptbigcode_cpu.tokenizer.foreign import backend_of, own_tokenizer
from gptbigcode_cpu.tokenizer.tokenizer import (
    AutoTokenizer,
    GPT2Tokenizer,
    GPT2TokenizerFast,
    GPTBigCodeTokenizer,
    PreTrainedTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

__all__ = [
    "AutoTokenizer",
    "BatchEncoding",
    "CharSpan",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "GPTBigCodeTokenizer",
    "PreTrainedTokenizer",
    "PreTrainedTokenizerBase",
    "PreTrainedTokenizerFast",
    "ReturnTensors",
    "TokenSpan",
    "backend_of",
    "own_tokenizer",
]
