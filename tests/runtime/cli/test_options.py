"""Options from dataclasses: what Typer sees, what a command gets, and what the documents show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from ganedge.runtime.cli import options
from ganedge.runtime.cli.options import option
from ganedge.runtime.errors import UsageError


@dataclass(frozen=True)
class Spec:
    """Something to configure."""

    precision: Literal["fp32", "fp16", "int8"] | None = field(
        default=None, metadata=option(switches={"fp16": "Half.", "int8": "Bytes."})
    )
    """The arithmetic."""
    engine: str | None = field(default=None, metadata=option(flag="--for"))
    """The engine."""
    calibrate: Path | int | None = field(default=None, metadata=option(panel="Proof"))
    """A folder or a number."""
    range: tuple[float, float] = (-1.0, 1.0)
    """Black and white."""
    trust: bool = False
    """Read anything."""
    level: int = field(default=3, metadata=option(short="-l", minimum=0, maximum=5))
    """How hard to try."""


def run(*arguments: str) -> tuple[dict[str, Any], Any]:
    """What the command got, and what the runner saw."""
    received: dict[str, Any] = {}
    app = typer.Typer()
    app.command()(options.with_signature(lambda **given: received.update(given), options.parameters(Spec)))
    return received, CliRunner().invoke(app, list(arguments))


def test_a_command_gets_what_was_typed_and_nothing_else() -> None:
    assert run()[0] == {}
    given, _ = run("--for", "openvino", "--calibrate", "128", "--int8", "--trust", "-l", "5")
    assert options.collect(Spec, given) == {
        "precision": "int8",
        "engine": "openvino",
        "calibrate": "128",
        "trust": True,
        "level": 5,
    }
    assert given == {}


def test_other_options_are_left() -> None:
    given = {"engine": "ncnn", "output": "x"}
    assert options.collect(Spec, given) == {"engine": "ncnn"}
    assert given == {"output": "x"}


def test_switches_of_one_field_exclude_each_other() -> None:
    given, _ = run("--fp16", "--int8")
    with pytest.raises(UsageError, match="--fp16 and --int8 exclude each other"):
        options.collect(Spec, given)


def test_limits_are_checked_by_the_parser() -> None:
    assert run("--level", "6")[1].exit_code == 2


def test_a_message_names_what_was_typed() -> None:
    assert options.flag(Spec, "engine") == "--for"
    assert options.flag(Spec, "precision", "int8") == "--int8"


@dataclass(frozen=True)
class Amounts:
    """Amounts that the command line gives as text."""

    memory: int | None = field(default=None, metadata=option(type=str))
    """Memory."""
    depth: int = field(default=8, metadata=option(hidden=True))
    """Python callers only."""

    def __post_init__(self) -> None:
        options.from_text(self, memory=lambda text: int(text) * 1000)


def test_a_function_becomes_a_command_with_an_instance_of_each_dataclass() -> None:
    received: list[Any] = []

    def work(source: Path, spec: Spec, amounts: Amounts) -> None:
        received.extend((source, spec, amounts))

    work.__annotations__ = {"source": Path, "spec": Spec, "amounts": Amounts}
    for texts in (True, False):
        app = typer.Typer()
        app.command()(options.command(work, options.argument("source", Path, "A file."), texts=texts))
        assert CliRunner().invoke(app, ["a.onnx", "--int8", "--memory", "5"]).exit_code == 0
        assert received == [Path("a.onnx"), Spec(precision="int8"), Amounts(5000)]
        received.clear()
    assert options.values(Amounts(7)) == {"memory": 7}
