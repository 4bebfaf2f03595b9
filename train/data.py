"""Training data: from a name or a path to batches of tensors.

    data = open_data("digits", wants)                      # a built-in set
    data = open_data("mnist:folder/with/idx", wants)       # files that lie there already
    data = open_data("pictures/", wants)                   # any folder, searched recursively
    data = open_data("faces.csv", wants)                   # lines of path,label

What fits in memory is decoded once, kept as uint8 and handed out in batches; more than that is read as it is needed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganedge.models.variant import Wants
from ganedge.runtime import engines
from ganedge.runtime.errors import GanEdgeError, InputError, UsageError
from ganedge.train import layouts
from ganedge.train.builtin import BUILT_IN, CELEBA, CIRCLES, LATENTS, celeba, points
from ganedge.train.layouts import Group, Layout
from ganedge.train.pictures import Fit, is_grey, try_decode
from ganedge.train.sources import InMemory, Item, OnDisk, Read, Source, stack, to_device

EXAMPLES = 4
"""Pictures of the test split that previews use."""
GIB = 2**30
LATENT_ITEMS = 10_000
"""Items of a pass where there are latents and no data."""
MUCH = 0.25
"""Share of a picture outside its middle square from which that is told; of a 4:3 photo it is just this."""
HEADERS = 1024
"""Pictures whose headers are read, at most, between two looks at whether one had colours."""


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
    fit: Fit = "crop"
    """How pictures from files become squares."""
    attributes: Path | None = None
    """A table of attributes, see `layouts.attributed`; None where there is none."""


@dataclass(frozen=True)
class Data:
    """A data set: where its items come from, and how a batch is made of them."""

    sources: tuple[Source, ...]
    """One; of unpaired sets two, whose items do not belong together."""
    spec: str
    """What it was opened as."""
    wants: Wants
    """What the variant trains on."""
    names: tuple[str, ...] = ()
    """Of the classes, where a batch holds labels."""
    examples: Mapping[str, Tensor] | None = None
    """A few pictures for previews, of the test split where there is one, as a batch; None where none are needed."""
    left_out: list[str] = field(default_factory=list)
    """Files without a partner, or that could not be read for previews, each with its reason."""
    reported: set[str] = field(default_factory=set)
    """Number of skipped files that `news` has returned."""
    layout: str = ""
    """Where the pictures of pairs or of two sets lie; empty for others."""
    cut: str = ""
    """What the middle squares leave out, where that is much; else empty."""
    attributes: tuple[str, ...] = ()
    """Attributes whose combinations are the classes."""

    def __len__(self) -> int:
        return max(map(len, self.sources))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that could not be used so far, each with its reason. More may be met where items are read as needed."""
        met = [line for source in self.sources for line in source.skipped]
        return tuple(dict.fromkeys([*met, *self.left_out]))

    def news(self) -> list[str]:
        """Return the skipped files since the last call."""
        lines = [line for line in self.skipped if line not in self.reported]
        self.reported.update(lines)
        return lines

    @property
    def facts(self) -> dict[str, int | str]:
        """Return the config values that are taken from the data if the user does not set them."""
        facts: dict[str, int | str] = {"class_names": ",".join(self.names)} if self.names else {}
        if self.attributes:
            facts["attribute_names"] = ",".join(self.attributes)
        if self.wants.kind == "images":
            facts["channels"] = self.take("images", torch.tensor([0])).shape[1]
        return facts

    def on(self, device: torch.device) -> Data:
        """This data, with what is in memory moved to the device, so that no batch has to travel."""
        for source in self.sources:
            source.move(device)
        return self

    def count(self, key: str) -> int:
        """How many items there are of a batch's `key`."""
        return len(self._source(key))

    def take(self, key: str, indices: Tensor) -> Tensor:
        """The items of a batch's `key` at these indices, as they are held."""
        return self._source(key).take(indices)[key]

    def prepare(self, chosen: Tensor, part: slice = slice(None), partners: int = 0) -> None:
        """Begin to read the items of the batch that the same arguments give."""
        for source, indices in zip(self.sources, self._indices(chosen, partners), strict=True):
            source.prepare(indices[part])

    def batch(
        self, chosen: Tensor, device: torch.device, part: slice = slice(None), partners: int = 0
    ) -> dict[str, Tensor]:
        """The items at `chosen` on the device, cut and mirrored at random where that is wanted.

        Args:
            chosen: Places of the whole batch.
            device: Where to.
            part: Which of them to give; what is random is drawn for all of them.
            partners: Seed from which unpaired sets draw what the items of the first set meet.

        Returns:
            As `ganedge.models.variant.Batch` says.
        """
        batch: dict[str, Tensor] = {}
        for source, indices in zip(self.sources, self._indices(chosen, partners), strict=True):
            change = _Change(self.wants, len(chosen), part)
            for key, items in source.take(indices[part]).items():
                there = to_device(items, device)
                raw = key == "labels" or self.wants.kind in ("points", "latents")
                batch[key] = there if raw else _scale(change(there), self.wants)
        return batch

    def pictures(self, key: str, indices: Tensor) -> Tensor:
        """The pictures of a batch's `key` at these indices, uint8 `[N, C, H, W]`: cut in the middle, never mirrored."""
        return self._middle(self.take(key, indices))

    def preview(self, indices: Tensor) -> dict[str, Tensor]:
        """The pictures at these indices as a batch, with nothing left to chance."""
        taken = [(source.keys, source.take(indices)) for source in self.sources]
        return {key: _scale(self._middle(items[key]), self.wants) for keys, items in taken for key in keys}

    def _source(self, key: str) -> Source:
        return next(source for source in self.sources if key in source.keys)

    def _indices(self, chosen: Tensor, partners: int) -> tuple[Tensor, ...]:
        """Indices of the items in each source. Partners are drawn apart from all else, so that they are known ahead."""
        if len(self.sources) == 1:
            return (chosen,)
        first, second = self.sources
        drawn = torch.randint(len(second), (len(chosen),), generator=torch.Generator().manual_seed(partners))
        return chosen % len(first), drawn

    def _middle(self, items: Tensor) -> Tensor:
        room = self.wants.load_size - self.wants.size if self.wants.load_size else 0
        begin, end = room // 2, room // 2 + self.wants.size
        return items[..., begin:end, begin:end]


class _Change:
    """A random cut and mirroring for each item of a batch; both pictures of a pair get the same.

    Args:
        wants: How large, and whether to mirror.
        count: Items of the whole batch, for all of which it is drawn.
        part: Those that will be changed.
    """

    def __init__(self, wants: Wants, count: int, part: slice) -> None:
        self._size = wants.size
        self._whole = wants.load_size or wants.size
        room = wants.load_size - wants.size if wants.load_size else 0
        self._changes = bool(room or wants.flip)
        if self._changes:
            self._corners = torch.randint(room + 1, (count, 2))[part]
            self._mirrored = (torch.rand(count) < 0.5)[part] & wants.flip

    def __call__(self, items: Tensor) -> Tensor:  # uint8 [N, C, H, W]
        if not self._changes:
            return items
        factor = items.shape[-1] // self._whole  # What a teacher made of the pictures may be larger than they are.
        cut = cut_each if items.device.type == "cpu" else cut_all
        return cut(items, factor * self._corners, self._mirrored, factor * self._size)


def cut_each(items: Tensor, corners: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Cut a square out of each picture, one after the other: on a CPU ten times faster than `cut_all`.

    Args:
        items: `[N, C, H, W]`.
        corners: Of the squares, y and x, `[N, 2]`.
        mirrored: Whether to mirror it, bool `[N]`.
        size: Height and width of a square, pixels.

    Returns:
        `[N, C, size, size]`.
    """
    squares: list[Tensor] = []
    for item, (y, x), mirror in zip(items, corners.tolist(), mirrored.tolist(), strict=True):
        square = item[:, y : y + size, x : x + size]
        squares.append(square.flip(-1) if mirror else square)
    return torch.stack(squares)


def cut_all(items: Tensor, corners: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """What `cut_each` does, for all pictures at once: on a GPU each operation costs the same for one as for all."""
    along = torch.arange(size)
    rows = to_device(corners[:, :1] + along, items.device)
    columns = to_device(corners[:, 1:] + torch.where(mirrored[:, None], along.flip(0), along), items.device)
    count, channels, _, width = items.shape
    kept = items.gather(2, rows[:, None, :, None].expand(count, channels, size, width))
    return kept.gather(3, columns[:, None, None, :].expand(count, channels, size, size))


def _scale(pictures: Tensor, wants: Wants) -> Tensor:
    low, high = wants.range
    return pictures.float().mul_((high - low) / 255).add_(low)


def _expanded(path: str) -> Path:
    """The path with its `~`, where that is somebody's home; as it is otherwise."""
    with contextlib.suppress(RuntimeError):
        return Path(path).expanduser()
    return Path(path)


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
    wants = replace(wants, classes=_classes(wants, options))
    _check_attributes(wants, spec, options)
    if wants.kind == "latents" or spec == LATENTS:
        _check_kind(wants, spec, "latents")
        return Data((InMemory({"latents": torch.zeros(LATENT_ITEMS, 1)}),), spec, wants)
    name, colon, folder_text = spec.partition(":")
    if wants.kind == "points" or spec == CIRCLES:
        return _points(spec, wants, options)
    source_folder = _expanded(folder_text) if colon else None
    built_in = bool(folder_text) or not colon
    if name in BUILT_IN and built_in:
        _check_kind(wants, spec, "images")
        pictures, labels, names = BUILT_IN[name](source_folder, options.download)
        kept = _choose(labels, names, wants, options, spec)
        source = _built_in(pictures[kept], _wanted_labels(labels[kept], wants), wants, options)
        data = Data((source,), spec, wants, _number_classes(source, names, spec))
        few = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:EXAMPLES]
        return replace(data, examples=data.preview(few)) if wants.examples else data
    if name == CELEBA and built_in:
        _check_kind(wants, spec, "images")
        folder = celeba(source_folder, options.download)
    else:
        folder = _expanded(spec)
    if folder.suffix.lower() == ".csv" and folder.is_file():
        _check_kind(wants, spec, "images")
        return _single(layouts.listed(folder), spec, wants, options)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is neither a built-in data set nor a folder"
        known = ", ".join([*BUILT_IN, CELEBA, CIRCLES])
        raise UsageError(f"data {spec!r} {what}: give {known}, mnist:DIR, a folder of pictures or a .csv of path,label")
    if options.attributes is not None:
        layout = layouts.attributed(folder, spec, options.attributes, wants.attributes or ())
        return _single(layout, spec, wants, options)
    if wants.kind == "images":
        return _single(layouts.single(folder, spec), spec, wants, options)
    layout = layouts.pairs(folder, spec, wants.reverse) if wants.kind == "pairs" else layouts.unpaired(folder, spec)
    kept_groups = [
        Group(group.keys, [group.items[index] for index in _part(len(group.items), options.fraction).tolist()])
        for group in layout.groups
    ]
    sources = _open(kept_groups, spec, wants, options)
    cut = _describe_cut(kept_groups, spec, options)
    data = Data(sources, spec, wants, left_out=list(layout.left_out), layout=layout.description, cut=cut)
    return _with_examples(data, layout.examples, options.fit)


def _single(layout: Layout, spec: str, wants: Wants, options: Options) -> Data:
    """Single pictures from files, with the class of each."""
    (group,) = layout.groups
    names = tuple(sorted(set(layout.classes)))
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[name] for name in layout.classes])
    kept = _choose(labels, names, wants, options, spec)
    labelled = Group(group.keys, [group.items[index] for index in kept])
    (source,) = _open([labelled], spec, wants, options, _wanted_labels(labels[kept], wants))
    cut = _describe_cut([labelled], spec, options)
    numbered = _number_classes(source, names, spec)
    left_out = list(layout.left_out)
    data = Data((source,), spec, wants, numbered, left_out=left_out, cut=cut, attributes=layout.attributes)
    return _with_examples(data, layout.examples, options.fit) if wants.examples else data


def _describe_cut(groups: Sequence[Group], spec: str, options: Options) -> str:
    """One line on what is cut off, where pictures are cut and that takes much of them; else empty."""
    share = layouts.mean_cut(groups) if options.fit == "crop" else 0.0
    if share < MUCH:
        return ""
    return (
        f"data {spec!r}: the middle square of each picture is used, which crops off {share:.0%} on average; "
        "--fit pad or --fit stretch uses whole pictures"
    )


def _points(spec: str, wants: Wants, options: Options) -> Data:
    if spec != CIRCLES:
        raise UsageError(f"data {spec!r} are pictures, and this trains on points of the plane: give --data {CIRCLES}")
    _check_kind(wants, spec, "points")
    items = torch.from_numpy(points())
    return Data((InMemory({"points": items[_part(len(items), options.fraction)]}),), spec, wants)


def _classes(wants: Wants, options: Options) -> tuple[str, ...]:
    """The classes to train on: what was asked for beside the variant, or what the variant wants; never both."""
    given, own = ",".join(options.classes), ",".join(wants.classes)
    if options.classes and wants.kind != "images":
        raise UsageError(f"classes is {given}: only single pictures have classes, leave it out")
    if options.classes and wants.classes and set(options.classes) != set(wants.classes):
        raise UsageError(
            f"classes is {given}, but an option of this variant says {own}: leave out --classes, and give that option"
        )
    return options.classes or wants.classes


def _check_attributes(wants: Wants, spec: str, options: Options) -> None:
    """Refuse a table of attributes that would have no effect, and names of attributes without a table."""
    if options.attributes is None:
        if wants.attributes:
            names = ",".join(wants.attributes)
            raise UsageError(f"attribute-names is {names}, but has an effect with --attributes only: give the table")
    elif wants.attributes is None:
        raise UsageError(f"attributes is {options.attributes}: this variant does not learn attributes, leave it out")
    elif not _expanded(spec).is_dir():
        raise UsageError(
            f"attributes is {options.attributes}, but data {spec!r} is no folder: give that of the pictures"
        )


def _check_kind(wants: Wants, spec: str, kind: str) -> None:
    if wants.kind != kind:
        needed = {"images": "single pictures", "points": f"points: give --data {CIRCLES}"}
        needed |= {"pairs": "pairs of pictures: give a folder of them", "unpaired": "a folder with trainA and trainB"}
        raise UsageError(f"data {spec!r} does not fit, this trains on {needed[wants.kind]}")


def _choose(labels: np.ndarray, names: tuple[str, ...], wants: Wants, options: Options, spec: str) -> np.ndarray:
    """Places of the items that are of a wanted class and in the wanted fraction."""
    unknown = [name for name in wants.classes if name not in names]
    if unknown:
        known = ", ".join(repr(name) for name in names[:20]) if names != ("",) else "no classes: no folder for each"
        own = (
            f": give another --{wants.option}, or --{wants.option} '' for all"
            if wants.option and not options.classes
            else ""
        )
        raise UsageError(f"data {spec!r} has no class {unknown[0]!r}: it has {known}{own}")
    if (wants.labels or wants.classes) and "" in names:
        raise InputError(f"data {spec!r} has pictures without a class: give each class a folder, or a .csv with labels")
    if wants.labels and any("," in name for name in names):
        raise UsageError(f"data {spec!r}: a class name has a comma; rename that folder or label")
    wanted = [names.index(name) for name in wants.classes] or range(len(names))
    chosen = np.flatnonzero(np.isin(labels, [*wanted]))
    kept: np.ndarray = chosen[_part(len(chosen), options.fraction).numpy()]
    return kept


def _part(count: int, fraction: float) -> Tensor:
    """Places of that share of the items, at least one: always the same ones, in order."""
    if fraction >= 1:
        return torch.arange(count)
    kept = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: max(1, math.ceil(count * fraction))]
    return kept.sort().values


def _wanted_labels(labels: np.ndarray, wants: Wants) -> Tensor | None:
    return torch.from_numpy(labels.astype(np.int64)) if wants.labels else None


def _number_classes(source: Source, names: tuple[str, ...], spec: str) -> tuple[str, ...]:
    """Number the labels that there are from 0 without gaps; give the names of their classes."""
    if source.labels is None:
        return ()
    present, numbers = torch.unique(source.labels, return_inverse=True)
    if len(present) < 2:
        raise UsageError(f"data {spec!r} has one class only: leave out --conditional, or choose more --classes")
    source.labels = numbers
    return tuple(names[index] for index in present.tolist())


def _open(
    groups: Sequence[Group], spec: str, wants: Wants, options: Options, labels: Tensor | None = None
) -> tuple[Source, ...]:
    """Pictures from files: all of them in memory if all fit, else all read as they are needed."""
    size = wants.load_size or wants.size
    pool = ThreadPoolExecutor(options.workers or engines.cores())
    channels = wants.channels or _channels([path for group in groups for item in group.items for path in item], pool)

    def read(item: Item) -> list[np.ndarray] | str:
        return try_decode(item, size, channels, options.fit)

    pictures = sum(len(group.keys) * len(group.items) for group in groups)
    if pictures * size * size * channels > options.memory * GIB:
        return tuple(OnDisk(group.items, group.keys, read, pool, labels) for group in groups)
    with pool:
        return tuple(_read_all(group, (channels, size, size), read, pool, spec, labels) for group in groups)


def _channels(paths: Sequence[Path], pool: ThreadPoolExecutor) -> int:
    """1 where all pictures are grey, 3 otherwise; only their headers are read, up to the first that has colours."""
    seen: set[bool | None] = set()
    begin, count = 0, 1
    while begin < len(paths) and False not in seen:
        seen.update(pool.map(is_grey, paths[begin : begin + count]))
        begin, count = begin + count, min(2 * count, HEADERS)
    return 1 if seen <= {True, None} and True in seen else 3


def _read_all(
    group: Group,
    shape: tuple[int, int, int],
    read: Read,
    pool: ThreadPoolExecutor,
    spec: str,
    labels: Tensor | None,
) -> InMemory:
    """Decode each item into its place, so that nothing is held twice, and close the gaps that broken ones left."""
    count = len(group.items)
    try:
        held = [torch.empty((count, *shape), dtype=torch.uint8) for _ in group.keys]
    except RuntimeError as error:
        raise GanEdgeError(f"data {spec!r}: its pictures do not fit into memory: give a smaller --memory") from error
    levels = [tensor.numpy() for tensor in held]

    def fill(index: int) -> str | None:
        pictures = read(group.items[index])
        if isinstance(pictures, str):
            return pictures
        for into, picture in zip(levels, pictures, strict=True):
            into[index] = picture.transpose(2, 0, 1)
        return None

    broken = list(pool.map(fill, range(count)))
    good = [index for index, reason in enumerate(broken) if reason is None]
    skipped = [reason for reason in broken if reason is not None]
    if not good:
        what = "pairs" if len(group.keys) > 1 else "pictures"
        raise InputError(f"data {spec!r}: none of {count} {what} could be read; the first: {skipped[0]}")
    for into in levels:
        for slot, index in enumerate(good):
            if slot != index:
                into[slot] = into[index]
    items = {key: tensor[: len(good)] for key, tensor in zip(group.keys, held, strict=True)}
    return InMemory(items, None if labels is None else labels[good], skipped)


def _with_examples(data: Data, groups: Sequence[Group], fit: Fit) -> Data:
    """Add a few pictures for previews, of each group the first of a fixed random order, cut in the middle."""
    channels = data.take(groups[0].keys[0], torch.tensor([0])).shape[1]
    examples: dict[str, Tensor] = {}
    for group in groups:
        items, broken = _first_few(group.items, data.wants.load_size or data.wants.size, channels, fit)
        data.left_out.extend(broken)
        if not items:
            raise InputError(f"data {data.spec!r}: none of the pictures for previews can be read: {broken[0]}")
        for number, key in enumerate(group.keys):
            examples[key] = _scale(data._middle(stack([item[number] for item in items])), data.wants)
    few = min(map(len, examples.values()))
    return replace(data, examples={key: levels[:few] for key, levels in examples.items()})


def _first_few(items: Sequence[Item], size: int, channels: int, fit: Fit) -> tuple[list[list[np.ndarray]], list[str]]:
    """The first items of a fixed random order that can be read, and why others before them cannot."""
    readable: list[list[np.ndarray]] = []
    broken: list[str] = []
    for index in torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist():
        item = try_decode(items[index], size, channels, fit)
        if isinstance(item, str):
            broken.append(item)
        else:
            readable.append(item)
        if len(readable) == EXAMPLES:
            break
    return readable, broken


def _built_in(pictures: np.ndarray, labels: Tensor | None, wants: Wants, options: Options) -> InMemory:
    """Pictures of one size as they are wanted; where that is too much for the memory, as they are, scaled later."""
    images = torch.from_numpy(np.ascontiguousarray(pictures))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    shape = (wants.channels or images.shape[1], wants.load_size or wants.size)
    size = len(images) * shape[0] * shape[1] ** 2
    if images.numel() < size and size > options.memory * GIB:
        return InMemory({"images": images}, labels, fit=lambda taken: _fit(taken, *shape))
    fitted = torch.empty((len(images), shape[0], shape[1], shape[1]), dtype=torch.uint8)
    for part, into in zip(torch.split(images, 1024), torch.split(fitted, 1024), strict=True):
        into.copy_(_fit(part, *shape))
    return InMemory({"images": fitted}, labels)


def _fit(images: Tensor, channels: int, side: int) -> Tensor:
    """Some pictures, uint8 `[N, C, H, W]`, in that many channels and that size."""
    if channels == 1 and images.shape[1] == 3:
        # ITU-R BT.601, as Pillow converts to grey.
        weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)[:, None, None]
        images = (images * weights).sum(1, keepdim=True).round().to(torch.uint8)
    if images.shape[-2:] != (side, side):
        size = (side, side)
        scaled = torch.nn.functional.interpolate(images.float(), size, mode="bicubic", antialias=True)
        images = scaled.round_().clamp_(0, 255).to(torch.uint8)
    return images.expand(-1, channels, -1, -1).contiguous()


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
