"""Layouts: pairs in the folders of public data sets, halves of one file, and what is neither."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ganedge.models.variant import Wants
from ganedge.runtime.errors import InputError, UsageError
from ganedge.train import layouts
from ganedge.train.data import Options, open_data


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


CELEBA = """4
Blond_Hair Male Young
0.png  1 -1  1
1.png -1  1  1
2.png -1 -1 -1
9.png  1  1  1
"""
PLAIN = "file,Blond_Hair,Male,Young\nsub/0.png,yes,No,true\n1.png,0,1,1\n2.png,0,,False\n"


def attributes(folder: Path, text: str, names: str = "") -> layouts.Layout:
    (folder / "list.csv").write_text(text)
    return layouts.attributed(folder / "all", "x", folder / "list.csv", names.split(",") if names else ())


def test_a_table_of_attributes_gives_combinations(tmp_path: Path) -> None:
    write(tmp_path / "all", 4)
    (tmp_path / "all" / "sub").mkdir()
    (tmp_path / "all" / "0.png").rename(tmp_path / "all" / "sub" / "0.png")
    for text in (CELEBA, PLAIN):
        layout = attributes(tmp_path, text)
        assert layout.classes == ["Blond_Hair+Young", "Male+Young", "none"]
        assert layout.attributes == ("Blond_Hair", "Male", "Young")
        assert [path.name for (path,) in layout.groups[0].items] == ["0.png", "1.png", "2.png"]
        assert layout.left_out == [f"{tmp_path / 'all'}: 1 pictures that {tmp_path / 'list.csv'} does not name"]
    assert attributes(tmp_path, CELEBA, "Male").classes == ["none", "Male", "none"]


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        (PLAIN, "Mael", "has no 'Mael': choose --attribute-names out of Blond_Hair, Male, Young"),
        ("f," + ",".join("abcdefghi") + "\n0.png" + ",1" * 9 + "\n", "", "has 9: choose --attribute-names out of a, b"),
        ("f,a\n0.png,perhaps\n", "", "0.png has 'perhaps': give 1 or 0"),
        ("f,a,a\n0.png,1,1\n", "", "has a bad name, 'a'"),
        ("f,a+b\n0.png,1\n", "", "has a bad name"),
        ("f,a,b\n0.png,1\n", "", "the line of 0.png has 1 values, not 2"),
        ("f,a\n", "", "needs a header of names and a line"),
        ("", "", "cannot be read"),
        ("f,a\n7.png,1\n", "", "names none of the pictures"),
    ],
)
def test_a_bad_table_of_attributes_gets_one_line(tmp_path: Path, text: str, names: str, said: str) -> None:
    write(tmp_path / "all", 1)
    with pytest.raises((InputError, UsageError), match=re.escape(said)):
        attributes(tmp_path, text, names)


def test_attributes_reach_the_data_and_are_refused_where_nothing_learns_them(tmp_path: Path) -> None:
    write(tmp_path / "all", 3)
    (tmp_path / "list.txt").write_text(CELEBA)
    options = Options(attributes=tmp_path / "list.txt")
    wants = Wants("images", 16, 3, labels=True, examples=True, attributes=("Male",))
    opened = open_data(str(tmp_path / "all"), wants, options)
    assert opened.facts == {"class_names": "Male,none", "attribute_names": "Male", "channels": 3}
    assert opened.examples is not None
    assert opened.examples["images"].shape == (3, 3, 16, 16)
    with pytest.raises(UsageError, match="this variant does not learn attributes"):
        open_data(str(tmp_path / "all"), Wants("images", 16, 3), options)
    with pytest.raises(UsageError, match="attribute-names is Male, but has an effect with --attributes only"):
        open_data(str(tmp_path / "all"), wants)
    with pytest.raises(UsageError, match="data 'digits' is no folder"):
        open_data("digits", wants, options)


def test_previews_of_single_pictures_show_the_test_split(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for domain in ("a", "b"):
            write(tmp_path / split / domain, count)
    wants = Wants("images", 16, 3, labels=True, examples=True)
    opened = open_data(str(tmp_path), wants)
    assert len(opened) == 6
    assert opened.examples is not None
    assert len(opened.examples["images"]) == 4
    assert {path.parent.parent.name for (path,) in layouts.single(tmp_path, "x").examples[0].items} == {"test"}
    assert open_data(str(tmp_path), replace(wants, examples=False)).examples is None
    built_in = open_data("digits", wants)
    assert built_in.examples is not None
    assert built_in.examples["images"].shape == (4, 3, 16, 16)
