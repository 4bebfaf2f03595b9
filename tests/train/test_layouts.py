"""Layouts: pairs in the folders of public data sets, halves of one file, and what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ganedge.models.variant import Wants
from ganedge.runtime.errors import UsageError
from ganedge.train import layouts
from ganedge.train.data import open_data


def write(folder: Path, count: int, size: tuple[int, int] = (20, 20)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", size).save(folder / f"{index}.png")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("A", "B"),
        ("trainA", "trainB"),
        ("train_A", "train_B"),
        ("train/A", "train/B"),
        ("images", "labels"),
        ("Images", "Labels"),
        ("images/train", "labels/train"),
        ("train/images", "train/masks"),
        ("input", "target"),
        ("train_input", "train_target"),
        ("lr", "hr"),
    ],
)
def test_pairs_of_public_layouts(tmp_path: Path, first: str, second: str) -> None:
    write(tmp_path / first, 3)
    write(tmp_path / second, 3)
    layout = layouts.pairs(tmp_path, "x", reverse=False)
    (group,) = layout.groups
    assert group.keys == ("input", "target")
    assert [path.parent for path in group.items[0]] == [tmp_path / first, tmp_path / second]
    assert layout.description == f"3 pairs of the same name in {first} and {second}"
    assert open_data(str(tmp_path), Wants("pairs", 16, 3)).layout == layout.description


def test_halves_are_pictures_directly_in_the_folder_and_about_twice_as_wide_as_high(tmp_path: Path) -> None:
    write(tmp_path / "wide", 3, (40, 20))
    write(tmp_path / "wide" / "deeper", 2, (40, 20))
    layout = layouts.pairs(tmp_path / "wide", "x", reverse=False)
    assert len(layout.groups[0].items) == 3
    assert "two pictures side by side" in layout.description
    write(tmp_path / "square", 3, (40, 40))
    with pytest.raises(UsageError, match=r"0.png is 40 x 40, and two pictures side by side are about twice as wide"):
        layouts.pairs(tmp_path / "square", "x", reverse=False)


def test_folders_that_are_no_pairs_are_named(tmp_path: Path) -> None:
    write(tmp_path / "cats", 3, (40, 20))
    write(tmp_path / "dogs", 3, (40, 20))
    with pytest.raises(UsageError, match=r"whose pictures lie in cats, dogs: give .*train_A and train_B"):
        layouts.pairs(tmp_path, "x", reverse=False)
