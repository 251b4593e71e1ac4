"""What mkdocs.yml cannot say: the pages of the reference, and links to files that are not on the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError


def on_config(config: Any) -> Any:
    """Put every page of docs/reference into the navigation, in the groups and the order of its index."""
    for section in config.nav:
        if isinstance(section, dict) and "Reference" in section:
            section["Reference"] = ["reference/index.md", *_groups(Path(config.docs_dir, "reference"))]
    return config


def _groups(directory: Path) -> list[dict[str, list[str]]]:
    """The headings of the index, each with the pages that its list links to."""
    sections = (directory / "index.md").read_text(encoding="utf-8").split("\n## ")[1:]
    groups = {}
    for section in sections:
        title, _, text = section.partition("\n")
        items = "".join(re.findall(r"^(?:- |  ).*\n", text + "\n", re.MULTILINE))
        if pages := re.findall(r"\]\((\w+\.md)\)", items):
            groups[title] = [f"reference/{page}" for page in pages]
    listed = sorted(page for pages in groups.values() for page in pages)
    there = sorted(f"reference/{page.name}" for page in directory.glob("*.md") if page.stem != "index")
    if listed != there:
        difference = sorted(set(listed) ^ set(there)) or "a page twice"
        raise PluginError(f"docs/reference/index.md must list every page of its directory once: {difference}")
    return [{title: pages} for title, pages in groups.items()]


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Keep the text of links that lead out of docs, to files of the repository: the site does not have them."""
    docs = Path(config.docs_dir).resolve()
    here = Path(page.file.abs_src_path).parent

    def kept(link: re.Match[str]) -> str:
        return link[0] if (here / link[2]).resolve().is_relative_to(docs) else link[1]

    return re.sub(r"\[([^]]*)\]\((\.\./[^)#]*)[^)]*\)", kept, markdown)
