"""LoRA adapters as PEFT saves them, written with numpy only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.random_models import write_safetensors

PREFIX = "base_model.model."


def eighths(seed: int, *shape: int) -> NDArray[np.float32]:
    """Multiples of 1/8 from -1 to 1, whose products and sums have no rounding errors."""
    return (np.random.RandomState(seed).randint(-8, 9, shape) / 8).astype(np.float32)


def write_adapter(
    directory: Path, tensors: Mapping[str, NDArray[np.float32]], *, storage: str = "float32", **config: Any
) -> Path:
    """Write an adapter directory and return it.

    Args:
        directory: Made if needed.
        tensors: By PEFT's names without ``base_model.model.``.
        storage: Type of the weights.
        config: What ``adapter_config.json`` says besides the rank 2 and the alpha 8.
    """
    directory.mkdir(parents=True, exist_ok=True)
    given = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "owner/base", "r": 2, "lora_alpha": 8}
    (directory / "adapter_config.json").write_text(json.dumps(given | config))
    write_safetensors(directory / "adapter_model.safetensors", {PREFIX + name: v for name, v in tensors.items()}, storage)
    return directory


def pair(module: str, rows: int, columns: int, rank: int = 2, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """The two matrices of a layer ``[rows, columns]``."""
    return {
        f"{module}.lora_A.weight": eighths(2 * seed + 1, rank, columns),
        f"{module}.lora_B.weight": eighths(2 * seed + 2, rows, rank),
    }


def added(
    state: Mapping[str, NDArray[np.float32]], tensors: Mapping[str, NDArray[np.float32]], module: str, scale: float
) -> NDArray[np.float32]:
    """The weight of a layer with its two matrices merged."""
    a, b = (tensors[f"{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    return (state[f"{module}.weight"] + scale * (b @ a)).astype(np.float32)
