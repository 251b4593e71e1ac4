"""What ``bench/kernels.py`` times: the cases, what each must do, and the worker process that runs them on one build."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import mmap
import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("float32", "bfloat16", "int8", "int6", "int4")
KV_DTYPES = ("int8", "float16", "bfloat16", "float32")
HEAD_DTYPES = ("int8", "int6")  # the types that quantised models have their head in
HEAD_ROWS = 8  # the model takes at most so many rows through the head together with what their quantisation left
HEAD_DIMS = (128, 64)
TIMING = ("KernelTimer", "time_attention", "time_linear", "time_rows")  # what a build must have
_HOT_BYTES = 192 << 10  # weights of a hot layer per thread: with the activations, the least second-level cache there is
_HOT_K = 1024
_CHUNK = 512  # tokens of a partial result of attention


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    n: int = 2048
    k: int = 2048
    vocab: int = 49152
    heads: int = 16
    depth: int = 4096
    tokens: int = 512
    nbytes: int = 512 << 20  # of what is walked through, to come from memory
    threads: int = 1


@dataclass(frozen=True)
class Case:
    """One call of a kernel. Cases of one `group` share their weights."""

    kernel: str
    dtype: str  # of weights, or of keys and values
    where: str  # what is read lies in "memory" or is "hot", in a cache
    rows: int  # of activations; in attention, tokens
    n: int = 0
    k: int = 0
    heads: int = 0
    head_dim: int = 0
    depth: int = 0
    copies: int = 1  # of weights, or of keys and values: every call takes the next one

    @property
    def group(self) -> str:
        """All but the rows, in words for ``--filter``: 16x128 are heads and their size, 2048x1024 output and input features."""
        words = [self.kernel, self.dtype, self.where]
        if self.head_dim:
            step = "decode" if self.rows == 1 else "prefill"
            words += [step, f"{self.heads}x{self.head_dim}", f"depth={self.depth}"]
        else:
            words.append(f"{self.n}x{self.k}" if self.n else f"{self.k}")
        return " ".join(words)

    @property
    def name(self) -> str:
        return f"{self.group} rows={self.rows}"

    @property
    def macs(self) -> int:
        """Multiply-adds of a call that the models' formulas ask for; 0 where these are not what takes the time."""
        if self.kernel == "attention":
            seen = sum(range(self.depth + 1, self.depth + self.rows + 1))
            return 2 * self.heads * self.head_dim * seen
        halves = 2 if self.kernel == "head" else 1  # its input, and what its quantisation left
        return halves * self.rows * self.n * self.k

    def nbytes(self, core: Any) -> int:
        """Bytes that a call must read: weights, or keys and values, or where there are none its input."""
        if self.n:
            return packed_bytes(core, self.dtype, self.n, self.k)
        if self.kernel == "attention":
            return (self.depth + self.rows) * int(core.kv_bytes_per_token(self.dtype, 1, 1, self.head_dim))
        if self.kernel == "merge_attention":  # values, maximum and sum
            return self.heads * (self.depth // _CHUNK + 1) * (self.head_dim + 2) * 4
        return self.rows * self.k * 4


def packed_bytes(core: Any, dtype: str, n: int, k: int) -> int:
    """Bytes of a packed weight."""
    item = {"float32": 4, "bfloat16": 2}.get(dtype, 1)
    return int(np.prod(core.tile_shape(dtype, n, k))) * item


def all_cases(core: Any, sizes: Sizes, dtypes: Sequence[str], kv_dtypes: Sequence[str], rows: Sequence[int]) -> list[Case]:
    """Every case, those of a group together."""
    n, k = sizes.n, sizes.k

    def copies(nbytes: int) -> int:
        return sizes.nbytes // nbytes + 1

    cases = []
    for dtype in dtypes:
        walked = copies(packed_bytes(core, dtype, n, k))
        cases += [Case("linear", dtype, "memory", m, n, k, copies=walked) for m in rows]
        hot_k = min(k, _HOT_K)
        tiles = max(sizes.threads, _HOT_BYTES * sizes.threads // packed_bytes(core, dtype, 16, hot_k))
        cases += [Case("linear", dtype, "hot", m, min(n, 16 * tiles), hot_k) for m in rows]
    for dtype in HEAD_DTYPES:
        if dtype in dtypes:
            walked = copies(packed_bytes(core, dtype, sizes.vocab, k))
            cases += [Case("head", dtype, "memory", m, sizes.vocab, k, copies=walked) for m in rows if m <= HEAD_ROWS]
    for head_dim in HEAD_DIMS:
        shape = {"heads": sizes.heads, "head_dim": head_dim}
        for dtype in kv_dtypes:
            decode = Case("attention", dtype, "hot", 1, **shape, depth=sizes.depth)
            cases.append(Case("attention", dtype, "memory", 1, **shape, depth=sizes.depth, copies=copies(decode.nbytes(core))))
            cases.append(decode)
            cases += [Case("attention", dtype, "hot", sizes.tokens, **shape, depth=depth) for depth in sorted({0, sizes.depth})]
        cases.append(Case("merge_attention", "float32", "hot", 1, **shape, depth=sizes.depth))
    for kernel in ("layer_norm", "quantize", "activate"):
        cases += [Case(kernel, "float32", "hot", m, k=k) for m in rows]
    return [*dict.fromkeys(cases)]


def filtered(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    """The cases whose name has all of the words.

    Raises:
        ValueError: No name has one of them, or none has them together; the message lists what there is.
    """
    known = dict.fromkeys(word for case in cases for word in case.name.split())
    for word in words:
        if word not in known:
            raise ValueError(f"no case has the word {word!r}; the words are {', '.join(known)}")
    found = [case for case in cases if {*words} <= {*case.name.split()}]
    if not found:
        raise ValueError(f"no case has all of the words {', '.join(words)}; --list shows the cases")
    return found


# ---------------------------------------------------------------- the worker process


def load_core(path: Path) -> Any:
    """A build's ``_core``.

    Raises:
        ValueError: It is for another Python, or lacks the timing functions.
    """
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    if ".cpython-" in path.name and not path.name.endswith(suffix):
        raise ValueError(f"{path} was built for another Python; {sys.executable} takes names that end in {suffix}")
    loader = importlib.machinery.ExtensionFileLoader("gptbigcode_cpu._core", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    assert spec is not None
    try:
        core = importlib.util.module_from_spec(spec)
        loader.exec_module(core)
    except ImportError as error:
        raise ValueError(f"{path} is no build of the core: {error}") from None
    if not path.samefile(str(core.__file__)):  # pybind11 hands out the one that came first
        raise ValueError(f"{path} cannot be loaded: this process has {core.__file__} already")
    lacking = [name for name in TIMING if not hasattr(core, name)]
    if lacking:
        how = "how to build one that has them is in docs/benchmarks.md, 'Measure one kernel'"
        raise ValueError(f"{path} lacks the timing functions {', '.join(lacking)}; {how}")
    return core


def weights(core: Any, case: Case, random: np.random.Generator) -> list[NDArray[Any]]:
    """The copies that a case walks through. They lie in pages of 4 KB, as the pages of a mapped model file do."""
    some = random.standard_normal((min(case.n, 512), case.k), dtype=np.float32)
    packed = core.pack_weight(some, case.dtype)
    packed = np.resize(packed, core.tile_shape(case.dtype, case.n, case.k))  # repeats the tiles
    page = mmap.PAGESIZE
    stride = (packed.nbytes + page - 1) // page * page
    memory = mmap.mmap(-1, stride * case.copies)
    found = []
    for i in range(case.copies):
        copy = np.frombuffer(memory, packed.dtype, packed.size, stride * i).reshape(packed.shape)
        copy[:] = packed
        found.append(copy)
    return found


def timers(core: Any, cases: Sequence[Case], isa: str, threads: int) -> list[Any]:
    """A timer for each case of a group."""
    random = np.random.default_rng(0)
    stack = weights(core, cases[0], random) if cases[0].n else []
    found = []
    for case in cases:
        if case.n:
            halves = case.kernel == "head"
            x = random.standard_normal((case.rows * (2 if halves else 1), case.k), dtype=np.float32)
            found.append(core.time_linear(stack, case.dtype, case.n, x, halves, isa, threads))
        elif case.head_dim:
            merge = case.kernel == "merge_attention"
            qkv = random.standard_normal((case.depth + case.rows, case.heads + 2, case.head_dim), dtype=np.float32)
            found.append(core.time_attention(qkv, 1, case.dtype, case.rows, case.copies, merge, isa, threads))
        else:
            x = random.standard_normal((case.rows, case.k), dtype=np.float32)
            # GELU works in place and leaves values from 8 on as they are; others would shrink to denormal numbers.
            found.append(core.time_rows(case.kernel, np.abs(x) + 8 if case.kernel == "activate" else x, isa))
    return found


def work(path: Path) -> None:
    """Answer requests, a JSON object a line, until there are no more. No other build may be imported in this process.

    ``{"isa": NAME}`` asks for the kernel set that this stands for, ``{"cases": [...], "isa": NAME, "threads": N}`` prepares a
    group, and ``{"measure": INDEX, "seconds": S}`` measures a case of it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks decides when it ends
    core: Any = None
    group: list[Any] = []
    for line in sys.stdin:
        request = json.loads(line)
        try:
            core = core or load_core(path)
            if "cases" in request:
                group.clear()  # before the next one takes its memory
                group += timers(core, [Case(**case) for case in request["cases"]], request["isa"], request["threads"])
                answer: dict[str, Any] = {}
            elif "measure" in request:
                answer = {"seconds": statistics.median(group[request["measure"]].measure(request["seconds"]))}
            else:
                answer = {"isa": core.select_kernel(request["isa"])}
        except (ValueError, MemoryError, OSError) as error:
            answer = {"error": str(error) or type(error).__name__}
        print(json.dumps(answer), flush=True)


def request_of(cases: Sequence[Case], isa: str, threads: int) -> dict[str, Any]:
    """What prepares a group."""
    return {"cases": [asdict(case) for case in cases], "isa": isa, "threads": threads}


if __name__ == "__main__":  # what kernels.py starts: this file, because it does not import the installed build
    work(Path(sys.argv[1]))
