"""The two orders that the rows of ``c_attn`` have without multi-query attention.

transformers' GPTBigCode has them head by head: ``[n_head, 3, head_dim]``, where 3 is query, key and value. GPT-2, llama.cpp
and converted models have all queries first, then all keys, then all values: ``[3, n_head, head_dim]``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.config import GPTBigCodeConfig


def by_head(config: GPTBigCodeConfig) -> NDArray[np.intp]:
    """For each row in transformers' order, its number in the other."""
    rows = np.arange(3 * config.n_embd).reshape(3, config.n_head, config.head_dim)
    return rows.transpose(1, 0, 2).reshape(-1)


def by_kind(config: GPTBigCodeConfig) -> NDArray[np.intp]:
    """For each row in the other order, its number in transformers'."""
    rows = np.arange(3 * config.n_embd).reshape(config.n_head, 3, config.head_dim)
    return rows.transpose(1, 0, 2).reshape(-1)
