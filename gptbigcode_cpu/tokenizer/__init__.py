"""The tokenizer of a checkpoint: texts to token ids and back, chats to prompts."""

from __future__ import annotations

from gptbigcode_cpu.tokenizer.batch_encoding import BatchEncoding, CharSpan, ReturnTensors, TokenSpan
from gptbigcode_cpu.tokenizer.tokenizer import AutoTokenizer, GPTBigCodeTokenizer

__all__ = ["AutoTokenizer", "BatchEncoding", "CharSpan", "GPTBigCodeTokenizer", "ReturnTensors", "TokenSpan"]
