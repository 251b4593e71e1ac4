"""The files of a tokenizer: read, checked, written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptbigcode_cpu.config_checks import LIMITS
from gptbigcode_cpu.errors import InputError, TokenizerError
from gptbigcode_cpu.json_files import BOM, parse_object, read_object
from gptbigcode_cpu.messages import one_line, shown
from gptbigcode_cpu.regular_files import read_regular
from gptbigcode_cpu.tokenizer.special_tokens import EXTRA_NAMES, SPECIAL_NAMES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What tokenizer_config.json says that changes anything here.
SETTINGS = (
    *SPECIAL_NAMES, *EXTRA_NAMES, "add_bos_token", "add_eos_token", "added_tokens_decoder", "chat_template",
    "model_input_names", "model_max_length", "padding_side", "split_special_tokens", "truncation_side",
)  # fmt: skip
# That of 256,000 tokens has 33 MB. The Rust library takes some ten times the memory.
MAX_TOKENIZER_BYTES = 64 << 20
_LARGE_NUMBER = re.compile(rb":\s*\d{8}")
TOKENIZER, CONFIG, CHAT_TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


def read(directory: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a directory or a GGUF file, and its settings.

    Raises:
        TokenizerError: A file is missing or damaged, or the tokenizer in a GGUF file is or is not supported.
        CheckpointError: A GGUF file is damaged.
    """
    from gptbigcode_cpu.hub import is_gguf

    if is_gguf(directory):
        return _read_gguf(directory)
    path = directory / TOKENIZER
    content = _read_bytes(path)
    if content is None:
        raise TokenizerError(f"{directory} has no tokenizer.json; save the tokenizer there with save_pretrained")
    backend = parse_backend(content, path)
    # Older checkpoints keep the special tokens in a file of their own; tokenizer_config.json wins.
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", CONFIG, "chat_template.json"):
        settings |= read_object(directory / name, TokenizerError) or {}
    template = _read_bytes(directory / CHAT_TEMPLATE)
    if template is not None:
        try:
            settings["chat_template"] = template.decode()
        except ValueError as error:
            raise TokenizerError(f"{directory / CHAT_TEMPLATE} is not UTF-8: {error}") from error
    return backend, settings


def parse_backend(content: bytes, path: Path) -> Tokenizer:
    """The tokenizer of the `tokenizers` library that a ``tokenizer.json`` describes; `path` is what errors name.

    Raises:
        TokenizerError: It is damaged.
    """
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_buffer(content.removeprefix(BOM))
        if _LARGE_NUMBER.search(content):
            _check_ids(backend)
        return backend
    except TokenizerError as error:
        raise TokenizerError(f"{path} {error}") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception; a panic of its Rust code is a BaseException
        raise TokenizerError(f"{path} is damaged: {one_line(error)}") from error


def _check_ids(backend: Tokenizer) -> None:
    """The library makes a table up to the largest id whenever it copies or writes a tokenizer."""
    token, largest = max(backend.get_vocab().items(), key=lambda item: item[1])
    if largest > LIMITS["vocab_size"]:
        raise TokenizerError(f"gives {shown(token)} the id {largest}, which is no token id of a model")


def _read_gguf(path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    from gptbigcode_cpu.convert import gguf_files, gguf_tokenizer

    files, _ = gguf_tokenizer.tokenizer_files(gguf_files.open_gguf(path))
    if not files:
        raise TokenizerError(f"{path} holds no tokenizer; load that of the original checkpoint")
    return parse_backend(files[TOKENIZER], path), parse_object(files[CONFIG])


def write(directory: Path, backend: Tokenizer, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the tokenizer and its settings; the paths of the files."""
    if directory.is_file():
        raise InputError(f"{directory} is a file; a tokenizer is saved in a directory")
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / CONFIG]
    config = dict(settings)
    template = config.get("chat_template")
    if isinstance(template, str):
        del config["chat_template"]
        paths.append(directory / CHAT_TEMPLATE)
        paths[-1].write_text(template, encoding="utf-8")
    elif template is not None:
        config["chat_template"] = [{"name": name, "template": text} for name, text in template.items()]
    paths[0].write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    paths.append(directory / TOKENIZER)
    backend.save(str(paths[-1]))
    return tuple(map(str, paths))


def side(settings: Mapping[str, Any], name: str) -> Literal["left", "right"]:
    """``padding_side`` or ``truncation_side``."""
    match settings.get(name):
        case "left":
            return "left"
        case "right" | None:
            return "right"
        case value:
            raise TokenizerError(f"{name} must be 'left' or 'right', not {shown(value)}")


def chat_template(settings: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The template or, where a checkpoint has several, the templates by name."""
    template = settings.get("chat_template")
    if isinstance(template, list):
        try:
            template = {item["name"]: item["template"] for item in template}
        except (TypeError, KeyError) as error:
            raise TokenizerError("chat_template must be a text, or a list of objects with name and template") from error
    if template is None or isinstance(template, str):
        return template
    if isinstance(template, dict) and all(isinstance(text, str) for text in template.values()):
        return template
    raise TokenizerError(f"chat_template must be a text or a list of them, not {type(template).__name__}")


def set_post_processor(backend: Tokenizer, settings: Mapping[str, Any], bos: str | None, eos: str | None) -> None:
    """As in transformers: what stands before and after texts comes from ``tokenizer.json``, unless it says nothing or
    ``tokenizer_config.json`` has ``add_bos_token`` or ``add_eos_token``."""
    from tokenizers import processors

    switches = [name for name in ("add_bos_token", "add_eos_token") if name in settings]
    if backend.post_processor is not None and not switches:
        return
    begin = bos if settings.get("add_bos_token") else None
    end = eos if settings.get("add_eos_token") else None
    single = " ".join(filter(None, [begin and f"{begin}:0", "$A:0", end and f"{end}:0"]))
    second = " ".join(filter(None, [begin and f"{begin}:1", "$B:1", end and f"{end}:1"]))
    special = [(token, backend.token_to_id(token)) for token in dict.fromkeys((begin, end)) if token]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} {second}", special_tokens=[(token, token_id or 0) for token, token_id in special]
    )


def _read_bytes(path: Path) -> bytes | None:
    try:
        return read_regular(path, MAX_TOKENIZER_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from error
