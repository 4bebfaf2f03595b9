"""Command-line options from dataclasses: the fields are the one source of names, defaults, checks and help texts.

    @dataclass(frozen=True)
    class ExportSpec:
        calibrate: Path | int | None = field(default=None, metadata=option(panel="Proof"))
        '''A folder of pictures, or a number of inputs, to calibrate with.'''

    def export(source: str, spec: ExportSpec) -> None: ...

    app.command()(options.command(export, options.argument("source", str, "A run, an .onnx file, …")))

The string under a field is its help text. What the parser cannot check, `__post_init__` does: it accepts what Python
callers pass as well as the text that the command line gives, and raises UsageError naming the option.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ganedge.runtime.errors import UsageError

KEY = "option"
"""Where a field's metadata holds its `Option`."""


@dataclass(frozen=True)
class Option:
    """How a field appears on the command line, where that does not follow from its name and type."""

    flag: str | None = None
    """Long name, `--for`; the field's name by default."""
    short: str | None = None
    """Short name, `-o`."""
    panel: str | None = None
    """Heading of the help that it stands under; the one given to `parameters` by default."""
    type: Any = None
    """What the parser converts to; by the field's type otherwise, and text where that is a union of several."""
    switches: Mapping[str, str] = field(default_factory=dict)
    """One switch for each value instead of an option, with its help text: {"fp16": "FP16 weights …"} gives `--fp16`."""
    minimum: float | None = None
    """Smallest number accepted."""
    maximum: float | None = None
    """Largest number accepted."""
    default: str = ""
    """What the help shows as default where the field's own default is None."""
    hidden: bool = False
    """Python callers only: no option."""


def option(**settings: Any) -> dict[str, Option]:
    """Metadata of a dataclass field: `field(default=None, metadata=option(flag="--for"))`."""
    return {KEY: Option(**settings)}


@cache
def docstrings(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass and its bases, by field name."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "__dataclass_fields__" not in vars(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node, below in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                texts[node.target.id] = inspect.cleandoc(str(below.value.value))
    return texts


def command(function: Callable[..., None], *arguments: inspect.Parameter, texts: bool = True) -> Callable[..., None]:
    """Make a function a command, whose parameters annotated with a dataclass are groups of options.

    Args:
        function: Gets its positional arguments by name, and an instance of each dataclass made from what was typed.
        *arguments: From `argument`.
        texts: Read the help texts. They stand in the source, which takes milliseconds that only --help needs.
    """
    hints = typing.get_type_hints(function)
    groups: dict[str, type] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}  # type: ignore[misc]

    def run(**typed: Any) -> None:
        made = {name: cls(**collect(cls, typed)) for name, cls in groups.items()}
        function(**typed, **made)

    run.__doc__ = function.__doc__
    listed = [parameter for cls in groups.values() for parameter in parameters(cls, texts=texts)]
    return with_signature(run, [*arguments, *listed])


def values(instance: Any) -> dict[str, Any]:
    """The fields of a dataclass that are options, by name."""
    return {item.name: getattr(instance, item.name) for item in fields(instance) if not _option(item).hidden}


def from_text(instance: Any, **readers: Callable[[str], Any]) -> None:
    """In `__post_init__`: replace the text that the command line gives for a field by what `readers` make of it."""
    for name, reader in readers.items():
        if isinstance(value := getattr(instance, name), str):
            object.__setattr__(instance, name, reader(value))


def parameters(
    cls: type, panel: str | None = None, *, negatable: bool = False, texts: bool = True
) -> list[inspect.Parameter]:
    """The keyword parameters that Typer needs for the fields of a dataclass, in their order.

    All are optional for the parser: None means "not given", which tells a default from a choice. The help shows the
    field's default all the same.

    Args:
        cls: A dataclass whose fields each have a docstring.
        panel: Heading of the help for fields that name none.
        negatable: Give every switch its `--no-` form, where presets or files may turn it on.
        texts: Read the help texts.
    """
    lines = docstrings(cls) if texts else {}
    hints = typing.get_type_hints(cls)
    made: list[inspect.Parameter] = []
    for item in fields(cls):
        spec = _option(item)
        if not spec.hidden:
            made += _parameters(item, hints[item.name], lines[item.name] if texts else "", spec, panel, negatable)
    return made


def argument(
    name: str, hint: Any, text: str, *, required: bool = True, metavar: str | None = None
) -> inspect.Parameter:
    """A positional argument: `argument("source", str, "A run, an .onnx file, …")`."""
    import typer

    default = typer.Argument(... if required else None, help=text, show_default=False, metavar=metavar)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def with_signature(function: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """A function of `**options` that shows Typer these parameters instead, and gets only what was given."""

    def command(**options: Any) -> None:
        function(**{name: value for name, value in options.items() if value is not None})

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = function.__doc__
    return command


def collect(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of a dataclass out of what was given on the command line.

    Args:
        cls: The dataclass that `parameters` was called with.
        given: By parameter name; what belongs to `cls` is removed from it.

    Returns:
        Keyword arguments of `cls`: only the fields that were given.

    Raises:
        UsageError: two switches of one field were given.
    """
    values: dict[str, Any] = {}
    for item in fields(cls):
        spec = _option(item)
        pressed = [name for name in spec.switches if given.pop(_parameter_name(name), None)]
        if len(pressed) > 1:
            raise UsageError(f"--{' and --'.join(pressed)} exclude each other: choose one")
        if pressed:
            values[item.name] = pressed[0]
        elif not spec.switches and item.name in given:
            values[item.name] = given.pop(item.name)
    return values


def flag(cls: type, name: str, value: Any = None) -> str:
    """How a field is typed, for messages: `flag(ExportSpec, "engine")` is `--for`, and of a switch `--fp16`."""
    item = next(item for item in fields(cls) if item.name == name)
    spec = _option(item)
    return f"--{value}" if spec.switches and value is not None else _flag(item, spec)


def _parameters(
    item: Field[Any], hint: Any, text: str, spec: Option, panel: str | None, negatable: bool
) -> list[inspect.Parameter]:
    import typer

    heading = spec.panel or panel
    if spec.switches:
        return [
            _parameter(_parameter_name(name), bool, typer.Option(None, f"--{name}", help=line, rich_help_panel=heading))
            for name, line in spec.switches.items()
        ]
    names = [_flag(item, spec), *([spec.short] if spec.short else [])]
    parsed = _parsed(hint, spec)
    if parsed is bool and negatable:
        names[0] = f"{names[0]}/--no-{names[0][2:]}"
    needed = item.default is MISSING and item.default_factory is MISSING
    made = typer.Option(
        ... if needed else None,
        *names,
        help=text,
        show_default=_shown_default(item, spec) or False,
        min=spec.minimum,
        max=spec.maximum,
        rich_help_panel=heading,
    )
    return [_parameter(item.name, parsed, made, needed)]


def _parameter(name: str, parsed: Any, default: Any, needed: bool = False) -> inspect.Parameter:
    annotation = parsed if needed else parsed | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(item: Field[Any]) -> Option:
    spec = item.metadata.get(KEY, Option())
    assert isinstance(spec, Option)
    return spec


def _flag(item: Field[Any], spec: Option) -> str:
    return spec.flag or f"--{item.name.replace('_', '-')}"


def _parameter_name(switch: str) -> str:
    return switch.replace("-", "_")


def _parsed(hint: Any, spec: Option) -> Any:
    """What the parser converts to: the field's type without None, and text where several remain or none is known."""
    if spec.type is not None:
        return spec.type
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [part for part in parts if part is not type(None)]
    only = kinds[0] if len(kinds) == 1 else str
    known = only in (bool, int, float, str, Path) or typing.get_origin(only) in (Literal, list)
    return only if known else str


def _shown_default(item: Field[Any], spec: Option) -> str:
    if spec.default or item.default is MISSING:
        return spec.default
    empty = item.default is None or item.default is False or item.default in ("", ())  # 0 equals False, but is shown.
    if empty:
        return ""
    return ",".join(map(_plain_number, item.default)) if isinstance(item.default, tuple) else str(item.default)


def _plain_number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
