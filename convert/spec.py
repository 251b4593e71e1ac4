"""Which tensor of a checkpoint becomes which tensor of the converted model.

The comparison with what the configuration declares is complete: missing, unexpected and misshapen tensors are listed at
once, because a checkpoint that is wrong in one place tends to be wrong in several. If nothing is missing, tensors that the
model does not have are ignored, as in transformers.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.messages import listed, shown
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.sources.floats import FLOATS, to_float32
from gptbigcode_cpu.convert.sources.tensors import Rows, SourceTensor
from gptbigcode_cpu.errors import CheckpointError
from gptbigcode_cpu.store.tensors import (
    EMBEDDING,
    LM_HEAD,
    Role,
    Scheme,
    StoredTensor,
    TensorSpec,
    decoder_tensors,
    head_tensors,
    required_heads,
)

# The causal mask and its fill value, which older versions of transformers saved with the weights.
_BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_BARE = re.compile(r"(wte|wpe|h|ln_f)(\.|$)")
_WITHIN_BFLOAT16 = ("BF16", "F8_E4M3", "F8_E5M2")
_COMPARE_ROWS = 1024


@dataclass(frozen=True)
class Plan:
    """The plan of a conversion: the configuration of the result, and source and target of every tensor in file order."""

    config: GPTBigCodeConfig
    tensors: tuple[tuple[TensorSpec, SourceTensor], ...]
    notes: tuple[str, ...]

    @property
    def source_bytes(self) -> int:
        return sum(source.nbytes for _, source in self.tensors)

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(spec.shape) for spec, _ in self.tensors)

    def linear_bits(self, scheme: Scheme) -> float:
        """Bits per weight of the matrices of the blocks, scales included."""
        nbytes = weights = 0
        for spec, _ in self.tensors:
            packed = [
                stored for stored in scheme.stored(self.config, spec) if stored.dtype is not None and ".h." in stored.name
            ]
            nbytes += sum(stored.nbytes for stored in packed)
            weights += math.prod(spec.shape) if packed else 0
        return 8 * nbytes / weights

    @property
    def exact_dtype(self) -> str:
        """The storage type that holds every weight as it is in the checkpoint; of float64 the nearest float32."""
        matrices = (source for spec, source in self.tensors if spec.role is not Role.PLAIN)
        return "bfloat16" if all(source.dtype in _WITHIN_BFLOAT16 for source in matrices) else "float32"

    def stored(self, scheme: Scheme) -> Iterator[tuple[StoredTensor, SourceTensor]]:
        """The tensors that are written, in the order of the file, each with its source."""
        for spec, source in self.tensors:
            for stored in scheme.stored(self.config, spec):
                yield stored, source


def full_name(name: str) -> str:
    """transformers' name of a tensor or module, which checkpoints without a head and old ones have without ``transformer.``."""
    return f"transformer.{name}" if _BARE.match(name) else name


def plan(config: GPTBigCodeConfig, checkpoint: Mapping[str, SourceTensor]) -> Plan:
    """Match a checkpoint with its configuration.

    Raises:
        CheckpointError: Tensors are missing, unexpected, misshapen or of an unsupported type; eight of them are listed.
    """
    problems: list[str] = []
    sources: dict[str, SourceTensor] = {}
    for name, tensor in checkpoint.items():
        full = full_name(name)
        if _BUFFERS.fullmatch(full):
            continue
        if full in sources:
            problems.append(f"{full} is there twice, also as {name}")
        sources[full] = tensor

    notes: list[str] = []
    if config.tie_word_embeddings and EMBEDDING not in sources and LM_HEAD in sources:
        # A tied matrix is one matrix; which of its two names was saved does not matter.
        sources[EMBEDDING] = sources.pop(LM_HEAD)

    heads = head_tensors(config)
    expected = {spec.name: spec for spec in decoder_tensors(config)}
    required = expected.keys() | required_heads(config)
    expected |= {name: spec for name, spec in heads.items() if name in required or name in sources}
    problems += _differences(expected, required, sources)
    unknown = sorted(sources.keys() - expected.keys())
    if len(problems) > len(unknown):  # others than that some are unexpected
        hints = "".join(f"; {hint}" for hint in _prefix_hints(expected.keys(), checkpoint.keys()))
        raise CheckpointError(f"the checkpoint does not fit its configuration: {listed(problems)}{hints}")
    if unknown:
        notes.append(f"ignored, as transformers does: tensors that are no part of the model, {listed(unknown, ', ')}")

    if config.tie_word_embeddings and LM_HEAD in sources:
        if equal(sources[LM_HEAD], sources[EMBEDDING]):
            del expected[LM_HEAD]
        else:
            # As transformers does: what was trained is in the file, the flag is a default that nobody set.
            config = copy.copy(config)
            config.tie_word_embeddings = False
            notes.append(
                "config.json says tie_word_embeddings, but lm_head.weight differs from transformer.wte.weight: "
                "both are kept and the converted config.json says untied"
            )
    return Plan(config, tuple((spec, sources[name]) for name, spec in expected.items()), tuple(notes))


def _differences(expected: Mapping[str, TensorSpec], required: set[str], sources: Mapping[str, SourceTensor]) -> Iterator[str]:
    for name in expected:
        if name in required and name not in sources:
            yield f"missing: {name} {list(expected[name].shape)}"
    for name in sorted(sources.keys() - expected.keys()):
        yield f"unexpected: {name} {list(sources[name].shape)}"
    for name, spec in expected.items():
        source = sources.get(name)
        if source is None:
            continue
        if source.shape != spec.shape:
            hint = "; set vocab_size to the rows of the matrix" if spec.role is Role.HEAD else ""
            yield f"misshapen: {name} is {list(source.shape)}, the configuration makes it {list(spec.shape)}{hint}"
        if source.dtype not in FLOATS:
            yield f"unsupported type: {name} is {source.dtype}, supported are {', '.join(FLOATS)}"


def _prefix_hints(expected: Collection[str], found: Collection[str]) -> Iterator[str]:
    """Advice for a checkpoint whose names are the expected ones with something in front, such as ``module.``."""
    for prefix in sorted({name.removesuffix(EMBEDDING) for name in found if name.endswith(f".{EMBEDDING}")}):
        if sum(name.removeprefix(prefix) in expected for name in found) > 1:
            yield f"the names in the file begin with {shown(prefix)}, save the weights without it"


def equal(left: SourceTensor, right: SourceTensor) -> bool:
    """Whether two tensors hold the same values."""

    def rows(tensor: SourceTensor, values: NDArray[Any] | Rows, begin: int) -> NDArray[np.float32]:
        return to_float32(values[begin : begin + _COMPARE_ROWS], tensor.dtype)

    with left.open() as left_values, right.open() as right_values:
        return all(
            np.array_equal(rows(left, left_values, begin), rows(right, right_values, begin))
            for begin in range(0, left.shape[0], _COMPARE_ROWS)
        )
