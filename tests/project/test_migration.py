"""The package refuses exactly what docs/migration.md lists as refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gptbigcode_cpu

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migration.md"
NAMES = ("AutoModelForCausalLM", "pipeline")


def rows() -> list[tuple[str, str]]:
    """What is refused and what to write instead: the code of the first and the last column."""
    table = PAGE.read_text(encoding="utf-8").partition("### What is refused")[2].partition("\n## ")[0]
    found = [re.match(r"\| `([^`]+)`.* \| `([^`]+)`[^|]*\|$", line) for line in table.splitlines() if line.startswith("| `")]
    assert all(found)
    return [(row[1], row[2]) for row in found if row]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path]) -> Iterator[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("migration")
    checkpoint = str(make_checkpoint(directory / "model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("GPTBIGCODE_CPU_CACHE", str(directory / "cache"))
        tokenizer = gptbigcode_cpu.AutoTokenizer.from_pretrained(checkpoint)
        yield {
            **{name: getattr(gptbigcode_cpu, name) for name in NAMES},
            "checkpoint": checkpoint,
            "model": gptbigcode_cpu.AutoModelForCausalLM.from_pretrained(checkpoint, num_threads=1),
            "tokenizer": tokenizer,
            "inputs": tokenizer("def f(", return_tensors="np"),
        }


@pytest.mark.parametrize("code", [row[0] for row in rows()])
def test_what_is_listed_is_refused(code: str, names: dict[str, Any]) -> None:
    with pytest.raises(gptbigcode_cpu.GPTBigCodeError) as caught:
        eval(code, dict(names))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", sorted({row[1] for row in rows()}))
def test_what_to_write_instead_works(code: str, names: dict[str, Any]) -> None:
    if "regex" in code:
        pytest.importorskip("llguidance")
    assert eval(code, dict(names)) is not None or code.startswith("model.save_pretrained")
