"""Outputs that are kept beside the result: which, what they are called, and what they carry. No torch here.

    kept = choose(("alpha=1:mask",), ["0", "1", "2"], result=0)
    port = describe(kept[0].output, sample, ("batch", 1, "height", "width"), result)

By default every output but the result is dropped: an engine computes and copies whatever a graph declares, and most
networks return what only their training needs, such as the side outputs of U²-Net.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ganedge.export.sizes import CHANNELS, follow
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.manifest import MAX_CHANNELS, MAX_OUTPUTS, Interface, Layout, Port, Role

ALL = "all"
"""What keeps every output that can be kept."""
ROLES: dict[str, Role] = {"mask": "mask", "image": "image", "picture": "image", "values": "values"}
"""Words for what an output carries."""
EXAMPLE = "--keep-outputs mask, --keep-outputs alpha=1:mask or --keep-outputs all"
MOST_MULTIPLE = 64
"""The largest size multiple that a kept output may ask for, pixels: three sizes are tried up to here."""
LAYOUT_OF: dict[int, Layout] = {1: "N", 2: "NC", 3: "NLC", 4: "NCHW"}
"""Layouts of values by their dimensions, the batch included."""


@dataclass(frozen=True)
class KeptOutput:
    """An output to keep, as the user states it."""

    source: str
    """Its name or index in what the generator returns."""
    name: str
    """Its name in the artifact; empty for that of the source."""
    role: Role | None
    """What it carries; None to look at its values."""


@dataclass(frozen=True)
class Choice:
    """An output that is kept."""

    index: int
    """Its index in what the generator returns."""
    output: KeptOutput
    """Its name and role."""


def read_kept(text: str) -> KeptOutput:
    """Read SOURCE, NAME=SOURCE or either of them with :ROLE behind it.

    Raises:
        UsageError: not of this form.

    >>> read_kept("alpha=1:mask")
    KeptOutput(source='1', name='alpha', role='mask')
    """
    rest, colon, word = text.rpartition(":")
    role = ROLES.get(word) if colon else None
    rest = text if role is None else rest  # TensorFlow's names have colons of their own.
    name, equals, source = rest.rpartition("=")
    if not source or (equals and not name):
        roles = ", ".join(ROLES)
        raise UsageError(f"--keep-outputs {text}: give NAME, NAME=INDEX or NAME:ROLE with one of {roles}: {EXAMPLE}")
    if name and not re.fullmatch(r"[A-Za-z_][\w.-]{0,63}", name):
        raise UsageError(f"--keep-outputs {text}: {name!r} is no name: letters, digits, _ . and - after a letter")
    return KeptOutput(source, name, role)


def choose(texts: Sequence[str], names: Sequence[str], result: int, taken: Collection[str] = ()) -> list[Choice]:
    """Match what the user wants to keep with what a generator returns.

    Args:
        texts: As --keep-outputs has them; `all` keeps every output.
        names: Of all outputs, in order; an index is a name too.
        result: Which of them is the result.
        taken: Names of inputs and of the result in the artifact.

    Raises:
        UsageError: no such output, the result itself, or two of one name.
    """
    listed = list(texts) if list(texts) != [ALL] else [name for index, name in enumerate(names) if index != result]
    choices: list[Choice] = []
    used = set(taken)
    for text in listed:
        kept = KeptOutput(text, "", None) if list(texts) == [ALL] else read_kept(text)
        index = output_index(kept.source, names)
        if index is None:
            raise UsageError(f"--keep-outputs {text}: this generator returns {', '.join(names)}")
        if index == result:
            raise UsageError(
                f"--keep-outputs {text}: {names[index]} is the result, which is kept; --result takes another"
            )
        if any(choice.index == index for choice in choices):
            raise UsageError(f"--keep-outputs {text}: {names[index]} is named twice; leave one out")
        name = kept.name or _name_of(names[index], used)
        if name in used:
            raise UsageError(f"--keep-outputs {text}: {name} is the name of an input or of another output; give NAME=")
        used.add(name)
        choices.append(Choice(index, replace(kept, name=name)))
    return choices


def output_index(source: str, names: Sequence[str]) -> int | None:
    """The index of an output by its name or index; None where there is none."""
    if source in names:
        return list(names).index(source)
    return int(source) if source.isdecimal() and int(source) < len(names) else None


def hindrance(shapes: Sequence[tuple[int, ...]], batches: Sequence[int], is_real: bool) -> str:
    """Why an output cannot be kept; empty where it can.

    Args:
        shapes: Of the output, in calls with so many items as `batches` says.
        batches: Items of each call.
        is_real: Whether its values are numbers that float32 holds, not complex ones.
    """
    shown = "×".join(map(str, shapes[0])) or "a single number"
    if not is_real:
        return f"it holds complex numbers ({shown})"
    if any(not shape or shape[0] != batch for shape, batch in zip(shapes, batches, strict=True)):
        return f"it has no value for each item ({shown} for {batches[0]} items)"
    if len(shapes[0]) > max(LAYOUT_OF):
        return f"it has {len(shapes[0])} dimensions ({shown}), and {max(LAYOUT_OF)} are the most"
    return "" if math.prod(shapes[0]) else f"it is empty ({shown})"


def keepable(
    choices: Sequence[Choice], reason: Callable[[Choice], str], every: bool
) -> tuple[list[Choice], tuple[str, ...]]:
    """The choices that can be kept; of `all` the others are left out with a note.

    Raises:
        UsageError: one that was named cannot be kept, or there are too many.
    """
    able, notes = [], []
    for choice in choices:
        why = reason(choice)
        if why and not every:
            raise UsageError(f"--keep-outputs {choice.output.source}: {why}; leave it out")
        if why:
            notes.append(f"{choice.output.source} is not kept: {why}")
        else:
            able.append(choice)
    if len(able) >= MAX_OUTPUTS:
        raise UsageError(f"--keep-outputs: {len(able)} outputs beside the result; {MAX_OUTPUTS - 1} are the most")
    return able, tuple(notes)


def describe(kept: KeptOutput, sample: NDArray[np.generic], shape: tuple[int | str, ...], result: Port) -> Port:
    """What the manifest says of an output that is kept.

    Args:
        kept: Its name, and its role where the user stated that.
        sample: What the generator gives for real inputs; it tells a mask or a picture from other values.
        shape: Its dimensions; the first is the batch.
        result: The result, whose range of values its pictures share.

    Raises:
        UsageError: it has no dimensions of a mask or picture where the user says so.
    """
    fixed = [size if isinstance(size, int) else 0 for size in shape]
    nhwc = len(shape) == 4 and fixed[3] in CHANNELS and fixed[1] not in CHANNELS
    channels = fixed[3 if nhwc else 1] if len(shape) == 4 else 0
    role = kept.role or _role_of(sample, channels, result)
    most = {"mask": 1, "image": MAX_CHANNELS}.get(role)
    if most is not None and not 1 <= channels <= most:
        shown = "×".join(map(str, shape[1:]))
        raise UsageError(
            f"--keep-outputs {kept.source}:{role}: it is {shown} for each item, and the role {role} needs "
            f"{'one channel' if most == 1 else f'1 to {most} channels'}, height and width"
        )
    layout: Layout = "NHWC" if nhwc and most is not None else LAYOUT_OF[len(shape)]
    bounds = {"mask": (0.0, 1.0), "image": result.range}.get(role)
    return Port(kept.name, role, "float32", shape, layout, bounds)


def note_of(port: Port, source: str) -> str:
    """A line for the user on an output that is kept."""
    shown = "×".join(str(size) for size in port.shape[1:]) or "a number"
    return f"kept: {port.name} ({source}) as {port.role}, {shown}; --keep-outputs NAME:ROLE states another"


Shapes = dict[tuple[int, int], list[tuple[int, ...]]]
"""The shape of every output by the height and width of the picture."""


def with_sizes(interface: Interface, find: Callable[[int], tuple[Interface, Shapes]]) -> Interface:
    """The interface with every output's size as it follows the height and width of the picture.

    Args:
        interface: Whose first input is a picture of any height or width.
        find: Finds the size multiple, from a least one on, and the size of the result; returns the interface with
            them, and the shapes of all outputs at sizes of that multiple.

    Raises:
        UsageError: an output whose size follows neither height nor width at any multiple.
    """
    least, first = interface.inputs[0].multiple, None
    while True:
        try:
            resized, shapes = find(least)
        except GanEdgeError as error:
            raise first or error from None
        try:
            return _resized(resized, shapes)
        except UsageError as error:
            first, least = first or error, 2 * resized.inputs[0].multiple
            if least > MOST_MULTIPLE:
                raise first from None


def _resized(interface: Interface, shapes: Shapes) -> Interface:
    """The interface with the sizes of its extra outputs. Raises UsageError where one follows no side."""
    outputs = [interface.output]
    for index, port in enumerate(interface.extras, 1):
        dims: list[int | str] = [port.shape[0]]
        for axis in range(1, len(port.shape)):
            given = {size: each[index][axis] for size, each in shapes.items()}
            dim = follow("height", {(size[0], out) for size, out in given.items()})
            if dim is None:
                dim = follow("width", {(size[1], out) for size, out in given.items()})
            if dim is None:
                shown = ", ".join(f"{out} at {rows}x{columns}" for (rows, columns), out in given.items())
                raise UsageError(
                    f"--keep-outputs: a size of {port.name} is in no proportion to the picture's ({shown}): leave it "
                    "out, or give one size, such as --size 256"
                )
            dims.append(dim)
        outputs.append(replace(port, shape=tuple(dims)))
    return replace(interface, outputs=tuple(outputs))


def _name_of(source: str, used: Collection[str]) -> str:
    """A name for an output that the user did not name: that of the source, or `output1` for an index."""
    name = re.sub(r"\W+", "_", source, flags=re.ASCII).strip("_")
    name = f"output{name}" if not name or name[0].isdigit() else name
    while name in used:
        name += "_output"
    return name[:64]


def _role_of(sample: NDArray[np.generic], channels: int, result: Port) -> Role:
    """What the values look like: a mask of 0 to 1, a picture in the result's range, or other values."""
    least, most = float(sample.min()), float(sample.max())
    if channels == 1 and least >= 0 and 0 < most <= 1:
        return "mask"
    if result.range is None or channels not in {3, 4, result.channels} or channels == 0:
        return "values"
    low, high = result.range
    slack = 0.01 * (high - low)
    return "image" if low - slack <= least and most <= high + slack else "values"
