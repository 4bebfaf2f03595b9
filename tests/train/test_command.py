"""gan-train as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganedge.models import VARIANTS
from ganedge.train import options
from ganedge.train.loop import Settings

Command = Callable[..., Any]
TINY = ("--size", 16, "--width", 8, "--latent", 6, "--batch", 8, "--steps", 3, "--device", "cpu")


def test_train_from_a_folder_and_resume(command: Command, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").write_text("x")
    out = tmp_path / "run"
    done = command("gan-train", "dcgan", "--data", pictures, "--out", out, *TINY)
    assert done.code == 0, done.err
    assert "broken.png" in done.err
    assert "step 3/3" in done.err
    assert (out / "generator.safetensors").exists()
    again = command("gan-train", "dcgan", "--data", pictures, "--out", out, "--steps", 5, "--resume", "--device", "cpu")
    assert again.code == 0, again.err
    assert "step 5/5" in again.err


def test_list_and_help(command: Command) -> None:
    listed = command("gan-train", "--list")
    assert [line.split()[0] for line in listed.out.splitlines()] == [variant.name for variant in VARIANTS]
    for variant in VARIANTS:
        shown = command("gan-train", variant.name, "--help")
        assert shown.code == 0
        for name in options.docstrings(variant.config_class):
            assert f"--{name.replace('_', '-')}" in shown.out


def test_every_field_has_its_line() -> None:
    for cls in (Settings, *(variant.config_class for variant in VARIANTS)):
        assert set(options.docstrings(cls)) == set(cls.__dataclass_fields__)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("dcgam", "--data", "digits"), 2, "dcgan"),
        (("dcgan", "--out", "x"), 2, "--data"),
        (("dcgan", "--data", "digts", "--out", "x"), 2, "digits, mnist"),
        (("dcgan", "--data", ".", "--out", "x"), 1, "no pictures"),
        (("dcgan", "--data", "digits", "--out", "x", "--size", "33"), 2, "size is 33: give a power of two"),
        (("dcgan", "--data", "digits", "--out", "x", "--lr", "fast"), 2, "fast"),
        (("dcgan", "--data", "digits", "--out", "x", "--steps", "0"), 2, "steps is 0"),
        (("dcgan", "--data", "digits", "--out", "note.txt"), 1, "note.txt"),
    ],
)
def test_mistakes_get_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("x")
    done = command("gan-train", *arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.count("\n") == 1, done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["note.txt"]
