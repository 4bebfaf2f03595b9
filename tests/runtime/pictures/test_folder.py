"""gan-run translate and interpolate as a user runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from ganedge.runtime.memory import parse
from ganedge.runtime.pictures import images

Command = Callable[..., Any]


@pytest.fixture
def negative(make: Callable[..., Path]) -> Path:
    return make([helper.make_node("Neg", ["x"], ["y"])], multiple=4)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_file(command: Command, negative: Path, pictures: Path, tmp_path: Path) -> None:
    done = command("gan-run", "translate", negative, pictures / "00.png", "-o", tmp_path / "new" / "o.png")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(pixels(tmp_path / "new" / "o.png"), 255 - pixels(pictures / "00.png"))
    assert "1 written" in done.err
    assert "pictures/s" in done.err
    assert done.out == ""


def test_a_folder_keeps_its_structure_names_what_is_broken_and_goes_on(
    command: Command, negative: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.jpg").write_text("no picture")
    (pictures / "notes.txt").write_text("left alone")
    (pictures / ".hidden.png").write_text("left alone")
    out = pictures / "out"
    done = command("gan-run", "translate", negative, pictures, "-o", out)
    assert done.code == 3
    assert f"cannot read {pictures / 'broken.jpg'}" in done.err
    assert "24 written, 1 could not be done" in done.err
    written = {path.relative_to(out) for path in out.rglob("*.*")}
    assert written == {path.relative_to(pictures) for path in pictures.rglob("[0-9]*.png") if out not in path.parents}
    (pictures / "broken.jpg").unlink()
    (out / "00.png").unlink()
    kept = (out / "02.png").stat().st_mtime_ns
    again = command("gan-run", "translate", negative, pictures, "-o", out, "--skip-existing")
    assert again.code == 0, again.err
    assert "1 written, 23 there already" in again.err
    assert (out / "02.png").stat().st_mtime_ns == kept


def test_patterns_and_odd_names(
    command: Command, negative: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    Path("00.png").rename("-o")
    Path("02.png").rename("with space ü.png")
    done = command("gan-run", "translate", negative, "-o", "../a", "--format", "jpg", "--", "-o", "with space ü.png")
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["-o.jpg", "with space ü.jpg"]
    done = command("gan-run", "translate", negative, "**/1*.png", "-o", "../b")
    assert done.code == 0, done.err
    assert (tmp_path / "b" / "more" / "11.png").is_file()
    assert len(list((tmp_path / "b").rglob("*.png"))) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("{here}/empty", "-o", "out"), 1, "no picture in this folder"),
        (("{here}/missing", "-o", "out"), 1, "no such file or folder"),
        (("{here}/*.gif", "-o", "out"), 1, "nothing matches"),
        (("{pictures}", "-o", "{pictures}"), 2, "would overwrite"),
        (("{pictures}", "-o", "{here}/file.txt"), 2, "give a folder"),
        (("{pictures}", "{pictures}", "-o", "out"), 2, "would both become"),
        (("{pictures}/00.png", "-o", "out.xyz"), 2, "out.xyz"),
        (("{pictures}", "-o", "out", "--format", "xyz"), 2, "picture format"),
        (("{pictures}", "-o", "out", "--memory", "lots"), 2, "'lots'"),
        (("{pictures}", "-o", "out", "--tiles", "some"), 2, "some"),
        (("{pictures}", "-o", "out", "--max-pixels", "inf"), 2, "max-pixels is inf"),
        (("{pictures}", "-o", "out", "--max-pixels", "nan"), 2, "max-pixels is nan"),
        (("{here}/missing.png", "-o", "{here}/file.txt"), 1, "no such file"),
        (("{pictures}", "-o", "out", "--overlap", "-3"), 2, "overlap is -3"),
        (("{pictures}",), 2, "--output"),
    ],
)
def test_mistakes_get_one_line(
    command: Command,
    negative: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    places = {"here": tmp_path, "pictures": pictures}
    done = command("gan-run", "translate", negative, *(argument.format(**places) for argument in arguments))
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_generator_of_the_other_kind(command: Command, artifact: Path, negative: Path, pictures: Path) -> None:
    refused = command("gan-run", "translate", artifact, pictures / "00.png", "-o", pictures / "o.png")
    assert (refused.code, "takes no picture" in refused.err) == (2, True)
    refused = command("gan-run", "interpolate", negative, 1, 2, "-o", pictures / "o.png")
    assert (refused.code, "no latents" in refused.err) == (2, True)


def test_an_interrupted_folder_says_so_and_can_go_on(
    command: Command, negative: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = images.save, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        whole(*arguments)

    monkeypatch.setattr(images, "save", interrupted)
    done = command("gan-run", "translate", negative, pictures, "-o", tmp_path / "out")
    assert done.code == 130
    assert done.err == "gan-run: interrupted\n"
    written = len(list((tmp_path / "out").rglob("*.png")))
    assert 4 <= written < 24
    assert not list((tmp_path / "out").rglob("*.part"))
    done = command("gan-run", "translate", negative, pictures, "-o", tmp_path / "out", "--skip-existing")
    assert f"{24 - written} written, {written} there already" in done.err


def test_interpolate(command: Command, artifact: Path, tmp_path: Path) -> None:
    done = command("gan-run", "interpolate", artifact, 3, 8, "--steps", 5, "-o", tmp_path / "path.png")
    assert done.code == 0, done.err
    assert pixels(tmp_path / "path.png").shape == (16, 5 * 18 - 2)


def test_amounts_of_memory() -> None:
    assert [parse(text) for text in ("1000", "2k", "500M", "1.5GB", "2GiB")] == [1000, 2000, 5e8, 1.5e9, 2**31]
