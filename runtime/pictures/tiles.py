"""Pictures too large for the memory: tiles that overlap, blended so that no seam shows.

Each tile sees `context` pixels beyond the part it decides. Where the generator's receptive field reaches no further,
the result is the whole picture's; in a strip of `feather` pixels two neighbours fade into each other, which hides what
difference is left where it does reach further. All tiles have one size, so that an engine prepares for one shape.

    result = blend(picture, run, port, output, side=512, context=64)    # run: pixels [H, W, C] → tensor
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.errors import InputError
from ganedge.runtime.manifest import relation_of
from ganedge.runtime.memory import Peak, settled

from .images import to_pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ganedge.runtime.manifest import Port

    Run = Callable[[NDArray[Any]], NDArray[np.generic]]

CONTEXT = 64
"""Pixels that a tile sees beyond the part it decides, unless asked otherwise."""
FEATHER = 16
"""Pixels in which two tiles fade into each other."""
MAX_SIDE = 1024
"""The largest tile: beyond it the overlap costs little and memory grows."""
SHARE = 0.75
"""Share of a memory budget that is planned with; the rest is a reserve."""
ROWS = 64
"""Rows of a result that are rounded or moved at once."""
MAX_DENOMINATOR = 4
"""Of a scale that a generator may have: 1/2, 3/2, 4/3."""
SCALES = tuple(map(Fraction, ("1", "2", "4", "3", "8", "1/2", "3/2", "1/4")))
"""Scales that are tried where the output lacks a border."""
WHOLE_SCALE = Fraction(1)
"""The scale of a generator whose results are as large as its pictures."""
UNKNOWN_COST = 16_384
"""Bytes per pixel of a tile taken for granted where the system does not tell how much memory a process holds."""


def reflected(begin: int, end: int, size: int) -> NDArray[np.int64]:
    """Indices `begin` to `end` into an axis of `size`, mirrored at its ends without repeating the edge."""
    if size == 1:
        return np.zeros(end - begin, np.int64)
    period = 2 * (size - 1)
    index = np.arange(begin, end) % period
    return np.minimum(index, period - index)


def padded(picture: NDArray[Any], height: int, width: int, top: int = 0, left: int = 0) -> NDArray[Any]:
    """A window of a picture that goes on for ever as its own mirror image: `[height, width, C]` from (top, left)."""
    rows, columns = picture.shape[:2]
    if top + height <= rows and left + width <= columns:
        return picture[top : top + height, left : left + width]
    return picture[np.ix_(reflected(top, top + height, rows), reflected(left, left + width, columns))]


def up(size: int, multiple: int) -> int:
    """The least multiple that is not below `size`."""
    return -(-size // multiple) * multiple


def geometry(output: NDArray[np.generic], port: Port, height: int, width: int) -> tuple[Fraction, int]:
    """How an output lies over the input that it was made from.

    Returns:
        Output pixels for one input pixel along each side, and how many the output is short of that, because
        convolutions without padding cut the same border off on both sides.

    Raises:
        InputError: nothing says which part of the output belongs where.
    """
    rows, columns = (int(size) for size in (output.shape[2:] if port.layout == "NCHW" else output.shape[1:3]))
    stated = relation_of(port.sides[0])
    if stated is not None and all(
        stated.scale * into - stated.border == out for into, out in ((height, rows), (width, columns))
    ):
        return stated.scale, stated.border
    exact = Fraction(rows, height)
    if exact == Fraction(columns, width) and exact.denominator <= MAX_DENOMINATOR:
        return exact, 0
    for scale in SCALES:
        border = scale * height - rows
        if (
            border == scale * width - columns
            and border.denominator == 1
            and 0 < 2 * border < scale * min(height, width)
        ):
            return scale, int(border)
    raise InputError(
        f"this generator turned {width} × {height} pixels into {columns} × {rows}, neither in proportion nor less a "
        "border: give it pictures of exactly the size it takes, through run()"
    )


class Cost:
    """What one tile costs an engine, learnt from tiles that grow until the budget's edge comes into view.

    Args:
        run: From pixels `[H, W, C]` to one output item.
        port: The generator's input.
        output: Its output.
        context: See `blend`.
        limit: Bytes that no probe may be expected to exceed.
        channels: Of the pixels; those of the input by default.

    Raises:
        InputError: even the smallest tile costs more than the limit.
    """

    def __init__(
        self, run: Run, port: Port, output: Port, context: int, limit: int, channels: int | None = None
    ) -> None:
        base = settled()
        side = up(2 * context + FEATHER + max(port.multiple, 3 * FEATHER), port.multiple)
        self.smallest = side
        while True:
            with Peak() as peak:
                tensor = run(np.zeros((side, side, channels or port.channels), np.uint8))
                self.scale = math.ceil(geometry(tensor, output, side, side)[0])
                to_pixels(tensor, output.range or (0.0, 1.0), output.layout)
            known = base is not None and peak.bytes is not None
            # A difference of a few pages is not significant: the engine may reuse memory from before.
            grown = max(peak.bytes - base, tensor.nbytes) if known else UNKNOWN_COST * side * side  # type: ignore[operator]
            self.per_pixel = grown / (side * side)
            if grown > limit and side == self.smallest:
                raise InputError(
                    f"the smallest tile, {side} × {side} pixels, takes {grown / 1e6:.0f} MB: "
                    f"raise memory (--memory) above {grown / SHARE / 1e6:.0f} MB or lower the overlap"
                )
            larger = up(round(1.5 * side), port.multiple)
            if larger > MAX_SIDE or grown > limit or self.per_pixel * larger * larger > limit:
                return
            side = larger

    def largest_side(self, budget: int, width: int, output: Port, multiple: int) -> int:
        """The tile that fits a budget together with the strip it is blended in, pixels."""
        strip = 8 * output.channels * self.scale**2 * up(width, multiple)
        a, b = self.per_pixel, float(strip)
        side = int((math.sqrt(b * b + 4 * a * SHARE * budget) - b) / (2 * a)) if a else MAX_SIDE
        side = min(side, MAX_SIDE) // multiple * multiple
        if side < self.smallest:
            needed = (a * self.smallest**2 + b * self.smallest) / SHARE
            raise InputError(
                f"a picture {width} pixels wide takes {needed / 1e6:.0f} MB in tiles of {self.smallest}: "
                "raise memory (--memory) or lower the overlap"
            )
        return side


def blend(picture: NDArray[Any], run: Run, port: Port, output: Port, side: int, context: int = CONTEXT) -> NDArray[Any]:
    """Take a picture through a generator tile by tile.

    Args:
        picture: uint8 or uint16 `[H, W, C]`.
        run: From pixels `[side, side, C]` to one output item.
        port: The input; its height and width are dynamic.
        output: The output.
        side: Height and width of a tile, pixels, a multiple of `port.multiple`.
        context: Pixels that a tile sees beyond the part it decides.

    Returns:
        `[scale · H - border, scale · W - border, C']` of the picture's type.
    """
    height, width = picture.shape[:2]
    rows, columns = (up(size, port.multiple) for size in (height, width))
    tall, wide = min(side, rows), min(side, columns)
    first = run(padded(picture, tall, wide))
    scale, border = geometry(first, output, tall, wide)
    step = math.lcm(port.multiple, scale.denominator)
    tops, fades_y = _row(rows, tall, context, step, scale, border)
    lefts, fades_x = _row(columns, wide, context, step, scale, border)
    strip = np.zeros((len(fades_y[0]), int(scale * columns) - border, output.channels), np.float32)
    shape = [max(1, round(scale * size) - border) for size in (height, width)]
    result: NDArray[Any] = np.empty((*shape, output.channels), picture.dtype)
    depth = 16 if picture.dtype == np.uint16 else 8
    for index, top in enumerate(tops):
        for left, fade_x in zip(lefts, fades_x, strict=True):
            tensor = first if top == left == 0 else run(padded(picture, tall, wide, top, left))
            tile = tensor[0].transpose(1, 2, 0) if output.layout == "NCHW" else tensor[0]
            begin = int(scale * left)
            strip[:, begin : begin + len(fade_x)] += tile * np.outer(fades_y[index], fade_x)[..., None]
        # Rows above the next tile are final: round them, and move the others up, a few at a time for the memory.
        final = int(scale * (tops[index + 1] - top)) if index + 1 < len(tops) else len(strip)
        rows_done = result[int(scale * top) : int(scale * top) + final]
        span = (0.0, 255.0) if output.dtype == "uint8" else output.range or (0.0, 1.0)
        for begin in range(0, len(rows_done), ROWS):
            part = rows_done[begin : begin + ROWS]
            part[:] = to_pixels(strip[None, begin : begin + len(part), : result.shape[1]], span, "NHWC", depth)[0]
        rows = max(1, min(final, ROWS))
        for begin in range(0, len(strip) - final, rows):
            moved = strip[begin + final : min(begin + rows, len(strip) - final) + final]
            strip[begin : begin + len(moved)] = moved
        strip[len(strip) - final :] = 0.0
    return result


def _row(
    total: int, side: int, context: int, multiple: int, scale: Fraction = WHOLE_SCALE, border: int = 0
) -> tuple[list[int], list[NDArray[np.float32]]]:
    """Where the tiles of one axis begin, and how much each counts at each pixel of its result; together they make one.

    A result is the scale times its tile, less the border, half of which is missing on each side.
    """
    length = int(scale * min(side, total)) - border
    if side >= total:
        return [0], [np.ones(length, np.float32)]
    step = (side - 2 * context - FEATHER) // multiple * multiple
    assert step >= 1, "Cost and its callers keep tiles larger than their overlap"
    starts = [*range(0, total - side, step), total - side]
    position = np.floor((np.arange(length) + border / 2) / float(scale)) + 0.5
    weights = []
    for start in starts:
        near = position - context if start > 0 else np.full(length, np.inf)
        far = side - position - context if start < total - side else np.full(length, np.inf)
        weights.append(np.clip(np.minimum(near, far) / FEATHER, 0.0, 1.0))
    slots = [slice(int(scale * start), int(scale * start) + length) for start in starts]
    whole = np.zeros(int(scale * total) - border)
    for slot, weight in zip(slots, weights, strict=True):
        whole[slot] += weight
    assert (whole > 0).all(), "every pixel belongs to a tile"
    return starts, [(weight / whole[slot]).astype(np.float32) for slot, weight in zip(slots, weights, strict=True)]
