"""Real inputs for calibration, proof, verification, tuning and benchmarks.

    arrays = real_inputs(interface, 16, seed=0)          # one array per input, batch first
    pictures = natural(16, 256, 256, 3, seed=0)          # uint8 [16, 256, 256, 3]
    pictures = from_folder(Path("testA"), 16, 256, 256, 3)

Pictures made by code have what photographs have and noise has not: an amplitude that falls with 1/frequency (Field
1987), smooth shading, sharp edges of overlapping shapes, and correlated colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .latents import LatentStream, class_numbers, seed_of
from .manifest import Interface, Port
from .pictures import reader

COUNT = 32
"""Latents in one proof."""
PICTURES = 16
"""Pictures in one proof of a generator that takes pictures."""
SIDES = ((64, 64), (96, 128))
"""Heights and widths of the pictures where these are dynamic and nothing says what they were in training; rounded up to
the port's multiple."""
SEED = 20_26
"""Seed of the inputs of a proof."""
Use = Literal["proof", "calibration", "foresight"]
"""Uses of real inputs: the proof, calibration, or measuring the error of each layer's INT8."""
USES: tuple[Use, ...] = get_args(Use)
"""Different uses never share inputs."""
SHAPES = 12
"""Shapes in one picture."""


def real_inputs(
    interface: Interface,
    count: int = COUNT,
    seed: int = SEED,
    folder: Path | None = None,
    side: tuple[int, int] | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[NDArray[np.generic]]:
    """Make inputs as in use: latents of the generator's distribution, or pictures; every class in turn.

    Args:
        interface: What the generator takes.
        count: How many; fewer where the folder holds fewer.
        seed: Of latents, and of pictures made by code.
        folder: Pictures to take; without one they are made by code.
        side: Height and width of pictures where these are dynamic, pixels.
        share: Which of the folder's pictures, see `from_folder`.

    Returns:
        One array per input, batch first; as many as a fixed batch divides.
    """
    port = interface.inputs[0]
    size = side
    if interface.noise is not None:
        inputs: list[NDArray[np.generic]] = [LatentStream(interface.noise, port.item_shape, seed).take(count)]
    else:
        size = side or sides(port)[0]
        shape = (count, *size, port.channels)
        made = natural(*shape, seed) if folder is None else from_folder(folder, *shape, share)
        inputs = [to_port(made, port)]
    for index, further in enumerate(interface.inputs[1:], 1):
        aligned = size if interface.is_aligned(further) else None
        inputs.append(_further(further, interface, len(inputs[0]), seed_of(index, seed), aligned))
    batch = port.shape[0]
    if isinstance(batch, int) and len(inputs[0]) % batch:  # A fixed batch is filled up with the first ones again.
        indices = np.arange(-(-len(inputs[0]) // batch) * batch) % len(inputs[0])
        inputs = [array[indices] for array in inputs]
    return inputs


def _further(
    port: Port, interface: Interface, count: int, seed: int, size: tuple[int, int] | None
) -> NDArray[np.generic]:
    """Values of an input beside the first: every class in turn, masks of shapes, pictures, vectors or noise.

    Args:
        port: The input.
        interface: What it belongs to.
        count: How many.
        seed: Of everything but classes.
        size: Height and width of the picture that it is aligned with; its own by default.
    """
    if port.role == "label":
        return class_numbers(count, len(interface.classes))
    if port.is_picture:
        height, width = size or sides(port)[0]
        if port.role == "image":
            return to_port(natural(count, height, width, port.channels, seed), port)
        random = np.random.RandomState(seed)
        return to_port(np.stack([_mask(random, height, width) for _ in range(count)]), port)
    shape = port.item_shape if size is None else (port.item_shape[0], *size)
    values = LatentStream(port.distribution or "uniform", shape, seed).take(count)
    return values if port.distribution is not None else (values + 1) / 2  # Such as attributes of 0 to 1.


def _mask(random: np.random.RandomState, height: int, width: int) -> NDArray[np.uint8]:
    """A few shapes in white on black, uint8 `[height, width, 1]`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    shapes = [_shape(random, x / width, y / height) for _ in range(4)]
    return np.where(np.any(shapes, axis=0), 255, 0).astype(np.uint8)[..., None]


def real_cases(
    interface: Interface,
    folder: Path | None = None,
    count: int | Sequence[int] | None = None,
    use: Use = "proof",
    sizes: Sequence[tuple[int, int]] | None = None,
) -> list[list[NDArray[np.generic]]]:
    """Real inputs at every size that a proof looks at: one where the size is fixed, two where it is dynamic.

    Args:
        interface: What the generator takes.
        folder: Pictures to take; without one they are made by code.
        count: How many in all, or of each size; what a proof takes by default.
        use: What for: each has inputs of its own, in a folder every third picture.
        sizes: Heights and widths of the pictures, pixels; by default those of `sides`.
    """
    share = (USES.index(use), len(USES))
    seed = SEED + 1000 * share[0]
    chosen = [None] if interface.noise is not None else list(sizes or sides(interface.inputs[0]))
    usual = PICTURES if interface.noise is None else COUNT
    each = count if isinstance(count, Sequence) else [-(-(count or usual) // len(chosen))] * len(chosen)
    plans = enumerate(zip(chosen, each, strict=True))
    return [real_inputs(interface, many, seed + index, folder, side, share) for index, (side, many) in plans]


def sides(port: Port, trained: int | None = None) -> list[tuple[int, int]]:
    """The heights and widths to try for a picture port: its own, or two that its multiple allows.

    Where the training's size is known it is the first, and the second is another, smaller where the multiple allows.
    """
    height, width = port.shape[2:] if port.layout == "NCHW" else port.shape[1:3]
    if isinstance(height, int) and isinstance(width, int):
        return [(height, width)]

    def pick(fixed: int | str, preferred: int) -> int:
        return fixed if isinstance(fixed, int) else -(-preferred // port.multiple) * port.multiple

    preferred = SIDES if trained is None else ((trained, trained), (trained // 2, 3 * trained // 4))
    sizes = [(pick(height, h), pick(width, w)) for h, w in preferred]
    if sizes[0] == sizes[1]:  # A large multiple rounds both to one: make the second wider.
        sizes[1] = (pick(height, sizes[0][0]), pick(width, sizes[0][1] + port.multiple))
    return sizes


def natural(count: int, height: int, width: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """Make pictures, uint8 `[count, height, width, channels]`; the same seed makes the same ones."""
    random = np.random.RandomState(seed % 2**32)
    return np.stack([_natural(random, height, width, channels) for _ in range(count)])


def _natural(random: np.random.RandomState, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Shaded ground, shapes with edges, and texture over all; brightness and contrast differ from one to the next."""
    x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)[:, None]
    angle = random.uniform(0, 2 * np.pi)
    shade = np.cos(angle) * x / width + np.sin(angle) * y / height
    picture = random.uniform(-1, 1, channels) + shade[..., None] * random.uniform(-0.8, 0.8, channels)
    for _ in range(SHAPES):
        inside = _shape(random, x / width, y / height)
        picture[inside] = random.uniform(-1, 1, channels) + 0.4 * shade[inside, None]
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
    """An ellipse or a rectangle, turned, somewhere, of coordinates that broadcast to the picture."""
    rotation, cx, cy = random.uniform(0, np.pi), *random.uniform(-0.1, 1.1, 2)
    a, b = random.uniform(0.03, 0.35, 2)
    u = (np.cos(rotation) * (x - cx) + np.sin(rotation) * (y - cy)) / a
    v = (np.cos(rotation) * (y - cy) - np.sin(rotation) * (x - cx)) / b
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
    paths = listed(folder)
    paths = paths[share[0] :: share[1]] or paths
    chosen = [paths[i * len(paths) // min(count, len(paths))] for i in range(min(count, len(paths)))]
    return np.stack([reader.fit(reader.to_channels(reader.read(path), channels), height, width) for path in chosen])


def listed(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, sorted by name.

    Raises:
        InputError: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give --calibrate a folder of pictures, or a number of inputs")
    paths = reader.listed(folder)
    if not paths:
        raise InputError(f"{folder} holds no pictures: {', '.join(sorted(reader.ENDINGS))} are read")
    return paths


def to_port(pictures: NDArray[np.uint8], port: Port) -> NDArray[np.generic]:
    """Pictures, uint8 `[N, H, W, C]`, as an input port takes them: its type, layout and range."""
    if port.dtype == "uint8":
        return np.ascontiguousarray(pictures if port.layout == "NHWC" else pictures.transpose(0, 3, 1, 2))
    return to_range(pictures, port)


def to_range(pictures: NDArray[np.uint8], port: Port) -> NDArray[np.float32]:
    """The same as float32, in the port's layout and range."""
    assert port.range is not None
    low, high = port.range
    values = pictures.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
    return np.ascontiguousarray(values if port.layout == "NHWC" else values.transpose(0, 3, 1, 2), np.float32)
