"""Opening a converted model: every byte range is checked, then mapped; no weight is read or copied."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import FormatError, InputError, KernelError, ModelNotFoundError
from gptbigcode_cpu.tensor_file import TensorEntry, TensorFileError, map_tensor_file

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

WEIGHTS_NAME = "model.safetensors"
QUANT_METHOD = "gptbigcode-cpu"
FORMAT_VERSIONS = {"int8": 1, "int4": 2, "bfloat16": 1, "float32": 1}
ALIGNMENT = 64
PAD_PREFIX = "__pad__."
MAX_THREADS = 1024  # the core's bound
KV_DTYPES = ("auto", "int8", "bfloat16", "float16", "float32")

# Storage type of the linear layers -> storage type of the token embedding and the LM head.
HEAD_DTYPES = {"int8": "int8", "int4": "int8", "bfloat16": "bfloat16", "float32": "float32"}
_PACKED_TYPES = {"int8": "U8", "int4": "U8", "bfloat16": "BF16", "float32": "F32"}
_POSITION_TYPES = {"int8": "F16", "int4": "F16", "bfloat16": "BF16", "float32": "F32"}

BASE_MODEL = "GPTBigCodeModel"  # the architecture without a head
# Architectures whose head classifies instead of writing text -> the tensors of that head.
CLASSIFIERS = {
    "GPTBigCodeForSequenceClassification": frozenset({"score.weight"}),
    "GPTBigCodeForTokenClassification": frozenset({"classifier.weight", "classifier.bias"}),
}


class Role(enum.Enum):
    """What a tensor is for, which decides how it is stored."""

    LINEAR = "linear"
    """A matrix of a block, packed in ``dtype``."""
    HEAD = "head"
    """Token embedding and LM head, packed in ``head_dtype``."""
    POSITION = "position"
    """The position table, 16 or 32 bits and not tiled."""
    PLAIN = "plain"
    """Biases, LayerNorm and classification heads, float32."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model has: its name in transformers, its shape there, and its role."""

    name: str
    shape: tuple[int, ...]
    role: Role

    def stored_as(self, dtype: str) -> tuple[str, tuple[int, ...]]:
        """Safetensors type and shape of this tensor in a model converted to `dtype`."""
        from gptbigcode_cpu import _core

        if self.role is Role.PLAIN:
            return "F32", self.shape
        if self.role is Role.POSITION:
            return _POSITION_TYPES[dtype], self.shape
        packing = dtype if self.role is Role.LINEAR else HEAD_DTYPES[dtype]
        rows, columns = self.shape
        return _PACKED_TYPES[packing], tuple(_core.tile_shape(packing, rows, columns))


def decoder_tensors(config: GPTBigCodeConfig) -> Iterator[TensorSpec]:
    """The tensors of every GPTBigCode model in the order in which a forward pass needs them, without heads."""
    width, inner = config.n_embd, config.n_inner
    attention_rows = width + 2 * config.n_kv_head * config.head_dim
    yield TensorSpec("transformer.wte.weight", (config.vocab_size, width), Role.HEAD)
    yield TensorSpec("transformer.wpe.weight", (config.n_positions, width), Role.POSITION)
    for layer in range(config.n_layer):
        prefix = f"transformer.h.{layer}."
        for name in ("ln_1.weight", "ln_1.bias"):
            yield TensorSpec(prefix + name, (width,), Role.PLAIN)
        yield TensorSpec(prefix + "attn.c_attn.weight", (attention_rows, width), Role.LINEAR)
        yield TensorSpec(prefix + "attn.c_attn.bias", (attention_rows,), Role.PLAIN)
        yield TensorSpec(prefix + "attn.c_proj.weight", (width, width), Role.LINEAR)
        yield TensorSpec(prefix + "attn.c_proj.bias", (width,), Role.PLAIN)
        for name in ("ln_2.weight", "ln_2.bias"):
            yield TensorSpec(prefix + name, (width,), Role.PLAIN)
        yield TensorSpec(prefix + "mlp.c_fc.weight", (inner, width), Role.LINEAR)
        yield TensorSpec(prefix + "mlp.c_fc.bias", (inner,), Role.PLAIN)
        yield TensorSpec(prefix + "mlp.c_proj.weight", (width, inner), Role.LINEAR)
        yield TensorSpec(prefix + "mlp.c_proj.bias", (width,), Role.PLAIN)
    for name in ("transformer.ln_f.weight", "transformer.ln_f.bias"):
        yield TensorSpec(name, (width,), Role.PLAIN)


def head_tensors(config: GPTBigCodeConfig) -> dict[str, TensorSpec]:
    """The tensors of every head that a model can have, by name."""
    specs = (
        TensorSpec("lm_head.weight", (config.vocab_size, config.n_embd), Role.HEAD),
        TensorSpec("score.weight", (config.num_labels, config.n_embd), Role.PLAIN),
        TensorSpec("classifier.weight", (config.num_labels, config.n_embd), Role.PLAIN),
        TensorSpec("classifier.bias", (config.num_labels,), Role.PLAIN),
    )
    return {spec.name: spec for spec in specs}


def required_heads(config: GPTBigCodeConfig) -> frozenset[str]:
    """Names of the head tensors that a model of this architecture cannot do without."""
    for architecture, heads in CLASSIFIERS.items():
        if architecture in config.architectures:
            return heads
    if BASE_MODEL in config.architectures:
        return frozenset()
    return frozenset() if config.tie_word_embeddings else frozenset({"lm_head.weight"})


@dataclass(frozen=True)
class PackedModel:
    """A converted model, mapped.

    Attributes:
        path: The directory.
        config: Its ``config.json``.
        dtype: Storage type of the linear layers.
        head_dtype: Storage type of the token embedding and the LM head.
        tensors: Name -> read-only view on the mapped file, shapes as in docs/format.md; bfloat16 as uint16.
        nbytes: Bytes of these tensors.
    """

    path: Path
    config: GPTBigCodeConfig
    dtype: str
    head_dtype: str
    tensors: Mapping[str, NDArray[Any]]
    nbytes: int


def open_packed(path: Path) -> PackedModel:
    """Check a converted model directory completely and map its weights.

    Raises:
        ModelNotFoundError: There is no such directory, or it holds no model.
        ConfigError: Its ``config.json`` is malformed.
        FormatError: It is not a converted model, or it is damaged; the message names the check that failed.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelNotFoundError(f"{path} is not a directory; a model is one, with config.json and {WEIGHTS_NAME}")
    config = GPTBigCodeConfig.from_json_file(path / "config.json")
    dtype = packed_dtype(config, path)
    try:
        file = map_tensor_file(path / WEIGHTS_NAME)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} has no {WEIGHTS_NAME}; convert the checkpoint again") from error
    except OSError as error:
        raise ModelNotFoundError(f"{path / WEIGHTS_NAME} cannot be read: {error.strerror}") from error
    except TensorFileError as error:
        raise FormatError(f"{path / WEIGHTS_NAME}: {error}; convert the checkpoint again") from error
    problems = list(_problems(config, dtype, file.entries))
    if problems:
        shown = problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])
        raise FormatError(f"{path / WEIGHTS_NAME} does not fit its config.json: {'; '.join(shown)}")
    tensors = {name: file.array(entry) for name, entry in file.entries.items() if not name.startswith(PAD_PREFIX)}
    return PackedModel(path, config, dtype, HEAD_DTYPES[dtype], tensors, sum(array.nbytes for array in tensors.values()))


def is_packed(config: GPTBigCodeConfig) -> bool:
    """Whether a configuration is that of a converted model."""
    return config.quantization_config is not None and config.quantization_config.get("quant_method") == QUANT_METHOD


def packed_dtype(config: GPTBigCodeConfig, path: Path) -> str:
    """The storage type of a converted model.

    Raises:
        FormatError: `path` is not a converted model, or one of an unknown version or type.
    """
    if config.quantization_config is None or not is_packed(config):
        raise FormatError(f"{path} is not a converted model: its config.json has no quantization_config of {QUANT_METHOD}")
    quantization = config.quantization_config
    version, dtype, head_dtype = (quantization.get(key) for key in ("format_version", "dtype", "head_dtype"))
    if not isinstance(dtype, str) or dtype not in HEAD_DTYPES:
        raise FormatError(f"{path} has the unknown dtype {dtype!r}; known are {', '.join(HEAD_DTYPES)}")
    if version != FORMAT_VERSIONS[dtype]:
        expected = f"{dtype} version {FORMAT_VERSIONS[dtype]}"
        raise FormatError(f"{path} has format version {version!r}, this package reads {expected}; convert it again")
    if head_dtype != HEAD_DTYPES[dtype]:
        raise FormatError(f"{path} has head_dtype {head_dtype!r}; with dtype {dtype} it must be {HEAD_DTYPES[dtype]!r}")
    return dtype


def _problems(config: GPTBigCodeConfig, dtype: str, entries: Mapping[str, TensorEntry]) -> Iterator[str]:
    heads = head_tensors(config)
    expected = {spec.name: spec for spec in decoder_tensors(config)}
    required = expected.keys() | required_heads(config)
    expected |= {name: spec for name, spec in heads.items() if name in required or name in entries}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    for name in sorted(required - entries.keys()):
        yield f"{name} is missing"
    for name in sorted(entries.keys() - expected.keys()):
        filler = entries[name]
        if not name.startswith(PAD_PREFIX):
            yield f"{name[:80]!r} is unexpected"
        elif filler.dtype != "U8" or filler.end - filler.begin >= ALIGNMENT:
            yield f"{name[:80]!r} is {filler.dtype} {list(filler.shape)}, which is not a gap between tensors"
    for name, spec in expected.items():
        if (entry := entries.get(name)) is None:
            continue
        stored = spec.stored_as(dtype)
        if (entry.dtype, entry.shape) != stored:
            yield f"{name} is {entry.dtype} {list(entry.shape)}, expected {stored[0]} {list(stored[1])}"
        if entry.begin % ALIGNMENT:
            yield f"{name} begins at byte {entry.begin}, which is not a multiple of {ALIGNMENT}"


def check_num_threads(num_threads: int, name: str = "num_threads") -> None:
    """Refuse a number of threads that the core would not take; 0 = default.

    Args:
        num_threads: The number.
        name: What the message calls it.

    Raises:
        InputError: It is no integer from 0 to `MAX_THREADS`.
    """
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or not 0 <= num_threads <= MAX_THREADS:
        raise InputError(f"{name} must be an integer from 1 to {MAX_THREADS}, or 0 for the default, not {num_threads!r}")


def kernel_name() -> str:
    """The kernel set that this process computes with.

    Raises:
        KernelError: ``GPTBIGCODE_CPU_ISA`` names one that is unknown or that this CPU cannot run.
    """
    from gptbigcode_cpu import _core

    try:
        return _core.select_kernel()
    except ValueError as error:
        raise KernelError(str(error)) from error


def resolve_kv_dtype(kv_dtype: str, dtype: str) -> str:
    """The storage type of keys and values that `kv_dtype` means for a model stored in `dtype`.

    Raises:
        InputError: `kv_dtype` is none of `KV_DTYPES`.
    """
    if kv_dtype not in KV_DTYPES:
        raise InputError(f"kv_dtype must be one of {', '.join(KV_DTYPES)}, not {kv_dtype!r}")
    if kv_dtype == "auto":
        return "int8" if dtype in ("int8", "int4") else dtype
    return kv_dtype


def load_core(packed: PackedModel, num_threads: int = 0, prefill_threads: int = 0, kv_dtype: str = "auto") -> _core.Model:
    """The compute core on the mapped weights of a model.

    Args:
        packed: The model; its mapping stays alive as long as the result.
        num_threads: 0 = one for each performance core.
        prefill_threads: For calls of more than 16 new tokens; 0 = `num_threads`.
        kv_dtype: Storage type of keys and values, one of `KV_DTYPES`; ``"auto"`` = int8 for integer weights, else theirs.

    Raises:
        InputError: A bad number of threads or an unknown `kv_dtype`.
        KernelError: ``GPTBIGCODE_CPU_ISA`` names a kernel set that is unknown or that this CPU cannot run.
        FormatError: The core rejects a tensor.
    """
    from gptbigcode_cpu import _core

    check_num_threads(num_threads)
    check_num_threads(prefill_threads, "prefill_threads")
    kv_dtype = resolve_kv_dtype(kv_dtype, packed.dtype)
    isa = kernel_name()
    config = packed.config
    try:
        return _core.Model(
            dict(packed.tensors),
            dtype=packed.dtype,
            vocab_size=config.vocab_size,
            n_positions=config.n_positions,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            n_inner=config.n_inner,
            activation=config.activation_function,
            layer_norm_epsilon=config.layer_norm_epsilon,
            attention_scale=config.attention_scale,
            kv_dtype=kv_dtype,
            num_threads=num_threads,
            prefill_threads=prefill_threads,
            isa=isa,
        )
    except ValueError as error:
        raise FormatError(f"{packed.path}: {error}") from error
