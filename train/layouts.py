"""Which folder layout training pictures lie in: classes, lists, pairs, halves of one file, or two sets.

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

from ganedge.runtime.errors import InputError, UsageError
from ganedge.train.pictures import ENDINGS, find_pictures, share_cut, size_of
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


def single(folder: Path, spec: str) -> Layout:
    """Single pictures anywhere below a folder, or below its `train`; the first folder below that is a picture's class.

    Raises:
        InputError: there are no pictures.
    """
    root = folder / "train" if (folder / "train").is_dir() else folder
    sides = _sides(folder, "train", SIDES[:1]) if root == folder else None  # Beside which testA and testB may lie.
    paths = find_pictures(root) if sides is None else [path for side in sides for path in find_pictures(side)]
    if not paths:
        endings = ", ".join(sorted(ENDINGS))
        raise InputError(f"data {spec!r}: no pictures in {root} ({endings}, searched recursively)")
    classes = [path.relative_to(root).parts[0] if path.parent != root else "" for path in paths]
    return Layout((Group(("images",), [(path,) for path in paths]),), f"pictures in {root}", classes)


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
    return Layout((Group(("images",), items),), f"pictures that {file} lists", classes)


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
            paths = find_pictures(root)
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
    for path in find_pictures(root):
        name = str(path.relative_to(root).with_suffix(""))
        if name in by_name:
            doubled.append(f"{by_name[name]}: {path.name} has the same name and is taken in its place")
        by_name[name] = path
    return by_name, doubled


def _side_by_side(root: Path, spec: str) -> list[Item]:
    """Files directly in a folder that hold two pictures each: about twice as wide as high."""
    paths = find_pictures(root)
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
