"""What the committed reference answers were computed on.

Every thing that a GPTBigCode configuration can say is here at least once, in small models with random weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS = [
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh", "leaky_relu", "linear",
    "mish", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh",
]  # fmt: skip

RANDOM_MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "multi-head": {"multi_query": False},
    "multi-head-untied": {"multi_query": False, "tie_word_embeddings": False},
    "untied": {"tie_word_embeddings": False},
    "unscaled-attention": {"scale_attn_weights": False},
    "inner-1": {"n_inner": 1},
    "inner-77": {"n_inner": 77},
    "inner-129": {"n_inner": 129, "multi_query": False},
    "width-96": {"n_embd": 96},
    "width-130-head-13": {"n_embd": 130, "n_head": 10},
    "width-256": {"n_embd": 256, "n_inner": 384},
    "head-5": {"n_embd": 35, "n_head": 7, "multi_query": False},
    "head-20": {"n_embd": 60, "n_head": 3},
    "head-128": {"n_embd": 256, "n_head": 2, "n_layer": 1},
    "one-head": {"n_head": 1, "multi_query": False},
    "vocab-33": {"vocab_size": 33},
    "vocab-301": {"vocab_size": 301},
    "epsilon-1e-3": {"layer_norm_epsilon": 1e-3},
    "epsilon-1e-12": {"layer_norm_epsilon": 1e-12},
    "one-layer": {"n_layer": 1},
    "five-layers": {"n_layer": 5, "n_head": 8},
    "old-names": {"prefix": ""},
    "float16": {"storage": "float16"},
    "bfloat16-shards": {"storage": "bfloat16", "shards": 3},
    "many-positions": {"n_positions": 320},
} | {f"activation-{name}": {"activation_function": name, "n_layer": 3} for name in ACTIVATIONS}

GREEDY_TOKENS = 24


def random_model(name: str) -> dict[str, Any]:
    """Arguments of `write_checkpoint` for one of `RANDOM_MODELS`."""
    return {"seed": 100 + list(RANDOM_MODELS).index(name)} | RANDOM_MODELS[name]


def random_prompt(vocab_size: int, n_positions: int) -> NDArray[np.int64]:
    """Token ids that leave just enough positions for the greedy tokens."""
    return np.random.RandomState(n_positions).randint(0, vocab_size, n_positions - GREEDY_TOKENS).astype(np.int64)


CHECKPOINT_PROMPTS = [
    "def fibonacci(n):",
    "import os\n\n\nclass Reader:\n    def __init__(self, path):\n        self.path = path\n\n    def read(self):\n",
    "<fim_prefix>def add(a, b):\n    <fim_suffix>\n    return total\n<fim_middle>",
    "x",
]
CHECKPOINT_GREEDY_TOKENS = 48

WINDOW = 512
"""Tokens of a perplexity window; the loss is that of its second half. Windows do not overlap."""
