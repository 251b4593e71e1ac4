"""Copies of an opened model in a directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptbigcode_cpu.common.file_names import CONFIG, GENERATION_CONFIG, SAFETENSORS
from gptbigcode_cpu.common.files import replacing, write_file
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.store.weights import PackedModel


def save_model(
    packed: PackedModel, config: GPTBigCodeConfig, generation_options: Mapping[str, Any] | None, directory: Path
) -> None:
    """Write weights, configuration and generation options into a directory; every file appears complete or not at all.

    Args:
        packed: The model; its weights are hard-linked, or copied where that is not possible.
        config: The content of ``config.json``.
        generation_options: The content of ``generation_config.json``; None: no file.
        directory: Created if need be. Other files there stay.

    Raises:
        InputError: `directory` is a file.
        OSError: It cannot be written.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; a model is saved in a directory")
    directory.mkdir(parents=True, exist_ok=True)
    source, target = packed.path / SAFETENSORS, directory / SAFETENSORS
    if not (target.exists() and target.samefile(source)):
        with replacing(target) as temporary:
            try:
                temporary.hardlink_to(source.resolve())
            except OSError:  # another file system, or one without links
                import shutil

                shutil.copyfile(source, temporary)
    if generation_options is not None:
        _write_json(directory / GENERATION_CONFIG, generation_options)
    _write_json(directory / CONFIG, config.to_dict())  # last: without it a directory is no model


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
