"""Read a picture file as pixels, for training, calibration, proof, benchmarks and devices.

    pixels = read(Path("photo.jpg"))            # uint8 [H, W, C], upright, sRGB; C is 1, 3 or 4
    pixels = to_channels(pixels, 3)             # transparency laid over white
    pixels = fit(pixels, 256, 256)              # scaled to cover the size, cut from the middle

Pillow decodes; it is imported when a file is read.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from ganedge.runtime.errors import InputError, MissingExtra, PictureWarning
from ganedge.runtime.manifest import MAX_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Pixels = NDArray[Any]  # uint8 or uint16

ENDINGS = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif"}
)
"""Endings of the files that are read as pictures, everywhere."""
COMMON = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000", "AVIF")
"""Formats accepted from bytes of unknown origin: some of Pillow's other formats start programs."""
MAX_PIXELS = 2**28
"""Largest picture that is decoded by default, pixels: 268 million, 0.8 GB in colour."""
MODES = {"L": "L", "RGB": "RGB", "RGBA": "RGBA", "1": "L", "LA": "RGBA", "La": "RGBA", "PA": "RGBA", "RGBa": "RGBA"}
"""Pillow's modes of 8 bits, and the one each is read as; any other becomes RGB."""
DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow's grey modes of more than 8 bits."""
NEUTRAL = 2
"""Levels by which a colour profile may differ from sRGB and still count as sRGB."""
GREY = frozenset({"1", "L", "LA", "La", *DEEP})
"""Pillow's modes without colour."""
Depth = Literal[8, 16, "source"]
"""Bits per channel: 8; 16; or 16 where the file has more than 8 and 8 otherwise."""

_opening = threading.Lock()


def read(source: Any, max_pixels: int = MAX_PIXELS, depth: Depth = 8) -> Pixels:
    """Get the pixels of a picture, upright and in sRGB.

    Args:
        source: A path; the bytes of a picture file; a Pillow image; or a uint8 or uint16 array `[H, W]` or `[H, W, C]`
            with 1, 3 or 4 channels, which is returned without a copy where its depth fits.
        max_pixels: Refuse pictures of more, before they are decoded: a small file may claim to be a huge picture.
        depth: Bits per channel of the result.

    Returns:
        `[H, W, C]`, uint8 (0 to 255) or with 16 bits uint16 (0 to 65535): 1 channel grey, 3 colour, 4 colour and alpha.
        The EXIF orientation is applied, a colour profile is converted to sRGB, palettes and CMYK become colour.
        Integers of 32 bits are taken for 0 to 255 where none is larger and for 0 to 65535 otherwise, floats for 0 to 1,
        0 to 255 or 0 to 65535.

    Raises:
        InputError: no such file, not a picture, damaged, empty, too many pixels, or an array of another kind.
        MissingExtra: a file, and Pillow is not installed.

    Warns:
        PictureWarning: the file holds more than what is returned: further frames, or more bits per channel.
    """
    if isinstance(source, np.ndarray):
        return to_depth(_checked(source, max_pixels), depth)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix.lower() == ".npy":
            return to_depth(_checked(_load_array(path), max_pixels), depth)
        try:
            with path.open("rb") as stream:
                return _decode(stream, str(path), max_pixels, depth)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), "this picture", max_pixels, depth, COMMON)
    if hasattr(source, "mode") and hasattr(source, "convert"):
        with _naming("this image"):
            return _pixels(source, "this image", max_pixels, depth)
    raise InputError(
        f"a picture is {type(source).__name__}: give a path, bytes, a Pillow image or a uint8 array [H, W, C]"
    )


def read_small(path: Path, side: int) -> Pixels:
    """As `read` with 8 bits, but a JPEG may be decoded at a fraction of its size, not below `side` pixels.

    For training sets: no warning names a file, and 16 bits are reduced without one.
    """
    with path.open("rb") as stream:
        return _decode(stream, str(path), MAX_PIXELS, 8, draft=(side, side))


def is_grey(path: Path) -> bool | None:
    """Whether a picture has no colour, by its header and palette alone; None where it cannot be read."""
    image_module = pillow(f"reading {path}")
    try:
        with image_module.open(path) as image:
            palette = image.getpalette() if image.mode in ("P", "PA") else None
            if palette is not None:
                return bool(palette[0::3] == palette[1::3] == palette[2::3])
            return image.mode in GREY
    except Exception:  # noqa: BLE001 - what is wrong with the file is reported when it is decoded
        return None


def shorter_side(path: Path) -> int | None:
    """The shorter side of a picture by its header alone, pixels; None where it cannot be read."""
    image_module = pillow(f"reading {path}")
    try:
        with image_module.open(path) as image:
            return int(min(image.size))
    except Exception:  # noqa: BLE001 - what is wrong with the file is reported when it is decoded
        return None


def listed(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, sorted.

    Hidden files and folders, links to folders, and what is no file (pipes, sockets) are left out. A link to a file that
    is missing is in the list, so that reading it names it.
    """
    pictures = []
    for current, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(current) / name for name in files if not name.startswith("."))
        pictures += [path for path in paths if path.suffix.lower() in ENDINGS and (path.is_file() or path.is_symlink())]
    return sorted(pictures)


def to_depth(pixels: Pixels, depth: Depth) -> Pixels:
    """The same picture with other bits per channel, rounded."""
    if depth == "source" or pixels.dtype == (np.uint8 if depth == 8 else np.uint16):
        return pixels
    if depth == 16:
        wide: Pixels = pixels.astype(np.uint16) * np.uint16(257)
        return wide
    levels = pixels.astype(np.uint32)
    levels += 128
    levels //= 257
    return levels.astype(np.uint8)


def to_channels(pixels: Pixels, channels: int) -> Pixels:
    """The same picture with as many channels as a network takes.

    Args:
        pixels: `[H, W, C]` with 1, 3 or 4 channels.
        channels: 1 grey, 3 colour (both with transparency laid over white), 4 colour and alpha.

    Raises:
        InputError: another number of channels.
    """
    if pixels.shape[-1] == channels:
        return pixels
    if channels not in (1, 3, 4) or pixels.shape[-1] not in (1, 3, 4):
        raise InputError(
            f"a picture has {pixels.shape[-1]} channels, and {channels} are needed: give an array or a .npy file of "
            f"shape [H, W, {channels}]"
        )
    colours = over_white(pixels) if pixels.shape[-1] == 4 else pixels
    if channels == 1:
        return _luma(colours)
    colours = np.repeat(colours, 3, axis=-1) if colours.shape[-1] == 1 else colours
    if channels == 4:
        opaque = np.full((*colours.shape[:2], 1), np.iinfo(colours.dtype).max, colours.dtype)
        return np.concatenate([colours, opaque], axis=-1)
    return colours


def over_white(pixels: Pixels) -> Pixels:
    """A picture with alpha, `[H, W, 4]`, laid over white: `[H, W, 3]`."""
    top = int(np.iinfo(pixels.dtype).max)
    alpha = pixels[..., 3:].astype(np.uint64)
    mixed = pixels[..., :3] * alpha + (top - alpha) * np.uint64(top) + np.uint64(top // 2)
    mixed //= np.uint64(top)
    result: Pixels = mixed.astype(pixels.dtype)
    return result


def fit(pixels: Pixels, height: int, width: int) -> Pixels:
    """Scale a picture to cover a size and cut it from the middle: uint8 `[height, width, C]`."""
    from PIL import Image, ImageOps

    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))
    fitted = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS), dtype=np.uint8)
    return fitted[..., None] if fitted.ndim == 2 else fitted


def check_pixels(height: int, width: int, name: str, max_pixels: int) -> None:
    """Refuse a picture that is too large, before it is decoded. Raises InputError."""
    if height * width > max_pixels:
        raise InputError(
            f"{name} has {width} × {height} = {height * width / 1e6:.4g} million pixels, more than the limit of "
            f"{max_pixels / 1e6:.4g} million: raise max_pixels (--max-pixels) if it is meant"
        )


def pillow(purpose: str) -> Any:
    """Pillow's module `Image`, which is imported when a picture is read or written."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "cpu", purpose) from error
    return Image


def _load_array(path: Path) -> NDArray[Any]:
    """A picture that NumPy saved. Raises InputError."""
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path}: it is no .npy file of an array") from error
    return array


def _checked(array: NDArray[Any], max_pixels: int) -> Pixels:
    picture = array[..., None] if array.ndim == 2 else array
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(f"a picture is {array.dtype}: give uint8, 0 to 255, or uint16, 0 to 65535")
    if picture.ndim != 3 or not 1 <= picture.shape[-1] <= MAX_CHANNELS or picture.size == 0:
        raise InputError(
            f"a picture has shape {array.shape}: give [H, W] or [H, W, C] with 1 to {MAX_CHANNELS} channels"
        )
    check_pixels(picture.shape[0], picture.shape[1], "this array", max_pixels)
    return picture


def _decode(
    stream: IO[bytes],
    name: str,
    max_pixels: int,
    depth: Depth,
    formats: Sequence[str] | None = None,
    draft: tuple[int, int] | None = None,
) -> Pixels:
    """Decode a picture file; `formats` are Pillow's names of those accepted, None for all it knows."""
    module = pillow(f"reading {name}")
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
        if draft is None:
            return _pixels(image, name, max_pixels, depth)
        image.draft(None, draft)
        return _pixels(image, name, max_pixels, depth, in_set=True)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the picture in whatever error a decoder raises."""
    try:
        yield
    except (InputError, MissingExtra):
        raise
    except OSError as error:
        reason = error.strerror or "it is not a picture, or it is damaged"
        raise InputError(f"cannot read {name}: {reason}") from error
    except Warning:
        raise
    except Exception as error:  # A decoder may raise anything for a damaged file.
        raise InputError(f"cannot read {name}: it is damaged ({type(error).__name__})") from error


def _pixels(image: Any, name: str, max_pixels: int, depth: Depth, in_set: bool = False) -> Pixels:
    """The pixels of an open Pillow image; of one in a training set nothing is reported that names it."""
    from PIL import ImageOps

    width, height = image.size
    check_pixels(height, width, name, max_pixels)
    if height * width == 0:
        raise InputError(f"{name} is empty: {width} × {height} pixels")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        every = "of pictures with several frames the first is used"
        warnings.warn(
            every if in_set else f"{name}: the first of {frames} frames is used", PictureWarning, stacklevel=3
        )
    reduced = _has_deep_colour(image)
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode in DEEP:
        levels = _deep_levels(image)
        if depth == 8 and levels.dtype == np.uint16:
            reduced = True
        pixels = to_depth(levels[..., None], depth)
    else:
        array: Pixels = np.asarray(_convert(image, profile))
        pixels = to_depth(array if array.ndim == 3 else array[..., None], 8 if depth == "source" else depth)
    if reduced and pixels.dtype == np.uint8 and not in_set:
        warnings.warn(f"{name}: 16 bits per channel are reduced to 8", PictureWarning, stacklevel=3)
    return pixels


def _has_deep_colour(image: Any) -> bool:
    """Whether a file has 16 bits per channel that Pillow reduces to 8 itself: it has no such colour mode."""
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) and image.mode not in DEEP


def _convert(image: Any, profile: bytes | None) -> Any:
    """An image of 8 bits in one of the modes L, RGB and RGBA, in sRGB."""
    mode = "RGBA" if "transparency" in image.info else MODES.get(image.mode, "RGB")
    if not profile:
        return image.convert(mode)
    plain = image if image.mode == "CMYK" else image.convert("L" if image.mode in GREY else "RGB")
    converted = _to_srgb(plain, profile)
    if converted is None:
        return image.convert(mode)
    if mode == "RGBA":
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted.convert("L") if mode == "L" else converted


def _to_srgb(image: Any, profile: bytes) -> Any:
    """An image in sRGB; None where its profile is sRGB, damaged, or for other channels."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, image.mode, "RGB")
        if image.mode != "CMYK" and _is_neutral(transform, image.mode):
            return None
        return ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _is_neutral(transform: Any, mode: str) -> bool:
    """Whether a conversion changes no colour by more than rounding: profiles called sRGB need not be."""
    from PIL import Image

    steps = np.linspace(0, 255, 9).astype(np.uint8)
    channels = 3 if mode == "RGB" else 1
    cube = np.stack(np.meshgrid(*[steps] * channels), -1).reshape(1, -1, channels)
    probe = Image.fromarray(cube if channels == 3 else cube[..., 0])
    after = np.asarray(transform.apply(probe)).astype(int)
    return bool(np.abs(after - cube).max() <= NEUTRAL)


def _deep_levels(image: Any) -> Pixels:
    """The grey levels of a picture of more than 8 bits, in the range that its mode or its largest value tells."""
    levels = np.asarray(image)
    if image.mode.startswith("I;16"):
        return levels.astype(np.uint16)
    values = np.nan_to_num(levels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    brightest = float(values.max(initial=0.0))
    tops = (1.0, 255.0) if image.mode == "F" else (255.0,)
    top = next((top for top in tops if brightest <= top), 65535.0)
    if image.mode == "I" and top == 255.0:
        return values.clip(0, 255).astype(np.uint8)
    return np.rint(values.clip(0, top) * (65535.0 / top)).astype(np.uint16)


def _luma(pixels: Pixels) -> Pixels:
    """Grey as ITU-R BT.601 weighs it, which is also what Pillow does."""
    if pixels.shape[-1] == 1:
        return pixels
    weighed = pixels @ np.array([19595, 38470, 7471], np.uint64) + np.uint64(32768)
    grey: Pixels = (weighed >> np.uint64(16)).astype(pixels.dtype)
    return grey[..., None]
