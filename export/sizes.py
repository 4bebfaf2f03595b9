"""Heights, widths and values of pictures, as people write them: 256, 256x320, dynamic; -1,1. No torch here.

interface = sized(interface, "256x320")
low, high = read_range("-1,1")
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fractions import Fraction
from math import isqrt

from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.manifest import Interface, Port

CHANNELS = (1, 3, 4)
"""Channels that an image can have."""
LEAST_SIDE = 8
"""Height of the smallest image that a flat output is taken for, pixels."""


def sized(interface: Interface, size: str | None) -> Interface:
    """The interface with other heights and widths of its pictures, where pictures go in.

    Args:
        interface: As it came.
        size: `256`, `256x320` (height × width), `dynamic`, or None to leave it; several with commas are the sizes an
            engine is built for, and make it dynamic.

    Raises:
        UsageError: no such size, or a generator whose size its latents do not tell.
    """
    if size is None:
        return interface
    if interface.inputs[0].role != "image":
        raise UsageError(f"--size {size}: the size of what this generator draws is part of its weights")
    height, width = ("height", "width") if size == "dynamic" or "," in size else read_size(size)
    inputs, outputs = (
        tuple(_resize(port, height, width) for port in ports) for ports in (interface.inputs, interface.outputs)
    )
    return replace(interface, inputs=inputs, outputs=outputs)


SMALL = 48
"""Least height and width that a generator is tried with, pixels."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Size multiples that are tried, pixels."""


def find_multiple(tried: Callable[[int, int], Sequence[tuple[int, int]]], least: int = 1) -> tuple[int, Fraction, int]:
    """The smallest multiple at which the output's size is the input's times a scale, less a border, and these two.

    Args:
        tried: Runs a picture of so many rows and columns and gives the size of the input and that of the output along
            each side that is dynamic; a GanEdgeError where the generator does not take that size.
        least: The multiple to begin with, one of `MULTIPLES`.

    Raises:
        GanEdgeError: it works at none of them.
    """
    first = ""
    for multiple in MULTIPLES[MULTIPLES.index(least) if least in MULTIPLES else 0 :]:
        few = -(-SMALL // multiple)
        grids = [(few, few), (few + 1, few + 2), (few + 3, few)]
        pairs: set[tuple[int, int]] = set()
        try:
            for rows, columns in grids if multiple < 128 else grids[:2]:
                pairs.update(tried(rows * multiple, columns * multiple))
        except GanEdgeError as error:
            first = first or str(error)
            continue
        relation = _relation(pairs)
        if relation is not None:
            return multiple, *relation
    raise GanEdgeError(first or "this generator works at no multiple of 1 to 512 pixels: give its one size, --size 256")


def larger(multiple: int) -> tuple[int, int]:
    """About twice the height and width that `find_multiple` tries at a multiple."""
    few = 2 * -(-SMALL // multiple)
    return few * multiple, (few + 1) * multiple


def _relation(pairs: Collection[tuple[int, int]]) -> tuple[Fraction, int] | None:
    """The scale and the border at which every output is the scale times its input, less the border; None without."""
    (least, smallest), (most, largest) = min(pairs), max(pairs)
    proportional = {Fraction(out, into) for into, out in pairs}
    if len(proportional) == 1:
        return (proportional.pop(), 0) if smallest else None
    if least == most or largest <= smallest:
        return None
    scale = Fraction(largest - smallest, most - least)
    border = scale * least - smallest
    fits = border > 0 and border.denominator == 1 and all(out == scale * into - border for into, out in pairs)
    return (scale, int(border)) if fits else None


def follow(name: str, pairs: Collection[tuple[int, int]]) -> int | str | None:
    """The dimension of an output by the side of the picture that it follows.

    Args:
        name: Of that side: height or width.
        pairs: The side and the output's size in each of several calls.

    Returns:
        A number where it is always the same, `0.5*height` or the like where it follows, None where it does neither.
    """
    sizes = {out for _, out in pairs}
    if len(sizes) == 1:
        return sizes.pop()
    relation = _relation(set(pairs))
    if relation is None or (relation[1] and len({side for side, _ in pairs}) < 3):
        return None  # A line with a border goes through any two points.
    return scaled(name, *relation)


def scaled(name: str, scale: Fraction, border: int) -> str:
    """The name of a dimension of the output: `height`, `2*height`, `height-4`."""
    factor = "" if scale == 1 else f"{float(scale):g}*"
    return f"{factor}{name}" + (f"-{border}" if border else "")


def read_size(text: str) -> tuple[int, int]:
    """Height and width from `256` or `256x320`.

    Raises:
        UsageError: neither of these.
    """
    parts = text.lower().split("x")
    try:
        height, width = int(parts[0]), int(parts[-1])
    except ValueError:
        height = width = 0
    if len(parts) > 2 or min(height, width) < 1 or max(height, width) > 16384:
        raise UsageError(f"size {text!r}: give 256, 256x320 (height × width), or dynamic")
    return height, width


def read_range(text: str) -> tuple[float, float]:
    """The values of black and white from `-1,1`.

    Raises:
        UsageError: not two numbers, the smaller first.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not -1e6 <= low < high <= 1e6:
        raise UsageError(f"--range {text}: give the values of black and white, such as -1,1 or 0,1")
    return low, high


def dimensions(text: str, option: str) -> tuple[int | str, ...]:
    """Read a shape.

    Raises:
        UsageError: no such shape; the message names the option.

    >>> dimensions("3xHxW", "--input")
    (3, 'height', 'width')
    """
    names: dict[str, str] = {"h": "height", "w": "width"}
    sizes: list[int | str] = []
    for part in text.lower().split("x"):
        if part in names:
            sizes.append(names[part])
        elif part.isdigit() and 0 < int(part) <= 65_536:
            sizes.append(int(part))
        else:
            raise UsageError(f"{option} {text}: give sizes with x between them, such as 100, 100x1x1 or 3xHxW")
    return tuple(sizes)


def flat_image(shape: Sequence[int]) -> str | None:
    """Return the square image that a flat output `[N, values]` is; None where it is none.

    >>> flat_image((2, 784)), flat_image((2, 3072)), flat_image((2, 10))
    ('1x28x28', '3x32x32', None)
    """
    if len(shape) != 2:
        return None
    for channels in (1, 3):
        side = isqrt(shape[1] // channels)
        if side >= LEAST_SIDE and channels * side * side == shape[1]:
            return f"{channels}x{side}x{side}"
    return None


def main_result(shapes: Sequence[Sequence[int]]) -> int:
    """Return the index of the result to take: images before others, colour before grey, large before small, else first.

    >>> main_result([(1, 512), (1, 1, 8, 8), (1, 3, 4, 4), (1, 3, 8, 8), (1, 3, 8, 8)])
    3
    """

    def worth(index: int) -> tuple[int, bool, int]:
        shape = shapes[index]
        if len(shape) == 4 and shape[1] in CHANNELS:
            return 2, shape[1] > 1, shape[2] * shape[3]
        return int(flat_image(shape) is not None), False, 0

    return max(range(len(shapes)), key=worth)


def _resize(port: Port, height: int | str, width: int | str) -> Port:
    if port.role != "image":
        return port
    shape = (
        (*port.shape[:2], height, width) if port.layout == "NCHW" else (port.shape[0], height, width, port.shape[-1])
    )
    return replace(port, shape=shape)
