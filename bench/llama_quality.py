"""llama.cpp's part of ``bench/quality.py``, for the interpreter that has llama-cpp-python. WORK holds ``model-bf16.gguf``.

    python bench/llama_quality.py imatrix WORK              # calibration.npy -> imatrix.npz
    python bench/llama_quality.py quantise WORK q4_0        # -> model-q4_0.gguf; prints seconds
    python bench/llama_quality.py quantise WORK q4_0-imatrix
    python bench/llama_quality.py logits WORK q4_0          # windows.npy -> logits.npy

Both ``.npy`` files have token ids ``[windows, context]``.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from engines import LlamaCpp, Workload, prepare_llama_cpp
from llama_cpp._ggml import libggml
from numpy.typing import NDArray

# What llama.cpp calls the inputs of a block's linear layers in its graph.
_INPUT_OF = {
    "attn_norm": "attn_qkv.weight",
    "kqv_out": "attn_output.weight",
    "ffn_norm": "ffn_up.weight",
    "ffn_gelu": "ffn_down.weight",
}


def load(variant: str, work: Path, context: int, observer: Any = None) -> LlamaCpp:
    """A model of `work`, for windows of `context` tokens."""
    return LlamaCpp(variant, work, work, Workload(len(os.sched_getaffinity(0)), context, 1, (0,), ()), observer)


def write_imatrix(work: Path) -> None:
    """Mean squares of each column of the inputs of the blocks' linear layers, which is what ``llama-imatrix`` collects."""
    sums: dict[str, NDArray[np.float64]] = {}
    rows: dict[str, int] = {}
    for name, result in (("get_name", ctypes.c_char_p), ("nelements", ctypes.c_int64), ("nrows", ctypes.c_int64)):
        function = getattr(libggml, f"ggml_{name}")
        function.argtypes, function.restype = [ctypes.c_void_p], result
    libggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]

    @llama_cpp.ggml_backend_sched_eval_callback  # type: ignore[untyped-decorator]
    def observe(tensor: int, ask: bool, _data: int | None) -> bool:
        """Called before a tensor is computed, whether it is wanted, and then with those that are."""
        kind, _, layer = libggml.ggml_get_name(tensor).decode().partition("-")
        if kind in _INPUT_OF and not ask:
            weight, count = f"blk.{layer}.{_INPUT_OF[kind]}", libggml.ggml_nrows(tensor)
            values = np.empty((count, libggml.ggml_nelements(tensor) // count), np.float32)
            libggml.ggml_backend_tensor_get(tensor, values.ctypes.data, 0, values.nbytes)
            sums[weight] = sums.get(weight, 0) + np.square(values, dtype=np.float64).sum(axis=0)
            rows[weight] = rows.get(weight, 0) + count
        return kind in _INPUT_OF

    windows = np.load(work / "calibration.npy")
    engine = load("bf16", work, windows.shape[1], observe)
    for window in windows:
        engine.decode([(int(token), position, 0, True) for position, token in enumerate(window)])
        engine.keep(0)
    means: dict[str, Any] = {name: (sums[name] / rows[name]).astype(np.float32) for name in sums}
    np.savez(work / "imatrix.npz", **means)


def write_logits(variant: str, work: Path) -> None:
    """Logits that predict the second half of each window."""
    windows = np.load(work / "windows.npy")
    context, half = windows.shape[1], windows.shape[1] // 2
    engine = load(variant, work, context)
    llama = engine.llama
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(llama.llama_get_model(engine.context)))
    out = np.lib.format.open_memmap(work / "logits.npy", "w+", np.float32, (len(windows), half, vocab))
    wanted = range(context - 1 - half, context - 1)
    for window, logits in zip(windows, out, strict=True):
        engine.decode([(int(token), position, 0, position in wanted) for position, token in enumerate(window[:-1])])
        for row, position in zip(logits, wanted, strict=True):
            row[:] = np.ctypeslib.as_array(llama.llama_get_logits_ith(engine.context, position), (vocab,))
        engine.keep(0)


def main() -> None:
    """Do one of the things above."""
    action, work = sys.argv[1], Path(sys.argv[2])
    if action == "imatrix":
        write_imatrix(work)
    elif action == "quantise":
        start = time.perf_counter()
        prepare_llama_cpp(sys.argv[3], work, work)
        print(time.perf_counter() - start)
    else:
        write_logits(sys.argv[3], work)


if __name__ == "__main__":
    main()
