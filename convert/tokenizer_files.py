"""The files beside the weights: tokenizer and generation defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.config_checks import LIMITS
from gptbigcode_cpu.errors import CheckpointError
from gptbigcode_cpu.generation import GenerationConfig, check_stored, read_content
from gptbigcode_cpu.hub import GENERATION_CONFIG, TOKENIZER_FILES, is_gguf
from gptbigcode_cpu.json_files import read_object
from gptbigcode_cpu.messages import one_line, shown
from gptbigcode_cpu.regular_files import read_regular
from gptbigcode_cpu.tokenizer.files import MAX_TOKENIZER_BYTES

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"


def side_files(source: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The tokenizer and generation files of a checkpoint, and notes on what was assumed.

    Args:
        source: The directory of a checkpoint, or a GGUF file, whose tokenizer is in it.

    Raises:
        CheckpointError: A GGUF file is damaged, or one of the files cannot be read.
        TokenizerError: The tokenizer in a GGUF file is damaged or of an unsupported kind.
    """
    if is_gguf(source):
        from gptbigcode_cpu.convert import gguf_files, gguf_tokenizer

        return gguf_tokenizer.tokenizer_files(gguf_files.open_gguf(source))
    names = (*TOKENIZER_FILES, GENERATION_CONFIG)
    files = {}
    for name in names:
        try:
            files[name] = read_regular(source / name, MAX_TOKENIZER_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CheckpointError(f"{source / name} cannot be read: {error.strerror}") from error
    if TOKENIZER in files or {VOCABULARY, MERGES} <= files.keys():
        return files, ()
    absent = f"the checkpoint has no tokenizer ({TOKENIZER}, or {VOCABULARY} and {MERGES})"
    return files, (f"{absent}: the converted model takes token ids, not text",)


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
        check_stored(read_content(files[GENERATION_CONFIG], path), path)
    else:
        check_stored(GenerationConfig.from_model_config(config), source)


def write_side_files(files: Mapping[str, bytes], target: Path, config: GPTBigCodeConfig) -> None:
    """Write the files beside the weights, and make ``tokenizer.json`` and ``generation_config.json`` where they are absent.

    Raises:
        CheckpointError: ``vocab.json`` or ``merges.txt`` is damaged.
    """
    for name, content in files.items():
        (target / name).write_bytes(content)
    if GENERATION_CONFIG not in files:
        options = GenerationConfig.from_model_config(config).file_content()
        (target / GENERATION_CONFIG).write_bytes(json_bytes({"_from_model_config": True, **options}))
    if TOKENIZER not in files and VOCABULARY in files and MERGES in files:
        _build_tokenizer(target)


def json_bytes(content: dict[str, Any]) -> bytes:
    """JSON the way the Hub's tools write it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def byte_level_tokenizer(
    bpe: BPE,
    special: list[str],
    plain: Sequence[str] = (),
    *,
    digits: bool = True,
    begin: Sequence[str] = (),
    end: Sequence[str] = (),
) -> Tokenizer:
    """A tokenizer of BPE on bytes.

    Args:
        bpe: Vocabulary and merges.
        special: Special tokens; those that are not in the vocabulary get the next ids.
        plain: Tokens that are matched as a whole as well, but are text.
        digits: Make each digit a word by itself, as BigCode does.
        begin: Tokens that encoding puts in front.
        end: Tokens that encoding appends.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors

    tokenizer = Tokenizer(bpe)
    words: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    words.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    if begin or end:
        ids = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys([*begin, *end])]
        tokenizer.post_processor = processors.TemplateProcessing(single=[*begin, "$A", *end], pair=None, special_tokens=ids)
    return tokenizer


def _build_tokenizer(directory: Path) -> None:
    """Make ``tokenizer.json`` from ``vocab.json`` and ``merges.txt``, as BigCode does."""
    from tokenizers.models import BPE

    check_ids(read_object(directory / VOCABULARY, CheckpointError) or {}, VOCABULARY)
    try:
        bpe = BPE.from_file(str(directory / VOCABULARY), str(directory / MERGES))
        tokenizer = byte_level_tokenizer(bpe, _special_tokens(directory))
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{VOCABULARY} and {MERGES} do not make a tokenizer: {one_line(error)}") from error
    tokenizer.save(str(directory / TOKENIZER))


def check_ids(vocabulary: Mapping[str, Any], file: str) -> Mapping[str, int]:
    """A vocabulary, with ids that a model can have.

    Raises:
        CheckpointError: One is not; `file` is named.
    """
    for token, token_id in vocabulary.items():
        if type(token_id) is not int or not 0 <= token_id < LIMITS["vocab_size"]:
            raise CheckpointError(f"{file} gives the token {shown(token)} the id {shown(token_id)}, which is no token id")
    return vocabulary


def _special_tokens(directory: Path) -> list[str]:
    """Special tokens by ascending id where ids are given, so that new ones are numbered as before."""
    added = check_ids(read_object(directory / "added_tokens.json", CheckpointError) or {}, "added_tokens.json")
    tokens = sorted(added, key=lambda token: added[token])
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        content = read_object(directory / name, CheckpointError) or {}
        for key in ("bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens"):
            values = content.get(key) or []
            for value in values if isinstance(values, list) else [values]:
                tokens.append(value["content"] if isinstance(value, dict) else value)
    return list(dict.fromkeys(tokens))
