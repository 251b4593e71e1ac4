"""Which files of a directory are a checkpoint."""

from __future__ import annotations

from pathlib import Path

from gptbigcode_cpu.errors import ModelNotFoundError
from gptbigcode_cpu.regular_files import is_present

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PYTORCH, PYTORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
# Where AutoGPTQ and AutoAWQ said how they quantised before they wrote it into config.json.
GPTQ_CONFIG, AWQ_CONFIG = "quantize_config.json", "quant_config.json"

# What is fetched from the Hub: transformers' names, and those of AutoGPTQ.
SAFETENSORS_PATTERNS = (
    *(SAFETENSORS, "model-*.safetensors", SAFETENSORS_INDEX),
    *("gptq_model-*.safetensors", "gptq_model-*.safetensors.index.json"),
)
PYTORCH_PATTERNS = (PYTORCH, "pytorch_model-*.bin", PYTORCH_INDEX, "gptq_model-*.bin", "gptq_model-*.pt")

_INDEX = ".index.json"
# Files beside a checkpoint that end like one.
_NO_WEIGHTS = ("adapter_", "optimizer", "scheduler", "scaler", "training_args", "rng_state", "random_states")


def find_weights(directory: Path) -> Path:
    """The file with the weights of a checkpoint, or the index of those that they are split into.

    Of transformers' names the first one counts, in the order in which transformers looks for them. Without any, the only
    weights that are there count, whatever their name, such as ``gptq_model-4bit-128g.safetensors`` of AutoGPTQ.

    Raises:
        ModelNotFoundError: There is none, or there are several under other names.
    """
    for name in (SAFETENSORS, SAFETENSORS_INDEX, PYTORCH, PYTORCH_INDEX):
        if is_present(directory / name):
            return directory / name
    for patterns in ((f"*.safetensors{_INDEX}", f"*.bin{_INDEX}"), ("*.safetensors",), ("*.bin", "*.pt", "*.pth")):
        found = sorted(
            path
            for pattern in patterns
            for path in directory.glob(pattern)
            if path.is_file() and not path.name.startswith(_NO_WEIGHTS)
        )
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found[:8])
            raise ModelNotFoundError(
                f"{directory} holds several weights files and none of transformers' names for them ({SAFETENSORS}, "
                f"{SAFETENSORS_INDEX}, {PYTORCH}, {PYTORCH_INDEX}); rename the one that you mean: {names}"
            )
    wanted = ", ".join((SAFETENSORS, SAFETENSORS_INDEX, PYTORCH, PYTORCH_INDEX))
    raise ModelNotFoundError(f"{directory} holds no checkpoint: none of {wanted}")
