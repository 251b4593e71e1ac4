"""Make a `GenerationConfig` from a file or from a `GenerationConfig` of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptbigcode_cpu.common.json_files import JSONError, parse_object, read_object
from gptbigcode_cpu.engine.options import SAMPLING
from gptbigcode_cpu.errors import ConfigError, InputError
from gptbigcode_cpu.generation.config import GenerationConfig


def of_transformers(config: Any) -> GenerationConfig:
    """Convert a `GenerationConfig` of transformers.

    Args:
        config: The object to convert. Attributes that are None or have their default value count as not set.
    """
    defaults = type(config)().to_dict()
    given = {name: value for name, value in config.to_dict().items() if value is not None}
    return GenerationConfig.from_dict({name: value for name, value in given.items() if defaults.get(name) != value})


def given_config(config: Any) -> GenerationConfig | None:
    """The checked form of a ``generation_config`` argument.

    Raises:
        InputError: `config` is no `GenerationConfig`, neither of this package nor of transformers.
    """
    if config is None or isinstance(config, GenerationConfig):
        return config
    if "GenerationConfig" not in {base.__name__ for base in type(config).__mro__}:
        raise InputError(f"generation_config must be a GenerationConfig, not {type(config).__name__}")
    return of_transformers(config)


def read_generation_config(path: Path) -> GenerationConfig | None:
    """Read a ``generation_config.json``; None if there is none.

    Raises:
        ConfigError: The file is damaged; the message names it.
    """
    content = read_object(path, ConfigError)
    return None if content is None else GenerationConfig.from_dict(content)


def parse_generation_config(content: bytes, path: Path) -> GenerationConfig:
    """Read the bytes of a ``generation_config.json``.

    Args:
        content: The bytes.
        path: The file that the bytes come from, for messages.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        return GenerationConfig.from_dict(parse_object(content))
    except JSONError as error:
        raise ConfigError(f"{path} {error}") from error


def check_stored(config: GenerationConfig, path: Path) -> None:
    """Check a checkpoint's options before it is converted: refuse options that would make every call fail.

    Args:
        config: The checkpoint's options.
        path: The file that the options come from, for the message.

    Raises:
        ConfigError: There is such an option. A bad value of a sampling option is allowed, because greedy calls ignore it
            and other calls can override it.
    """
    for name, reason in config.refused().items():
        if name not in SAMPLING:
            raise ConfigError(f"{path}: {reason}; remove {name} from the file")
    try:
        config.check_together()
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from error
