"""Read, check and write the files of a tokenizer."""

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

# The keys of tokenizer_config.json that have an effect here.
SETTINGS = (
    *SPECIAL_NAMES, *EXTRA_NAMES, "add_bos_token", "add_eos_token", "added_tokens_decoder", "chat_template",
    "model_input_names", "model_max_length", "padding_side", "split_special_tokens", "truncation_side",
)  # fmt: skip
# A tokenizer.json of 256,000 tokens has 33 MB. The Rust library needs about ten times as much memory.
MAX_TOKENIZER_BYTES = 64 << 20
_LARGE_NUMBER = re.compile(rb":\s*\d{8}")
RECORDED = "added_tokens_decoder"


def read(directory: Path, given: Mapping[str, Any]) -> tuple[Tokenizer, dict[str, Any]]:
    """Read the tokenizer of a directory or a GGUF file, and its settings.

    The files have the same precedence as in transformers 5. ``tokenizer.json``, or else ``vocab.json`` and ``merges.txt``,
    decides which tokens are added before and after texts. ``special_tokens_map.json`` and ``added_tokens.json`` are read only
    if ``tokenizer_config.json`` has no ``added_tokens_decoder``, and then win over it. Files with chat templates win over its
    ``chat_template``.

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
    """Read the tokenizer of a ``vocab.json`` and a ``merges.txt``. The default special tokens are GPT-2's, if they exist.

    Texts are split into words as BigCode does, or as GPT-2 does if the directory has a ``config.json`` of GPT-2.
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
    """Add the content of a ``special_tokens_map.json``. The tokens in it are special, though their dicts do not say so."""

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
    """The settings of the files, replaced by those in `given`. Special tokens without a role get their current name."""
    kept = settings
    if any(name in given for name in EXTRA_NAMES):
        kept = {name: value for name, value in settings.items() if name not in EXTRA_NAMES}
    kept = kept | dict(given)
    if OLD_EXTRA in kept and not kept.get(EXTRA):
        kept[EXTRA] = kept.pop(OLD_EXTRA)
    return collect_own_roles(kept)


def _added_tokens(directory: Path, settings: Mapping[str, Any]) -> dict[int, AddedToken]:
    """Read an ``added_tokens.json``. As in transformers, a token is special if the settings contain it as a string."""
    from tokenizers import AddedToken

    path = directory / ADDED_TOKENS
    ids = check_ids(read_object(path, TokenizerError) or {}, str(path))
    extra = settings.get(EXTRA)
    listed = [settings.get(name) for name in SPECIAL_NAMES] + (extra if isinstance(extra, list) else [])
    special = {str(token) for token in listed if token and not isinstance(token, dict)}
    return {i: AddedToken(token, special=token in special, normalized=token not in special) for token, i in ids.items()}


def _take_from_backend(settings: dict[str, Any], backend: Tokenizer) -> None:
    """Use the pad token and the sides that ``tokenizer.json`` states as defaults. Calls decide whether to pad or truncate."""
    if (padding := backend.padding) is not None:
        settings.setdefault("pad_token", padding["pad_token"])
        settings.setdefault("padding_side", padding["direction"])
    if (truncation := backend.truncation) is not None:
        settings.setdefault("truncation_side", truncation["direction"])


def _chat_templates(directory: Path) -> dict[str, Any]:
    """Read ``chat_template.jinja`` and the files in ``additional_chat_templates/``, or else ``chat_template.json``."""
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
    """A tokenizer of the `tokenizers` library: `given` itself, or the tokenizer in the file `given`.

    Raises:
        TokenizerError: The file does not exist or is damaged.
        InputError: `given` is neither a tokenizer nor a path.
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
    """Parse the content of a ``tokenizer.json``; error messages name it `path`.

    Raises:
        TokenizerError: The content is damaged.
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
    """Refuse huge ids: when the library copies or writes a tokenizer, it makes a table up to the largest id."""
    token, largest = max(backend.get_vocab().items(), key=lambda item: item[1])
    if largest > LIMITS["vocab_size"]:
        raise TokenizerError(f"gives {shown(token)} the id {largest}, which is no token id of a model")


def _read_gguf(path: Path) -> tuple[Tokenizer, dict[str, Any]]:
    from gptbigcode_cpu.config.gguf import open_gguf
    from gptbigcode_cpu.tokenizer import gguf as gguf_tokenizer

    files, _ = gguf_tokenizer.tokenizer_files(open_gguf(path))
    if not files:
        raise TokenizerError(f"{path} has no tokenizer; load the tokenizer of the original checkpoint")
    return parse_backend(files[TOKENIZER], path), parse_object(files[TOKENIZER_CONFIG])


def write(directory: Path, backend: Tokenizer, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Write the tokenizer and its settings, and return the paths. Each file is written atomically."""
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
    # A setting without a meaning may hold an AddedToken; default=str writes it as its text.
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
    """The value of ``padding_side`` or ``truncation_side``; default: right."""
    match settings.get(name):
        case "left":
            return "left"
        case "right" | None:
            return "right"
        case value:
            raise TokenizerError(f"{name} must be 'left' or 'right', not {shown(value)}")


def chat_template(settings: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The chat template, or a dict of templates by name if the checkpoint has several."""
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
    """Decide which tokens are added before and after texts, as in transformers.

    ``tokenizer.json`` decides, unless it has no post-processor or the settings have ``add_bos_token`` or ``add_eos_token``.
    `read` leaves these two settings out if there is a ``tokenizer.json``.
    """
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
