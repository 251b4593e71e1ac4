"""The files beside the weights: tokenizer and generation defaults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import CheckpointError
from gptbigcode_cpu.hub import GENERATION_CONFIG, TOKENIZER_FILES

TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"


def side_files(source: Path) -> list[Path]:
    """The tokenizer and generation files of a checkpoint."""
    return [source / name for name in (*TOKENIZER_FILES, GENERATION_CONFIG) if (source / name).is_file()]


def write_side_files(source: Path, target: Path, config: GPTBigCodeConfig) -> None:
    """Copy the files beside the weights, and make ``tokenizer.json`` and ``generation_config.json`` where they are absent.

    Raises:
        CheckpointError: ``vocab.json`` or ``merges.txt`` is damaged.
    """
    for path in side_files(source):
        shutil.copyfile(path, target / path.name)
    if not (target / GENERATION_CONFIG).exists():
        content = config.to_dict()
        tokens = {key: content[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if content[key] is not None}
        write_json(target / GENERATION_CONFIG, {"_from_model_config": True, **tokens})
    if not (target / TOKENIZER).exists() and (target / VOCABULARY).exists() and (target / MERGES).exists():
        _build_tokenizer(target)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON the way the Hub's tools do."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _build_tokenizer(directory: Path) -> None:
    """Make ``tokenizer.json`` from ``vocab.json`` and ``merges.txt``: BPE on bytes, each digit by itself, as BigCode does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(directory / VOCABULARY), str(directory / MERGES)))
        special = _special_tokens(directory)
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{VOCABULARY} and {MERGES} do not make a tokenizer: {error}") from error
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(directory / TOKENIZER))


def _special_tokens(directory: Path) -> list[str]:
    """Special tokens by ascending id where ids are given, so that new ones are numbered as before."""
    added: dict[str, int] = {}
    if (directory / "added_tokens.json").exists():
        added = json.loads((directory / "added_tokens.json").read_bytes())
    tokens = sorted(added, key=lambda token: added[token])
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (directory / name).exists():
            continue
        content = json.loads((directory / name).read_bytes())
        for key in ("bos_token", "eos_token", "unk_token", "pad_token", "additional_special_tokens"):
            values = content.get(key) or []
            for value in values if isinstance(values, list) else [values]:
                tokens.append(value["content"] if isinstance(value, dict) else value)
    return list(dict.fromkeys(tokens))
