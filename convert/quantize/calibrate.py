"""Calibration: collects the inputs of every linear layer on sample text, and computes how the remaining columns compensate the
rounding error of one column.

GPTQ (Frantar et al., arXiv:2210.17323), with the blocks' inputs taken from the blocks as they are already quantised: the sample
text runs through the converted model by the core's own kernels, one linear layer behind the one that is being packed, so that
only one layer's weights are ever in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu import _core
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.quantize.packing import read_rows, read_vector
from gptbigcode_cpu.convert.sources.tensors import SourceTensor
from gptbigcode_cpu.store.tensors import CALIBRATED, EMBEDDING, POSITIONS, StoredTensor

# Columns among which errors are made up for. The cost of a decomposition grows with its cube.
SPAN = 2048
_BLOCK = 128
# Of the mean second moment, added to each: inputs of the sample text are not all inputs.
DAMPING = 0.01


class Calibration:
    """Follows a conversion tensor by tensor, in the order of the file.

    For every packed matrix of a block, `feedback` is asked before it is packed and `packed` told after.
    """

    def __init__(
        self,
        config: GPTBigCodeConfig,
        sources: Mapping[str, SourceTensor],
        windows: NDArray[np.int32],
        num_threads: int,
        hidden: NDArray[np.float32] | None = None,
    ) -> None:
        """
        Args:
            config: Of the model.
            sources: The tensors of its checkpoint by name.
            windows: Sample text, ``[n_windows, n_tokens]`` token ids.
            num_threads: 0 = default.
            hidden: The residual stream in front of the first block that is left to do, if that is not the first of all.
        """
        self._config, self._sources = config, sources
        self._shape = windows.shape
        self._num_threads = num_threads or _core.default_num_threads()
        self.hidden = self._embedded(windows) if hidden is None else hidden
        self.layer = 0
        self._stage = ""
        self.inputs = self.hidden
        self._packed: dict[str, tuple[NDArray[Any], StoredTensor]] = {}
        self._feedback: NDArray[np.float32] | None = None

    @staticmethod
    def covers(stored: StoredTensor) -> bool:
        """Whether a tensor is a matrix of a block."""
        return stored.dtype is not None and ".h." in stored.name

    def feedback(self, stored: StoredTensor) -> NDArray[np.float32] | None:
        """The matrix with which `pack_weight` passes errors on to later columns; None for types that calibration does not
        change."""
        stage = stored.name.removesuffix(".weight").removesuffix(".query").removesuffix(".key_value")
        if stage != self._stage:
            self._advance(stage)
            self._feedback = None
        if stored.dtype not in CALIBRATED:
            return None
        if self._feedback is None:
            self._feedback = error_feedback(self.inputs)
        return self._feedback

    def packed(self, stored: StoredTensor, tiles: NDArray[Any]) -> None:
        """The matrix as it was stored."""
        self._packed[stored.name] = tiles, stored

    def _advance(self, stage: str) -> None:
        """Make the input of a stage from that of the stage before it."""
        block, part = stage.rsplit(".", 2)[0], stage.split(".", 3)[3]
        if part == "attn.c_attn":
            if self._stage:
                self.hidden += self._linear(self._stage)
            self.inputs = self._layer_norm(f"{block}.ln_1")
        elif part == "attn.c_proj":
            self.inputs = self._attention(self._stage)
        elif part == "mlp.c_fc":
            self.hidden += self._linear(self._stage)
            self.inputs = self._layer_norm(f"{block}.ln_2")
        else:
            self.inputs = _core.activate(self._config.activation_function, self._linear(self._stage))
        self._packed.clear()
        self._stage, self.layer = stage, int(block.rsplit(".", 1)[1])

    def _embedded(self, windows: NDArray[np.int32]) -> NDArray[np.float32]:
        tokens, where = np.unique(windows.astype(np.intp), return_inverse=True)
        found = read_rows(self._sources[EMBEDDING], tokens)[where.reshape(windows.shape)]
        found += read_rows(self._sources[POSITIONS], np.arange(windows.shape[1]))
        return found.reshape(-1, self._config.n_embd)

    def _linear(self, stage: str, part: str = "") -> NDArray[np.float32]:
        tiles, stored = self._packed[f"{stage}{part}.weight"]
        assert stored.dtype is not None and stored.rows is not None
        begin, end = stored.rows
        return _core.linear(
            tiles, stored.dtype, end - begin, self.inputs, self._vector(f"{stage}.bias")[begin:end], "", self._num_threads
        )

    def _layer_norm(self, name: str) -> NDArray[np.float32]:
        weight, bias = self._vector(f"{name}.weight"), self._vector(f"{name}.bias")
        return _core.layer_norm(self.hidden, weight, bias, self._config.layer_norm_epsilon)

    def _attention(self, stage: str) -> NDArray[np.float32]:
        config = self._config
        qkv = np.concatenate([self._linear(stage, part) for part in (".query", ".key_value")], axis=1)
        bias = self._vector(f"{stage}.bias").reshape(-1, config.head_dim)  # which the cache keeps keys and values without
        out = np.empty((len(qkv), config.n_embd), np.float32)
        n_windows, n_tokens = self._shape
        for window in range(n_windows):
            rows = slice(window * n_tokens, (window + 1) * n_tokens)
            out[rows] = _core.attention(
                qkv[rows].reshape(n_tokens, -1, config.head_dim),
                config.n_kv_head,
                "int8",
                config.attention_scale,
                n_tokens,
                bias,
                "",
                self._num_threads,
            ).reshape(n_tokens, -1)
        return out

    def _vector(self, name: str) -> NDArray[np.float32]:
        return read_vector(self._config, self._sources[name])


def error_feedback(x: NDArray[np.float32], span: int = SPAN) -> NDArray[np.float32]:
    """The factors by which errors are passed on, from inputs ``[n, k]``.

    With ``H`` the second moments of the inputs of a span and ``H^-1 = U^T U``, U upper triangular, an error e in column i is
    made up for by adding ``e U_ij / U_ii`` to the columns j > i, and costs ``e^2 / U_ii^2``.

    Returns:
        float32 ``[k in whole blocks of 128, span]``, as `pack_weight` takes it.
    """
    k = x.shape[1]
    padded = -(-k // _BLOCK) * _BLOCK
    span = min(span, padded)
    out = np.zeros((padded, span), np.float32)
    np.fill_diagonal(out, 1.0)
    for begin in range(0, k, span):
        columns = np.ascontiguousarray(x[:, begin : begin + span])
        moments = (columns.T @ columns).astype(np.float64)
        size = len(moments)
        damping = DAMPING * np.trace(moments) / size
        moments[np.diag_indices(size)] += damping if damping > 0 else 1.0
        # H = R R^T with R upper triangular, from the Cholesky decomposition of H read backwards; U = R^-1.
        upper = np.linalg.inv(np.linalg.cholesky(moments[::-1, ::-1])[::-1, ::-1])
        diagonal = np.diag(upper).copy()
        factors = np.triu(upper / diagonal[:, None], 1)
        importance = 1.0 / diagonal**2
        factors[np.diag_indices(size)] = importance / importance.mean()
        out[begin : begin + size, :size] = factors
    return out
