"""What mkdocs.yml cannot say: the pages of the reference, and links to files that are not on the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Put every page of docs/reference into the navigation, so that a new class needs a page and nothing else."""
    pages = sorted(Path(config.docs_dir, "reference").glob("*.md"), key=lambda page: (page.stem != "index", page.stem.lower()))
    for section in config.nav:
        if isinstance(section, dict) and "Reference" in section:
            section["Reference"] = [f"reference/{page.name}" for page in pages]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Keep the text of links that lead out of docs, to files of the repository: the site does not have them."""
    return re.sub(r"\[([^]]*)\]\(\.\./[^)]*\)", r"\1", markdown)
