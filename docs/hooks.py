"""MkDocs hooks: show the README and other pages from outside docs/ on the site, and adapt the links between them."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/CONTRIBUTING.md",
    "SECURITY.md": "project/SECURITY.md",
    "CHANGELOG.md": "project/CHANGELOG.md",
    "benchmarks/LOG.md": "project/LOG.md",
    "benchmarks/SCHEMA.md": "project/SCHEMA.md",
}
"""Where pages of the repository stand on the site; everything in docs/ keeps its place."""
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links, which are written for the repository, to where the pages stand on the site."""
    here = PurePosixPath(page.file.src_uri)
    source = next((source for source, target in PAGES.items() if target == str(here)), f"docs/{here}")
    return LINK.sub(lambda match: f"]({_moved(match[1], source, here)}", markdown)


def _moved(link: str, source: str, here: PurePosixPath) -> str:
    target = os.path.normpath(PurePosixPath(source).parent / link)
    page = PAGES.get(target) or target.removeprefix("docs/")
    return os.path.relpath(page, here.parent)
