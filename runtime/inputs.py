"""Pictures to prove and calibrate with: from a folder, or made by code to look natural. No torch here.

    pictures = natural(16, 256, 256, 3, seed=0)          # uint8 [16, 256, 256, 3]
    pictures = from_folder(Path("testA"), 16, 256, 256, 3)

The ones made by code have what photographs have and noise has not: an amplitude that falls with 1/frequency (Field
1987), smooth shading, sharp edges of overlapping shapes, and correlated colours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, MissingExtra
from .manifest import Port
from .pictures.images import FORMATS

SHAPES = 12
"""Shapes in one picture."""


def natural(count: int, height: int, width: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """Make pictures, uint8 `[count, height, width, channels]`; the same seed makes the same ones."""
    random = np.random.RandomState(seed % 2**32)
    return np.stack([_natural(random, height, width, channels) for _ in range(count)])


def _natural(random: np.random.RandomState, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Shaded ground, shapes with edges, and texture over all; brightness and contrast differ from one to the next."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    angle = random.uniform(0, 2 * np.pi)
    shade = np.cos(angle) * x / width + np.sin(angle) * y / height
    picture = random.uniform(-1, 1, channels) + shade[..., None] * random.uniform(-0.8, 0.8, channels)
    for _ in range(SHAPES):
        inside = _shape(random, x / width, y / height)
        lit = random.uniform(-1, 1, channels) + 0.4 * shade[..., None]
        picture = np.where(inside[..., None], lit, picture)
    grey = random.uniform(-1, 1)
    picture = 0.6 * picture + 0.4 * (grey + picture.mean(-1, keepdims=True))  # Colours of one scene are alike.
    texture = np.stack([_texture(random, height, width) for _ in range(channels)], -1)
    picture = picture + random.uniform(0.05, 0.3) * (0.7 * texture[..., :1] + 0.3 * texture)
    low, high = np.percentile(picture, (1, 99))
    bounds = np.sort(random.uniform(0, 255, 2) * (0.3, 0.3) + (0, 178))  # From dark ground to bright light.
    scaled = (picture - low) / max(high - low, 1e-6) * (bounds[1] - bounds[0]) + bounds[0]
    levels: NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return levels


def _shape(random: np.random.RandomState, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """An ellipse or a rectangle, turned, somewhere."""
    turn, cx, cy = random.uniform(0, np.pi), *random.uniform(-0.1, 1.1, 2)
    a, b = random.uniform(0.03, 0.35, 2)
    u = (np.cos(turn) * (x - cx) + np.sin(turn) * (y - cy)) / a
    v = (np.cos(turn) * (y - cy) - np.sin(turn) * (x - cx)) / b
    inside: NDArray[np.bool_] = u * u + v * v < 1 if random.rand() < 0.5 else np.maximum(np.abs(u), np.abs(v)) < 1
    return inside


def _texture(random: np.random.RandomState, height: int, width: int) -> NDArray[np.float64]:
    """Noise whose amplitude falls with 1/frequency, of deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    texture = np.fft.irfft2(np.fft.rfft2(random.standard_normal((height, width))) / frequency, (height, width))
    return np.asarray(texture / max(float(texture.std()), 1e-12))


def from_folder(
    folder: Path, count: int, height: int, width: int, channels: int, share: tuple[int, int] = (0, 1)
) -> NDArray[np.uint8]:
    """Read pictures, scaled to cover the size and cut from the middle; taken evenly over the folder, sorted by name.

    Args:
        folder: Pictures in it and in its subfolders are taken.
        count: How many at most.
        height: Of each, pixels.
        width: Of each, pixels.
        channels: 1 grey, 3 colour, 4 colour and alpha.
        share: (k, n): of each n pictures the k-th alone, counted from 0, so that n uses of one folder share none; all
            of them where the share would be empty.

    Raises:
        InputError: no such folder, no pictures in it, or one that does not decode.
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("pillow", "cpu", "reading pictures") from error
    found = listed(folder)
    found = found[share[0] :: share[1]] or found
    chosen = [found[i * len(found) // min(count, len(found))] for i in range(min(count, len(found)))]
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels, "RGB")
    pictures = []
    for path in chosen:
        try:
            with Image.open(path) as image:
                fitted = ImageOps.fit(ImageOps.exif_transpose(image).convert(mode), (width, height))
        except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{path} is no picture that can be read: {error}") from error
        pixels = np.asarray(fitted, np.uint8).reshape(height, width, -1)
        pictures.append(np.resize(pixels, (height, width, channels)) if pixels.shape[2] != channels else pixels)
    return np.stack(pictures)


def listed(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, sorted by name.

    Raises:
        InputError: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give --calibrate a folder of pictures, or a number of inputs")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in FORMATS)
    if not found:
        raise InputError(f"{folder} holds no pictures: {', '.join(sorted(FORMATS))} are read")
    return found


def to_port(pictures: NDArray[np.uint8], port: Port) -> NDArray[np.generic]:
    """Pictures, uint8 `[N, H, W, C]`, as an input port wants them: its type, layout and range."""
    if port.dtype == "uint8":
        return np.ascontiguousarray(pictures if port.layout == "NHWC" else pictures.transpose(0, 3, 1, 2))
    return to_range(pictures, port)


def to_range(pictures: NDArray[np.uint8], port: Port) -> NDArray[np.float32]:
    """The same as float32, in the port's layout and range."""
    assert port.range is not None
    low, high = port.range
    values = pictures.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
    return np.ascontiguousarray(values if port.layout == "NHWC" else values.transpose(0, 3, 1, 2), np.float32)
