"""Training data: from a name or a path to batches of tensors.

    data = open_data("digits", wants)                      # a built-in set
    data = open_data("mnist:folder/with/idx", wants)       # files that lie there already
    data = open_data("pictures/", wants)                   # any folder, searched recursively
    data = open_data("faces.csv", wants)                   # lines of path,label

What fits in memory is decoded once, kept as uint8 and handed out in batches; more than that is read as it is needed.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ganedge.models.variant import Wants
from ganedge.runtime.errors import InputError, UsageError
from ganedge.train.builtin import BUILT_IN, CIRCLES, celeba, points
from ganedge.train.pictures import PICTURES, find_pictures, try_decode

EXAMPLES = 4
"""Pictures of the test split that previews use."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to open data, beside its name."""

    download: bool = False
    """Whether a built-in set may be fetched from the internet."""
    classes: tuple[str, ...] = ()
    """Only these classes; empty: what the variant wants."""
    fraction: float = 1.0
    """Share of the items that is used."""
    memory: float = 4.0
    """GiB of decoded pictures that are kept in memory."""
    workers: int | None = None
    """Threads that decode pictures; one per core by default."""


class Source(Protocol):
    """Where items come from."""

    skipped: list[str]
    """Files that could not be read, each with its reason."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Tensor:
        """The items at these places: uint8 `[N, C, H, W]`, or float `[N, 2]` for points."""
        ...

    def prepare(self, indices: Tensor) -> None:
        """Begin to read items that will be taken next."""
        ...


class InMemory:
    """All items as one tensor."""

    def __init__(self, items: Tensor, skipped: Sequence[str] = ()) -> None:
        self.items = items
        self.skipped = list(skipped)

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: Tensor) -> Tensor:
        """The items at these places."""
        return self.items[indices]

    def prepare(self, indices: Tensor) -> None:
        """Nothing to do."""


Decode = Callable[[Path], "np.ndarray | str"]


class OnDisk:
    """Pictures that are read when they are needed, in threads and one batch ahead. Memory does not grow.

    A picture that cannot be read is replaced by the next that can, so what a batch holds depends on the files alone.
    """

    def __init__(self, paths: Sequence[Path], read: Decode, pool: ThreadPoolExecutor) -> None:
        self._paths = paths
        self._read = read
        self._pool = pool
        self._ahead: dict[int, Future[np.ndarray | str]] = {}
        self.skipped: list[str] = []

    def __len__(self) -> int:
        return len(self._paths)

    def take(self, indices: Tensor) -> Tensor:
        """Read the items at these places, but for what was read ahead."""
        self.prepare(indices)
        ahead, self._ahead = self._ahead, {}
        return _stack([self._one(index, ahead[index]) for index in indices.tolist()])

    def prepare(self, indices: Tensor) -> None:
        """Begin to read items that will be taken next."""
        for index in indices.tolist():
            if index not in self._ahead:
                self._ahead[index] = self._pool.submit(self._read, self._paths[index])

    def _one(self, index: int, future: Future[np.ndarray | str]) -> np.ndarray:
        found = future.result()
        for step in range(1, len(self)):
            if not isinstance(found, str):
                return found
            path = self._paths[(index + step - 1) % len(self)]
            if not any(line.startswith(f"{path}: ") for line in self.skipped):
                self.skipped.append(f"{path}: {found}")
            found = self._read(self._paths[(index + step) % len(self)])
        if isinstance(found, str):
            raise InputError(f"none of {len(self)} pictures can be read any more; the last: {found}")
        return found


@dataclass(frozen=True)
class Data:
    """A data set: what a batch holds, by key, and where each comes from."""

    sources: Mapping[str, Source]
    """One per key of a batch. The two of a pair lie at the same place; unpaired sets have no places in common."""
    spec: str
    """What it was opened as."""
    wants: Wants
    """What the variant trains on."""
    labels: Tensor | None = None
    """int64 `[N]`, where the variant wants them."""
    names: tuple[str, ...] = ()
    """Of the classes."""
    examples: Mapping[str, Tensor] | None = None
    """A few pictures for previews, of the test split where there is one, as a batch; None where none are needed."""

    def __len__(self) -> int:
        return max(map(len, self.sources.values()))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that could not be read, each with its reason."""
        return tuple(line for source in self.sources.values() for line in source.skipped)

    @property
    def facts(self) -> dict[str, int | str]:
        """What a config may leave for the data to say."""
        facts: dict[str, int | str] = {"class_names": ",".join(self.names)} if self.labels is not None else {}
        if self.wants.kind == "images":
            facts["channels"] = self.sources["images"].take(torch.tensor([0])).shape[1]
        return facts

    def on(self, device: torch.device) -> Data:
        """The same data, with what is in memory moved to the device, so that no batch has to travel."""
        moved = {
            key: InMemory(source.items.to(device), source.skipped) if isinstance(source, InMemory) else source
            for key, source in self.sources.items()
        }
        return replace(self, sources=moved, labels=None if self.labels is None else self.labels.to(device))

    def prepare(self, chosen: Tensor) -> None:
        """Begin to read the items that the next batch takes. Unpaired sets draw their partners when they are taken."""
        first = next(iter(self.sources.values()))
        if self.wants.kind != "unpaired":
            for source in self.sources.values():
                source.prepare(chosen)
        else:
            first.prepare(chosen % len(first))

    def batch(self, chosen: Tensor, device: torch.device, part: slice = slice(None)) -> dict[str, Tensor]:
        """The items at `chosen` on the device, cut and mirrored at random where that is wanted.

        Args:
            chosen: Places of the whole batch.
            device: Where to.
            part: Which of them to give; what is random is drawn for all of them.

        Returns:
            As `ganedge.models.variant.Batch` says.
        """
        batch: dict[str, Tensor] = {}
        change = _Change(self.wants, len(chosen))
        for number, (key, source) in enumerate(self.sources.items()):
            places = chosen
            if self.wants.kind == "unpaired":
                places = torch.randint(len(source), (len(chosen),)) if number else chosen % len(source)
                change = _Change(self.wants, len(chosen))
            items = source.take(places[part])
            batch[key] = (
                items.to(device)
                if self.wants.kind == "points"
                else _scale(change(items, part).to(device, non_blocking=True), self.wants)
            )
        if self.labels is not None:
            batch["labels"] = self.labels[chosen[part]].to(device)
        return batch

    def pictures(self, key: str, places: Tensor) -> Tensor:
        """The pictures of a batch's `key` at these places, uint8 `[N, C, H, W]`: cut in the middle, never mirrored."""
        items = self.sources[key].take(places)
        room = self.wants.load_size - self.wants.size if self.wants.load_size else 0
        begin, end = room // 2, room // 2 + self.wants.size
        return items[..., begin:end, begin:end]

    def look(self, places: Tensor) -> dict[str, Tensor]:
        """The pictures at these places as a batch, on the CPU, with nothing left to chance."""
        return {key: _scale(self.pictures(key, places), self.wants) for key in self.sources}


class _Change:
    """A random cut and mirroring for each item of a batch; both pictures of a pair get the same."""

    def __init__(self, wants: Wants, count: int) -> None:
        self._size = wants.size
        self._room = wants.load_size - wants.size if wants.load_size else 0
        self._flip = wants.flip
        if self._room or self._flip:
            self._places = torch.randint(self._room + 1, (count, 2))
            self._mirrored = torch.rand(count) < 0.5

    def __call__(self, items: Tensor, part: slice) -> Tensor:  # uint8 [N, C, H, W]
        if not (self._room or self._flip):
            return items
        cut: list[Tensor] = []
        for item, (y, x), mirrored in zip(
            items, self._places[part].tolist(), self._mirrored[part].tolist(), strict=True
        ):
            square = item[:, y : y + self._size, x : x + self._size]
            cut.append(square.flip(-1) if self._flip and mirrored else square)
        return torch.stack(cut)


def _scale(pictures: Tensor, wants: Wants) -> Tensor:
    low, high = wants.range
    return pictures.float().mul_((high - low) / 255).add_(low)


def _expanded(place: str) -> Path:
    """The path with its `~`, where that is somebody's home; as it is otherwise."""
    with contextlib.suppress(RuntimeError):
        return Path(place).expanduser()
    return Path(place)


def open_data(spec: str, wants: Wants, options: Options | None = None) -> Data:
    """Open what `spec` names and bring it to the wanted size and channels.

    Args:
        spec: A built-in name, `mnist:DIR`, the path of a folder, or that of a CSV file.
        wants: What the variant trains on.
        options: How.

    Raises:
        UsageError: neither a built-in name nor a folder, a set that is not here and may not be downloaded, or classes
            that it does not have.
        InputError: a folder without one readable picture, or damaged files.
    """
    options = options or Options()
    classes = options.classes or wants.classes
    wants = replace(wants, classes=classes)
    name, colon, place = spec.partition(":")
    if wants.kind == "points" or spec == CIRCLES:
        return _points(spec, wants, options)
    where = _expanded(place) if colon else None
    if name in BUILT_IN and (place or not colon):
        _check_kind(wants, spec, "images")
        pictures, labels, names = BUILT_IN[name](where, options.download)
        kept = _choose(labels, names, wants, options, spec)
        source = InMemory(_resize(pictures[kept], wants))
        return _with_labels(Data({"images": source}, spec, wants), labels[kept], names)
    folder = celeba(where, options.download) if name == "celeba" and (place or not colon) else _expanded(spec)
    if folder.suffix.lower() == ".csv" and folder.is_file():
        _check_kind(wants, spec, "images")
        return _listed(*_read_csv(folder), spec, wants, options)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is neither a built-in data set nor a folder"
        known = ", ".join([*BUILT_IN, "celeba", CIRCLES])
        raise UsageError(f"data {spec!r} {what}: give {known}, mnist:DIR, a folder of pictures or a .csv of path,label")
    if wants.kind == "images":
        root = folder / "train" if (folder / "train").is_dir() else folder
        paths = find_pictures(root)
        return _listed(paths, [_class_of(path, root) for path in paths], spec, wants, options, root)
    return _pairs(folder, spec, wants, options) if wants.kind == "pairs" else _unpaired(folder, spec, wants, options)


def _points(spec: str, wants: Wants, options: Options) -> Data:
    if spec != CIRCLES:
        raise UsageError(f"data {spec!r} are pictures, and this trains on points of the plane: give --data {CIRCLES}")
    _check_kind(wants, spec, "points")
    items = torch.from_numpy(points())
    return Data({"points": InMemory(items[_part(len(items), options.fraction)])}, spec, wants)


def _check_kind(wants: Wants, spec: str, kind: str) -> None:
    if wants.kind != kind:
        needed = {"images": "single pictures", "points": f"points: give --data {CIRCLES}"}
        needed |= {"pairs": "pairs of pictures: give a folder of them", "unpaired": "a folder with trainA and trainB"}
        raise UsageError(f"data {spec!r} does not fit, this trains on {needed[wants.kind]}")


def _class_of(path: Path, root: Path) -> str:
    """The first folder below the root; empty where the picture lies in the root itself."""
    return path.relative_to(root).parts[0] if path.parent != root else ""


def _read_csv(file: Path) -> tuple[list[Path], list[str]]:
    """Lines of `path,label` or `path` without a header; paths are relative to the file's folder."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row and row[0].strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    if not rows:
        raise InputError(f"{file} is empty: give lines of path,label without a header")
    return [file.parent / row[0].strip() for row in rows], [row[1].strip() if len(row) > 1 else "" for row in rows]


def _listed(
    paths: list[Path], classes: list[str], spec: str, wants: Wants, options: Options, root: Path | None = None
) -> Data:
    """Single pictures from files, with the class of each."""
    if not paths:
        endings = ", ".join(sorted(PICTURES))
        raise InputError(f"data {spec!r}: no pictures in {root} ({endings}, searched recursively)")
    names = tuple(sorted(set(classes)))
    labels = np.array([names.index(name) for name in classes])
    kept = _choose(labels, names, wants, options, spec)
    source, good = _files([paths[index] for index in kept], spec, wants, options, wants.channels or 3)
    return _with_labels(Data({"images": source}, spec, wants), labels[kept][good], names)


def _choose(labels: np.ndarray, names: tuple[str, ...], wants: Wants, options: Options, spec: str) -> np.ndarray:
    """Places of the items that are of a wanted class and in the wanted fraction."""
    unknown = [name for name in wants.classes if name not in names]
    if unknown:
        known = ", ".join(repr(name) for name in names[:20]) if names != ("",) else "no classes: no folder for each"
        raise UsageError(f"data {spec!r} has no class {unknown[0]!r}: it has {known}")
    if (wants.labels or wants.classes) and "" in names:
        raise InputError(f"data {spec!r} has pictures without a class: give each class a folder, or a .csv with labels")
    if wants.labels and any("," in name for name in names):
        raise UsageError(f"data {spec!r}: a class name has a comma; rename that folder or label")
    wanted = [names.index(name) for name in wants.classes] or range(len(names))
    found = np.flatnonzero(np.isin(labels, list(wanted)))
    kept: np.ndarray = found[_part(len(found), options.fraction).numpy()]
    return kept


def _part(count: int, fraction: float) -> Tensor:
    """Places of that share of the items, at least one: always the same ones, in order."""
    if fraction >= 1:
        return torch.arange(count)
    kept = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: max(1, math.ceil(count * fraction))]
    return kept.sort().values


def _with_labels(data: Data, labels: np.ndarray, names: tuple[str, ...]) -> Data:
    """Add the labels if they are wanted, numbered from 0 without gaps."""
    if not data.wants.labels:
        return data
    present = np.unique(labels)
    if len(present) < 2:
        raise UsageError(f"data {data.spec!r} has one class only: leave out --conditional, or choose more --classes")
    numbers = np.searchsorted(present, labels)
    return replace(data, labels=torch.from_numpy(numbers), names=tuple(names[index] for index in present))


def _files(
    paths: Sequence[Path], spec: str, wants: Wants, options: Options, channels: int, half: str = ""
) -> tuple[Source, list[int]]:
    """Pictures from files, in memory if they fit, and the places of those that can be read as far as is known."""
    size = wants.load_size or wants.size
    pool = ThreadPoolExecutor(options.workers or len(os.sched_getaffinity(0)))

    def read(path: Path) -> np.ndarray | str:
        return try_decode(path, size, channels, half)

    if len(paths) * size * size * channels > options.memory * GIB:
        return OnDisk(paths, read, pool), list(range(len(paths)))
    with pool:
        found = list(pool.map(read, paths))
    good = [index for index, item in enumerate(found) if isinstance(item, np.ndarray)]
    skipped = [f"{path}: {item}" for path, item in zip(paths, found, strict=True) if isinstance(item, str)]
    if not good:
        raise InputError(f"data {spec!r}: none of {len(paths)} pictures could be read; the first: {skipped[0]}")
    return InMemory(_stack([found[index] for index in good]), skipped), good


def _stack(pictures: Sequence[np.ndarray | str]) -> Tensor:
    """uint8 `[H, W, C]` each to `[N, C, H, W]`."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _pairs(folder: Path, spec: str, wants: Wants, options: Options) -> Data:
    """Pairs from two folders matched by name, or from files that hold two pictures side by side."""
    channels = wants.channels or 3

    def open_split(split: str, how: Options, wanted: Wants) -> dict[str, Source]:
        matched = _matched(folder, split, spec)
        kept = _part(len(matched), how.fraction).tolist()
        sides: dict[str, Source] = {}
        good: set[int] = set(range(len(kept)))
        for side in ("left", "right"):
            paths = [matched[index][side == "right"] for index in kept]
            alone = matched[0][0] != matched[0][1]
            sides[side], readable = _files(paths, spec, wanted, how, channels, "" if alone else side)
            good &= set(readable)
        if len(good) < len(kept):  # Keep the pairs of which both halves can be read.
            both = replace(how, fraction=1.0)
            paths_left = [matched[kept[index]][0] for index in sorted(good)]
            paths_right = [matched[kept[index]][1] for index in sorted(good)]
            skipped = [line for side in ("left", "right") for line in sides[side].skipped]
            alone = matched[0][0] != matched[0][1]
            if not good:
                raise InputError(f"data {spec!r}: no pair could be read; the first: {skipped[0]}")
            sides["left"], _ = _files(paths_left, spec, wanted, both, channels, "" if alone else "left")
            sides["right"], _ = _files(paths_right, spec, wanted, both, channels, "" if alone else "right")
            sides["left"].skipped.extend(sorted(set(skipped)))
        first, second = ("right", "left") if wants.reverse else ("left", "right")
        return {"input": sides[first], "target": sides[second]}

    data = Data(open_split("train", options, wants), spec, wants)
    test = next((name for name in ("val", "test") if _has_split(folder, name)), "train")
    return _with_examples(data, lambda how, wanted: open_split(test, how, wanted), len(_matched(folder, test, spec)))


def _has_split(folder: Path, split: str) -> bool:
    return any((folder / name).is_dir() for name in (split, f"{split}A", f"A/{split}"))


def _matched(folder: Path, split: str, spec: str) -> list[tuple[Path, Path]]:
    """Files of one split: pairs of paths, or the same path twice where one file holds both pictures."""
    layouts = ((f"{split}/A", f"{split}/B"), (f"{split}A", f"{split}B"), (f"A/{split}", f"B/{split}"), ("A", "B"))
    for left, right in layouts:
        if (folder / left).is_dir() and (folder / right).is_dir():
            ones = {_name(path, folder / left): path for path in find_pictures(folder / left)}
            others = {_name(path, folder / right): path for path in find_pictures(folder / right)}
            both = sorted(ones.keys() & others.keys())
            if not both:
                raise InputError(f"data {spec!r}: no picture in {left} has a partner of the same name in {right}")
            return [(ones[name], others[name]) for name in both]
    root = folder / split if (folder / split).is_dir() else folder
    paths = find_pictures(root)
    if not paths:
        raise InputError(
            f"data {spec!r}: no pairs in {root}: give files with two pictures side by side, or folders A and B"
        )
    return [(path, path) for path in paths]


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))


def _unpaired(folder: Path, spec: str, wants: Wants, options: Options) -> Data:
    """Two sets of pictures, in trainA and trainB or in A and B."""
    channels = wants.channels or 3

    def paths_of(split: str) -> dict[str, list[Path]]:
        for left, right in ((f"{split}A", f"{split}B"), (f"{split}/A", f"{split}/B"), ("A", "B")):
            if (folder / left).is_dir() and (folder / right).is_dir():
                return {"a": find_pictures(folder / left), "b": find_pictures(folder / right)}
        raise UsageError(f"data {spec!r}: no folders trainA and trainB (or A and B) in it")

    def open_split(split: str, how: Options, wanted: Wants) -> dict[str, Source]:
        sides: dict[str, Source] = {}
        for key, paths in paths_of(split).items():
            if not paths:
                raise InputError(f"data {spec!r}: no pictures in its folder {key.upper()}")
            kept = [paths[index] for index in _part(len(paths), how.fraction).tolist()]
            sides[key], _ = _files(kept, spec, wanted, how, channels)
        return sides

    data = Data(open_split("train", options, wants), spec, wants)
    test = "test" if (folder / "testA").is_dir() and (folder / "testB").is_dir() else "train"
    most = max(map(len, paths_of(test).values()))
    return _with_examples(data, lambda how, wanted: open_split(test, how, wanted), most)


def _with_examples(data: Data, open_split: Callable[[Options, Wants], dict[str, Source]], count: int) -> Data:
    """Add the first few pictures of a fixed share of the test split, whole and not mirrored."""
    wants = replace(data.wants, load_size=0, flip=False)
    sources = open_split(Options(fraction=min(1.0, EXAMPLES / count)), wants)
    few = min(EXAMPLES, *(len(source) for source in sources.values()))
    examples = {key: _scale(source.take(torch.arange(few)), wants) for key, source in sources.items()}
    return replace(data, examples=examples)


def _resize(pictures: np.ndarray, wants: Wants) -> Tensor:
    """Bring pictures of one size to the wanted size and channels: uint8 `[N, C, H, W]`."""
    images = torch.from_numpy(np.ascontiguousarray(pictures))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if wants.channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    elif wants.channels == 1 and images.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601, as Pillow converts to grey.
        images = (images * weights).sum(1, keepdim=True).round().to(torch.uint8)
    side = wants.load_size or wants.size
    if images.shape[-2:] != (side, side):
        size = (side, side)
        parts = (
            torch.nn.functional.interpolate(part.float(), size, mode="bicubic", antialias=True)
            for part in torch.split(images, 4096)
        )
        images = torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])
    return images.contiguous()


def order(length: int, epoch: int, mix: Callable[[int], int]) -> Tensor:
    """The order in which one epoch visits the data: a permutation that depends on seed and epoch alone."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(mix(epoch)))


def indices(length: int, begin: int, count: int, permutation: Callable[[int], Tensor]) -> Tensor:
    """Items `begin` to `begin + count` of the endless sequence of epochs: a batch may reach into the next one."""
    parts: list[Tensor] = []
    while count > 0:
        epoch, offset = divmod(begin, length)
        part = permutation(epoch)[offset : offset + count]
        parts.append(part)
        begin += len(part)
        count -= len(part)
    return torch.cat(parts)


def describe_skipped(skipped: Sequence[str], shown: int = 5) -> list[str]:
    """Lines that name the files left out: the first few, then a count."""
    lines = [f"skipped {text}" for text in skipped[:shown]]
    if len(skipped) > shown:
        lines.append(f"skipped {len(skipped) - shown} more")
    return lines
