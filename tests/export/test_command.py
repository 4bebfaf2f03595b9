"""gan-export as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganedge.runtime.manifest import read_artifact

Command = Callable[..., Any]


def test_export(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    done = command("gan-export", tiny_run, "--format", "onnx", "--fp16", "-o", tmp_path / "deep" / "g.onnx")
    assert done.code == 0, done.err
    assert "passed psnr=45" in done.err
    manifest, _ = read_artifact(tmp_path / "deep" / "g.onnx")
    assert manifest.precision == "fp16"
    assert manifest.interface.output.shape == ("batch", 1, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere",), 1, "does not exist"),
        (("{here}",), 1, "is not a run"),
        (("{run}", "--format", "tflite"), 2, "onnx"),
        (("{run}", "-o", "{here}"), 1, "is a folder"),
        ((), 2, ""),
    ],
)
def test_mistakes_get_one_line(
    command: Command, tiny_run: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = command("gan-export", *(argument.format(run=tiny_run, here=tmp_path) for argument in arguments))
    assert done.code == code, done.err
    assert said in done.err
    assert not list(tmp_path.iterdir())
    if arguments and arguments[-1] != "{here}":
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("run", ("--weights", "a.pth"), "says nothing of a run"),
        ("run", ("--kind", "latent"), "says nothing of a run"),
        ("run", ("--range", "0,1"), "--which, --checkpoint"),
        ("artifact", ("--which", "a2b"), "says nothing of an artifact"),
        ("artifact", ("--noise", "uniform"), "takes --size"),
        ("nets.py:G", ("--which", "a2b"), "says nothing of a module"),
        ("nets.py:G", ("--kind", "image", "--noise", "uniform"), "takes pictures"),
        ("netG.pth", ("--arch", "auto", "--range", "0,1"), "weights to recognise"),
        ("netG.pth", ("--kwargs", "{}"), "a pickled module"),
        ("run", ("--level", "3"), "--format trt"),
        ("run", ("--instances", "2"), "--format triton"),
        ("run", ("--size", "64,128,256"), "--format trt"),
        ("run", ("--for", "ort"), "add --int8"),
        ("run", ("--int8", "--for", "ort", "--format", "trt"), "does not read"),
        ("run", ("--calibrate", "64"), "look at values"),
        ("run", ("--fp16", "--bf16"), "exclude each other"),
        ("run", ("--format", "trt", "--batch", "4,1"), "MIN,OPT,MAX"),
    ],
)
def test_options_without_effect_are_refused(
    command: Command, tiny_run: Path, artifact: Path, source: str, options: tuple[str, ...], said: str
) -> None:
    places = {"run": tiny_run, "artifact": artifact}
    before = set(tiny_run.rglob("*"))
    done = command("gan-export", places.get(source, source), *options)
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1
    assert said in done.err
    assert set(tiny_run.rglob("*")) == before
