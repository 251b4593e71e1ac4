"""LoRA adapters of PEFT: their files, and the refusal to open one as a model."""

from __future__ import annotations

from pathlib import Path

from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.errors import ModelNotFoundError
from gptbigcode_cpu.hub.checkpoint_files import PYTORCH_PATTERNS, SAFETENSORS_PATTERNS

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def refuse_adapter(directory: Path, name: str) -> None:
    """Refuse an adapter that somebody opens as a model, and say how to merge it.

    Args:
        directory: Where it may be.
        name: Its name in the message.

    Raises:
        ModelNotFoundError: The directory holds an adapter and no model.
    """
    if any(any(directory.glob(pattern)) for pattern in SAFETENSORS_PATTERNS + PYTORCH_PATTERNS):
        return
    content = read_object(directory / ADAPTER_CONFIG, ModelNotFoundError)
    if content is None:
        return
    kind, base = content.get("peft_type"), content.get("base_model_name_or_path")
    if kind != "LORA":
        raise ModelNotFoundError(
            f"{name} is not a model but an adapter of PEFT, of type {shown(kind)}; only 'LORA' adapters can be merged"
        )
    known = isinstance(base, str) and base
    command = f"gptbigcode-cpu convert {one_line(base) if known else 'BASE'} OUT --adapter {name}"
    raise ModelNotFoundError(
        f"{name} is not a model but a LoRA adapter of {shown(base) if known else 'another model'}; merge the two: {command}"
    )
