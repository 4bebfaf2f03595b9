"""Command-line options from config dataclasses: the fields are the one source of names, defaults and help texts."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any

import typer


@cache
def docstrings(cls: type) -> dict[str, str]:
    """The line under each field of a dataclass, of its bases too, by field name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "__dataclass_fields__" not in vars(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node, below in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[node.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def parameters(cls: type, panel: str) -> list[inspect.Parameter]:
    """One keyword parameter per field, all optional for the parser: None means "not given".

    That tells a default from a choice, which a resumed run needs; the help shows the field's default all the same.
    """
    hints = typing.get_type_hints(cls)
    return [_parameter(item, hints[item.name], docstrings(cls)[item.name], panel) for item in fields(cls)]


def _parameter(item: Field[Any], hint: Any, text: str, panel: str) -> inspect.Parameter:
    flag = f"--{item.name.replace('_', '-')}"
    name = f"{flag}/--no-{flag[2:]}" if hint is bool else flag  # Presets and --config may turn it on.
    needed = item.default is MISSING
    empty = item.default is None or item.default is False or item.default == ""  # 0 equals False, and is shown.
    shown = False if needed or empty else str(item.default)
    option = typer.Option(
        ... if needed else None,
        name,
        help=text,
        show_default=shown,
        rich_help_panel=panel,
    )
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    annotation = hint if needed or optional else hint | None
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def with_signature(function: Callable[..., None], wanted: list[inspect.Parameter]) -> Callable[..., None]:
    """A function of `**options` that shows Typer these parameters instead, and is handed only what was given."""

    def command(**options: Any) -> None:
        function(**{name: value for name, value in options.items() if value is not None})

    command.__signature__ = inspect.Signature(wanted)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in wanted}
    return command


def split(cls: type, options: dict[str, Any]) -> dict[str, Any]:
    """Take out of `options` those that are fields of `cls`."""
    return {item.name: options.pop(item.name) for item in fields(cls) if item.name in options}
