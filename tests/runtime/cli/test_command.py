"""gan-run as a user runs it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]


def test_sample_draws_a_grid(command: Command, artifact: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        done = command("gan-run", "sample", artifact, "-n", 6, "--seed", 0, "--columns", 3, "-o", tmp_path / name)
        assert done.code == 0, done.err
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first.shape == (2 * 18 - 2, 3 * 18 - 2)
    np.testing.assert_array_equal(first, second)
    assert first.std() > 1


def test_info(command: Command, artifact: Path) -> None:
    shown = command("gan-run", "info", artifact)
    assert shown.code == 0
    assert "latent to image" in shown.out
    assert "passed maxabs=0.0001" in shown.out
    said = json.loads(command("gan-run", "info", artifact, "--json").out)
    assert said["interface"]["outputs"][0]["shape"] == ["batch", 1, 16, 16]
    assert said["source"]["config"]["width"] == 8


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("sample", "missing.onnx", "-o", "x.png"), 1, "missing.onnx"),
        (("sample", "{artifact}", "-o", "x.txt"), 2, ".png"),
        (("sample", "{artifact}"), 2, "--output"),
        (("sample", "{artifact}", "-o", "x.png", "-n", "0"), 2, "n is 0"),
        (("sample", "{artifact}", "-o", "x.png", "-n", "many"), 2, "many"),
        (("sample", "{artifact}", "-o", "x.png", "-n", "10000000000000000000"), 2, "n is 1000"),
        (("sample", "{artifact}", "-o", "x.png", "--seed", "-5"), 2, "seed -5"),
        (("sample", "{artifact}", "-o", "x.png", "--engine", "magic"), 2, "onnxruntime"),
        (("sample", "{artifact}", "-o", "x.png", "--device", "tpu"), 2, "auto, cpu, cuda"),
        (("info", "{here}"), 1, "is a folder"),
        (("info", "{text}"), 1, "not an ONNX model"),
        (("dance",), 2, "sample"),
    ],
)
def test_mistakes_get_one_line(
    command: Command,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("this is no model")
    places = {"artifact": artifact, "here": tmp_path, "text": tmp_path / "note.txt"}
    done = command("gan-run", *(argument.format(**places) for argument in arguments))
    assert done.code == code
    assert said in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_full_disk_leaves_nothing(artifact: Path, tmp_path: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))

    command = [sys.executable, "-m", "ganedge.runtime", "sample", artifact, "-o", tmp_path / "grid.png"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=little_room)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot write" in done.stderr
    assert not list(tmp_path.iterdir())


def test_closed_streams_are_no_reason_to_fail(artifact: Path, tmp_path: Path) -> None:
    script = f'"{sys.executable}" -m ganedge.runtime sample "{artifact}" -o "{tmp_path}/grid.png" >&- 2>&-'
    assert subprocess.run(["/bin/sh", "-c", script]).returncode == 0
    assert (tmp_path / "grid.png").is_file()


def test_the_module_runs_too(artifact: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "ganedge.runtime", "info", artifact], capture_output=True, text=True)
    assert done.returncode == 0
    assert "latent to image" in done.stdout


def test_shell_completion_is_there() -> None:
    script = Path(sys.executable).with_name("gan-run")
    done = subprocess.run(
        [script],
        env={"_GAN_RUN_COMPLETE": "complete_bash", "COMP_WORDS": "gan-run sa", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "sample"
