"""The tables of docs/models.md are what bench/model_sizes.py computes, from the shapes of the published models."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from gptbigcode_cpu.cli import cli
from gptbigcode_cpu.hub.names import SHORT_NAMES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sizes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_sizes", ROOT / "bench" / "model_sizes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["model_sizes"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["size_table", "memory_table", "fits_table"])
def test_the_page_has_the_computed_table(sizes: ModuleType, name: str) -> None:
    table: Callable[[], str] = getattr(sizes, name)
    assert table() in PAGE, "python bench/model_sizes.py prints it"


def published() -> dict[str, dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("published", ROOT / "tests" / "test_published_configs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    configs: dict[str, dict[str, Any]] = module.PUBLISHED
    return configs


def test_the_shapes_are_those_of_the_published_configurations(sizes: ModuleType) -> None:
    checked = 0
    for name, shape in sizes.MODELS.items():
        if config := published().get(SHORT_NAMES[name]):
            for key in ("n_embd", "n_layer", "n_head", "n_inner", "vocab_size", "n_positions"):
                assert getattr(shape, key) == config[key], (name, key)
            checked += 1
    assert checked >= 5


@pytest.mark.parametrize("name", ["starcoderbase-1b", "starcoder"])
def test_info_gives_the_same_sizes(sizes: ModuleType, tmp_path: Path, name: str) -> None:
    shape = sizes.MODELS[name]
    config = {"model_type": "gpt_bigcode", "architectures": ["GPTBigCodeForCausalLM"], "multi_query": True} | vars(shape)
    (tmp_path / "config.json").write_text(json.dumps(config))
    info = json.loads(CliRunner().invoke(cli, ["info", str(tmp_path), "--json"]).output)
    (model,) = [value for value in info.values() if isinstance(value, dict) and "memory_bytes_if_converted" in value]
    for dtype in sizes.DTYPES:
        memory = sizes.memory_bytes(sizes.config_of(shape), dtype, shape.n_positions)
        assert model["memory_bytes_if_converted"][dtype] == memory


def test_every_short_name_is_on_the_page() -> None:
    table = PAGE.partition("## How large")[0]
    missing = [name for name in SHORT_NAMES if name != "wizardcoder-15b" and f"`{name}`" not in table]
    assert not missing


def test_the_answer_for_8_gb_is_that_of_the_table(sizes: ModuleType) -> None:
    row = re.search(r"^\| 8 GB \| (.*) \|$", sizes.fits_table(), re.MULTILINE)
    assert row is not None
    assert row[1].split(" | ")[:3] == ["`starcoderbase-7b`", "`starcoderbase-7b`", "`starcoderbase-3b`"]
    assert "up to 7 billion parameters fit in `int4` and `int6`, and up to 3 billion in `int8`" in PAGE
    assert f"{sizes.human_bytes(sizes.converted_bytes(sizes.config_of(sizes.MODELS['starcoder']), 'int4'))}" in PAGE
