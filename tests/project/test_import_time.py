"""Importing the package must cost next to nothing: it is done by shell completion and by editors."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "tqdm", "click", "requests", "httpx"}


@pytest.mark.parametrize(
    ("statement", "most_own", "most_others"),
    [
        ("import gptbigcode_cpu", 1, 4),  # with what finds the modules of an editable installation
        # In CPU time this was a third of what numpy takes, with 68 modules of its own and 27 that numpy does not need.
        ("from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, pipeline", 74, 36),
    ],
)
def test_import_is_light(statement: str, most_own: int, most_others: int) -> None:
    """Modules are counted, since a time depends on what else the machine does."""
    code = f"import sys, numpy, numpy.typing\nbefore = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = set(run.stdout.split())
    own = {name for name in modules if name.partition(".")[0] == "gptbigcode_cpu"}
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert len(own) <= most_own
    assert len(modules - own) <= most_others


GENERATE = """
import sys
from gptbigcode_cpu.cli import run
assert run(["generate", "--max-new-tokens", "1", "--json", "def add(a, b):"]) == 0
print(*sys.modules, file=sys.stderr)
"""


def test_the_command_loads_only_what_it_uses() -> None:
    """From exec to the first token of a small model, most of the time is imports."""
    run = subprocess.run([sys.executable, "-c", GENERATE], check=True, capture_output=True, text=True)
    modules = {*run.stderr.splitlines()[-1].split()}
    # Of other commands, of downloads and of conversions.
    unused = {"importlib.metadata", "statistics", "hashlib", "secrets", "zipfile", "email", "numpy.random", "numpy.testing"}
    assert not modules & ((HEAVY | unused) - {"click", "tokenizers"})
    own = {name for name in modules if name.startswith("gptbigcode_cpu")}
    assert not own & {f"gptbigcode_cpu.{name}" for name in ("convert", "pipelines")}
    assert len(own) <= 118
    assert len(modules - own) <= 260  # of which numpy, click and tokenizers are 200


def test_every_public_name_exists() -> None:
    import gptbigcode_cpu

    for name in gptbigcode_cpu.__all__:
        assert getattr(gptbigcode_cpu, name) is not None
    assert dir(gptbigcode_cpu) == sorted(gptbigcode_cpu.__all__)
    with pytest.raises(AttributeError, match="no attribute 'AutoModelForMaskedLM'"):
        _ = gptbigcode_cpu.AutoModelForMaskedLM


@pytest.mark.parametrize("first", ["from gptbigcode_cpu import *", "import gptbigcode_cpu.cli.generate, {modules}"])
def test_no_module_takes_the_place_of_a_public_name(first: str) -> None:
    """An imported submodule becomes an attribute of the package, whatever was there or would have been made there."""
    import gptbigcode_cpu

    modules = ", ".join(f"gptbigcode_cpu.{module}" for module in sorted({*gptbigcode_cpu._MODULE_OF.values()}))
    code = f"{first.format(modules=modules)}\nfrom gptbigcode_cpu import pipeline\nassert pipeline.__name__ == 'pipeline'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lazy_names_are_those_declared_for_type_checkers() -> None:
    import gptbigcode_cpu

    tree = ast.parse(Path(str(gptbigcode_cpu.__file__)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.orelse if isinstance(node, ast.ImportFrom)]
    declared = {name.name: str(node.module).removeprefix("gptbigcode_cpu.") for node in imports for name in node.names}
    assert declared == gptbigcode_cpu._MODULE_OF
    # Without `as` they would be private to the package, for mypy --strict and pyright.
    assert all(name.asname == name.name for node in imports for name in node.names)
