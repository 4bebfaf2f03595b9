"""The size of the pictures that a generator is measured with, where it takes any.

    interface, why = settled(manifest, "256x320")        # its pictures are 256 × 320 now, and nothing else

A convolutional generator's cost goes with the picture's area, so a figure without a size says nothing: it is asked
for, or else the size the generator was trained at, or else `SIDE`, and always in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ganedge.export.sizes import read_size
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Interface, Manifest, Port

SIDE = 256
"""Height and width where nothing says another, pixels: what most image-to-image generators are trained at."""


def settled(manifest: Manifest, asked: str | None = None) -> tuple[Interface, str]:
    """What an artifact takes, with the height and width of its pictures settled.

    Args:
        manifest: Of the artifact.
        asked: `256`, `256x320` (height × width), or None for the size it was trained at.

    Returns:
        The interface, its first input of one size; its output as it was. And why that size, empty where there is
        nothing to settle.

    Raises:
        UsageError: no size, one that this generator does not take, or a generator that starts from latents.
    """
    interface = manifest.interface
    port = interface.inputs[0]
    if port.role != "image":
        if asked is not None:
            raise UsageError(f"--size {asked}: the size of what this generator draws is part of its weights")
        return interface, ""
    own = own_size(port)
    height, width = _wanted(asked) if asked is not None else _default(manifest, port)
    for fixed, size, what in zip(own, (height, width), ("height", "width"), strict=True):
        if isinstance(fixed, int) and size != fixed:
            raise UsageError(
                f"--size {asked}: this generator takes a {what} of {fixed} and nothing else; leave --size out, or "
                "export it with --size dynamic"
            )
        if isinstance(fixed, str) and size % port.multiple:
            near = max(1, round(size / port.multiple)) * port.multiple
            raise UsageError(
                f"--size {asked}: this generator takes multiples of {port.multiple}, and its {what} would be {size}: "
                f"give {near}"
            )
    if not any(isinstance(size, str) for size in own):
        return interface, "the only one it takes"
    why = "as asked" if asked is not None else "as trained" if manifest.source.size else "nothing says another"
    return replace(interface, inputs=(at(port, height, width), *interface.inputs[1:])), why


def own_size(port: Port) -> tuple[int | str, int | str]:
    """Height and width as a picture's port says them; a text where any will do."""
    return (port.shape[2], port.shape[3]) if port.layout == "NCHW" else (port.shape[1], port.shape[2])


def at(port: Port, height: int, width: int) -> Port:
    """A picture's port, of one size."""
    batch, *rest = port.shape
    shape = (batch, rest[0], height, width) if port.layout == "NCHW" else (batch, height, width, rest[-1])
    return replace(port, shape=shape)


def inputs(interface: Interface) -> list[dict[str, Any]]:
    """What goes in, as the report holds it: name, type and the shape of one item."""
    return [
        {"name": port.name, "role": port.role, "dtype": port.dtype, "shape": list(port.shape[1:])}
        for port in interface.inputs
    ]


def shown(given: Sequence[Mapping[str, Any]], why: str) -> str:
    """The same for people: `image float32 3 × 256 × 256 (as trained)`."""
    parts = [
        f"{one['role']} {one['dtype']}" + (f" {' × '.join(map(str, one['shape']))}" if one["shape"] else "")
        for one in given
    ]
    return ", ".join(parts) + (f" ({why})" if why else "")


def _wanted(text: str) -> tuple[int, int]:
    try:
        return read_size(text)
    except UsageError:
        raise UsageError(f"--size {text!r}: give 256, or 256x320 (height × width), of 1 to 16384 pixels") from None


def _default(manifest: Manifest, port: Port) -> tuple[int, int]:
    """The training's size where it is known; a multiple that it does not hold rounds it up."""
    least = -(-(manifest.source.size or SIDE) // port.multiple) * port.multiple
    height, width = own_size(port)
    return (height if isinstance(height, int) else least, width if isinstance(width, int) else least)
