"""Pictures at the boundary: between a generator's tensors and uint8 arrays, grids and files.

pictures = to_uint8(tensor, (-1.0, 1.0), "NCHW")       # float [N, C, H, W] → uint8 [N, H, W, C]
save(grid(pictures), Path("grid.png"))
tensor = from_uint8(read(Path("photo.jpg")), port)     # uint8 [H, W, C] → one item as the port wants it
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.errors import InputError, MissingExtra, UsageError
from ganedge.runtime.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ganedge.runtime.manifest import Layout, Port

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
COMMON = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000", "AVIF")
"""Formats accepted from bytes, which may come from a stranger: Pillow knows others that start other programs."""
MAX_PIXELS = 2**28
"""The most pixels of a picture that is decoded unless asked otherwise: 268 million, 0.8 GB in colour."""
FEW = 4096
"""Values up to which each is looked at when asked whether all are finite."""
CHANNELS = {"L": "L", "RGB": "RGB", "RGBA": "RGBA", "1": "L", "LA": "RGBA", "La": "RGBA", "PA": "RGBA", "RGBa": "RGBA"}
"""Pillow's picture modes and the one each is read as; any other becomes RGB."""

_opening = threading.Lock()


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
    if not all_finite(tensor):
        raise InputError("the generator gave NaN or infinite values: verify the artifact, or use a higher precision")
    low, high = value_range
    scale = 255.0 / (high - low)
    with np.errstate(over="ignore"):  # What overflows is far beyond white or black, and is clipped.
        levels: NDArray[np.float32] = np.multiply(tensor, np.float32(scale), dtype=np.float32)
    levels += np.float32(0.5 - low * scale)
    np.clip(levels, 0.0, 255.0, out=levels)
    last = levels.transpose(0, 2, 3, 1) if layout == "NCHW" else levels
    return last.astype(np.uint8, order="C")


def from_uint8(picture: NDArray[np.uint8], port: Port) -> NDArray[np.generic]:
    """Turn a picture into one item as an input port takes it: the inverse of `to_uint8`.

    Args:
        picture: uint8 `[H, W, C]`, with as many channels as the port.
        port: Says dtype, layout and range.

    Returns:
        `[1, C, H, W]` or `[1, H, W, C]`, contiguous.
    """
    laid = picture.transpose(2, 0, 1) if port.layout == "NCHW" else picture
    if port.dtype == "uint8":
        return np.ascontiguousarray(laid)[None]
    assert port.range is not None, "a picture has a range"
    low, high = port.range
    tensor = np.empty((1, *laid.shape), np.float32)
    np.multiply(laid, np.float32((high - low) / 255.0), out=tensor[0], dtype=np.float32)
    tensor += np.float32(low)
    return tensor


def read(source: Any, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Get the pixels of a picture, upright.

    Args:
        source: A path; the bytes of a picture file; a Pillow image; or a uint8 array `[H, W]` or `[H, W, C]` with 1,
            3 or 4 channels, which is given back without a copy.
        max_pixels: Refuse pictures of more, before they are decoded: a small file may claim to be a huge picture.

    Returns:
        uint8 `[H, W, C]`: 1 channel grey, 3 colour, 4 colour and alpha. A camera's note on which way is up is
        followed; 16-bit greys are reduced to 8 bits, palettes and CMYK become colour.

    Raises:
        InputError: no such file, not a picture, damaged, empty, too many pixels, or an array of another kind.
        MissingExtra: a file, and Pillow is not installed.
    """
    if isinstance(source, np.ndarray):
        return _checked(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _read_file(Path(source), max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "this picture", max_pixels, COMMON)
    if hasattr(source, "mode") and hasattr(source, "convert"):
        with _naming("this image"):
            return _pixels(source, "this image", max_pixels)
    raise InputError(
        f"a picture is {type(source).__name__}: give a path, bytes, a Pillow image or a uint8 array [H, W, C]"
    )


def resize(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Scale a picture, uint8 `[H, W, C]`, to `[height, width, C]` with Lanczos' filter.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    if picture.shape[:2] == (height, width):
        return picture
    image = _pillow("resizing a picture")
    planes = [
        np.asarray(image.fromarray(np.ascontiguousarray(plane)).resize((width, height), image.Resampling.LANCZOS))
        for plane in picture.transpose(2, 0, 1)
    ]
    return np.stack(planes, axis=-1)


def all_finite(tensor: NDArray[np.generic]) -> bool:
    """Whether no value is NaN or infinite: one fast sum, and a closer look only where that overflows.

    A few values are looked at at once: the sum needs its warnings turned off, which takes longer than that.
    """
    if tensor.size <= FEW:
        return bool(np.isfinite(tensor).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(tensor.sum(dtype=np.float32)) or np.isfinite(tensor).all())


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
    across = min(columns or math.ceil(math.sqrt(count)), count)
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
    most = MAX_SIDES.get(name)
    if most is not None and max(picture.shape[:2]) > most:
        raise UsageError(
            f"{path} would be {picture.shape[1]} × {picture.shape[0]}, and {name} goes to {most}: use .png"
        )
    with whole_file(path) as part, part.open("w+b") as stream:
        encode(picture, name, stream)


def encode(picture: NDArray[np.uint8], name: str, stream: IO[bytes], effort: int = 6) -> None:
    """Write one picture to a stream.

    Args:
        picture: uint8 `[H, W, C]` with 1, 3 or 4 channels.
        name: The format, as Pillow calls it.
        stream: Open for writing.
        effort: How hard to compress a PNG, 0 to 9; the picture is the same.

    Raises:
        MissingExtra: Pillow is not installed.
        UsageError: the format cannot hold a picture so large.
    """
    most = MAX_SIDES.get(name)
    if most is not None and max(picture.shape[:2]) > most:
        raise UsageError(f"{name} holds {most} pixels a side, this is {picture.shape[1]} × {picture.shape[0]}: use PNG")
    image = _pillow(f"writing {name}").fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    if name == "JPEG" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    settings = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}, "PNG": {"compress_level": effort}}
    image.save(stream, format=name, **settings.get(name, {}))


def _pillow(purpose: str) -> Any:
    """Pillow's module `Image`, which is imported when a picture is read or written."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "cpu", purpose) from error
    return Image


def _checked(array: NDArray[Any], max_pixels: int) -> NDArray[np.uint8]:
    picture = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8:
        raise InputError(f"a picture is {array.dtype}: give uint8, 0 to 255")
    if picture.ndim != 3 or picture.shape[-1] not in (1, 3, 4) or picture.size == 0:
        raise InputError(f"a picture has shape {array.shape}: give [H, W] or [H, W, C] with 1, 3 or 4 channels")
    check_pixels(picture.shape[0], picture.shape[1], "this array", max_pixels)
    return picture


def check_pixels(height: int, width: int, name: str, max_pixels: int) -> None:
    """Refuse a picture that is too large, before it is decoded. Raises InputError."""
    if height * width > max_pixels:
        raise InputError(
            f"{name} has {width} × {height} = {height * width / 1e6:.4g} million pixels, more than the limit of "
            f"{max_pixels / 1e6:.4g} million: raise max_pixels (--max-pixels) if it is meant"
        )


def _read_file(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as stream:
            return _decode(stream, str(path), max_pixels)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _decode(stream: IO[bytes], name: str, max_pixels: int, formats: Sequence[str] | None = None) -> NDArray[np.uint8]:
    """Decode a picture file; `formats` are Pillow's names of those accepted, None for all it knows."""
    module = _pillow(f"reading {name}")
    if formats is not None:
        module.init()
        formats = [known for known in formats if known in module.OPEN]
    # Pillow's own limit is one number for the whole process; ours is the caller's and checked before decoding.
    with _naming(name):
        with _opening:
            limit, module.MAX_IMAGE_PIXELS = module.MAX_IMAGE_PIXELS, None
            try:
                image = module.open(stream, formats=formats)
            finally:
                module.MAX_IMAGE_PIXELS = limit
        return _pixels(image, name, max_pixels)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say of which picture it is that something went wrong."""
    try:
        yield
    except (InputError, MissingExtra):
        raise
    except OSError as error:
        reason = error.strerror or "it is not a picture, or it is damaged"
        raise InputError(f"cannot read {name}: {reason}") from error
    except Exception as error:  # Decoders meet damage with whatever exception it leads them to.
        raise InputError(f"cannot read {name}: it is damaged ({type(error).__name__})") from error


def _pixels(image: Any, name: str, max_pixels: int) -> NDArray[np.uint8]:
    from PIL import ImageOps

    width, height = image.size
    check_pixels(height, width, name, max_pixels)
    if height * width == 0:
        raise InputError(f"{name} is empty: {width} × {height} pixels")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        levels = np.asarray(image).astype(np.int64)
        return np.clip((levels + 128) // 257, 0, 255).astype(np.uint8)[..., None]
    if image.mode == "F":
        raise InputError(f"{name} holds floating-point pixels, which have no agreed range: convert it to 8 bits")
    transparent = "transparency" in image.info
    image = image.convert("RGBA" if transparent else CHANNELS.get(image.mode, "RGB"))
    pixels: NDArray[np.uint8] = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]
