"""The kernel sets of the core as parameters of tests, so that one which cannot run here shows as skipped."""

from __future__ import annotations

import pytest

from gptbigcode_cpu import _core

SUPPORTED = _core.supported_kernel_names()
OTHERS = [name for name in SUPPORTED if name != "scalar"]
"""What can run here besides the scalar kernels, which define the arithmetic."""

compares_kernel_sets = pytest.mark.skipif(not OTHERS, reason="only the scalar kernels can run on this CPU: nothing to compare")
"""For tests that do nothing but compare other kernel sets with the scalar one."""

every_isa = pytest.mark.parametrize(
    "isa",
    [
        pytest.param(name, marks=[] if name in SUPPORTED else pytest.mark.skip(reason=f"this CPU cannot run {name}"))
        for name in _core.kernel_names()
    ],
)
"""A test for each kernel set that was built."""
