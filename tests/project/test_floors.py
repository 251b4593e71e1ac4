"""A folder is a floor: no module imports one of a higher folder, and no modules import each other in a circle.

Imports inside functions and for type checkers count as well. A public name that is imported from the package itself counts as
an import of the module that has it.
"""

from __future__ import annotations

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gptbigcode_cpu

ROOT = Path(__file__).parent.parent.parent
PACKAGE = "gptbigcode_cpu"
(CONTRACT,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
# From the lowest one up; names in one group stand beside each other.
FLOORS = [group.split(" : ") for group in reversed(CONTRACT["layers"])]
FLOOR_OF = {name: number for number, group in enumerate(FLOORS) for name in group}

Graph = dict[str, set[str]]


def module_files(root: Path) -> dict[str, Path]:
    """The modules of the package, `convert` among them, by their names."""
    files = {}
    for directory, prefix in ((root / PACKAGE, PACKAGE), (root / "convert", f"{PACKAGE}.convert")):
        for path in directory.rglob("*.py"):
            parts = path.relative_to(directory).with_suffix("").parts
            files[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    return files


def imports(name: str, path: Path, modules: dict[str, Path], public: dict[str, str]) -> set[str]:
    """The modules that a module imports anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
            origin = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])] if node.level else [])
            origin = origin or str(node.module)
            for alias in node.names:
                if origin == PACKAGE and alias.name in public:
                    found.add(f"{PACKAGE}.{public[alias.name]}")
                else:
                    found.add(f"{origin}.{alias.name}" if f"{origin}.{alias.name}" in modules else origin)
    return {module for module in found if module in modules and module not in (name, PACKAGE)}


def import_graph(root: Path, public: dict[str, str]) -> Graph:
    """Module -> the modules that it imports. The package itself is left out: it loads its names when they are used."""
    modules = module_files(root)
    return {name: imports(name, path, modules, public) for name, path in modules.items() if name != PACKAGE}


def upward_imports(graph: Graph) -> list[str]:
    found = []
    for module, others in graph.items():
        for other in others:
            folder, other_folder = module.split(".")[1], other.split(".")[1]
            if folder != other_folder and FLOOR_OF[other_folder] >= FLOOR_OF[folder]:
                found.append(f"{module} -> {other}")
    return sorted(found)


def circle(graph: Graph) -> list[str]:
    """The modules of one circle, in the order of their imports; nothing if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


PUBLIC = {name: module.removeprefix(f"{PACKAGE}.") for name, module in gptbigcode_cpu._MODULE_OF.items()}


def test_every_folder_is_a_floor() -> None:
    folders = {name.split(".")[1] for name in module_files(ROOT) if name != PACKAGE}
    assert folders == FLOOR_OF.keys()


def test_no_import_goes_up() -> None:
    assert upward_imports(import_graph(ROOT, PUBLIC)) == []


def test_no_circle() -> None:
    assert circle(import_graph(ROOT, PUBLIC)) == []


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A small tree in order: `config.read` imports `hub.paths`, two floors further down."""
    files = {
        "gptbigcode_cpu/__init__.py": "from gptbigcode_cpu.config.read import Config\n",
        "gptbigcode_cpu/cli/__init__.py": "",
        "gptbigcode_cpu/utils/__init__.py": "",
        "gptbigcode_cpu/config/__init__.py": "",
        "gptbigcode_cpu/config/read.py": "def f():\n    from gptbigcode_cpu.hub import paths\n",
        "gptbigcode_cpu/hub/__init__.py": "",
        "gptbigcode_cpu/hub/paths.py": "",
        "convert/__init__.py": "from gptbigcode_cpu.convert.spec import plan\n",
        "convert/spec.py": "from gptbigcode_cpu import config, Config\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    graph = import_graph(tmp_path, {"Config": "config.read"})
    assert (upward_imports(graph), circle(graph)) == ([], [])
    assert graph["gptbigcode_cpu.convert.spec"] == {"gptbigcode_cpu.config", "gptbigcode_cpu.config.read"}
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "from gptbigcode_cpu.config import read",
        "from gptbigcode_cpu.config.read import name",
        "from ..config import read",
        "from ..config.read import name",
        "def f():\n    from gptbigcode_cpu.config.read import name",
        "if TYPE_CHECKING:\n    import gptbigcode_cpu.config.read",
        "def f():\n    from gptbigcode_cpu import Config",
    ],
)
def test_every_form_of_an_upward_import_is_seen(planted: Path, text: str) -> None:
    (planted / "gptbigcode_cpu/hub/paths.py").write_text(f"{text}\n")
    graph = import_graph(planted, {"Config": "config.read"})
    assert upward_imports(graph) == ["gptbigcode_cpu.hub.paths -> gptbigcode_cpu.config.read"]
    assert circle(graph)[0] == circle(graph)[-1]
    assert {*circle(graph)} == {"gptbigcode_cpu.hub.paths", "gptbigcode_cpu.config.read"}


def test_a_circle_within_a_folder_is_seen(planted: Path) -> None:
    (planted / "convert/spec.py").write_text("def f():\n    from gptbigcode_cpu.convert import convert\n")
    graph = import_graph(planted, {})
    assert upward_imports(graph) == []
    assert {*circle(graph)} == {"gptbigcode_cpu.convert", "gptbigcode_cpu.convert.spec"}


def test_folders_side_by_side_do_not_import_each_other(planted: Path) -> None:
    (planted / "gptbigcode_cpu/cli/__init__.py").write_text("import gptbigcode_cpu.utils\n")
    assert upward_imports(import_graph(planted, {})) == ["gptbigcode_cpu.cli -> gptbigcode_cpu.utils"]
