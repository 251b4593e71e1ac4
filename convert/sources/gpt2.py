"""Checkpoints of GPT-2 and of the original SantaCoder, whose weights are laid out differently from GPTBigCode's.

The linear layers of a block are ``Conv1D``: ``[inputs, outputs]``, where GPTBigCode has ``[outputs, inputs]``. ``c_attn`` has
all queries, then all keys, then all values, where GPTBigCode has them head by head, unless they share one head of keys and
values. SantaCoder keeps queries in ``q_attn``, and keys and values in ``kv_attn``.

Sources: transformers, ``models/gpt2/modeling_gpt2.py``; bigcode/santacoder, ``modeling_gpt2_mq.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.sources.attention_rows import by_head
from gptbigcode_cpu.convert.sources.derived import Values, derived
from gptbigcode_cpu.convert.sources.floats import FLOATS, to_float32
from gptbigcode_cpu.convert.sources.tensors import Rows, SourceTensor

_CONV1D = re.compile(r"(?:transformer\.)?h\.\d+\.(?:attn\.(?:c_attn|q_attn|kv_attn|c_proj)|mlp\.(?:c_fc|c_proj))\.weight")
_ATTENTION = re.compile(
    r"(?P<stem>(?:transformer\.)?h\.(?P<layer>\d{1,6})\.attn\.)(?P<part>c_attn|q_attn)\.(?P<kind>weight|bias)"
)


def transposed(tensors: Mapping[str, SourceTensor]) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint with the weights of its linear layers as ``[outputs, inputs]``."""

    def turned(name: str, tensor: SourceTensor) -> SourceTensor:
        if _CONV1D.fullmatch(name) is None or len(tensor.shape) != 2:
            return tensor
        return derived(tensor.name, tensor.dtype, tensor.shape[::-1], (tensor,), lambda values: values.T)

    return {name: turned(name, tensor) for name, tensor in tensors.items()}


def as_gpt_bigcode(
    tensors: Mapping[str, SourceTensor], config: GPTBigCodeConfig, *, layer_factor: bool
) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint as GPTBigCode has them.

    Args:
        tensors: With linear layers as ``[outputs, inputs]``.
        config: Of the model.
        layer_factor: Divide the scores of attention by the number of the layer, counted from 1, by dividing the queries.
    """
    sources = dict(tensors)
    for name in list(sources):
        found = _ATTENTION.fullmatch(name)
        if found is None:
            continue
        names = [name] if found["part"] == "c_attn" else [name, f"{found['stem']}kv_attn.{found['kind']}"]
        parts = tuple(sources[part] for part in names if part in sources)
        if len(parts) < len(names) or any(not part.shape or part.shape[1:] != parts[0].shape[1:] for part in parts):
            continue  # reported where the tensors are compared with the configuration
        for part in names:
            del sources[part]
        target = f"{found['stem']}c_attn.{found['kind']}"
        sources[target] = _attention(target, parts, config, int(found["layer"]) + 1 if layer_factor else 1)
    return sources


def _attention(name: str, parts: tuple[SourceTensor, ...], config: GPTBigCodeConfig, divisor: int) -> SourceTensor:
    """Queries, keys and values in one tensor, in GPTBigCode's order and with the queries divided."""
    whole = parts[0] if len(parts) == 1 and divisor == 1 else _joined(name, parts, config.n_embd, divisor)
    if config.multi_query or whole.shape[:1] != (3 * config.n_embd,):
        return whole
    order = by_head(config)
    return derived(name, whole.dtype, whole.shape, (whole,), lambda view: Rows(whole.shape, lambda rows: view[order[rows]]))


def _joined(name: str, parts: tuple[SourceTensor, ...], n_queries: int, divisor: int) -> SourceTensor:
    """The rows of several tensors as float32, with the first ones divided."""
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    dtype = next((part.dtype for part in parts if part.dtype not in FLOATS), "F32")  # an unsupported one shows

    def compute(*views: Values) -> Rows:
        def read(rows: NDArray[np.intp]) -> NDArray[Any]:
            values = np.empty((len(rows), *shape[1:]), np.float32)
            begin = 0
            for part, view in zip(parts, views, strict=True):
                here = (rows >= begin) & (rows < begin + part.shape[0])
                values[here] = to_float32(view[rows[here] - begin], part.dtype)
                begin += part.shape[0]
            values[rows < n_queries] /= np.float32(divisor)
            return values

        return Rows(shape, read)

    return derived(name, dtype, shape, parts, compute)
