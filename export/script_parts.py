"""Select the statements of a script or notebook that one name needs. It is parsed, not executed. No torch here.

part = needed_part(Path("train.py"), "Generator")     # without the loop that trains, the data set, the optimisers
exec(part.code, vars(module))

Tutorials and notebooks define a network in the file that trains it. Importing such a file would train again; the class
alone needs a few of its statements: imports, constants, the arguments that it reads.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

from ganedge.export.code_listing import is_main_guard, is_training, syntax_trees, training_functions


@dataclass(frozen=True)
class ScriptPart:
    """Statements of a script, compiled."""

    code: CodeType
    count: int
    """Top-level statements among them."""


def needed_part(path: Path, name: str) -> ScriptPart | None:
    """Return the statements that define a name, and those which they need, in the order of the file.

    A statement is needed where it binds a name that another needed one reads, or changes it (`parser.add_argument`,
    `opt.size = 64`). Loops that train never are. Statements under `if __name__ == "__main__":` are chosen like others.

    Args:
        path: A Python file or a notebook, whose cells are read as one file.
        name: A class, a function or an instance that it defines.

    Returns:
        None where the file does not define the name.
    """
    body = _flattened(statement for tree in syntax_trees(path) for statement in tree.body)
    training = training_functions(body)
    body = [statement for statement in body if not is_training(statement, training)]
    if not any(name in _bound(statement) for statement in body):
        return None
    imported = {name for node in body if isinstance(node, ast.Import | ast.ImportFrom) for name in _bound(node)}
    needed, chosen, before = {name}, set[int](), -1
    while len(chosen) > before:
        before = len(chosen)
        for index, statement in enumerate(body):
            if index not in chosen and _is_needed(statement, needed, imported):
                chosen.add(index)
                needed |= _read(statement)
    selected = [body[index] for index in sorted(chosen)]
    return ScriptPart(compile(ast.Module(selected, []), str(path), "exec"), len(selected))


def _flattened(statements: Iterable[ast.stmt]) -> list[ast.stmt]:
    """Put the statements of `if __name__ == "__main__":` in its place."""
    flat: list[ast.stmt] = []
    for statement in statements:
        flat.extend(statement.body if is_main_guard(statement) else [statement])  # type: ignore[attr-defined]
    return flat


def _is_needed(statement: ast.stmt, needed: set[str], imported: set[str]) -> bool:
    """Does a statement bind or change a name that is needed, or change what later imports find?"""
    if isinstance(statement, ast.ImportFrom) and (statement.module == "__future__" or statement.names[0].name == "*"):
        return True
    if "sys" in _bound(statement) or ast.unparse(statement).startswith("sys.path."):
        return True
    return bool(_bound(statement) & needed or (_changed(statement) - imported) & needed)


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds at the top level of its file."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names: set[str] = set()
    for node in _outside_functions(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(item.asname or item.name).partition(".")[0] for item in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def _outside_functions(statement: ast.stmt) -> list[ast.AST]:
    """List the nodes of a statement, without those inside functions and classes that it defines."""
    nodes: list[ast.AST] = []
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return nodes


def _changed(statement: ast.stmt) -> set[str]:
    """Return the names whose objects a statement changes: `name.method(…)`, `name.field = …`, `name[key] = …`."""
    changed: set[str] = set()
    for node in _outside_functions(statement):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            changed.add(_root(node.value.func))
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed.add(_root(node))
    return changed - {""}


def _root(node: ast.expr) -> str:
    """Return the name at the start of `name.attribute[key].method`; empty where there is none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
        if isinstance(node, ast.Name):
            return node.id
    return ""


def _read(statement: ast.stmt) -> set[str]:
    """Return the names of its file that a statement reads, inside its functions and classes too."""
    names: set[str] = set()
    waiting = [symtable.symtable(ast.unparse(statement), "part", "exec")]
    while waiting:
        table = waiting.pop()
        top = table.get_type() == "module"
        names |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (top or symbol.is_global())
        }
        waiting.extend(table.get_children())
    return names
