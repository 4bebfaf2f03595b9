"""Read the pictures of a training set as squares of uint8, with the runtime's reader.

paths = reader.listed(Path("pictures"))
pixels = decode(paths[0], 64, 3)  # uint8 [64, 64, 3]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ganedge.runtime.errors import GanEdgeError, one_line
from ganedge.runtime.pictures import reader
from ganedge.runtime.pictures.reader import ENDINGS, is_grey

__all__ = [
    "ENDINGS",
    "Fit",
    "decode",
    "decode_halves",
    "is_grey",
    "share_cut",
    "size_of",
    "try_decode",
]

Fit = Literal["crop", "pad", "stretch"]
"""How a picture becomes a square: cut from the middle, completed with its edge pixels, or scaled to it."""


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture by its header; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return int(image.width), int(image.height)
    except Exception:  # noqa: BLE001 - what is wrong with it is said when it is decoded
        return None


def share_cut(width: float, height: float) -> float:
    """The share of a picture that lies outside its middle square, 0 to below 1."""
    return 1 - min(width, height) / max(width, height)


def try_decode(item: Sequence[Path], size: int, channels: int, fit: Fit = "crop") -> list[np.ndarray] | str:
    """Read the pictures of one item, each file once.

    Args:
        item: One path is one picture, two are one each, and the same path twice stands for the halves of that picture.
        size: As `decode` takes it.
        channels: As `decode` takes them.
        fit: As `decode` takes it.

    Returns:
        The pictures as `decode` returns them, or which file cannot be read and why.
    """
    halves = len(item) == 2 and item[0] == item[1]
    pictures: list[np.ndarray] = []
    path = item[0]
    try:
        for path in dict.fromkeys(item):
            pictures += decode_halves(path, size, channels, fit) if halves else [decode(path, size, channels, fit)]
    except Exception as error:  # noqa: BLE001 - decoders meet damage with whatever exception it leads them to
        reason = one_line(error)
        if isinstance(error, GanEdgeError):
            return f"{path}: {reason.removeprefix(f'cannot read {path}: ')}"
        known = isinstance(error, (OSError, ValueError, SyntaxError))
        return f"{path}: {reason}" if known else f"{path}: damaged ({reason})"
    return pictures


def decode(path: Path, size: int, channels: int, fit: Fit = "crop") -> np.ndarray:
    """Read one picture, upright, as a square.

    Args:
        path: Any file that `reader.read` takes.
        size: Height and width, pixels.
        channels: 1 or 3; transparency is laid over white.
        fit: How it becomes a square: `crop` scales its short side to `size` and cuts the middle, `pad` scales its long
            side to `size` and repeats the edge pixels around it, `stretch` scales both sides.

    Returns:
        uint8 `[size, size, channels]`.
    """
    return _to_square(reader.to_channels(reader.read_small(path, size), channels), size, fit)


def decode_halves(path: Path, size: int, channels: int, fit: Fit = "crop") -> list[np.ndarray]:
    """The left and the right half of a picture that holds two side by side, each as `decode` returns it."""
    pixels = reader.to_channels(reader.read_small(path, 2**16), channels)
    middle = pixels.shape[1] // 2
    if not middle:
        raise ValueError("one pixel wide: no two pictures side by side")
    return [_to_square(half, size, fit) for half in (pixels[:, :middle], pixels[:, middle : 2 * middle])]


def _to_square(pixels: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Pixels `[H, W, C]` as uint8 `[size, size, C]`."""
    height, width = pixels.shape[:2]
    if fit == "crop" or height == width:
        return reader.fit(pixels, size, size)
    if fit == "stretch":
        return _scale(pixels, size, size)
    longest = max(height, width)
    scaled = _scale(pixels, max(1, round(height * size / longest)), max(1, round(width * size / longest)))
    rows, columns = size - scaled.shape[0], size - scaled.shape[1]
    around = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
    return np.pad(scaled, around, mode="edge")


def _scale(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole picture at another size, uint8 `[height, width, C]`."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))
    scaled = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS), dtype=np.uint8)
    return scaled[..., None] if scaled.ndim == 2 else scaled
