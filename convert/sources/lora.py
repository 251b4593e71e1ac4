"""LoRA adapters of PEFT, merged into the weights of the model that they were trained on.

The weight ``W`` of a layer becomes ``W + scale * B A``, where ``A`` is ``[rank, inputs]`` and ``B`` is ``[outputs, rank]``
(arXiv:2106.09685); that of an embedding becomes ``W + scale * (B A)^T``, where ``A`` is ``[rank, tokens]``. DoRA then gives
every row the length that ``lora_magnitude_vector`` says (arXiv:2402.09353). Rows are computed when they are read, in float64,
and rounded once.

Source: PEFT, ``tuners/lora/layer.py``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.messages import listed
from gptbigcode_cpu.common.regular_files import is_present
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.sources.adapter_config import AdapterConfig, read_adapter_config
from gptbigcode_cpu.convert.sources.derived import Values, derived
from gptbigcode_cpu.convert.sources.files import read_file
from gptbigcode_cpu.convert.sources.floats import FLOATS, to_float32
from gptbigcode_cpu.convert.sources.tensors import Rows, SourceTensor
from gptbigcode_cpu.convert.spec import equal, full_name
from gptbigcode_cpu.errors import CheckpointError, ModelNotFoundError
from gptbigcode_cpu.hub.adapters import ADAPTER_WEIGHTS
from gptbigcode_cpu.store.tensors import EMBEDDING, LM_HEAD

_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|trainable_tokens_delta)"
    r"(?:\.(?!weight$|bias$)\w+)?(?:\.weight|(?P<bias>\.bias))?"  # some scripts leave the name of the adapter in
)
_WRAPPER = re.compile(r"\.(?:base_layer|modules_to_save(?:\.\w+)?)(?=\.(?:weight|bias)$)")
_LINEAR, _EMBEDDED = ("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")
_BIAS, _MAGNITUDE, _TOKENS = "lora_B.bias", "lora_magnitude_vector", "trainable_tokens_delta"
# Task -> the class of the model, and its head.
_CLASSIFIERS = {
    "SEQ_CLS": ("GPTBigCodeForSequenceClassification", "score.weight"),
    "TOKEN_CLS": ("GPTBigCodeForTokenClassification", "classifier.weight"),
}


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read, but for the values.

    Attributes:
        path: Its directory.
        config: How it is merged.
        saved: Name of a tensor of the model -> what takes its place.
        layers: Name of a module -> what changes its weights, by PEFT's names of the parts.
    """

    path: Path
    config: AdapterConfig
    saved: Mapping[str, SourceTensor]
    layers: Mapping[str, Mapping[str, SourceTensor]]

    @property
    def note(self) -> str:
        """A sentence about it for the report."""
        return f"merged the LoRA adapter {self.path}" + (f", trained on {self.config.base}" if self.config.base else "")


def open_adapter(directory: Path) -> Adapter:
    """Read an adapter.

    Raises:
        ModelNotFoundError: The directory holds none, or no weights.
        ConfigError: It is malformed, or of a kind that cannot be merged.
        CheckpointError: Its weights are damaged.
        MissingDependencyError: The weights are a ``.bin`` file and torch is not installed.
    """
    config = read_adapter_config(directory)
    found = [directory / name for name in ADAPTER_WEIGHTS if is_present(directory / name)]
    if not found:
        raise ModelNotFoundError(f"{directory} holds no weights of an adapter: none of {', '.join(ADAPTER_WEIGHTS)}")
    saved: dict[str, SourceTensor] = {}
    layers: dict[str, dict[str, SourceTensor]] = {}
    for key, tensor in read_file(found[0]).items():
        name = key.removeprefix(_PREFIX)
        if part := _PART.fullmatch(name):
            module = full_name(part["module"].removesuffix(".token_adapter"))
            layers.setdefault(module, {})[part["part"] + (part["bias"] or "")] = tensor
        else:
            saved[full_name(_WRAPPER.sub("", name))] = tensor
    if not saved and not layers:
        raise CheckpointError(f"{found[0]} holds no tensors")
    return Adapter(directory, config, saved, layers)


def adapted_config(config: GPTBigCodeConfig, adapter: Adapter) -> GPTBigCodeConfig:
    """The configuration of a model with an adapter, which may bring more tokens or a head that classifies.

    Raises:
        ConfigError: The adapter brings more tokens or labels than are supported.
    """
    config = copy.copy(config)
    embedding = adapter.saved.get(EMBEDDING)
    if embedding is not None and embedding.shape:
        config.vocab_size = embedding.shape[0]
    architecture, head = _CLASSIFIERS.get(adapter.config.task or "", ("", ""))
    if (weights := adapter.saved.get(head)) is not None and weights.shape:
        config.architectures = [architecture]
        config.num_labels = weights.shape[0]
    return config


def merged(tensors: Mapping[str, SourceTensor], config: GPTBigCodeConfig, adapter: Adapter) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint with those of an adapter merged into them.

    Args:
        tensors: With linear layers as ``[outputs, inputs]``.
        config: Of the checkpoint.
        adapter: The adapter.

    Raises:
        CheckpointError: The adapter does not fit the checkpoint; what does not is listed.
    """
    sources = {full_name(name): tensor for name, tensor in tensors.items()}
    if config.tie_word_embeddings:
        _prepare_head(sources, adapter)
    sources |= adapter.saved
    problems = []
    for module, parts in adapter.layers.items():
        try:
            _merge(sources, module, parts, adapter.config)
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(f"the adapter {adapter.path} does not fit the checkpoint: {listed(problems)}")
    return sources


def _prepare_head(sources: dict[str, SourceTensor], adapter: Adapter) -> None:
    """Give the tied head or the embedding a tensor of its own if the adapter changes one of them only."""
    if EMBEDDING not in sources or LM_HEAD not in sources:
        either = sources.get(EMBEDDING) or sources.get(LM_HEAD)
        if either is None:
            return
        sources[EMBEDDING] = sources[LM_HEAD] = either
    elif not equal(sources[EMBEDDING], sources[LM_HEAD]):
        return  # not tied, whatever the configuration says
    head, embedding = (adapter.layers.get(name.removesuffix(".weight"), {}).keys() for name in (LM_HEAD, EMBEDDING))
    # In PEFT, a tied head follows the embedding in its trained tokens, and in nothing else.
    if not head and embedding <= {_TOKENS} and not adapter.saved.keys() & {LM_HEAD, EMBEDDING}:
        del sources[LM_HEAD]


def _merge(sources: dict[str, SourceTensor], module: str, parts: Mapping[str, SourceTensor], config: AdapterConfig) -> None:
    weight = sources.get(f"{module}.weight")
    if weight is None or len(weight.shape) != 2:
        raise CheckpointError(f"{module}: the model has no matrix of this name")
    for part, tensor in parts.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(f"{module}.{part} is {tensor.dtype}, supported are {', '.join(FLOATS)}")
    if _TOKENS in parts:
        weight = _with_tokens(module, weight, parts[_TOKENS], config)
    kinds = [kind for kind in (_LINEAR, _EMBEDDED) if parts.keys() & set(kind)]
    for kind in kinds:
        if missing := [name for name in kind if name not in parts]:
            raise CheckpointError(f"{module}: {missing[0]} is missing")
        weight = _with_product(module, weight, kind, parts, config)
    if _BIAS in parts:
        bias, added, scale = sources.get(f"{module}.bias"), parts[_BIAS], config.scale(module)
        if bias is None or bias.shape != added.shape:
            raise CheckpointError(f"{module}: {_BIAS} {list(added.shape)} has no bias of this shape to be added to")
        sources[f"{module}.bias"] = derived(
            bias.name,
            "F32",
            bias.shape,
            (bias, added),
            lambda old, new: to_float32(old[:], bias.dtype) + np.float32(scale) * to_float32(new, added.dtype),
        )
    sources[f"{module}.weight"] = weight


def _with_product(
    module: str, weight: SourceTensor, kind: tuple[str, str], parts: Mapping[str, SourceTensor], config: AdapterConfig
) -> SourceTensor:
    (rows, columns), rank, scale = weight.shape, config.rank(module), config.scale(module)
    first, second = (parts[name] for name in kind)
    expected = [(rank, columns), (rows, rank)] if kind == _LINEAR else [(rank, rows), (columns, rank)]
    for name, tensor, shape in zip(kind, (first, second), expected, strict=True):
        if tensor.shape != shape:
            raise CheckpointError(f"{module}: {name} is {list(tensor.shape)}, rank and layer make it {list(shape)}")
    lengths = [parts[_MAGNITUDE]] if config.dora and _MAGNITUDE in parts else []
    if config.dora and kind == _EMBEDDED:
        raise CheckpointError(f"{module}: use_dora is not supported for embeddings")
    if config.dora and [tensor.shape for tensor in lengths] != [(rows,)]:
        raise CheckpointError(f"{module}: use_dora needs a {_MAGNITUDE} of {rows} values")

    def compute(view: Values, a: Values, b: Values, *magnitude: Values) -> Rows:
        a, b = (to_float32(values[:], part.dtype).astype(np.float64) for values, part in ((a, first), (b, second)))
        left, right = (b, a) if kind == _LINEAR else (a.T, b.T)

        def read(numbers: NDArray[np.intp]) -> NDArray[Any]:
            with np.errstate(all="ignore"):  # the converter refuses NaN and infinity
                values = to_float32(view[numbers], weight.dtype) + (scale * left[numbers]) @ right
                for length, part in zip(magnitude, lengths, strict=True):
                    norm = np.linalg.norm(values, axis=1, keepdims=True)
                    values *= to_float32(length[numbers], part.dtype)[:, None] / norm
                return values.astype(np.float32)

        return Rows(weight.shape, read)

    return derived(weight.name, "F32", weight.shape, (weight, first, second, *lengths), compute)


def _with_tokens(module: str, weight: SourceTensor, rows: SourceTensor, config: AdapterConfig) -> SourceTensor:
    ids = next((ids for name, ids in config.token_ids.items() if f".{module}".endswith(f".{name}")), ())
    if rows.shape != (len(ids), weight.shape[1]) or max(ids, default=0) >= weight.shape[0]:
        raise CheckpointError(
            f"{module}: {_TOKENS} is {list(rows.shape)} for {len(ids)} tokens, the layer is {list(weight.shape)}"
        )
    place = np.full(weight.shape[0], -1)
    place[list(ids)] = np.arange(len(ids))

    def compute(view: Values, new: Values) -> Rows:
        def read(numbers: NDArray[np.intp]) -> NDArray[Any]:
            values = np.array(to_float32(view[numbers], weight.dtype))
            replaced = place[numbers] >= 0
            values[replaced] = to_float32(new[place[numbers[replaced]]], rows.dtype)
            return values

        return Rows(weight.shape, read)

    return derived(weight.name, "F32", weight.shape, (weight, rows), compute)
