"""The kernel set that this process computes with, and a warning if it is slow."""

from __future__ import annotations

import os
import platform
import warnings

from gptbigcode_cpu.errors import KernelError

ISA_VARIABLE = "GPTBIGCODE_CPU_ISA"
_SCALAR = "scalar"
_warned = False


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


def slow_because() -> str | None:
    """Why models are slow on this CPU, and how slow, in one line; None: they are not, or GPTBIGCODE_CPU_ISA asks for that."""
    from gptbigcode_cpu import _core

    if os.environ.get(ISA_VARIABLE) or _core.supported_kernel_names() != [_SCALAR]:
        return None
    fast = [name for name in _core.kernel_names() if name != _SCALAR]
    lack = f"this CPU lacks AVX2 and FMA, which the fast kernels ({', '.join(fast)}) need" if fast else (
        f"there are no fast kernels for {platform.machine()} CPUs yet"
    )  # fmt: skip
    return f"{lack}: models give the same results, about a hundred times slower than with AVX2"


def warn_if_slow() -> None:
    """Warn about `slow_because`, once in a process."""
    global _warned
    if not _warned and (reason := slow_because()) is not None:
        _warned = True
        warnings.warn(reason, stacklevel=2)
