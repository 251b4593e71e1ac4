"""``gptbigcode-cpu info``: the kernels and threads of this machine, and the memory that a model needs."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from gptbigcode_cpu.cli.model_name import ModelName
from gptbigcode_cpu.cli.options import debug_option, json_option
from gptbigcode_cpu.common.dtypes import DTYPES
from gptbigcode_cpu.common.sizes import human_bytes
from gptbigcode_cpu.errors import ContextLengthError

if TYPE_CHECKING:
    pass

_KV_BLOCK = 64  # tokens per block of the KV cache
_SHAPE = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_kv_head", "n_inner", "activation_function")


def _cpu() -> dict[str, Any]:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.common.threads import default_num_threads
    from gptbigcode_cpu.store.kernel_set import kernel_name, slow_because

    return {
        "features": _core.cpu_features(),
        "kernels": _core.kernel_names(),
        "supported_kernels": _core.supported_kernel_names(),
        "isa": kernel_name(),
        "slow_because": slow_because(),
        "threads": default_num_threads(),
    }


def _model(name: str, context: int | None) -> dict[str, Any]:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.config import read_config
    from gptbigcode_cpu.hub.paths import is_gguf, resolve
    from gptbigcode_cpu.store import room, tensors, weights

    path = resolve(name, weights=False)
    config = read_config(path)
    context = config.n_positions if context is None else context
    if context > config.n_positions:
        raise ContextLengthError(f"--context {context} is more than the model's {config.n_positions} positions")
    blocks = -(-context // _KV_BLOCK)

    def kv_bytes_per_token(dtype: str) -> int:
        kv_dtype = weights.resolve_kv_dtype("auto", dtype)
        return _core.kv_bytes_per_token(kv_dtype, config.n_layer, config.n_kv_head, config.head_dim)

    def kv_bytes(dtype: str) -> int:
        return blocks * _KV_BLOCK * kv_bytes_per_token(dtype)

    found: dict[str, Any] = {
        "path": str(path),
        "gguf": is_gguf(path),
        "machine_memory_bytes": room.memory_bytes(),
        **{key: getattr(config, key) for key in _SHAPE},
        "context": context,
    }
    if not weights.is_packed(config):
        sizes = {dtype: tensors.converted_bytes(config, dtype) for dtype in DTYPES}
        found |= {"kv_bytes_per_token_if_converted": {dtype: kv_bytes_per_token(dtype) for dtype in DTYPES}}
        memory = {dtype: size + kv_bytes(dtype) for dtype, size in sizes.items()}
        return {**found, "converted": False, "bytes_if_converted": sizes, "memory_bytes_if_converted": memory}
    packed = weights.open_packed(resolve(name))
    return {
        **found,
        "converted": True,
        "dtype": packed.dtype,
        "bytes": packed.nbytes,
        "kv_dtype": weights.resolve_kv_dtype("auto", packed.dtype),
        "kv_bytes_per_token": kv_bytes_per_token(packed.dtype),
        "kv_bytes": kv_bytes(packed.dtype),
        "memory_bytes": packed.nbytes + kv_bytes(packed.dtype),
    }


@click.command(short_help="Show what a model needs, and what this CPU can do.")
@click.argument("model", required=False, type=ModelName())
@click.option(
    "--context", type=click.IntRange(min=1), metavar="TOKENS", help="Context length to state the memory for.  [default: all]"
)
@json_option
@debug_option
@click.pass_context
def info(ctx: click.Context, model: str | None, context: int | None, as_json: bool) -> None:
    """Show CPU features and kernels; for a MODEL its shape, size and memory.

    Of a model on the Hub only the configuration is downloaded, unless it is converted.

    The variable GPTBIGCODE_CPU_ISA forces a kernel set, GPTBIGCODE_CPU_NUM_THREADS sets the number of threads.

    \b
    Examples:
      gptbigcode-cpu info
      gptbigcode-cpu info ./starcoder-1b-int4 --context 4096
      gptbigcode-cpu info demo --json
    """
    if context is not None and model is None:
        raise click.UsageError("--context needs a MODEL.", ctx)
    from importlib.metadata import version

    found: dict[str, Any] = {"version": version("gptbigcode-cpu"), "cpu": _cpu()}
    if model is not None:
        found["model"] = _model(model, context)
    if as_json:
        click.echo(json.dumps(found))
        return
    cpu = found["cpu"]
    rows = [
        ("CPU features", " ".join(cpu["features"])),
        ("kernels built", " ".join(cpu["kernels"])),
        ("kernels supported", " ".join(cpu["supported_kernels"])),
        ("kernels chosen", f"{cpu['isa']} (the first of the supported ones, or what GPTBIGCODE_CPU_ISA says)"),
        ("threads", f"{cpu['threads']} (one per performance core, or what GPTBIGCODE_CPU_NUM_THREADS says)"),
    ]
    if cpu["slow_because"]:
        rows.insert(4, ("slow", cpu["slow_because"]))
    if model is not None:
        rows += _model_rows(model, found["model"])
    for label, value in rows:
        click.echo(f"{label:19}{value}")


def _model_rows(name: str, found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("model", found["path"]),
        ("shape", f"{found['n_layer']} layers, width {found['n_embd']}, inner {found['n_inner']}"),
        ("activation", found["activation_function"]),
        ("attention", f"{found['n_head']} query heads, {_counted(found['n_kv_head'], 'key/value head')}"),
        ("vocabulary", f"{found['vocab_size']:,} tokens"),
        ("context", f"{found['n_positions']:,} tokens of prompt and answer together"),
    ]
    have = human_bytes(found["machine_memory_bytes"])
    at = f"at {found['context']:,} tokens of context"
    if found["converted"]:
        return [
            *rows,
            ("kind", "converted: it opens at once"),
            ("weights", f"{found['dtype']}, {human_bytes(found['bytes'])} ({found['bytes']:,} bytes)"),
            (
                "KV cache",
                f"{found['kv_dtype']}, {human_bytes(found['kv_bytes'])}, {found['kv_bytes_per_token']} bytes per token",
            ),
            ("memory", f"{human_bytes(found['memory_bytes'])} for weights and KV cache {at}"),
            ("this machine", f"has {have} of memory"),
        ]
    kind = "a GGUF file" if found["gguf"] else "a plain checkpoint"
    memory = found["memory_bytes_if_converted"]
    fits = [dtype for dtype, size in memory.items() if size <= found["machine_memory_bytes"]]
    which = "all types fit" if len(fits) == len(memory) else f"{', '.join(fits)} fit" if fits else "none fits"
    return [
        *rows,
        ("kind", f"{kind}, not converted: it is quantised when it is first used, which takes a while once"),
        ("weights", f"would be {_by_dtype(found['bytes_if_converted'])}"),
        ("KV cache", f"per token {_by_dtype(found['kv_bytes_per_token_if_converted'])}"),
        ("memory", f"{_by_dtype(memory)} {at}"),
        ("this machine", f"has {have} of memory: {which}"),
        ("next", f"gptbigcode-cpu generate -m {shlex.quote(name)} 'def fibonacci(n):'"),
    ]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _by_dtype(sizes: dict[str, int]) -> str:
    return ", ".join(f"{dtype} {human_bytes(size)}" for dtype, size in sizes.items())
