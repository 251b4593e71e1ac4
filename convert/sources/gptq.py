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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.messages import listed
from gptbigcode_cpu.convert.sources.floats import FLOATS, to_float32
from gptbigcode_cpu.convert.sources.gptq_config import Method
from gptbigcode_cpu.convert.sources.tensors import Rows, Shard, SourceTensor
from gptbigcode_cpu.errors import CheckpointError

# Which of eight neighbouring outputs is at each place of a word, from the lowest bits on.
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
# The parts of a layer -> the types that they may have.
_PARTS = {"qweight": ("I32", "U32"), "qzeros": ("I32", "U32"), "scales": FLOATS, "g_idx": ("I32", "I64")}
# AWQ divides the activations of a block by these; the layer that takes them in was multiplied by them.
_ACTIVATION_SCALES = re.compile(r"(?P<block>.*\bh\.\d+\.mlp\.)act\.scales")


def dequantised(tensors: Mapping[str, SourceTensor], method: Method) -> dict[str, SourceTensor]:
    """The tensors of a checkpoint with a ``weight``, dequantised to float32 when it is read, for every quantised layer.

    Args:
        tensors: As they are in the files; what is not quantised is passed on.
        method: How they were quantised.

    Raises:
        CheckpointError: Tensors of a layer are missing, do not fit together, or are of the wrong type; all of them are listed.
    """
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
        elif not problems and (scales.dtype not in FLOATS or scales.shape != layers[target].shape[1:]):
            inputs = layers[target].shape[1]
            problems.append(f"{name} {list(scales.shape)} must be numbers for the {inputs} inputs of {target}")
        else:
            layers[target].divisors = scales
    if problems or not layers:
        found = listed(problems) or "no tensor is called qweight"
        raise CheckpointError(f"the checkpoint does not fit its quantization_config: {found}")
    shard = _DequantisedShard(layers)
    return sources | {name: SourceTensor(name, dtype, shape, shard) for name, (dtype, shape) in shard.signatures().items()}


class _Layer:
    """One quantised layer of K inputs and N outputs."""

    def __init__(self, method: Method, parts: Mapping[str, SourceTensor]) -> None:
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
            types, rank = _PARTS[part], 1 if part == "g_idx" else 2
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
            with np.errstate(all="ignore"):  # the converter refuses NaN and infinity
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
    return to_float32(values, tensor.dtype) if tensor.dtype in FLOATS else values


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
