"""The kernel sets of the core as parameters of tests, so that one which cannot run here shows as skipped."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet

from gptbigcode_cpu import _core

SUPPORTED = _core.supported_kernel_names()
OTHERS = [name for name in SUPPORTED if name != "scalar"]
"""What can run here besides the scalar kernels, which define the arithmetic."""

compares_kernel_sets = pytest.mark.skipif(not OTHERS, reason="only the scalar kernels can run on this CPU: nothing to compare")
"""For tests that do nothing but compare other kernel sets with the scalar one."""


def _parameters(names: list[str]) -> list[ParameterSet]:
    reason = "this CPU cannot run {}"
    return [
        pytest.param(name, marks=[] if name in SUPPORTED else pytest.mark.skip(reason=reason.format(name))) for name in names
    ]


every_isa = pytest.mark.parametrize("isa", _parameters(_core.kernel_names()))
"""A test for each kernel set that was built."""

every_other_isa = pytest.mark.parametrize("isa", _parameters([name for name in _core.kernel_names() if name != "scalar"]))
"""A test for each kernel set that was built, but the scalar one."""
