"""Files that exist but cannot be read: Git LFS pointers, and files without permission. The error does not call them damaged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import GPTBigCodeError, ModelNotFoundError

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 2}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 16310920\n"
OPENED: dict[str, Callable[[Path, Path], object]] = {
    "config.json": convert,
    "model.safetensors": convert,
    "model.safetensors.index.json": convert,
    "model-00002-of-00003.safetensors": convert,
    "pytorch_model.bin": convert,
    "quantize_config.json": convert,
    "tokenizer.json": lambda source, _: AutoTokenizer.from_pretrained(source),
    "tokenizer_config.json": lambda source, _: AutoTokenizer.from_pretrained(source),
    "special_tokens_map.json": lambda source, _: AutoTokenizer.from_pretrained(source),
    "chat_template.jinja": lambda source, _: AutoTokenizer.from_pretrained(source),
    "vocab.json": convert,
    "merges.txt": convert,
    "generation_config.json": lambda source, _: GenerationConfig.from_pretrained(source),
    "model.gguf": convert,
}


def checkpoint(directory: Path, make_checkpoint: MakeCheckpoint, name: str) -> Path:
    """A checkpoint that is complete but for the content of one file."""
    source = make_checkpoint(directory, shards=3 if "0000" in name or "index" in name else 1, **SMALL)
    if name in ("pytorch_model.bin", "model.gguf"):
        (source / "model.safetensors").unlink()
    if name == "quantize_config.json":
        content = (source / "model.safetensors").read_bytes()
        (source / "model.safetensors").write_bytes(content.replace(b"h.0.mlp.c_fc.weight", b"h.0.mlp.cfc.qweight"))
    if name in ("vocab.json", "merges.txt"):
        (source / "merges.txt").write_text("#version: 0.2\n")
        (source / "vocab.json").write_text(json.dumps(json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]))
        (source / "tokenizer.json").unlink()
    return source


@pytest.mark.parametrize("name", OPENED)
def test_pointers_of_git_lfs(tmp_path: Path, make_checkpoint: MakeCheckpoint, name: str) -> None:
    if name.endswith(".bin"):
        pytest.importorskip("torch")
    source = checkpoint(tmp_path / "source", make_checkpoint, name)
    (source / name).write_text(POINTER)
    with pytest.raises(GPTBigCodeError, match=rf"{name} cannot be read: it is a pointer of Git LFS.*git lfs pull"):
        OPENED[name](source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", OPENED)
def test_files_that_may_not_be_read(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.endswith(".bin"):
        pytest.importorskip("torch")
    source = checkpoint(tmp_path / "source", make_checkpoint, name)
    (source / name).touch()
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path) == source / name:  # root may read everything
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(GPTBigCodeError, match=rf"{name} cannot be read: Permission denied") as caught:
        OPENED[name](source, tmp_path / "out")
    assert "damaged" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_directory_that_may_not_be_entered(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint(tmp_path / "source", **SMALL)
    status = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path) == f"{source}/.":  # root may enter everything
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return status(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    for use in (lambda: convert(source, tmp_path / "out"), lambda: AutoTokenizer.from_pretrained(source)):
        with pytest.raises(ModelNotFoundError, match="source cannot be read: Permission denied"):
            use()


def test_a_pointer_in_the_place_of_a_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "sha256-01ab").write_text(POINTER)
    with pytest.raises(ModelNotFoundError, match="sha256-01ab cannot be read: it is a pointer of Git LFS"):
        convert(tmp_path / "sha256-01ab", tmp_path / "out")


def test_a_pointer_in_a_converted_model(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    convert(make_checkpoint(tmp_path / "source", **SMALL), tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_text(POINTER)
    with pytest.raises(GPTBigCodeError, match=r"model\.safetensors cannot be read: it is a pointer of Git LFS"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")
