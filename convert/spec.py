"""Which tensor of a checkpoint becomes which tensor of the converted model.

The comparison with what the configuration declares is complete: all missing, unexpected and misshapen tensors are listed at
once, because a checkpoint that is wrong in one place tends to be wrong in several.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.read import SourceTensor
from gptbigcode_cpu.errors import CheckpointError
from gptbigcode_cpu.tensors import (
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

SOURCE_TYPES = ("F32", "F16", "BF16")

# The causal mask and its fill value, which older versions of transformers saved with the weights.
_BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_BARE = re.compile(r"(wte|wpe|h|ln_f)\.")
_COMPARE_ROWS = 1024


@dataclass(frozen=True)
class Plan:
    """What a conversion will do: the configuration of the result, and source and target of every tensor in file order."""

    config: GPTBigCodeConfig
    tensors: tuple[tuple[TensorSpec, SourceTensor], ...]
    notes: tuple[str, ...]

    @property
    def source_bytes(self) -> int:
        return sum(source.nbytes for _, source in self.tensors)

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(spec.shape) for spec, _ in self.tensors)

    def stored(self, scheme: Scheme) -> Iterator[tuple[StoredTensor, SourceTensor]]:
        """What is written, in the order of the file, and from what."""
        for spec, source in self.tensors:
            for stored in scheme.stored(self.config, spec):
                yield stored, source


def plan(config: GPTBigCodeConfig, checkpoint: Mapping[str, SourceTensor]) -> Plan:
    """Match a checkpoint with its configuration.

    Raises:
        CheckpointError: Tensors are missing, unexpected, misshapen or of an unsupported type; all of them are listed.
    """
    problems: list[str] = []
    sources: dict[str, SourceTensor] = {}
    for name, tensor in checkpoint.items():
        full = f"transformer.{name}" if _BARE.match(name) else name
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
    if problems:
        raise CheckpointError("the checkpoint does not fit its configuration:\n  " + "\n  ".join(problems))

    if config.tie_word_embeddings and LM_HEAD in sources:
        if _equal(sources[LM_HEAD], sources[EMBEDDING]):
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
        if source.dtype not in SOURCE_TYPES:
            yield f"unsupported type: {name} is {source.dtype}, supported are {', '.join(SOURCE_TYPES)}"


def _equal(left: SourceTensor, right: SourceTensor) -> bool:
    if left.dtype != right.dtype:
        return False
    with left.open() as left_values, right.open() as right_values:
        rows = range(0, left.shape[0], _COMPARE_ROWS)
        return all(
            np.array_equal(left_values[row : row + _COMPARE_ROWS], right_values[row : row + _COMPARE_ROWS]) for row in rows
        )
