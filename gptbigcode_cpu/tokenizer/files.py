"""The files of a tokenizer: read, checked, written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptbigcode_cpu.common.file_names import (
    ADDED_TOKENS,
    CHAT_TEMPLATE,
    CHAT_TEMPLATE_PATTERN,
    CHAT_TEMPLATES,
    MERGES,
    OLD_CHAT_TEMPLATE,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
    VOCABULARY,
)
from gptbigcode_cpu.common.file_names import CONFIG as MODEL_CONFIG
from gptbigcode_cpu.common.json_files import BOM, parse_object, read_object
from gptbigcode_cpu.common.messages import one_line, shown
from gptbigcode_cpu.common.regular_files import is_present, read_regular
from gptbigcode_cpu.config.checks import LIMITS
from gptbigcode_cpu.config.gpt2 import is_original_gpt2
from gptbigcode_cpu.errors import InputError, TokenizerError
from gptbigcode_cpu.tokenizer.added_tokens import added_token, by_id, check_ids, keep_ids
from gptbigcode_cpu.tokenizer.byte_level import from_vocabulary
from gptbigcode_cpu.tokenizer.special_tokens import (
    EXTRA,
    EXTRA_NAMES,
    OLD_EXTRA,
    OWN_ROLES,
    SPECIAL_NAMES,
    collect_own_roles,
)

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

END_OF_TEXT = "<|endoftext|>"

# What tokenizer_config.json says that changes anything here.
SETTINGS = (
    *SPECIAL_NAMES, *EXTRA_NAMES, "add_bos_token", "add_eos_token", "added_tokens_decoder", "chat_template",
    "model_input_names", "model_max_length", "padding_side", "split_special_tokens", "truncation_side",
)  # fmt: skip
# That of 256,000 tokens has 33 MB. The Rust library takes some ten times the memory.
MAX_TOKENIZER_BYTES = 64 << 20
_LARGE_NUMBER = re.compile(rb":\s*\d{8}")
RECORDED = "added_tokens_decoder"


def read(directory: Path, given: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a directory or a GGUF file, and its settings.

    Which file decides what is as in transformers 5: ``tokenizer.json`` (else ``vocab.json`` and ``merges.txt``) what stands
    before and after texts; ``special_tokens_map.json`` and ``added_tokens.json`` count only if ``tokenizer_config.json`` has
    no ``added_tokens_decoder``, and then before it; files of chat templates before its ``chat_template``.

    Args:
        directory: The directory or the GGUF file.
        given: Settings that replace those of the files.

    Raises:
        TokenizerError: A file is missing or damaged, or the tokenizer in a GGUF file is damaged or not supported.
        CheckpointError: A GGUF file is damaged.
    """
    from gptbigcode_cpu.hub.paths import is_gguf

    if is_gguf(directory):
        backend, settings = _read_gguf(directory)
        return backend, _replaced(settings, given)
    settings = read_object(directory / TOKENIZER_CONFIG, TokenizerError) or {}
    content = _read_bytes(path := directory / TOKENIZER)
    if content is None:
        path = directory / VOCABULARY
        backend = _read_vocabulary(directory, settings)
        content = backend.to_str().encode()
    else:
        backend = parse_backend(content, path)
        for name in ("add_bos_token", "add_eos_token"):
            settings.pop(name, None)
    settings |= _chat_templates(directory)
    settings = _replaced(settings, given)
    if settings.get(RECORDED) is None:
        named = read_object(directory / SPECIAL_TOKENS_MAP, TokenizerError) or {}
        _merge_special_tokens_map(settings, {name: value for name, value in named.items() if name not in given})
        recorded = _added_tokens(directory, settings)
        backend = keep_ids(backend, content, recorded, str(path), lambda changed: parse_backend(changed, path))
        recorded |= backend.get_added_tokens_decoder()
    else:
        recorded = by_id(settings[RECORDED], str(directory / TOKENIZER_CONFIG))
        backend = keep_ids(backend, content, recorded, str(path), lambda changed: parse_backend(changed, path))
    _take_from_backend(settings, backend)
    return backend, settings | {RECORDED: recorded}


def _read_vocabulary(directory: Path, settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer of a ``vocab.json`` and a ``merges.txt``. Special tokens that nothing names are GPT-2's, if it has them.

    Words are cut as BigCode does, and beside the ``config.json`` of GPT-2 as GPT-2 does.
    """
    merges = _read_bytes(directory / MERGES)
    if merges is None or not is_present(directory / VOCABULARY):
        raise TokenizerError(
            f"{directory} has no {TOKENIZER}, nor both {VOCABULARY} and {MERGES}; save the tokenizer there with save_pretrained"
        )
    backend = from_vocabulary(
        directory / VOCABULARY,
        directory / MERGES,
        merges,
        digits=not is_original_gpt2(read_object(directory / MODEL_CONFIG, TokenizerError) or {}),
        add_prefix_space=settings.get("add_prefix_space") is True,
    )
    if backend.token_to_id(END_OF_TEXT) is not None:
        for name in ("bos_token", "eos_token", "unk_token"):
            settings.setdefault(name, END_OF_TEXT)
    return backend


def _merge_special_tokens_map(settings: dict[str, Any], named: dict[str, Any]) -> None:
    """Add the content of a ``special_tokens_map.json``. Its dicts are special tokens, even without ``"special": true``."""

    def special(value: Any, name: str) -> Any:
        return added_token(value, name, special=True) if isinstance(value, Mapping) and "content" in value else value

    for name, value in named.items():
        if isinstance(value, list):
            tokens = [special(token, name) for token in value]
            listed = settings.get(name) or []
            if name == EXTRA and isinstance(listed, list):
                tokens = [*listed, *(token for token in tokens if token not in listed)]
            settings[name] = tokens
        elif name in SPECIAL_NAMES or name not in settings.get(OWN_ROLES, {}):
            settings[name] = special(value, name)
    settings.update(collect_own_roles(settings))


def _replaced(settings: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the files, where none are given. Special tokens without a role have today's name in the result."""
    kept = settings
    if any(name in given for name in EXTRA_NAMES):
        kept = {name: value for name, value in settings.items() if name not in EXTRA_NAMES}
    kept = kept | dict(given)
    if OLD_EXTRA in kept and not kept.get(EXTRA):
        kept[EXTRA] = kept.pop(OLD_EXTRA)
    return collect_own_roles(kept)


def _added_tokens(directory: Path, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """The tokens of an ``added_tokens.json``. Special are those that the settings name or list as texts, as in transformers."""
    from tokenizers import AddedToken

    path = directory / ADDED_TOKENS
    ids = check_ids(read_object(path, TokenizerError) or {}, str(path))
    extra = settings.get(EXTRA)
    listed = [settings.get(name) for name in SPECIAL_NAMES] + (extra if isinstance(extra, list) else [])
    special = {str(token) for token in listed if token and not isinstance(token, dict)}
    return {i: AddedToken(token, special=token in special, normalized=token not in special) for token, i in ids.items()}


def _take_from_backend(settings: dict[str, Any], backend: Tokenizer) -> None:
    """Padding and truncation that ``tokenizer.json`` prescribes are defaults here: a call says whether it wants them."""
    if (padding := backend.padding) is not None:
        settings.setdefault("pad_token", padding["pad_token"])
        settings.setdefault("padding_side", padding["direction"])
    if (truncation := backend.truncation) is not None:
        settings.setdefault("truncation_side", truncation["direction"])


def _chat_templates(directory: Path) -> dict[str, Any]:
    """``chat_template.jinja``, and those in ``additional_chat_templates/`` by their names; else ``chat_template.json``."""
    templates: dict[str, str] = {}
    if (default := _read_text(directory / CHAT_TEMPLATE)) is not None:
        templates["default"] = default
    for path in sorted(directory.glob(CHAT_TEMPLATE_PATTERN)):
        if (text := _read_text(path)) is not None:
            templates[path.name.removesuffix(".jinja")] = text
    if not templates:
        older = read_object(directory / OLD_CHAT_TEMPLATE, TokenizerError) or {}
        return {name: value for name, value in older.items() if name == "chat_template"}
    return {"chat_template": templates["default"] if [*templates] == ["default"] else templates}


def backend_of(given: Any) -> Tokenizer:
    """A tokenizer of the `tokenizers` library, or the one in a ``tokenizer.json``.

    Raises:
        TokenizerError: There is no such file, or it is damaged.
        InputError: It is neither.
    """
    from tokenizers import Tokenizer

    if isinstance(given, (str, Path)):
        content = _read_bytes(path := Path(given))
        if content is None:
            raise TokenizerError(f"{path} does not exist; a tokenizer_file is a tokenizer.json")
        return parse_backend(content, path)
    if not isinstance(given, Tokenizer):
        raise InputError(f"a tokenizer is made from a tokenizers.Tokenizer or a file, not from {type(given).__name__}")
    return given


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
    from gptbigcode_cpu.config.gguf import open_gguf
    from gptbigcode_cpu.tokenizer import gguf as gguf_tokenizer

    files, _ = gguf_tokenizer.tokenizer_files(open_gguf(path))
    if not files:
        raise TokenizerError(f"{path} holds no tokenizer; load that of the original checkpoint")
    return parse_backend(files[TOKENIZER], path), parse_object(files[TOKENIZER_CONFIG])


def write(directory: Path, backend: Tokenizer, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the tokenizer and its settings; every file appears complete or not at all. Returns the paths of the files."""
    from gptbigcode_cpu.common.files import replacing, write_file

    if directory.is_file():
        raise InputError(f"{directory} is a file; a tokenizer is saved in a directory")
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / TOKENIZER_CONFIG]
    config = {name: value for name, value in settings.items() if name != "chat_template"}
    for path, text in _template_files(directory, settings.get("chat_template")).items():
        path.parent.mkdir(exist_ok=True)
        write_file(path, text)
        paths.append(path)
    # An added token may stand under a name that means nothing; it is written as its text.
    write_file(paths[0], json.dumps(config, indent=2, ensure_ascii=False, default=str) + "\n")
    paths.append(directory / TOKENIZER)
    with replacing(paths[-1]) as temporary:
        backend.save(str(temporary))
    return tuple(map(str, paths))


def _template_files(directory: Path, template: str | Mapping[str, str] | None) -> dict[Path, str]:
    """The files of the chat templates, as transformers 5 saves them."""
    if template is None:
        return {}
    templates = {"default": template} if isinstance(template, str) else template
    for name in templates:
        if not name or "/" in name or "\0" in name:
            raise InputError(f"the chat template {shown(name)} cannot be saved: its name is no file name")
    files = {directory / CHAT_TEMPLATES / f"{name}.jinja": text for name, text in templates.items() if name != "default"}
    return ({directory / CHAT_TEMPLATE: templates["default"]} if "default" in templates else {}) | files


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
    """As in transformers: what stands before and after texts comes from ``tokenizer.json``, unless it says nothing or the
    settings have ``add_bos_token`` or ``add_eos_token``, which `read` leaves out if ``tokenizer.json`` is there."""
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


def _read_text(path: Path) -> str | None:
    content = _read_bytes(path)
    try:
        return None if content is None else content.removeprefix(BOM).decode()
    except ValueError as error:
        raise TokenizerError(f"{path} is not UTF-8: {error}") from error


def _read_bytes(path: Path) -> bytes | None:
    try:
        return read_regular(path, MAX_TOKENIZER_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}") from error
