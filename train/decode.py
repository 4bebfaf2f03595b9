"""Reading pictures from disk: any format, mode and orientation to a square of uint8.

paths = find_pictures(Path("pictures"))
pixels = decode(paths[0], 64, 3)  # uint8 [64, 64, 3]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ganedge.runtime.errors import one_line

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File endings that are taken for pictures."""
GREY = frozenset({"1", "L", "LA", "La", "I", "F"})
"""Pillow's picture modes without colours, beside those of 16 bits."""


def find_pictures(root: Path) -> list[Path]:
    """Every file below `root` that ends like a picture, hidden ones left out, in a fixed order."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def try_decode(item: Sequence[Path], size: int, channels: int) -> list[np.ndarray] | str:
    """Read the pictures of one item, each file once.

    Args:
        item: One path gives one picture, two give one each, and the same path twice gives the halves of that picture.
        size: As `decode` takes it.
        channels: As `decode` takes them.

    Returns:
        The pictures as `decode` gives them, or which file cannot be read and why.
    """
    halves = len(item) == 2 and item[0] == item[1]
    found: list[np.ndarray] = []
    path = item[0]
    try:
        for path in dict.fromkeys(item):
            found += decode_halves(path, size, channels) if halves else [decode(path, size, channels)]
    except Exception as error:  # noqa: BLE001 - decoders meet damage with whatever exception it leads them to
        return f"{path}: {_reason(error)}"
    return found


def is_grey(path: Path) -> bool | None:
    """Whether a picture has no colours, by its header and palette alone; None where it is no picture."""
    try:
        with Image.open(path) as image:
            palette = image.getpalette() if image.mode in ("P", "PA") else None
            if palette is not None:
                return bool(palette[0::3] == palette[1::3] == palette[2::3])
            return image.mode in GREY or image.mode.startswith("I;16")
    except Exception:  # noqa: BLE001 - what is wrong with it is said when it is decoded
        return None


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """Read one picture, upright, scaled and centre-cropped to a square.

    Args:
        path: Any format, mode and orientation that Pillow reads.
        size: Height and width, pixels.
        channels: 1 or 3; transparency is laid over white.

    Returns:
        uint8 `[size, size, channels]`.
    """
    with Image.open(path) as image:
        # A JPEG can be decoded at a fraction of its size, which is most of the time saved on photographs.
        image.draft(None, (size, size))
        return _square(ImageOps.exif_transpose(image), size, channels)


def decode_halves(path: Path, size: int, channels: int) -> list[np.ndarray]:
    """The left and the right half of a picture that holds two side by side, each as `decode` gives it."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    middle, height = upright.width // 2, upright.height
    if not middle:
        raise ValueError("one pixel wide: no two pictures side by side")
    boxes = ((0, 0, middle, height), (middle, 0, 2 * middle, height))
    return [_square(upright.crop(box), size, channels) for box in boxes]


def _square(upright: Image.Image, size: int, channels: int) -> np.ndarray:
    picture = ImageOps.fit(_flatten(upright, channels), (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[..., None] if channels == 1 else pixels


def _reason(error: Exception) -> str:
    """Why a picture cannot be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    said = one_line(error)
    told = isinstance(error, (OSError, ValueError, SyntaxError, Image.DecompressionBombError))
    return said if told else f"damaged ({said})"


def _white(mode: str, brightest: float) -> float:
    """The level of white: by the mode where it tells, else the next range that holds the brightest level."""
    if mode.startswith("I;16"):
        return 65535.0
    return next((top for top in (1.0, 255.0) if brightest <= top and (mode == "F" or top > 1)), 65535.0)


def _flatten(image: Image.Image, channels: int) -> Image.Image:
    """Bring any mode to grey or colour, 8 bits a channel."""
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N", "F"):
        levels = np.asarray(image, dtype=np.float64)
        top = _white(image.mode, float(levels.max(initial=0)))
        image = Image.fromarray(np.rint(levels.clip(0, top) * (255 / top)).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
