"""Write the option tables of docs/commands.md from the commands themselves, as --help shows them.

python tests/option_tables.py
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
BEGIN, END = "<!-- options: begin -->\n", "<!-- options: end -->\n"
MODULES = {
    "gan-train": "train.__main__",
    "gan-compress": "export.gan_compress",
    "gan-export": "export.__main__",
    "gan-run": "runtime.__main__",
    "gan-bench": "benchmarks.__main__",
}


def command(name: str) -> Any:
    """The parser of one of the commands: a Click command, of whichever Click this Typer uses."""
    module = importlib.import_module(f"ganedge.{MODULES[name]}")
    app = module.build() if hasattr(module, "build") else module.app
    return typer.main.get_command(app)


def tables(name: str) -> str:
    """The tables of a command: one per subcommand, with its arguments and options."""
    top = command(name)
    if not hasattr(top, "commands"):
        return f"### {name}\n\n{_table(top.params)}"
    variants = {sub: top.commands[sub].params for sub in top.commands}
    shared = _shared(variants) if name == "gan-train" else []
    parts = [f"### gan-train, every variant\n\n{_table(shared)}"] if shared else []
    names = {parameter.name for parameter in shared}
    for sub, params in variants.items():
        is_variant = {parameter.name for parameter in params} >= names  # `report` has options of the same names.
        own = [parameter for parameter in params if not (is_variant and parameter.name in names)]
        parts.append(f"### {name} {sub}\n\n{_help(top.commands[sub])}\n\n{_table(own)}")
    return "\n".join(parts)


def _shared(variants: dict[str, list[Any]]) -> list[Any]:
    """The options that stand under the heading of the training, which every variant has alike."""
    first = next(iter(variants.values()))
    return [parameter for parameter in first if getattr(parameter, "rich_help_panel", None) == "Training"]


def _help(sub: Any) -> str:
    text = " ".join((sub.help or "").split())
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _table(params: list[Any]) -> str:
    rows = ["| option | value | default | meaning |", "|---|---|---|---|"]
    rows += [f"| {' | '.join(cells)} |" for parameter in params for cells in _rows(parameter)]
    return "\n".join(rows) + "\n"


def _rows(parameter: Any) -> Iterator[tuple[str, str, str, str]]:
    if getattr(parameter, "hidden", False) or parameter.name in ("help", "install_completion", "show_completion"):
        return
    text = _escaped(" ".join(str(getattr(parameter, "help", "") or "").split()))
    if parameter.param_type_name == "argument":
        name = parameter.metavar or str(parameter.name).upper()
        yield f"`{name}`", "", "required" if parameter.required else "", text
        return
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    value = "" if getattr(parameter, "is_flag", False) else _type(parameter.type)
    yield names, value, "required" if parameter.required else _escaped(_default(parameter)), text


def _type(kind: Any) -> str:
    if hasattr(kind, "choices"):
        return " ".join(f"`{choice}`" for choice in kind.choices if choice)
    name = kind.name.partition(" ")[0]  # "int range", for example.
    return {"int": "integer", "integer": "integer", "float": "number", "path": "path"}.get(name, "text")


def _default(parameter: Any) -> str:
    """What the help shows as default: a text where the parser's own is None."""
    shown: Any = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    value = parameter.default
    hidden = shown is False or value is None or value is False or value == () or callable(value)
    return "" if hidden or not isinstance(value, str | int | float | Path) else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def page(text: str) -> str:
    """The page with its tables as they are now."""
    before, _, rest = text.partition(BEGIN)
    parts = "\n".join(map(tables, MODULES))
    return f"{before}{BEGIN}\n{parts}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
