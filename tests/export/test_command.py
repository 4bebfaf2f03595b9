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
