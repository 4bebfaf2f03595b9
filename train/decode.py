"""Read the pictures of a training set as squares of uint8, with the runtime's reader.

paths = find_pictures(Path("pictures"))
pixels = decode(paths[0], 64, 3)  # uint8 [64, 64, 3]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ganedge.runtime.errors import GanEdgeError, one_line
from ganedge.runtime.pictures import reader
from ganedge.runtime.pictures.reader import ENDINGS, is_grey

__all__ = ["ENDINGS", "decode", "decode_halves", "find_pictures", "is_grey", "try_decode"]


def find_pictures(root: Path) -> list[Path]:
    """Every picture below `root`, hidden ones left out, in a fixed order."""
    return reader.listed(root)


def try_decode(item: Sequence[Path], size: int, channels: int) -> list[np.ndarray] | str:
    """Read the pictures of one item, each file once.

    Args:
        item: One path is one picture, two are one each, and the same path twice stands for the halves of that picture.
        size: As `decode` takes it.
        channels: As `decode` takes them.

    Returns:
        The pictures as `decode` returns them, or which file cannot be read and why.
    """
    halves = len(item) == 2 and item[0] == item[1]
    pictures: list[np.ndarray] = []
    path = item[0]
    try:
        for path in dict.fromkeys(item):
            pictures += decode_halves(path, size, channels) if halves else [decode(path, size, channels)]
    except Exception as error:  # noqa: BLE001 - decoders meet damage with whatever exception it leads them to
        reason = one_line(error)
        if isinstance(error, GanEdgeError):
            return f"{path}: {reason.removeprefix(f'cannot read {path}: ')}"
        known = isinstance(error, (OSError, ValueError, SyntaxError))
        return f"{path}: {reason}" if known else f"{path}: damaged ({reason})"
    return pictures


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """Read one picture, upright, scaled and centre-cropped to a square.

    Args:
        path: Any file that `reader.read` takes.
        size: Height and width, pixels.
        channels: 1 or 3; transparency is laid over white.

    Returns:
        uint8 `[size, size, channels]`.
    """
    return reader.fit(_pixels(reader.read_small(path, size), channels), size, size)


def decode_halves(path: Path, size: int, channels: int) -> list[np.ndarray]:
    """The left and the right half of a picture that holds two side by side, each as `decode` returns it."""
    pixels = _pixels(reader.read_small(path, 2**16), channels)
    middle = pixels.shape[1] // 2
    if not middle:
        raise ValueError("one pixel wide: no two pictures side by side")
    return [reader.fit(half, size, size) for half in (pixels[:, :middle], pixels[:, middle : 2 * middle])]


def _pixels(pixels: reader.Pixels, channels: int) -> np.ndarray:
    return reader.to_channels(pixels, channels)
