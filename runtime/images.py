"""Pictures at the boundary: between a generator's tensors and uint8 arrays, grids and files.

pictures = to_uint8(tensor, (-1.0, 1.0), "NCHW")       # float [N, C, H, W] → uint8 [N, H, W, C]
save(grid(pictures), Path("grid.png"))
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError, MissingExtra, UsageError
from .files import whole_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from .manifest import Layout

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""File endings that can be written, and Pillow's names for them."""


def to_uint8(tensor: NDArray[np.generic], value_range: tuple[float, float], layout: Layout) -> NDArray[np.uint8]:
    """Turn a generator's output into pictures, rounding to the nearest level and clipping to the range.

    Args:
        tensor: `[N, C, H, W]` or `[N, H, W, C]` as `layout` says; uint8 passes through.
        value_range: The values of black and white.
        layout: NCHW or NHWC.

    Returns:
        uint8 `[N, H, W, C]`, 0 to 255.

    Raises:
        InputError: the tensor holds NaN or infinity, which no picture can show.
    """
    pictures = tensor.transpose(0, 2, 3, 1) if layout == "NCHW" else tensor
    if tensor.dtype == np.uint8:
        return np.ascontiguousarray(pictures, dtype=np.uint8)
    if not np.isfinite(tensor.sum(dtype=np.float32)):
        raise InputError("the generator gave NaN or infinite values: verify the artifact, or use a higher precision")
    low, high = value_range
    scale = 255.0 / (high - low)
    levels: NDArray[np.float32] = np.multiply(tensor, np.float32(scale), dtype=np.float32)
    levels += np.float32(0.5 - low * scale)
    np.clip(levels, 0.0, 255.0, out=levels)
    last = levels.transpose(0, 2, 3, 1) if layout == "NCHW" else levels
    return last.astype(np.uint8, order="C")


def grid(pictures: NDArray[np.uint8], columns: int | None = None, gap: int = 2) -> NDArray[np.uint8]:
    """Lay pictures out in rows, left to right and top to bottom.

    Args:
        pictures: uint8 `[N, H, W, C]`, N ≥ 1.
        columns: Pictures in a row; None makes it as square as it goes.
        gap: Pixels of white between two pictures.

    Returns:
        One picture, uint8 `[H', W', C]`.
    """
    count, height, width, channels = pictures.shape
    across = columns or math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    sheet = np.full((down * (height + gap) - gap, across * (width + gap) - gap, channels), 255, np.uint8)
    for index, picture in enumerate(pictures):
        y, x = index // across * (height + gap), index % across * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return sheet


def scatter(*clouds: NDArray[np.generic], size: int = 512) -> NDArray[np.uint8]:
    """Plot points of the plane, one colour per cloud (blue, orange, green), the origin in the middle.

    Args:
        *clouds: float `[N, 2]`, x to the right and y upwards.
        size: Width and height of the picture, pixels.

    Returns:
        uint8 `[size, size, 3]`.
    """
    colours = np.array([(31, 119, 180), (255, 127, 14), (44, 160, 44)], np.uint8)
    sheet = np.full((size, size, 3), 255, np.uint8)
    reach = 1.1 * max(float(np.abs(cloud).max()) for cloud in clouds) or 1.0
    offsets = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1)), -1).reshape(-1, 2)
    for cloud, colour in zip(clouds, colours, strict=False):
        pixels = np.rint((cloud * np.array((1.0, -1.0)) / reach + 1.0) / 2.0 * (size - 3) + 1).astype(np.int64)
        x, y = (pixels[:, None] + offsets).reshape(-1, 2).T
        sheet[y, x] = colour
    return sheet


def check_format(path: Path) -> str:
    """Pillow's name of the format that the ending of `path` asks for.

    Raises:
        UsageError: no format has that ending; said before any work is done rather than after.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"cannot tell the picture format of {path}: end it in {', '.join(sorted(FORMATS))}") from None


def save(picture: NDArray[np.uint8], path: Path) -> None:
    """Write one picture in the format its ending names, whole or not at all.

    Args:
        picture: uint8 `[H, W, C]` with 1, 3 or 4 channels.
        path: The file.

    Raises:
        UsageError: an unknown ending.
        MissingExtra: Pillow is not installed.
        GanEdgeError: the file cannot be written.
    """
    name = check_format(path)
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "cpu", f"writing {path.name}") from error
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    if name == "JPEG" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    with whole_file(path) as part:
        image.save(part, format=name)
