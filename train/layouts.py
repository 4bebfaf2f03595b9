"""Which folder layout training pictures lie in: classes, lists, attributes, pairs, halves of one file, or two sets.

    layout = pairs(Path("facades"), "facades", reverse=False)
    print(layout.description)               # "pairs of the same name in train_A and train_B"

Nothing is decoded here: a layout names files and what belongs together.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ganedge.models.variant import JOIN, NONE
from ganedge.runtime.errors import InputError, UsageError
from ganedge.runtime.pictures import reader
from ganedge.train.pictures import ENDINGS, share_cut, size_of
from ganedge.train.sources import Item

SIDES = (
    ("A", "B"),
    ("input", "target"),
    ("inputs", "targets"),
    ("source", "target"),
    ("images", "labels"),
    ("image", "label"),
    ("images", "masks"),
    ("image", "mask"),
    ("img", "gt"),
    ("low", "high"),
    ("lr", "hr"),
)
"""Names of the two folders of pairs, what goes in first; upper and lower case are the same."""
LOOKED_AT = 16
"""Pictures whose shape decides whether a folder holds pairs side by side."""
MEASURED = 64
"""Pictures of a set whose shapes say how much of them the middle square leaves out."""
MOST_ATTRIBUTES = 8
"""Attributes of a table that are all taken where nobody chooses some."""
YES, NO = ("1", "true", "yes"), ("-1", "0", "false", "no", "")
"""What a table of attributes says; upper and lower case are the same."""
WIDTHS = (1.6, 2.5)
"""Width over height of files that hold two pictures side by side, from and to."""


@dataclass(frozen=True)
class Group:
    """Items that are files."""

    keys: tuple[str, ...]
    """What each item holds."""
    items: Sequence[Item]


@dataclass(frozen=True)
class Layout:
    """Where the pictures of a data set lie."""

    groups: tuple[Group, ...]
    """One; of unpaired sets two."""
    description: str
    """For people."""
    classes: Sequence[str] = ()
    """The class of each item, empty where it has none; for single pictures."""
    examples: tuple[Group, ...] = ()
    """Items for previews, of the test split where there is one."""
    left_out: Sequence[str] = field(default=())
    """Files that are not part of any item, each with its reason."""
    attributes: tuple[str, ...] = ()
    """Attributes whose combinations are the classes."""


def single(folder: Path, spec: str) -> Layout:
    """Single pictures anywhere below a folder, or below its `train`; the first folder below that is a picture's class.

    Raises:
        InputError: there are no pictures.
    """
    root = folder / "train" if (folder / "train").is_dir() else folder
    sides = _sides(folder, "train", SIDES[:1]) if root == folder else None  # Beside which testA and testB may lie.
    paths = reader.listed(root) if sides is None else [path for side in sides for path in reader.listed(side)]
    if not paths:
        endings = ", ".join(sorted(ENDINGS))
        raise InputError(f"data {spec!r}: no pictures in {root} ({endings}, searched recursively)")
    classes = [path.relative_to(root).parts[0] if path.parent != root else "" for path in paths]
    tests = [path for name in ("test", "val") if root != folder and (path := folder / name).is_dir()]
    shown = reader.listed(tests[0]) if tests else []
    group, examples = (Group(("images",), [(path,) for path in each]) for each in (paths, shown or paths))
    return Layout((group,), f"pictures in {root}", classes, (examples,))


def listed(file: Path) -> Layout:
    """The pictures of a CSV file: lines of `path,label` or `path`, no header; paths are relative to the file's folder.

    Raises:
        InputError: it cannot be read, or is empty.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row and row[0].strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not rows:
        raise InputError(f"{file} is empty: give lines of path,label without a header")
    classes = [row[1].strip() if len(row) > 1 else "" for row in rows]
    items = [(file.parent / row[0].strip(),) for row in rows]
    group = Group(("images",), items)
    return Layout((group,), f"pictures that {file} lists", classes, (group,))


def attributed(folder: Path, spec: str, table: Path, chosen: Sequence[str]) -> Layout:
    """Pictures of a folder with the combination of attributes that a table gives each as its class: `Blond+Young`.

    The table is a CSV file whose header names the attributes, with the pictures in its first column, or a text in the
    layout of CelebA's `list_attr_celeba.txt`: a count, the names, then lines of a picture and -1 or 1 for each name.

    Args:
        folder: Where the pictures lie, anywhere below it.
        spec: What the user called it.
        table: The file.
        chosen: Attributes to take; all of the table, 8 at most, where there are none.

    Raises:
        UsageError: attributes that the table does not have, or too many to take all.
        InputError: the table cannot be read, says something else than yes and no, or names no picture of the folder.
    """
    names, rows = _read_attributes(table)
    unknown = [name for name in chosen if name not in names]
    if unknown or (not chosen and len(names) > MOST_ATTRIBUTES):
        what = f"has no {unknown[0]!r}" if unknown else f"has {len(names)}"
        raise UsageError(f"attributes {table} {what}: choose --attribute-names out of {', '.join(names)}")
    columns = [names.index(name) for name in chosen or names]
    paths = {}
    for path in reader.listed(folder):
        paths[path.name] = paths[str(path.relative_to(folder))] = path
    items, classes = [], []
    for picture, values in rows:
        if picture in paths:
            items.append((paths[picture],))
            parts = [names[column] for column in columns if _is_yes(values[column], table, picture)]
            classes.append(JOIN.join(parts) or NONE)
    if not items:
        raise InputError(f"data {spec!r}: {table} names none of the pictures in {folder}")
    without = len(set(paths.values()) - {path for (path,) in items})
    left_out = [f"{folder}: {without} pictures that {table} does not name"] if without else []
    group = Group(("images",), items)
    used = tuple(names[column] for column in columns)
    return Layout((group,), f"pictures in {folder}", classes, (group,), left_out, used)


def _read_attributes(table: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The names of a table of attributes, and its rows: a picture and what the table says of each attribute."""
    try:
        text = table.read_text("utf-8-sig")
        first, _, rest = text.partition("\n")
        if first.strip().isdecimal():  # CelebA's own layout; its header does not name the pictures' column.
            header, *lines = [line.split() for line in rest.splitlines() if line.strip()]
            header = ["", *header]
        else:
            header, *lines = [row for row in csv.reader(text.splitlines()) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"attributes {table} cannot be read: {error}") from error
    names = [name.strip() for name in header[1:]]
    bad = next((name for name in names if not name or JOIN in name or "," in name or names.count(name) > 1), None)
    if not names or not lines or bad is not None:
        what = "needs a header of names and a line for each picture" if bad is None else f"has a bad name, {bad!r}"
        raise InputError(f"attributes {table} {what}; names are different, without {JOIN} and commas")
    uneven = next((row for row in lines if len(row) != len(header)), None)
    if uneven is not None:
        raise InputError(f"attributes {table}: the line of {uneven[0]} has {len(uneven) - 1} values, not {len(names)}")
    return names, [(row[0].strip(), row[1:]) for row in lines]


def _is_yes(value: str, table: Path, picture: str) -> bool:
    """What a table says of one attribute."""
    word = value.strip().lower()
    if word not in (*YES, *NO):
        raise InputError(f"attributes {table}: {picture} has {value!r}: give 1 or 0, 1 or -1, or yes or no")
    return word in YES


def pairs(folder: Path, spec: str, reverse: bool) -> Layout:
    """Pairs from two folders matched by name, or from files that hold two pictures side by side.

    Args:
        folder: Where they lie.
        spec: What the user called it.
        reverse: Whether the second picture is the input.

    Raises:
        UsageError: neither two folders of pairs nor pictures that are about twice as wide as high.
        InputError: no pictures, or none with a partner.
    """
    keys = ("target", "input") if reverse else ("input", "target")
    sides = _sides(folder, "train") or _sides(folder, "")
    left_out: list[str] = []
    if sides is not None:
        items, left_out = _matched(*sides, spec)
        test = next((other for name in ("val", "test") if (other := _sides(folder, name))), sides)
        shown, unshown = _matched(*test, spec)
        left_out += unshown
        names = " and ".join(str(side.relative_to(folder)) for side in sides)
        description = f"{len(items)} pairs of the same name in {names}"
    else:
        root = folder / "train" if (folder / "train").is_dir() else folder
        items = _side_by_side(root, spec)
        own = next((path for path in (folder / "val", folder / "test") if path.is_dir()), None)
        shown = _side_by_side(own, spec) if own is not None else items
        description = f"{len(items)} files in {root} with two pictures side by side"
    return Layout((Group(keys, items),), description, examples=(Group(keys, shown),), left_out=left_out)


def unpaired(folder: Path, spec: str) -> Layout:
    """Two sets of pictures, in trainA and trainB, or in A and B.

    Raises:
        UsageError: no such folders.
        InputError: one of them has no pictures.
    """
    sides = _sides(folder, "train", SIDES[:1]) or _sides(folder, "", SIDES[:1])
    if sides is None:
        raise UsageError(f"data {spec!r}: no folders trainA and trainB (or A and B) in it")
    test = next((other for name in ("test", "val") if (other := _sides(folder, name, SIDES[:1]))), sides)

    def groups(roots: tuple[Path, Path]) -> tuple[Group, ...]:
        made: list[Group] = []
        for key, root in zip(("a", "b"), roots, strict=True):
            paths = reader.listed(root)
            if not paths:
                raise InputError(f"data {spec!r}: no pictures in {root}")
            made.append(Group((key,), [(path,) for path in paths]))
        return tuple(made)

    names = " and ".join(str(side.relative_to(folder)) for side in sides)
    return Layout(groups(sides), f"two sets in {names}", examples=groups(test))


def mean_cut(groups: Sequence[Group]) -> float:
    """The share of a picture that its middle square leaves out, 0 to below 1: the mean over pictures of all groups."""
    cuts: list[float] = []
    for group in groups:
        for item in group.items[:: math.ceil(len(group.items) / MEASURED)]:
            halves = len(item) == 2 and item[0] == item[1]
            shapes = [shape for path in dict.fromkeys(item) if (shape := size_of(path)) is not None]
            cuts += [share_cut(width / (2 if halves else 1), height) for width, height in shapes]
    return sum(cuts) / len(cuts) if cuts else 0.0


def _sides(folder: Path, split: str, names: Sequence[tuple[str, str]] = SIDES) -> tuple[Path, Path] | None:
    """The folders with both sides of one split, by the layouts of public data sets; of all pictures without a split."""
    for left, right in names:
        patterns = ("{split}/{side}", "{split}{side}", "{split}_{side}", "{split}-{side}", "{side}/{split}")
        for pattern in patterns if split else ("{side}",):
            paths = [_existing(folder, pattern.format(split=split, side=side)) for side in (left, right)]
            if paths[0] is not None and paths[1] is not None:
                return paths[0], paths[1]
    return None


def _existing(folder: Path, name: str) -> Path | None:
    """A folder below `folder`, upper and lower case being the same; None where there is none."""
    for part in name.split("/"):
        if not folder.is_dir():
            return None
        exact = folder / part
        alike = sorted(path for path in folder.iterdir() if path.name.lower() == part.lower() and path.is_dir())
        if not alike:
            return None
        folder = exact if exact in alike else alike[0]
    return folder


def _matched(left: Path, right: Path, spec: str) -> tuple[list[Item], list[str]]:
    """Pairs of pictures of the same name in two folders, and what has no part in them, each with its reason."""
    inputs, doubled = _by_name(left)
    targets, doubled_too = _by_name(right)
    both = sorted(inputs.keys() & targets.keys())
    if not both:
        raise InputError(f"data {spec!r}: no picture in {left} has a partner of the same name in {right}")
    alone = [f"{inputs[name]}: no partner of the same name in {right}" for name in inputs if name not in targets]
    alone += [f"{targets[name]}: no partner of the same name in {left}" for name in targets if name not in inputs]
    return [(inputs[name], targets[name]) for name in both], [*doubled, *doubled_too, *alone]


def _by_name(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The pictures below a folder by name without ending, and those for which another of that name is used."""
    by_name: dict[str, Path] = {}
    doubled: list[str] = []
    for path in reader.listed(root):
        name = str(path.relative_to(root).with_suffix(""))
        if name in by_name:
            doubled.append(f"{by_name[name]}: {path.name} has the same name and is taken in its place")
        by_name[name] = path
    return by_name, doubled


def _side_by_side(root: Path, spec: str) -> list[Item]:
    """Files directly in a folder that hold two pictures each: about twice as wide as high."""
    paths = reader.listed(root)
    accepted = "give files with two pictures side by side, or pairs of the same name in folders A and B (train_A and "
    accepted += "train_B, input and target, images and labels)"
    if not paths:
        raise InputError(f"data {spec!r}: no pairs in {root}: {accepted}")
    direct = [path for path in paths if path.parent == root]
    if not direct:
        folders = ", ".join(sorted({path.relative_to(root).parts[0] for path in paths})[:6])
        raise UsageError(f"data {spec!r}: no pairs in {root}, whose pictures lie in {folders}: {accepted}")
    shapes = [shape for path in direct[:LOOKED_AT] if (shape := size_of(path)) is not None]
    wide = [shape for shape in shapes if WIDTHS[0] <= shape[0] / shape[1] <= WIDTHS[1]]
    if shapes and 2 * len(wide) < len(shapes):
        width, height = shapes[0]
        raise UsageError(
            f"data {spec!r}: {direct[0].name} is {width} x {height}, and two pictures side by side are about twice as "
            f"wide as high: {accepted}"
        )
    return [(path, path) for path in direct]
