"""Heights, widths and values of pictures, as people write them: 256, 256x320, dynamic; -1,1. No torch here.

interface = sized(interface, "256x320")
low, high = read_range("-1,1")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.manifest import Interface, Port


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


MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Size multiples that are tried, pixels."""


def find_multiple(tried: Callable[[int, int], tuple[float, float]], least: int = 1) -> tuple[int, float]:
    """The smallest multiple at which the output's size is the input's times one factor, and that factor.

    Args:
        tried: Runs a picture of so many rows and columns and gives the factors of height and width; a GanEdgeError
            where the generator does not take that size.
        least: The multiple to begin with, one of `MULTIPLES`.

    Raises:
        GanEdgeError: it works at none of them.
    """
    first = ""
    for multiple in MULTIPLES[MULTIPLES.index(least) if least in MULTIPLES else 0 :]:
        few = -(-48 // multiple)
        grids = [(few, few), (few + 1, few + 2), (few + 3, few)]
        ratios: set[float] = set()
        try:
            for rows, columns in grids if multiple < 128 else grids[:2]:
                ratios.update(tried(rows * multiple, columns * multiple))
        except GanEdgeError as error:
            first = first or str(error)
            continue
        if len(ratios) == 1 and 0.0 not in ratios:
            return multiple, ratios.pop()
    raise GanEdgeError(first or "this generator works at no multiple of 1 to 512 pixels: give its one size, --size 256")


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


def _resize(port: Port, height: int | str, width: int | str) -> Port:
    if port.role != "image":
        return port
    shape = (
        (*port.shape[:2], height, width) if port.layout == "NCHW" else (port.shape[0], height, width, port.shape[-1])
    )
    return replace(port, shape=shape)
