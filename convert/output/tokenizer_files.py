"""The files beside the weights: tokenizer and generation defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gptbigcode_cpu.common.file_names import (
    CHAT_TEMPLATE,
    CHAT_TEMPLATE_PATTERN,
    GENERATION_CONFIG,
    MERGES,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_FILES,
    VOCABULARY,
)
from gptbigcode_cpu.common.json_files import json_bytes, parse_object
from gptbigcode_cpu.common.regular_files import read_regular
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import CheckpointError, TokenizerError
from gptbigcode_cpu.generation import GenerationConfig, check_stored, parse_generation_config
from gptbigcode_cpu.hub.paths import is_gguf
from gptbigcode_cpu.tokenizer import AutoTokenizer
from gptbigcode_cpu.tokenizer.chat import TEMPLATES, recognise
from gptbigcode_cpu.tokenizer.files import MAX_TOKENIZER_BYTES


def side_files(source: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The tokenizer and generation files of a checkpoint, and notes on what was assumed.

    The tokenizer is opened, so that one that cannot be is refused here. What is made of ``vocab.json`` and ``merges.txt``
    comes as a ``tokenizer.json``.

    Args:
        source: The directory of a checkpoint, or a GGUF file, whose tokenizer is in it.

    Raises:
        CheckpointError: A GGUF file is damaged, or one of the files cannot be read or is damaged.
        TokenizerError: The tokenizer in a GGUF file is damaged or of an unsupported kind.
    """
    if is_gguf(source):
        from gptbigcode_cpu.config.gguf import open_gguf
        from gptbigcode_cpu.tokenizer import gguf as gguf_tokenizer

        return gguf_tokenizer.tokenizer_files(open_gguf(source))
    templates = sorted(str(path.relative_to(source)) for path in source.glob(CHAT_TEMPLATE_PATTERN))
    files = {}
    for name in (*TOKENIZER_FILES, *templates, GENERATION_CONFIG):
        try:
            files[name] = read_regular(source / name, MAX_TOKENIZER_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CheckpointError(f"{source / name} cannot be read: {error.strerror}") from error
    if TOKENIZER not in files and not {VOCABULARY, MERGES} <= files.keys():
        absent = f"the checkpoint has no tokenizer ({TOKENIZER}, or {VOCABULARY} and {MERGES})"
        return files, (f"{absent}: the converted model takes token ids, not text",)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from error
    if TOKENIZER not in files:
        files[TOKENIZER] = tokenizer.backend.to_str(pretty=True).encode()
        # With a tokenizer.json, only special tokens that are named have their roles.
        settings = parse_object(files[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in files else {}
        files[TOKENIZER_CONFIG] = json_bytes({**tokenizer.special_tokens_map, **settings})
    return files, ()


def check_generation(source: Path, files: Mapping[str, bytes], config: GPTBigCodeConfig) -> None:
    """Refuse a checkpoint whose options of generation no call of the converted model could follow.

    Args:
        source: Where the checkpoint is, for messages.
        files: From `side_files`.
        config: Its configuration, which has the options where there is no file for them.

    Raises:
        ConfigError: The file is damaged, or an option is not supported.
    """
    if GENERATION_CONFIG in files:
        path = source / GENERATION_CONFIG
        check_stored(parse_generation_config(files[GENERATION_CONFIG], path), path)
    else:
        check_stored(GenerationConfig.from_model_config(config), source)


def with_tokenizer_of(
    directory: Path, files: dict[str, bytes], notes: tuple[str, ...]
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The result of `side_files`, with its tokenizer replaced by that of a directory, if the directory has one.

    Raises:
        CheckpointError: The directory's tokenizer is damaged.
    """
    own, _ = side_files(directory)
    if TOKENIZER not in own:
        return files, notes
    tokenizer = {name: content for name, content in own.items() if name != GENERATION_CONFIG}
    kept = {name: content for name, content in files.items() if name == GENERATION_CONFIG}
    return kept | tokenizer, (f"the tokenizer is that of {directory}",)


def with_chat_template(files: dict[str, bytes], name: str) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files with a chat template, if a checkpoint has none and its name says which it is; and a note on it.

    The name of the converted model may say nothing.

    Args:
        files: From `side_files`.
        name: The name or path of the checkpoint.
    """
    settings = parse_object(files[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in files else {}
    own = any("chat_template" in file for file in files) or settings.get("chat_template") is not None
    recognised = None if own or TOKENIZER not in files else recognise(name, ())
    if recognised is None:
        return files, ()
    note = f"the checkpoint has no chat template; taken is {recognised!r}, which its name says"
    return files | {CHAT_TEMPLATE: TEMPLATES[recognised].encode()}, (note,)


def write_side_files(files: Mapping[str, bytes], target: Path, config: GPTBigCodeConfig) -> None:
    """Write the files beside the weights, and make a ``generation_config.json`` where there is none."""
    for name, content in files.items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_bytes(content)
    if GENERATION_CONFIG not in files:
        options = GenerationConfig.from_model_config(config).file_content()
        (target / GENERATION_CONFIG).write_bytes(json_bytes({"_from_model_config": True, **options}))
