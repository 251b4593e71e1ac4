"""Print the tables of docs/models.md: how large the well-known models are in each dtype, and how much memory they need.

Nothing is downloaded and nothing is measured. The sizes follow from the shapes, by the code with which ``gptbigcode-cpu info``
answers.

    python bench/model_sizes.py
"""

from __future__ import annotations

import sys
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from make_checkpoint import SHAPES, Shape, tensor_shapes

from gptbigcode_cpu import GPTBigCodeConfig, _core
from gptbigcode_cpu.common.sizes import human_bytes
from gptbigcode_cpu.store.tensors import converted_bytes

GB = 1_000_000_000
DTYPES = ("int4", "int6", "int8", "bfloat16", "float32")
MEMORIES = (2, 4, 8, 16, 32, 64)
# What a process takes besides the weights and the KV cache: Python, the libraries, the buffers of a call.
PROCESS_BYTES = 150_000_000
# What is left to the operating system and to other programs.
SYSTEM_BYTES = GB

# One for each size; fine-tuned models, such as StarChat, have the size of the model that they come from.
MODELS = {"granite-20b-code-base" if name.startswith("granite") else name: shape for name, shape in SHAPES.items()}


def config_of(shape: Shape) -> GPTBigCodeConfig:
    """The configuration of a model of this shape."""
    return GPTBigCodeConfig(
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_inner=shape.n_inner,
        vocab_size=shape.vocab_size,
        n_positions=shape.n_positions,
        multi_query=True,
    )


def parameters(shape: Shape) -> int:
    """How many numbers the model has learned."""
    return sum(prod(size) for size in tensor_shapes(shape).values())


def memory_bytes(config: GPTBigCodeConfig, dtype: str, context: int) -> int:
    """Memory for weights and KV cache at so many tokens of context."""
    kv_dtype = dtype if dtype in ("bfloat16", "float32") else "int8"
    per_token = _core.kv_bytes_per_token(kv_dtype, config.n_layer, config.n_kv_head, config.head_dim)
    return converted_bytes(config, dtype) + context * per_token


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def size_table() -> str:
    """File sizes, by model and dtype."""
    rows = [
        [
            f"`{name}`",
            f"{parameters(shape) / GB:.2f}",
            *(human_bytes(converted_bytes(config_of(shape), dtype)) for dtype in DTYPES),
        ]
        for name, shape in MODELS.items()
    ]
    return table(["model", "billion parameters", *DTYPES], rows)


def memory_table() -> str:
    """Memory for weights and KV cache with a full context, by size and dtype."""
    rows = []
    for name, shape in MODELS.items():
        config = config_of(shape)
        cache = memory_bytes(config, "int8", shape.n_positions) - memory_bytes(config, "int8", 0)
        sizes = [human_bytes(memory_bytes(config, dtype, shape.n_positions)) for dtype in DTYPES]
        rows.append([f"`{name}`", f"{shape.n_positions:,}", human_bytes(cache), *sizes])
    return table(["model", "context in tokens", "int8 KV cache", *DTYPES], rows)


def fits_table() -> str:
    """The largest model that fits, by memory of the machine and dtype."""
    rows = []
    for memory in MEMORIES:
        row = [f"{memory} GB"]
        for dtype in DTYPES:
            room = memory * GB - SYSTEM_BYTES - PROCESS_BYTES
            fitting = [
                name for name, shape in MODELS.items() if memory_bytes(config_of(shape), dtype, shape.n_positions) <= room
            ]
            row.append(f"`{fitting[-1]}`" if fitting else "none")
        rows.append(row)
    return table(["memory of the machine", *DTYPES], rows)


TABLES = {"File size": size_table, "Memory": memory_table, "What fits": fits_table}

if __name__ == "__main__":
    for title, make in TABLES.items():
        print(f"{title}\n\n{make()}\n")
