"""Choose the size of input images for generators that accept any size.

    interface, why = settled(manifest, "256x320")        # its pictures are 256 × 320 now, and nothing else

A convolutional generator's cost goes with the picture's area, so a figure without a size says nothing: it is asked
for, or else the size the generator was trained at, or else `SIDE`, and always in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ganedge.export.sizes import read_size
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Interface, Manifest, Port

SIDE = 256
"""Default height and width, pixels: what most image-to-image generators are trained at."""


def settled(manifest: Manifest, requested: str | None = None) -> tuple[Interface, str]:
    """Return an artifact's interface with a fixed height and width of its input pictures.

    Args:
        manifest: Of the artifact.
        requested: `256`, `256x320` (height × width), or None for the size it was trained at.

    Returns:
        The interface, its first input of one size; its output as it was. And why that size, empty where there is
        nothing to settle.

    Raises:
        UsageError: no size, one that this generator does not take, or a generator that starts from latents.
    """
    interface = manifest.interface
    port = interface.inputs[0]
    if port.role != "image":
        if requested is not None:
            raise UsageError(f"--size {requested}: the size of what this generator draws is part of its weights")
        return interface, ""
    own = port.sides
    height, width = _read(requested) if requested is not None else _default(manifest, port)
    for fixed, size, what in zip(own, (height, width), ("height", "width"), strict=True):
        if isinstance(fixed, int) and size != fixed:
            raise UsageError(
                f"--size {requested}: this generator takes a {what} of {fixed} and nothing else; leave --size out, or "
                "export it with --size dynamic"
            )
        if isinstance(fixed, str) and size % port.multiple:
            near = max(1, round(size / port.multiple)) * port.multiple
            raise UsageError(
                f"--size {requested}: this generator takes multiples of {port.multiple}, and its {what} would be "
                f"{size}: give {near}"
            )
    if not any(isinstance(size, str) for size in own):
        return interface, "the only one it takes"
    why = "as asked" if requested is not None else "as trained" if manifest.source.size else "nothing says another"
    return interface.at_size(height, width), why


def inputs(interface: Interface) -> list[dict[str, Any]]:
    """Return the inputs for the report: name, type and the shape of one item."""
    return [
        {"name": port.name, "role": port.role, "dtype": port.dtype, "shape": list(port.shape[1:])}
        for port in interface.inputs
    ]


def shown(inputs: Sequence[Mapping[str, Any]], why: str) -> str:
    """Format the inputs as text: `image float32 3 × 256 × 256 (as trained)`."""
    parts = [
        f"{item['role']} {item['dtype']}" + (f" {' × '.join(map(str, item['shape']))}" if item["shape"] else "")
        for item in inputs
    ]
    return ", ".join(parts) + (f" ({why})" if why else "")


def _read(text: str) -> tuple[int, int]:
    try:
        return read_size(text)
    except UsageError:
        raise UsageError(f"--size {text!r}: give 256, or 256x320 (height × width), of 1 to 16384 pixels") from None


def _default(manifest: Manifest, port: Port) -> tuple[int, int]:
    """Return the training's size if it is known, rounded up to the multiple that the artifact accepts."""
    least = -(-(manifest.source.size or SIDE) // port.multiple) * port.multiple
    height, width = port.sides
    return (height if isinstance(height, int) else least, width if isinstance(width, int) else least)
