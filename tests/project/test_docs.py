"""Examples in README and docs run as they stand, and links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest

from gptbigcode_cpu.cli import cli

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("README", "CONTRIBUTING", "CHANGELOG", "RELEASING", "SECURITY")
PAGES = [*(ROOT / f"{name}.md" for name in NAMES), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(py|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[object]:
    """Blocks marked py or sh; those marked console show commands that take a network or minutes."""
    for page in PAGES:
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1):
            yield pytest.param(language, code, id=f"{page.name}-{number}-{language}")


@pytest.mark.parametrize(("language", "code"), [*examples()])
def test_example_runs(language: str, code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", code] if language == "py" else ["bash", "-euo", "pipefail", "-c", code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=240, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def known_options(command: click.Command) -> set[str]:
    """The options of a command, and those of its subcommands."""
    own = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    inner = command.commands.values() if isinstance(command, click.Group) else []
    return own.union({"--help"}, *map(known_options, inner))


CONSOLE_LINES = [
    (page, *line)
    for page in PAGES
    for line in re.findall(r"^\$ gptbigcode-cpu (\w+)(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


def test_documented_commands_exist() -> None:
    """The console blocks are not run; at least their commands and options must be known."""
    assert len({name for _, name, _ in CONSOLE_LINES}) >= 5, "most commands are shown somewhere"
    for page, name, rest in CONSOLE_LINES:
        assert name in cli.commands, (page.name, name)
        for option in re.findall(r"(?<= )--?[a-z][a-z0-9-]*", rest.partition(" #")[0]):
            assert option in known_options(cli.commands[name]), (page.name, name, option)


def test_every_public_name_has_a_page() -> None:
    import gptbigcode_cpu

    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs" / "reference").glob("*.md")))
    shown = re.findall(r"^::: gptbigcode_cpu\.(\w+)$", pages, re.MULTILINE)
    assert sorted(shown) == sorted(name for name in gptbigcode_cpu.__all__ if name != "__version__")
    assert "gptbigcode_cpu.__version__" in pages


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = set(re.findall(r"([\w-]+\.md)$", navigation, re.MULTILINE))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="make docs installs what builds the site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    text = (tmp_path / "reference" / "GPTBigCodeTokenizer.html").read_text(encoding="utf-8")
    assert "return_overflowing_tokens" in text
    assert "http" not in "".join(re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=.([^ >]*)", text))
    pages = {path: _Page(path) for path in tmp_path.rglob("*.html") if path.name != "404.html"}  # its links begin with /
    assert not [
        (path.name, link) for path, page in pages.items() for link in page.links if not _leads_somewhere(path, link, pages)
    ]
    assert not [
        (path.name, text) for path, page in pages.items() for text in page.paragraphs if re.search(r"\n(?:[-*]|1\.) ", text)
    ]
    index = json.loads((tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    for wanted, page in (("vs code", "faq.html"), ("offline", "offline.html"), ("memory", "models.html")):
        assert any(entry["location"].startswith(page) and wanted in entry["title"].lower() for entry in index), wanted


class _Page(HTMLParser):
    """The anchors, links and paragraphs of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.paragraphs: list[str] = []
        self._inside = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.add(given.get("id") or "")
        self.links += [link for name in ("href", "src") if (link := given.get(name))]
        if tag == "p":
            self._inside = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.paragraphs[-1] += data


def _leads_somewhere(path: Path, link: str, pages: dict[Path, _Page]) -> bool:
    parts = urlsplit(link)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if parts.scheme or parts.netloc:
        return True
    return target.exists() and (not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].anchors)


def test_the_picture_shows_what_the_commands_print() -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as directory:
        picture = Path(directory) / "demo.svg"
        command = [sys.executable, str(ROOT / "bench" / "recording.py"), str(picture)]
        subprocess.run(command, cwd=directory, env=environment, capture_output=True, check=True)
        assert picture.read_bytes() == (ROOT / "docs" / "demo.svg").read_bytes(), "python bench/recording.py docs/demo.svg"


def test_every_environment_variable_is_on_its_page() -> None:
    """Those of this package, of the Hub and of the system that the code reads or speaks of."""
    found = set()
    sources = [ROOT / "CMakeLists.txt"]
    for folder, pattern in (("gptbigcode_cpu", "*.py"), ("convert", "*.py"), ("csrc", "*.cpp")):
        sources += sorted((ROOT / folder).rglob(pattern))
    for source in sources:
        text = source.read_text(encoding="utf-8")
        found |= set(re.findall(r"(?<![A-Z_])(?:GPTBIGCODE_CPU|HF|XDG)_[A-Z_]*[A-Z]\b", text))
        found |= set(re.findall(r'environ\.get\("([A-Z_]+)"', text))
    internal = {name for name in found if name.startswith("GPTBIGCODE_CPU_X86")} | {"GPTBIGCODE_CPU_X"}
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    assert len(found - internal) >= 10
    assert not {name for name in found - internal if f"`{name}`" not in page}


def test_exit_codes_on_the_page_are_those_of_the_command() -> None:
    from gptbigcode_cpu.cli import exit_codes

    section = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8").partition("## Exit codes")[2]
    documented = {int(code) for code in re.findall(r"\| (\d+) \|", section)}
    assert documented == {0, exit_codes.UNEXPECTED, exit_codes.INTERRUPTED, 143, *(code for _, code in exit_codes._CODES)}
