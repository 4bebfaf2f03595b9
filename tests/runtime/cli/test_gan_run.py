"""gan-run's options: one source of defaults, only the named command is built, and what each command ends with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from ganedge.runtime.__main__ import MODULES, build
from ganedge.runtime.engines import EngineOptions
from ganedge.runtime.generator import Generator, load
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.pictures.translation import Options
from ganedge.runtime.serving.limits import Limits

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("cls", "function"), [(EngineOptions, load), (Options, Generator.translate), (Options, Generator.translate_many)]
)
def test_python_and_the_command_line_have_the_same_defaults(cls: type, function: Callable[..., Any]) -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    for item in fields(cls):
        assert item.default is not MISSING
        if item.name != "tune":  # A command measures once by itself; a call from Python only where it is asked to.
            assert defaults[item.name] == item.default, item.name


@pytest.mark.parametrize("name", MODULES)
def test_only_the_named_command_is_built_and_it_has_the_same_options(name: str) -> None:
    everything: Any = typer.main.get_command(build())
    alone: Any = typer.main.get_command(build([name]))
    assert list(everything.commands) == list(MODULES)
    assert list(alone.commands) == [name]
    names = [[parameter.opts for parameter in app.commands[name].params] for app in (everything, alone)]
    assert names[0] == names[1]
    texts = [getattr(parameter, "help", None) for parameter in everything.commands[name].params]
    assert all(texts), "each option and argument has a help text"


def test_help_of_one_command_shows_the_texts(command: Command) -> None:
    done = command("gan-run", "serve", "--help")
    assert done.code == 0
    assert "further requests get 429" in " ".join(done.out.replace("│", " ").split())


def test_amounts_are_read_once_for_every_caller() -> None:
    text: Any = "500M"
    millions: Any = "4.2"
    assert Options(memory=text, max_pixels=millions) == Options(memory=500_000_000, max_pixels=4_200_000)
    assert Limits(max_body=text, max_pixels=millions).max_body == 500_000_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "x.onnx", "-o", "x.png", "--engine", "magic"), "unknown engine 'magic'"),
        (("sample", "x.onnx", "-o", "x.png", "--threads", "0"), "threads is 0"),
        (("tune", "x.onnx", "--threads", "-1"), "threads is -1"),
        (("serve", "x.onnx", "--max-items", "0"), "max-items is 0"),
        (("serve", "x.onnx", "--wait", "nan"), "wait is nan"),
    ],
)
def test_options_are_checked_before_the_file_is_read(
    command: Command, arguments: tuple[str, ...], message: str
) -> None:
    done = command("gan-run", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_an_alias_of_an_engine(command: Command, artifact: Path, tmp_path: Path) -> None:
    done = command("gan-run", "sample", artifact, "-n", 1, "-o", tmp_path / "x.png", "--engine", "ort")
    assert done.code == 0, done.err
    assert "drawn with onnxruntime" in done.err


def test_info_and_doctor_name_the_next_command(command: Command, artifact: Path) -> None:
    assert command("gan-run", "info", artifact).err == f"next: gan-run sample {artifact} -o grid.png\n"
    assert command("gan-run", "info", artifact, "--json").err == ""
    assert "ready to run artifacts with onnxruntime" in command("gan-run", "doctor").err


def test_verify_ends_with_a_verdict_and_a_remedy(command: Command, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(artifact.read_bytes())
    inputs = real_inputs(read_artifact(path)[0].interface)
    with load(path) as generator:
        output = generator.run(*inputs)
    np.savez(tmp_path / "g.onnx.proof.npz", input0=inputs[0], output=output)
    assert "verified: this machine gives the pictures of the export" in command("gan-run", "verify", path).err
    np.savez(tmp_path / "g.onnx.proof.npz", input0=inputs[0], output=output + 0.01)
    assert "other pictures than at the export" in command("gan-run", "verify", path).err
