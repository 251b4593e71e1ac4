"""Puts every page of docs/reference into the navigation, so that a new class needs a page and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Fill the empty section of the navigation."""
    pages = sorted(Path(config.docs_dir, "reference").glob("*.md"), key=lambda page: (page.stem != "index", page.stem.lower()))
    for section in config.nav:
        if isinstance(section, dict) and "Reference" in section:
            section["Reference"] = [f"reference/{page.name}" for page in pages]
    return config
