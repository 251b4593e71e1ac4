"""Files that are not what their names say: broken links, other formats, leftovers of failed downloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import GPTBigCodeError

MakeCheckpoint = Callable[..., Path]
SMALL: dict[str, Any] = {"n_embd": 36, "n_head": 3, "n_inner": 50, "n_positions": 7, "vocab_size": 270, "n_layer": 2}
PAGE = "<!DOCTYPE html>\n<html><body>404: not found</body></html>\n" * 9


@pytest.fixture
def source(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(tmp_path / "source", **SMALL)


LINKS = (
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/rag.jinja"),
)


@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_nowhere(source: Path, tmp_path: Path, name: str) -> None:
    """The Hub's cache has links to its files; a copy of it may have only the links."""
    if name.endswith("index.json"):
        (source / "model.safetensors").unlink()
    (source / name).unlink(missing_ok=True)
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).symlink_to("../../blobs/0123")
    message = rf"{name} cannot be read: it is a symbolic link to '\.\./\.\./blobs/0123', which is not there"
    with pytest.raises(GPTBigCodeError, match=message):
        convert(source, tmp_path / "out")
    with pytest.raises(GPTBigCodeError, match=message):
        AutoModelForCausalLM.from_pretrained(source)
    assert not (tmp_path / "out").exists()


def test_a_link_in_the_place_of_a_shard(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    source = make_checkpoint(tmp_path / "source", shards=3, **SMALL)
    shard = source / "model-00002-of-00003.safetensors"
    shard.unlink()
    shard.symlink_to("nothing")
    with pytest.raises(GPTBigCodeError, match=r"model-00002-of-00003\.safetensors cannot be read: it is a symbolic link"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few for the 8 bytes of the header length"),
        (PAGE.encode(), "it looks like a web page, so it was not downloaded"),
        (b"\n <HTML>" + PAGE.encode(), "it looks like a web page"),
        (b"PK\x03\x04" + bytes(90) + b"\x01", "it looks like a file of torch.save, whose name ends in .bin"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "it looks like a file of torch.save"),
        (b"GGUF\x03\0\0\0" + bytes(90), "it looks like a GGUF file, whose name ends in .gguf"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "it looks like weights of TensorFlow"),
        (b"\x1f\x8b\x08\0\x11\x22\x33\x44" + b"\x01" * 90, "compressed with gzip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_safetensors_file(source: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (source / "model.safetensors").write_bytes(content)
    with pytest.raises(GPTBigCodeError, match=rf"model\.safetensors is damaged: .*{message}"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (PAGE.encode(), "it looks like a web page, so it was not downloaded"),
        (None, "it looks like a safetensors file, whose name ends in .safetensors"),
        (bytes(1000), "it begins with zeros"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_file_of_torch(source: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    pytest.importorskip("torch")
    weights = source / "model.safetensors"
    (source / "pytorch_model.bin").write_bytes(weights.read_bytes() if content is None else content)
    weights.unlink()
    with pytest.raises(GPTBigCodeError, match=rf"pytorch_model\.bin cannot be read as weights: .*{message}"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.onnx"])
def test_weights_of_other_formats(source: Path, tmp_path: Path, name: str) -> None:
    (source / "model.safetensors").rename(source / name)
    with pytest.raises(GPTBigCodeError, match=rf"holds no checkpoint: .*; {name} is of another format"):
        convert(source, tmp_path / "out")


class TestIndexes:
    @pytest.fixture
    def shards(self, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> Path:
        return make_checkpoint(tmp_path / "source", shards=2, **SMALL)

    @pytest.fixture
    def expected(self, tmp_path: Path, make_checkpoint: MakeCheckpoint) -> bytes:
        return self.converted(make_checkpoint(tmp_path / "whole", **SMALL), tmp_path / "expected")

    def converted(self, source: Path, out: Path) -> bytes:
        convert(source, out)
        return (out / "model.safetensors").read_bytes()

    def rename(self, index: Path, names: Callable[[str], str]) -> None:
        content = json.loads(index.read_text())
        weight_map = {tensor: names(file) for tensor, file in content["weight_map"].items()}
        index.write_text(json.dumps(content | {"weight_map": weight_map}))

    def test_files_in_a_subdirectory(self, shards: Path, tmp_path: Path, expected: bytes) -> None:
        (shards / "parts").mkdir()
        for path in [*shards.glob("model-*")]:
            path.rename(shards / "parts" / path.name)
        self.rename(shards / "model.safetensors.index.json", lambda file: f"parts/{file}")
        assert self.converted(shards, tmp_path / "out") == expected

    @pytest.mark.parametrize("name", ["../model.safetensors", "a/../../b", "/etc/passwd", "", ".", "a\0b"])
    def test_files_elsewhere(self, shards: Path, tmp_path: Path, name: str) -> None:
        self.rename(shards / "model.safetensors.index.json", lambda _: name)
        with pytest.raises(GPTBigCodeError, match="is not the name of a file beside the index or below it"):
            convert(shards, tmp_path / "out")

    def test_the_cache_of_conversions_knows_all_files(
        self, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The names of the files are the index's to choose."""
        monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
        for path in [*shards.glob("model-*")]:
            path.rename(shards / path.name.replace("model-", "part-"))
        self.rename(shards / "model.safetensors.index.json", lambda file: file.replace("model-", "part-"))
        ids = [[3, 1, 4]]
        before = AutoModelForCausalLM.from_pretrained(shards)(ids).logits
        for path in shards.glob("part-*"):
            content = bytearray(path.read_bytes())
            content[-40:] = bytes(40)
            path.write_bytes(content)
        assert (AutoModelForCausalLM.from_pretrained(shards)(ids).logits != before).any()


def test_a_tokenizer_with_a_link_that_leads_nowhere(source: Path) -> None:
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").symlink_to("nothing")
    with pytest.raises(GPTBigCodeError, match=r"tokenizer\.json cannot be read: it is a symbolic link to 'nothing'"):
        AutoTokenizer.from_pretrained(source)
