"""Pictures as arrays: from tensors and back, grids, and writing files.

pictures = to_pixels(tensor, (-1.0, 1.0), "NCHW")      # float [N, C, H, W] → uint8 [N, H, W, C]
save(grid(pictures), Path("grid.png"))
tensor = from_pixels(pictures[0], port)                # uint8 [H, W, C] → one item as the port takes it
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.errors import InputError, PictureWarning, UsageError
from ganedge.runtime.files import whole_file

from .reader import pillow, to_depth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ganedge.runtime.manifest import Layout, Port

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".npy": "NPY",
}
"""File endings that can be written, and Pillow's names for them; NPY is NumPy's own, for any number of channels."""
FEW = 4096
"""Largest array whose values are checked one by one for being finite."""


def to_pixels(
    tensor: NDArray[np.generic], value_range: tuple[float, float], layout: Layout, depth: int = 8
) -> NDArray[Any]:
    """Turn a generator's output into pictures, rounding to the nearest level and clipping to the range.

    Args:
        tensor: `[N, C, H, W]` or `[N, H, W, C]` as `layout` says; uint8 passes through.
        value_range: The values of black and white.
        layout: NCHW or NHWC.
        depth: Bits per channel, 8 or 16.

    Returns:
        `[N, H, W, C]`: uint8, 0 to 255, or with 16 bits uint16, 0 to 65535.

    Raises:
        InputError: the tensor holds NaN or infinity, which no picture can show.
    """
    pictures = tensor.transpose(0, 2, 3, 1) if layout == "NCHW" else tensor
    if tensor.dtype == np.uint8:
        return np.ascontiguousarray(pictures, dtype=np.uint8)
    finite(tensor)
    low, high = value_range
    top = 2.0**depth - 1.0
    scale = top / (high - low)
    with np.errstate(over="ignore"):  # Values that overflow are far beyond white or black, and are clipped.
        levels: NDArray[np.float32] = np.multiply(tensor, np.float32(scale), dtype=np.float32)
    levels += np.float32(0.5 - low * scale)
    np.clip(levels, 0.0, top, out=levels)
    last = levels.transpose(0, 2, 3, 1) if layout == "NCHW" else levels
    return last.astype(np.uint8 if depth == 8 else np.uint16, order="C")


def from_pixels(picture: NDArray[Any], port: Port) -> NDArray[np.generic]:
    """Turn a picture into one item as an input port takes it: the inverse of `to_pixels`.

    Args:
        picture: uint8 or uint16 `[H, W, C]`, with as many channels as the port.
        port: Says dtype, layout and range.

    Returns:
        `[1, C, H, W]` or `[1, H, W, C]`, contiguous.
    """
    laid = picture.transpose(2, 0, 1) if port.layout == "NCHW" else picture
    if port.dtype == "uint8":
        return np.ascontiguousarray(to_depth(laid, 8))[None]
    assert port.range is not None, "a picture has a range"
    low, high = port.range
    tensor = np.empty((1, *laid.shape), np.float32)
    np.multiply(laid, np.float32((high - low) / float(np.iinfo(picture.dtype).max)), out=tensor[0], dtype=np.float32)
    tensor += np.float32(low)
    return tensor


def resize(picture: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Scale a picture, uint8 `[H, W, C]`, to `[height, width, C]` with Lanczos' filter.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    if picture.shape[:2] == (height, width):
        return picture
    picture = to_depth(picture, 8)
    image = pillow("resizing a picture")
    planes = [
        np.asarray(image.fromarray(np.ascontiguousarray(plane)).resize((width, height), image.Resampling.LANCZOS))
        for plane in picture.transpose(2, 0, 1)
    ]
    return np.stack(planes, axis=-1)


def finite(tensor: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an output as it is. Raises InputError where it holds NaN or infinite values."""
    if not all_finite(tensor):
        raise InputError("the generator gave NaN or infinite values: verify the artifact, or use a higher precision")
    return tensor


def all_finite(tensor: NDArray[np.generic]) -> bool:
    """Whether no value is NaN or infinite: one fast sum, and a closer look only where that overflows.

    A few values are looked at at once: the sum needs its warnings turned off, which takes longer than that.
    """
    if tensor.size <= FEW:
        return bool(np.isfinite(tensor).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(tensor.sum(dtype=np.float32)) or np.isfinite(tensor).all())


def grid(pictures: NDArray[Any], columns: int | None = None, gap: int = 2) -> NDArray[Any]:
    """Lay pictures out in rows, left to right and top to bottom.

    Args:
        pictures: uint8 `[N, H, W, C]`, N ≥ 1.
        columns: Pictures in a row; None makes it as square as it goes.
        gap: Pixels of white between two pictures.

    Returns:
        One picture, uint8 `[H', W', C]`.
    """
    count, height, width, channels = pictures.shape
    across = min(columns or math.ceil(math.sqrt(count)), count)
    down = math.ceil(count / across)
    sheet = np.full((down * (height + gap) - gap, across * (width + gap) - gap, channels), 255, np.uint8)
    for index, picture in enumerate(pictures):
        y, x = index // across * (height + gap), index % across * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return sheet


def scatter(*clouds: NDArray[np.generic], size: int = 512) -> NDArray[Any]:
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


DEEP = ("PNG", "TIFF")
"""Formats that can hold 16 bits per channel, of grey pictures."""
MAX_SIDES = {"JPEG": 65_500, "WEBP": 16_383}
"""Longest side that a format can hold, pixels."""


def check_format(path: Path) -> str:
    """Pillow's name of the format that the ending of `path` asks for.

    Raises:
        UsageError: no format has that ending; said before any work is done rather than after.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"cannot tell the picture format of {path}: end it in {', '.join(sorted(FORMATS))}") from None


def save(picture: NDArray[Any], path: Path) -> None:
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
    most = MAX_SIDES.get(name)
    if most is not None and max(picture.shape[:2]) > most:
        raise UsageError(
            f"{path} would be {picture.shape[1]} × {picture.shape[0]}, and {name} goes to {most}: use .png"
        )
    with whole_file(path) as part, part.open("w+b") as stream:
        encode(picture, name, stream)


def encode(picture: NDArray[Any], name: str, stream: IO[bytes], effort: int = 6) -> None:
    """Write one picture to a stream.

    Args:
        picture: uint8 `[H, W, C]` with 1, 3 or 4 channels; or uint16 `[H, W, 1]` for a format of `DEEP`.
        name: The format, as Pillow calls it.
        stream: Open for writing.
        effort: How hard to compress a PNG, 0 to 9; the picture is the same.

    Raises:
        MissingExtra: Pillow is not installed.
        UsageError: the format cannot hold a picture so large.
    """
    if name == "NPY":
        np.save(stream, picture, allow_pickle=False)
        return
    if picture.shape[-1] not in (1, 3, 4):
        raise UsageError(f"{name} holds no picture of {picture.shape[-1]} channels: write .npy")
    most = MAX_SIDES.get(name)
    if most is not None and max(picture.shape[:2]) > most:
        raise UsageError(f"{name} holds {most} pixels a side, this is {picture.shape[1]} × {picture.shape[0]}: use PNG")
    if picture.dtype == np.uint16 and (name not in DEEP or picture.shape[-1] != 1):
        warnings.warn(f"written with 8 bits per channel: {name} holds no more", PictureWarning, stacklevel=2)
        picture = to_depth(picture, 8)
    image = pillow(f"writing {name}").fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    if name == "JPEG" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    settings = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}, "PNG": {"compress_level": effort}}
    image.save(stream, format=name, **settings.get(name, {}))
