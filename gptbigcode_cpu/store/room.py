"""Whether there is room for a model in memory, and which storage types would fit."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from gptbigcode_cpu.common.dtypes import DTYPES
from gptbigcode_cpu.common.sizes import human_bytes
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.store.tensors import converted_bytes

logger = logging.getLogger(__name__)

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """Memory of this machine, or of the container that this process is in."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):  # ValueError: it says "max"
        memory = min(memory, int(_CGROUP_LIMIT.read_text()))
    return memory


def what_would_fit(config: GPTBigCodeConfig, dtype: str, nbytes: int) -> str:
    """A half-sentence with the finest type of a model that is smaller than `dtype` and has at most `nbytes` bytes."""
    wanted = converted_bytes(config, dtype)
    sizes = {other: converted_bytes(config, other) for other in DTYPES}
    smaller = {other: size for other, size in sizes.items() if size < wanted and size <= nbytes}
    if smaller:
        best = max(smaller, key=lambda other: smaller[other])
        return f"; {best} would fit ({human_bytes(smaller[best])})"
    least = min(sizes, key=lambda other: sizes[other])
    return f"; not even {least} would fit ({human_bytes(sizes[least])})" if sizes[least] > nbytes else ""


def note_memory(name: str, config: GPTBigCodeConfig, dtype: str) -> None:
    """Warn of a model whose weights have no room in memory: it works, but reads the disk for every token.

    Args:
        name: The name of the model, for the warning.
        config: Its configuration.
        dtype: Type that its weights are stored in, or will be.
    """
    memory, needed = memory_bytes(), converted_bytes(config, dtype)
    if needed > memory:
        logger.warning(
            "%s in %s needs %s of memory and this machine has %s, so every token has to wait for the disk%s",
            *(name, dtype, human_bytes(needed), human_bytes(memory), what_would_fit(config, dtype, memory)),
        )
