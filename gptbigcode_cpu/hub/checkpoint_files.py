"""Which files of a directory are a checkpoint."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from gptbigcode_cpu.common.file_names import PYTORCH, PYTORCH_INDEX, SAFETENSORS, SAFETENSORS_INDEX
from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.common.regular_files import is_present
from gptbigcode_cpu.errors import CheckpointError, ModelNotFoundError

# Where AutoGPTQ and AutoAWQ said how they quantised before they wrote it into config.json.
GPTQ_CONFIG, AWQ_CONFIG = "quantize_config.json", "quant_config.json"

# What is fetched from the Hub: transformers' names, and those of AutoGPTQ.
SAFETENSORS_PATTERNS = (
    *(SAFETENSORS, "model-*.safetensors", SAFETENSORS_INDEX),
    *("gptq_model-*.safetensors", "gptq_model-*.safetensors.index.json"),
)
PYTORCH_PATTERNS = (PYTORCH, "pytorch_model-*.bin", PYTORCH_INDEX, "gptq_model-*.bin", "gptq_model-*.pt")

_INDEX = ".index.json"
# Weights of TensorFlow, Flax, ONNX, Rust and Core ML.
_OTHER_FORMATS = (".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".mlpackage", ".ckpt")
# Files beside a checkpoint that end like one.
_NO_WEIGHTS = ("adapter_", "optimizer", "scheduler", "scaler", "training_args", "rng_state", "random_states")


def find_weights(directory: Path) -> Path:
    """The file with the weights of a checkpoint, or the index, if they are split into several files.

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
            called = _name_of_autogptq(directory)
            if named := [path for path in found if called and path.name.startswith(f"{called}.")]:
                return named[0]
            names = ", ".join(path.name for path in found[:8])
            raise ModelNotFoundError(
                f"{directory} holds several weights files and none of transformers' names for them ({SAFETENSORS}, "
                f"{SAFETENSORS_INDEX}, {PYTORCH}, {PYTORCH_INDEX}); rename the one that you mean: {names}"
            )
    wanted = ", ".join((SAFETENSORS, SAFETENSORS_INDEX, PYTORCH, PYTORCH_INDEX))
    others = sorted(path.name for path in directory.glob("*") if path.suffix in _OTHER_FORMATS)
    hint = f"; {others[0]} is of another format: save the model with save_pretrained of PyTorch" if others else ""
    raise ModelNotFoundError(f"{directory} holds no checkpoint: none of {wanted}{hint}")


def weights_files(directory: Path) -> list[Path]:
    """The files with the weights of a checkpoint, in the order of their names.

    As in transformers, a tensor that the index names and no file holds is missed only if the model needs it: tools that drop
    the second name of a tied head from the files leave it in the index.

    Raises:
        ModelNotFoundError: As of `find_weights`.
        CheckpointError: The index is malformed, or names a file that is missing or not below the directory.
    """
    index = find_weights(directory)
    if index.suffix != ".json":
        return [index]
    weight_map = (read_object(index, CheckpointError) or {}).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must give each tensor a file name, it is {shown(weight_map)}")
    names = sorted(set(weight_map.values()))
    for name in names:
        path = PurePosixPath(name)
        if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise CheckpointError(f"{index}: {shown(name)} is not the name of a file beside the index or below it")
    missing = [one_line(name) for name in names if not is_present(directory / name)]
    if missing:
        raise CheckpointError(f"{directory} lacks {len(missing)} of {len(names)} files: {', '.join(missing[:8])}")
    return [directory / name for name in names]


def _name_of_autogptq(directory: Path) -> str | None:
    """AutoGPTQ's name of the weights, such as ``gptq_model-4bit-128g``, if its ``quantize_config.json`` has it."""
    content = read_object(directory / GPTQ_CONFIG, CheckpointError) or {}
    name = content.get("model_file_base_name")
    return name if isinstance(name, str) else None
