"""Checkpoints that GPTQ or AWQ quantised: ``qweight``, ``qzeros`` and ``scales`` in place of a linear layer's ``weight``.

A weight is ``scale * (code - zero)`` with scale and zero of its output and its group of inputs. Codes of a few bits fill words
of 32 bits from the lowest on; with 3 bits, every 32 codes fill three words.

=======  ===============  ==================  =============================================  ==============
method   qweight          qzeros              codes lie along                                zero
=======  ===============  ==================  =============================================  ==============
GPTQ     [K*bits/32, N]   [groups, N*bits/32]  inputs (zeros: outputs)                        stored plus 1
GPTQ v2  the same         the same             the same                                       as stored
AWQ      [K, N/8]         [groups, N/8]        outputs; 8 of a word in the order of AWQ_ORDER  as stored
=======  ===============  ==================  =============================================  ==============

Sources: AutoGPTQ, ``nn_modules/qlinear/qlinear_cuda_old.py``; AutoAWQ, ``modules/linear/gemm.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.convert.read import Rows, Shard, SourceTensor
from gptbigcode_cpu.errors import CheckpointError, ConfigError

# Which of eight neighbouring outputs is at each place of a word, from the lowest bits on.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_GPTQ_BITS = (2, 3, 4, 8)
_GPTQ_FORMATS = {"gptq": 1, "gptq_v2": 0}
_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_FLOATS = ("F16", "BF16", "F32")
# AWQ divides the activations of a block by these; the layer that takes them in was multiplied by them.
_ACTIVATION_SCALES = re.compile(r"(?P<block>.*\bh\.\d+\.mlp\.)act\.scales")


@dataclass(frozen=True)
class _Method:
    """How a checkpoint was quantised.

    Attributes:
        awq: AWQ and not GPTQ.
        bits: Of a code.
        group_size: Inputs of a group; -1 = all.
        zero_offset: What is added to a stored zero.
        needs_g_idx: Groups are not of neighbouring inputs.
    """

    awq: bool
    bits: int
    group_size: int
    zero_offset: int
    needs_g_idx: bool


def dequantised(tensors: Mapping[str, SourceTensor], quantization: Mapping[str, Any]) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint with a ``weight``, dequantised to float32 when it is read, for every quantised layer.

    Args:
        tensors: As they are in the files; what is not quantised is passed on.
        quantization: The ``quantization_config`` of its ``config.json``.

    Raises:
        ConfigError: It was quantised in a way that is not supported.
        CheckpointError: Tensors of a layer are missing, do not fit together, or are of the wrong type; all of them are listed.
    """
    method = _method(quantization)
    sources = dict(tensors)
    problems: list[str] = []
    layers: dict[str, _Layer] = {}
    for name in [name for name in tensors if name.endswith(".qweight")]:
        prefix = name.removesuffix("qweight")
        parts = {part: sources.pop(prefix + part) for part in _PARTS if prefix + part in sources}
        layer = _Layer(method, parts)
        problems += [f"{prefix[:-1]}: {problem}" for problem in layer.problems()]
        if f"{prefix}weight" in sources:
            problems.append(f"{prefix[:-1]} has a weight and a qweight")
        layers[f"{prefix}weight"] = layer
    for name in [name for name in sources if _ACTIVATION_SCALES.fullmatch(name)] if method.awq else []:
        target, scales = name.removesuffix("act.scales") + "c_proj.weight", sources.pop(name)
        if target not in layers:
            problems.append(f"{name} scales the inputs of {target}, which is not quantised")
        elif not problems and (scales.dtype not in _FLOATS or scales.shape != layers[target].shape[1:]):
            inputs = layers[target].shape[1]
            problems.append(f"{name} {list(scales.shape)} must be numbers for the {inputs} inputs of {target}")
        else:
            layers[target].divisors = scales
    if problems or not layers:
        found = "\n  ".join(problems) or "no tensor is called qweight"
        raise CheckpointError(f"the checkpoint does not fit its quantization_config:\n  {found}")
    shard = _DequantisedShard(layers)
    return sources | {name: SourceTensor(name, dtype, shape, shard) for name, (dtype, shape) in shard.signatures().items()}


def _method(config: Mapping[str, Any]) -> _Method:
    name = config.get("quant_method")
    if name not in ("gptq", "awq"):
        raise ConfigError(
            f"the checkpoint is quantised with {name!r:.40}; supported are 'gptq' and 'awq', "
            "anything else is converted from the unquantised checkpoint"
        )
    bits, group_size = config.get("bits", config.get("w_bit")), config.get("group_size", config.get("q_group_size", 128))
    if type(group_size) is not int or not (group_size == -1 or group_size > 0):
        raise ConfigError(f"quantization_config: group_size must be -1 or positive, not {group_size!r:.40}")
    if name == "awq":
        version = config.get("version", "gemm")
        if str(version).lower() != "gemm":
            raise ConfigError(f"the checkpoint is in AWQ's version {version!r:.40}, which packs otherwise; supported is 'gemm'")
        if bits != 4 or config.get("zero_point", True) is not True:
            raise ConfigError(f"AWQ is supported with 4 bits and zero points, not with bits {bits!r:.40}")
        return _Method(True, 4, group_size, 0, False)
    given = config.get("checkpoint_format") or config.get("format") or "gptq"
    if config.get("is_marlin_format"):
        given = "marlin"
    if not isinstance(given, str) or given not in _GPTQ_FORMATS:
        raise ConfigError(f"the checkpoint is in GPTQ's format {given!r:.40}; supported are {', '.join(_GPTQ_FORMATS)}")
    if type(bits) is not int or bits not in _GPTQ_BITS:
        raise ConfigError(f"GPTQ is supported with {', '.join(map(str, _GPTQ_BITS))} bits, not with {bits!r:.40}")
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, Mapping) or any(not str(pattern).startswith("-:") for pattern in dynamic):
        raise ConfigError("quantization_config: dynamic gives layers settings of their own, which is not supported")
    return _Method(False, bits, group_size, _GPTQ_FORMATS[given], config.get("desc_act") is True)


class _Layer:
    """One quantised layer of K inputs and N outputs."""

    def __init__(self, method: _Method, parts: Mapping[str, SourceTensor]) -> None:
        self._method = method
        self._parts = parts
        self.divisors: SourceTensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        rows, columns = self._parts["qweight"].shape
        bits = self._method.bits
        return (columns * 32 // bits, rows) if self._method.awq else (columns, rows * 32 // bits)

    def problems(self) -> Iterator[str]:
        method, parts = self._method, self._parts
        required = ("qweight", "qzeros", "scales") + (("g_idx",) if method.needs_g_idx else ())
        missing = [part for part in required if part not in parts]
        if missing:
            yield f"missing: {', '.join(missing)}"
            return
        for part, tensor in parts.items():
            types, rank = (_FLOATS, 2) if part == "scales" else (("I32",), 1 if part == "g_idx" else 2)
            if tensor.dtype not in types or len(tensor.shape) != rank:
                yield f"{part} is {tensor.dtype} {list(tensor.shape)}, it must be {' or '.join(types)} of rank {rank}"
                return
        n, k = self.shape
        group = k if method.group_size == -1 else method.group_size
        groups = -(-k // group) if group else 0
        if not n or not k or n * method.bits % 32 or (not method.awq and k * method.bits % 32):
            yield f"qweight {list(parts['qweight'].shape)} does not hold whole words of {method.bits}-bit codes"
            return
        expected = {"qzeros": (groups, n * method.bits // 32), "scales": (groups, n), "g_idx": (k,)}
        for part, shape in expected.items():
            if part in parts and parts[part].shape != shape:
                yield f"{part} is {list(parts[part].shape)}, with groups of {group} it must be {list(shape)}"
                return
        if "g_idx" in parts:
            numbers = _values(parts["g_idx"])
            if numbers.min() < 0 or numbers.max() >= groups:
                yield f"g_idx has groups {numbers.min()}..{numbers.max()}, there are {groups}"

    def rows(self) -> Rows:
        """The weight ``[N, K]``."""
        method, parts = self._method, self._parts
        n, k = self.shape
        qweight, qzeros = (_words(parts[name]) for name in ("qweight", "qzeros"))
        places = np.arange(n)
        if method.awq:
            places = places.reshape(-1, 8)[:, np.argsort(AWQ_ORDER)].reshape(-1)
        if "g_idx" in parts:
            group = _values(parts["g_idx"])
        else:
            group = np.arange(k) // (k if method.group_size == -1 else method.group_size)
        # A zero that was 0 is stored as all ones in the first format, and the sum wraps around, as in AutoGPTQ.
        stored = (_unpacked(qzeros, method.bits)[:, places] + np.uint32(method.zero_offset)) & np.uint32((1 << method.bits) - 1)
        zeros = np.ascontiguousarray(stored.T, np.float32)
        scales = np.ascontiguousarray(_values(parts["scales"]).T)
        divisors = None if self.divisors is None else _values(self.divisors)

        def read(outputs: NDArray[np.intp]) -> NDArray[Any]:
            if method.awq:
                word, place = np.divmod(places[outputs], 8)
                codes = qweight[:, word].T >> (4 * place).astype(np.uint32)[:, None] & np.uint32(15)
            else:
                codes = _unpacked(np.ascontiguousarray(qweight[:, outputs].T), method.bits)
            values = np.ascontiguousarray(codes, np.float32)
            with np.errstate(all="ignore"):  # what is not finite is refused by the converter
                values -= np.take(zeros[outputs], group, axis=1)
                values *= np.take(scales[outputs], group, axis=1)
                if divisors is not None:
                    values /= divisors
            return values

        return Rows((n, k), read)

    def release(self) -> None:
        for tensor in (*self._parts.values(), *([self.divisors] if self.divisors else [])):
            tensor.shard.release(tensor.name)


def _values(tensor: SourceTensor) -> NDArray[Any]:
    """A small tensor, as a copy; floats as float32."""
    with tensor.open() as view:
        values = view[:].copy()
    if tensor.dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if tensor.dtype in _FLOATS else values


def _words(tensor: SourceTensor) -> NDArray[np.uint32]:
    """A view on a matrix of packed codes."""
    view = tensor.shard.array(tensor.name)
    return view[:].view(np.uint32)


def _unpacked(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """The codes in packed words, ``[rows, words * 32 / bits]``."""
    period = bits if 32 % bits else 1  # words, after which a code begins with a word again
    first, shift = np.divmod(np.arange(32 * period // bits) * bits, 32)
    periods = words.reshape(len(words), -1, period)
    codes = periods[..., first] >> shift.astype(np.uint32)
    for i in np.flatnonzero(shift + bits > 32):  # goes on in the next word
        codes[..., i] |= periods[..., first[i] + 1] << np.uint32(32 - shift[i])
    codes &= np.uint32((1 << bits) - 1)
    return codes.reshape(len(words), -1)


class _DequantisedShard(Shard):
    def __init__(self, layers: Mapping[str, _Layer]) -> None:
        self._layers = layers

    def signatures(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        return {name: ("F32", layer.shape) for name, layer in self._layers.items()}

    def array(self, name: str) -> Rows:
        return self._layers[name].rows()

    def release(self, name: str) -> None:
        self._layers[name].release()
