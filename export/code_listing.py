"""List the networks that a Python file or notebook defines. It is parsed, not executed. No torch here.

networks_in(Path("networks.py"))              # ["ResnetGenerator", "UnetGenerator", "define_G"]
refuse_code(Path("networks.py"))              # UsageError: … name what to export, networks.py:NAME; it defines …
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ganedge.runtime.errors import UsageError

FACTORY = re.compile(r"^(?!train|test|save|eval|init|print|count).*((generator|network|net|model)(_|$)|_g$)", re.I)
"""Names of functions that return networks: define_G, build_model."""
OTHERS = ("discriminator", "critic", "loss", "dataset", "patchgan")
"""Words in the names of classes that are no generators, and are listed last."""
SHOWN = 8


def refuse_code(path: Path) -> None:
    """Ask for the name of a network where a file of code was given without one.

    Raises:
        UsageError: it is a Python file or a notebook; the message lists the networks in it.
    """
    if path.suffix not in (".py", ".ipynb") or not path.is_file():
        return
    networks = networks_in(path)
    shown = f"it defines {', '.join(networks[:SHOWN])}" if networks else "it defines no class with forward()"
    what = "a notebook" if path.suffix == ".ipynb" else "a file of code"
    raise UsageError(f"{path} is {what}: name what to export, {path}:{networks[0] if networks else 'NAME'}; {shown}")


def networks_in(path: Path) -> list[str]:
    """List classes that have `forward`, or inherit from such, and functions that seem to make networks.

    >>> networks_in(Path(__file__))
    []
    """
    classes: dict[str, ast.ClassDef] = {}
    functions: list[ast.FunctionDef] = []
    for tree in syntax_trees(path):
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                functions.append(node)
    networks = [name for name in classes if not name.startswith("_") and _is_network(name, classes)]
    networks.sort(key=lambda name: _order(classes[name]))
    factories = [node.name for node in functions if FACTORY.search(node.name) or _returned(node) & set(networks)]
    return [*networks, *factories]


def training_line(path: Path) -> int | None:
    """Return the line at which importing a file would begin to train; None where it would not."""
    body = [node for tree in syntax_trees(path) for node in tree.body if not is_main_guard(node)]
    functions = training_functions(body)
    return next((node.lineno for node in body if is_training(node, functions)), None)


def training_functions(body: Sequence[ast.stmt]) -> set[str]:
    """Return the names of functions and methods in a file that compute gradients of a loss, or call one that does."""
    functions = [
        node for item in body for node in ast.walk(item) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    names, before = {"backward"}, 0
    while len(names) > before:
        before = len(names)
        names |= {node.name for node in functions if node.name != "forward" and _calls(node, names)}
    return names


def is_training(statement: ast.stmt, functions: set[str]) -> bool:
    """Does a statement at the top level of a file compute gradients, by itself or in a function that it calls?"""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    return _calls(statement, functions)


def _calls(statement: ast.stmt, names: set[str]) -> bool:
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return any(_last_name(call.func) in names for call in calls)


def is_main_guard(statement: ast.stmt) -> bool:
    """Is a statement `if __name__ == "__main__":`?"""
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def syntax_trees(path: Path) -> Iterator[ast.Module]:
    """Parse a file, or the cells of a notebook; what is no Python is left out."""
    try:
        text = path.read_text("utf-8")
        texts = [text] if path.suffix != ".ipynb" else [_code(cell) for cell in json.loads(text).get("cells", [])]
    except (OSError, ValueError, AttributeError):
        return
    for code in texts:
        with contextlib.suppress(SyntaxError, ValueError):
            yield ast.parse(code)


def _code(cell: object) -> str:
    """Return the Python code of a notebook's cell, without commands of IPython."""
    if not isinstance(cell, dict) or cell.get("cell_type") != "code":
        return ""
    source = cell.get("source", "")
    lines = ("".join(source) if isinstance(source, list) else str(source)).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def _is_network(name: str, classes: dict[str, ast.ClassDef], depth: int = 0) -> bool:
    node = classes.get(name)
    if node is None or depth > len(classes):
        return False
    if any(isinstance(item, ast.FunctionDef) and item.name == "forward" for item in node.body):
        return True
    bases = [_last_name(base) for base in node.bases]
    return "Sequential" in bases or any(_is_network(base, classes, depth + 1) for base in bases)


def _order(node: ast.ClassDef) -> int:
    """Put generators first, then other networks, then discriminators and losses."""
    name = node.name.lower()
    return 0 if "generator" in name else 2 if any(word in name for word in OTHERS) else 1


def _returned(function: ast.FunctionDef) -> set[str]:
    """Return the names of what a function calls in its return statements: `return Generator(…)`."""
    calls = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return {_last_name(call.func) for call in calls if isinstance(call, ast.Call)}


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
