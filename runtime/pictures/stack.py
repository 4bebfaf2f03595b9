"""A picture together with what belongs to it pixel for pixel, and the inputs that are the same all over it.

    stack = Stack(manifest.interface, Conditions(mask="mask.png"))
    pixels = stack.join(picture)                     # [H, W, C + 1]: the mask is one more channel
    tensor = stack.run(generator.compute)(pixels)

Padding, scaling and tiles then treat picture and mask alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.conditions import Conditions, class_number, drawn, read_vector, refuse_unused
from ganedge.runtime.errors import InputError, UsageError
from ganedge.runtime.latents import seed_of

from . import images, reader, tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ganedge.runtime.manifest import Interface, Port


class Stack:
    """The inputs of a picture generator for one picture.

    Args:
        interface: What the generator takes; its first input is a picture.
        conditions: What the caller says beside the picture.
        resize: Scale what is aligned with the picture to its size; otherwise another size is refused.
        max_pixels: Refuse larger pictures before they are decoded.

    Raises:
        UsageError: a value for an input that is not there, or none where one is needed.
        InputError: a value that cannot be read.
    """

    def __init__(
        self,
        interface: Interface,
        conditions: Conditions,
        resize: bool = False,
        max_pixels: int = reader.MAX_PIXELS,
    ) -> None:
        self._interface = interface
        self._conditions = conditions
        self._resize, self._max_pixels = resize, max_pixels
        first, *further = interface.inputs
        refuse_unused(interface, conditions)
        self._aligned = [port for port in further if port.is_picture and interface.is_aligned(port)]
        self.channels = first.channels + sum(port.channels for port in self._aligned)
        self._fixed = {
            port.name: self._value(port, conditions, seed_of(index, conditions.seed))
            for index, port in enumerate(interface.inputs)
            if index and port not in self._aligned and not self._is_noise_map(port)
        }
        self.has_noise_map = any(map(self._is_noise_map, further))

    def join(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Put masks and further pictures behind the channels of a picture.

        Args:
            picture: uint8 or uint16 `[H, W, C]`, with as many channels as the first input.

        Raises:
            UsageError: one is missing.
            InputError: one cannot be read, or has another size.
        """
        parts = [picture]
        height, width = picture.shape[:2]
        for port in self._aligned:
            is_mask = port.role == "mask"
            source = self._conditions.mask if is_mask else self._conditions.style
            if source is None:
                needed = "a mask: give mask (--mask)" if is_mask else "a second picture: give style (--style)"
                raise UsageError(f"this generator needs {needed}, as large as the picture, for its input {port.name}")
            pixels = reader.to_channels(reader.read(source, self._max_pixels, 8), port.channels)
            if pixels.shape[:2] != (height, width):
                if not self._resize:
                    raise InputError(
                        f"{_name(source, port)} has {pixels.shape[1]} × {pixels.shape[0]} pixels and the picture "
                        f"{width} × {height}: give one of its size, or ask for resize (--resize)"
                    )
                pixels = images.resize(pixels, height, width)
            parts.append(reader.to_depth(pixels, 16 if picture.dtype == np.uint16 else 8))
        return np.concatenate(parts, axis=-1) if len(parts) > 1 else picture

    def run(self, compute: Callable[..., NDArray[np.generic]]) -> Callable[[NDArray[Any]], NDArray[np.generic]]:
        """A function from the pixels of `join`, or a part of them, to the output tensor.

        Args:
            compute: From one array per input to the output, such as `Generator.compute`.
        """
        return lambda pixels: compute(*self._arrays(pixels))

    def run_all(
        self, compute: Callable[..., Sequence[NDArray[np.generic]]]
    ) -> Callable[[NDArray[Any]], Sequence[NDArray[np.generic]]]:
        """As `run`, with a function to all outputs, such as `Generator.compute_all`."""
        return lambda pixels: compute(*self._arrays(pixels))

    def _arrays(self, pixels: NDArray[Any]) -> list[NDArray[np.generic]]:
        """One array per input from the pixels of `join`, or a part of them."""
        arrays: list[NDArray[np.generic]] = []
        begin = 0
        for index, port in enumerate(self._interface.inputs):
            if index == 0 or port in self._aligned:
                arrays.append(images.from_pixels(pixels[..., begin : begin + port.channels], port))
                begin += port.channels
            elif port.name in self._fixed:
                arrays.append(self._fixed[port.name])
            else:
                shape = (port.item_shape[0], *pixels.shape[:2])
                arrays.append(drawn(port, shape, seed_of(index, self._conditions.seed)).take(1))
        return arrays

    def _is_noise_map(self, port: Port) -> bool:
        """Whether an input is noise as large as the picture, whatever size that has."""
        return port.role == "noise" and self._interface.is_aligned(port) and isinstance(port.sides[0], str)

    def _value(self, port: Port, conditions: Conditions, seed: int) -> NDArray[np.generic]:
        """Return the value of an input for the whole picture, with a batch of one."""
        if port.role == "label":
            if conditions.label is None:
                names = ", ".join(self._interface.classes[:12])
                raise UsageError(f"this generator needs a class: give label (--label), one of {names}")
            return np.array([class_number(self._interface, conditions.label)], np.int64)
        if port.is_picture:
            return _beside(port, conditions.style if port.role == "image" else conditions.mask)
        if port.role == "vector" and conditions.style is not None:
            return read_vector(port, conditions.style)[None]
        return drawn(port, port.item_shape, seed).take(1)


def _beside(port: Port, source: Any) -> NDArray[np.generic]:
    """A further picture with a size of its own, scaled to it where it is fixed."""
    if source is None:
        option = "style (--style)" if port.role == "image" else "mask (--mask)"
        raise UsageError(f"this generator needs a picture for its input {port.name}: give {option}")
    pixels = reader.to_channels(reader.read(source), port.channels)
    sides = [
        fixed if isinstance(fixed, int) else tiles.up(size, port.multiple)
        for fixed, size in zip(port.sides, pixels.shape[:2], strict=True)
    ]
    if all(isinstance(side, int) for side in port.sides):
        return images.from_pixels(images.resize(pixels, *sides), port)
    return images.from_pixels(tiles.padded(pixels, *sides), port)


def mask_of(masks: Any, picture: Any) -> Any:
    """The mask of one picture: the one for all, or the one of its name in a folder.

    Raises:
        InputError: the folder has no mask of that name.
    """
    if not isinstance(masks, str | Path) or not Path(masks).is_dir() or not isinstance(picture, str | Path):
        return masks
    stem = Path(picture).stem
    for path in sorted(Path(masks).glob(f"{_escaped(stem)}.*")):
        if path.suffix.lower() in reader.ENDINGS:
            return path
    raise InputError(f"{masks} holds no mask named {stem}: give each picture one of its name")


def _escaped(stem: str) -> str:
    import glob

    return glob.escape(stem)


def _name(source: Any, port: Port) -> str:
    return str(source) if isinstance(source, str | Path) else f"the {port.role} {port.name}"
