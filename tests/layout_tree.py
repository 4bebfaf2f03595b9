"""Write the annotated file tree of docs/layout.md: each file with the first line of its docstring.

python tests/layout_tree.py
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "layout.md"
FOLDERS = ("models", "train", "export", "runtime", "benchmarks")
BEGIN, END = "<!-- tree: begin -->\n", "<!-- tree: end -->\n"


def tree() -> str:
    """The tree as a Markdown code block; folders come before the files beside them."""
    lines = [line for folder in FOLDERS for line in _lines(ROOT / folder, 0)]
    return "```text\n" + "\n".join(lines) + "\n```\n"


def _lines(folder: Path, depth: int) -> Iterator[str]:
    yield _line(f"{folder.name}/", folder / "__init__.py", depth)
    for inner in sorted(path for path in folder.iterdir() if (path / "__init__.py").is_file()):
        yield from _lines(inner, depth + 1)
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield _line(file.name, file, depth + 1)


def _line(name: str, file: Path, depth: int) -> str:
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    summary = text.partition("\n")[0].rstrip(".")
    return f"{'  ' * depth + name:<26}  {summary}".rstrip()


def page(text: str) -> str:
    """The page with its tree as it is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + tree() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
