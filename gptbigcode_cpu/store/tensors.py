"""The tensors of a GPTBigCode model: which a checkpoint has, and how each is stored (docs/format.md)."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType

from gptbigcode_cpu.common.dtypes import DTYPES
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.store.tensor_file import NUMPY_TYPES

# Storage types of packed tensors -> their type in safetensors.
PACKED_TYPES = {**dict.fromkeys(DTYPES, "U8"), "bfloat16": "BF16", "float32": "F32"}
QUANTISED = frozenset({"int8", "int6", "int4"})
# Types of the position table in safetensors where it is not packed: in models of other dtypes it is.
_POSITION_TYPES = {"int8": "F16", "bfloat16": "BF16", "float32": "F32"}
CALIBRATED = frozenset({"int6", "int4"})  # those that calibration changes
EMBEDDING, POSITIONS, LM_HEAD = "transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"

BASE_MODEL = "GPTBigCodeModel"  # the architecture without a head
# Architectures whose head classifies instead of writing text -> the tensors of that head.
CLASSIFIERS = {
    "GPTBigCodeForSequenceClassification": frozenset({"score.weight"}),
    "GPTBigCodeForTokenClassification": frozenset({"classifier.weight", "classifier.bias"}),
}


class Role(enum.Enum):
    """The role of a tensor. It decides how the tensor is stored."""

    LINEAR = "linear"
    """A matrix of a block, packed."""
    HEAD = "head"
    """Token embedding and LM head, packed; where quantised, with a scale per column."""
    POSITION = "position"
    """The position table: packed in models of few bits, else 16 or 32 bits and not tiled."""
    PLAIN = "plain"
    """Biases, LayerNorm and classification heads, float32."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a checkpoint has: its name in transformers, its shape, and its role."""

    name: str
    shape: tuple[int, ...]
    role: Role


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a converted model.

    Attributes:
        name: In the file.
        kind: Its type in safetensors.
        shape: Its shape there.
        dtype: How it is packed, or None if it is not.
        rows: The rows of the checkpoint's tensor that it holds, from, to; None for what is no part of one.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str | None = None
    rows: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return math.prod(self.shape) * NUMPY_TYPES[self.kind].itemsize


@dataclass(frozen=True)
class Scheme:
    """The types that the tensors of a model are stored in.

    Attributes:
        dtype: Storage type of the packed tensors, if nothing else is said.
        overrides: Names of packed tensors -> their storage types.
    """

    dtype: str
    overrides: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def default(cls, config: GPTBigCodeConfig, dtype: str) -> Scheme:
        """The scheme of that name for a model.

        ``int4`` keeps in int6 what is small and costs much: the embeddings and the LM head; with multi-query attention, whose
        query heads all share them, the rows that make keys and values; the first layer's ``attn.c_proj``. docs/quantization.md
        has the figures.
        """
        if dtype != "int4":
            return cls(dtype)
        finer = [EMBEDDING, POSITIONS, "transformer.h.0.attn.c_proj.weight"]
        if not config.tie_word_embeddings:
            finer.append(LM_HEAD)
        if config.multi_query:
            finer += [f"transformer.h.{layer}.attn.c_attn.key_value.weight" for layer in range(config.n_layer)]
        return cls(dtype, MappingProxyType(dict.fromkeys(finer, "int6")))

    def keeping(self, config: GPTBigCodeConfig, specs: Iterable[TensorSpec], keep: Mapping[str, str]) -> Scheme:
        """This scheme with other storage types for some tensors.

        Args:
            config: Of the model.
            specs: The tensors of its checkpoint.
            keep: Patterns with ``*``, ``?`` and ``[...]`` for names of packed tensors, as in docs/format.md -> storage types;
                of several that match, the last one counts.

        Raises:
            InputError: An unknown storage type, or a pattern that no packed tensor matches.
        """
        names = [stored.name for spec in specs for stored in self.stored(config, spec) if stored.dtype is not None]
        overrides = dict(self.overrides)
        for pattern, dtype in keep.items():
            if dtype not in DTYPES:
                raise InputError(f"{pattern} cannot be kept in {dtype!r}; choose one of {', '.join(DTYPES)}")
            matches = [name for name in names if fnmatchcase(name, pattern)]
            if not matches:
                from difflib import get_close_matches

                near = get_close_matches(pattern, names, n=1, cutoff=0)
                raise InputError(f"no packed tensor matches {pattern!r}; their names are like {near[0]!r}")
            overrides |= dict.fromkeys(matches, dtype)
        return Scheme(self.dtype, {name: dtype for name, dtype in overrides.items() if dtype != self.dtype})

    def dtype_of(self, name: str) -> str:
        """Storage type of a packed tensor."""
        return self.overrides.get(name, self.dtype)

    def stored(self, config: GPTBigCodeConfig, spec: TensorSpec) -> Iterator[StoredTensor]:
        """The stored tensors that a tensor of a checkpoint becomes.

        The rows of ``c_attn`` are stored in two parts, ``c_attn.query`` and ``c_attn.key_value``.
        """
        if spec.role is Role.PLAIN:
            yield StoredTensor(spec.name, "F32", spec.shape, None, (0, spec.shape[0]))
        elif spec.role is Role.POSITION and self.dtype in _POSITION_TYPES:
            yield StoredTensor(spec.name, _POSITION_TYPES[self.dtype], spec.shape, None, (0, spec.shape[0]))
        elif spec.name.endswith(".attn.c_attn.weight"):
            stem = spec.name.removesuffix("weight")
            yield self._packed(f"{stem}query.weight", spec, 0, config.n_embd)
            yield self._packed(f"{stem}key_value.weight", spec, config.n_embd, spec.shape[0])
        else:
            if spec.role is Role.HEAD and self.dtype_of(spec.name) in QUANTISED:
                yield StoredTensor(column_scale_name(spec.name), "F32", spec.shape[1:])
            yield self._packed(spec.name, spec, 0, spec.shape[0])

    def _packed(self, name: str, spec: TensorSpec, begin: int, end: int) -> StoredTensor:
        from gptbigcode_cpu import _core

        dtype = self.dtype_of(name)
        shape = tuple(_core.tile_shape(dtype, end - begin, spec.shape[1]))
        return StoredTensor(name, PACKED_TYPES[dtype], shape, dtype, (begin, end))


def column_scale_name(name: str) -> str:
    """The tensor with the column scales of a token embedding or LM head."""
    return name.removesuffix("weight") + "column_scale"


def decoder_tensors(config: GPTBigCodeConfig) -> Iterator[TensorSpec]:
    """The tensors of every GPTBigCode model in the order in which a forward pass needs them, without heads."""
    width, inner = config.n_embd, config.n_inner
    attention_rows = width + 2 * config.n_kv_head * config.head_dim
    yield TensorSpec(EMBEDDING, (config.vocab_size, width), Role.HEAD)
    yield TensorSpec(POSITIONS, (config.n_positions, width), Role.POSITION)
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
        TensorSpec(LM_HEAD, (config.vocab_size, config.n_embd), Role.HEAD),
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
    return frozenset() if config.tie_word_embeddings else frozenset({LM_HEAD})


def converted_bytes(config: GPTBigCodeConfig, dtype: str) -> int:
    """Bytes of a checkpoint's tensors once it is converted."""
    heads = head_tensors(config)
    specs = [*decoder_tensors(config), *(heads[name] for name in required_heads(config))]
    scheme = Scheme.default(config, dtype)
    return sum(stored.nbytes for spec in specs for stored in scheme.stored(config, spec))
