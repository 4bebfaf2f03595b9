"""Reading pictures from disk: any format, mode and orientation to a square of uint8.

paths = find_pictures(Path("pictures"))
pixels = decode(paths[0], 64, 3)  # uint8 [64, 64, 3]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File endings that are taken for pictures."""


def find_pictures(root: Path) -> list[Path]:
    """Every file below `root` that ends like a picture, hidden ones left out, in a fixed order."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def try_decode(path: Path, size: int, channels: int, half: str = "") -> np.ndarray | str:
    """The picture as `decode` gives it, or why it cannot be read."""
    try:
        return decode(path, size, channels, half)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        return "not a picture" if unknown else str(error).partition("\n")[0] or type(error).__name__


def decode(path: Path, size: int, channels: int, half: str = "") -> np.ndarray:
    """Read one picture, upright, scaled and centre-cropped to a square.

    Args:
        path: Any format, mode and orientation that Pillow reads.
        size: Height and width, pixels.
        channels: 1 or 3; transparency is laid over white.
        half: "left" or "right" takes that half of the picture; empty takes all of it.

    Returns:
        uint8 `[size, size, channels]`.
    """
    with Image.open(path) as image:
        if half:
            image = _half(image, half)
        # A JPEG can be decoded at a fraction of its size, which is most of the time saved on photographs.
        image.draft(None, (size, size))
        upright = ImageOps.exif_transpose(image)
        picture = ImageOps.fit(_flatten(upright, channels), (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[..., None] if channels == 1 else pixels


def _half(image: Image.Image, half: str) -> Image.Image:
    """One half of two pictures side by side."""
    middle = image.width // 2
    if not middle:
        raise ValueError("one pixel wide: no two pictures side by side")
    return image.crop((0, 0, middle, image.height) if half == "left" else (middle, 0, 2 * middle, image.height))


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
