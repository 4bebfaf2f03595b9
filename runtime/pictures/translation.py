"""One picture through an image-to-image generator, at its own size.

    result = translate(generator.compute, manifest, picture, Options(memory=500_000_000), state)

A generator takes pictures of its own channels, range and size multiple. What does not fit is made to fit in a way that
can be undone: sides are padded by reflection and cropped again, alpha travels beside the colours.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ganedge.runtime.cli.options import from_text, option
from ganedge.runtime.conditions import Conditions
from ganedge.runtime.errors import InputError, UsageError
from ganedge.runtime.latents import MAX_SEED
from ganedge.runtime.memory import parse, parse_pixels

from . import images, reader, tiles
from .stack import Stack
from .tiles import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from ganedge.runtime.manifest import Manifest, Port

    Run = Callable[[NDArray[Any]], NDArray[np.generic]]
    Share = Callable[[NDArray[np.generic]], Callable[[NDArray[np.generic]], NDArray[np.generic]]]

Tiles = Literal["auto", "shared", "always", "never"]
"""Whether to cut a picture that does not fit the memory into tiles: where the result is the same; with statistics taken
once from the reduced picture where the generator normalises over the whole of it; with each tile's own; or never."""

WHOLE = ("instance", "batch")
"""Kinds of normalisation whose statistics are those of the whole picture."""


@dataclass(frozen=True)
class Options:
    """How to translate a picture."""

    resize: bool = False
    """Scale pictures to the one size that the generator takes, and the result back."""
    memory: int | None = field(default=None, metadata=option(type=str))
    """Memory for the computation beyond the decoded picture and its result, such as 500M; larger pictures are cut into
    tiles. In Python: bytes."""
    tiles: Tiles = "auto"
    """Tiles where the memory does not suffice: auto only where the result is the same, shared with statistics from the
    reduced picture, always with each tile's own, or never."""
    overlap: int | None = field(default=None, metadata=option(default="as the artifact says, else 64"))
    """Pixels that a tile sees beyond the part it decides."""
    max_pixels: int = field(default=reader.MAX_PIXELS, metadata=option(type=str, default="268.4"))
    """Refuse larger pictures before they are decoded: millions of pixels. In Python: pixels."""
    label: int | str | None = field(default=None, metadata=option(type=str))
    """Class, by number or name, where the generator takes one."""
    mask: Any = field(default=None, metadata=option(type=Path))
    """Mask as large as the picture (white is 1), or a folder with a mask of each picture's name."""
    style: Any = field(default=None, metadata=option(type=str))
    """Style vector: numbers with commas or a .npy file; or a second picture, where the generator takes one."""
    seed: int = field(default=0, metadata=option(minimum=0))
    """Seed of vectors and noise that are drawn because none are given."""
    depth: reader.Depth = field(default=8, metadata=option(hidden=True))
    """Bits per channel of the result: 8, 16, or "source" for 16 where a grey picture has more than 8."""

    def __post_init__(self) -> None:
        """Check the values; the command line gives amounts as text."""
        from_text(self, memory=parse, max_pixels=parse_pixels)
        if self.tiles not in get_args(Tiles):
            raise UsageError(f"tiles is {self.tiles!r}: choose {', '.join(get_args(Tiles))}")
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"memory is {self.memory}: give a number of bytes above 0")
        if self.overlap is not None and not 0 <= self.overlap <= tiles.MAX_SIDE // 4:
            raise UsageError(f"overlap is {self.overlap}: give 0 to {tiles.MAX_SIDE // 4} pixels")
        if self.max_pixels < 1:
            raise UsageError(f"max_pixels is {self.max_pixels}: give 1 or more")
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"seed {self.seed} is out of range: give a whole number from 0 to {MAX_SEED}")


class State:
    """An engine's memory cost per tile, kept from one picture to the next."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.costs: dict[tuple[int, int, Tiles], tiles.Cost] = {}


def read(source: Any, manifest: Manifest, options: Options) -> NDArray[Any]:
    """Decode a picture within the limits of `options`, with no more bits than its result can have."""
    port, output = manifest.interface.inputs[0], manifest.interface.output
    floats = port.dtype == output.dtype == "float32"
    deep = floats and (options.depth == 16 or (port.channels == output.channels == 1))
    return reader.read(source, options.max_pixels, options.depth if deep else 8)


def translate(
    compute: Callable[..., NDArray[np.generic]],
    manifest: Manifest,
    source: Any,
    options: Options,
    state: State,
    share: Share | None = None,
) -> NDArray[Any]:
    """Translate one picture.

    Args:
        compute: From one item of each input to one output item.
        manifest: What the generator takes and gives.
        source: What `reader.read` takes.
        options: How, and the values of further inputs.
        state: Kept by the caller between pictures.
        share: From a reduced picture to a run that normalises with its statistics; None where that cannot be had.

    Returns:
        uint8 `[H, W, C]`: the picture's size times the generator's scale, the output's channels, and alpha where the
        picture had it.

    Raises:
        UsageError: the generator takes no pictures, or an input beside the picture is missing.
        InputError: the picture cannot be read, has a size the generator does not take, or needs more memory.
    """
    port = manifest.interface.inputs[0]
    stack, options = _prepared(manifest, options)
    run = stack.run(compute)
    shared = _shared(manifest, share) if options.tiles == "shared" else None
    if options.memory is not None and None in sides(port):
        if shared is not None:
            least = tiles.up(48, port.multiple)
            run = shared(np.zeros((least, least, port.channels), np.uint8))
            options = replace(options, memory=options.memory // 2)  # The other half is for taking the statistics.
        _cost(run, manifest, options, state, stack.channels)  # Before decoding, whose memory must not be counted.
    picture = read(source, manifest, options)
    colours, alpha = _channels(picture, port.channels)
    result = _translate(run, manifest, stack.join(colours), options, state, stack, shared)
    return _with_alpha(result, alpha)


def translate_outputs(
    compute_all: Callable[..., Sequence[NDArray[np.generic]]],
    manifest: Manifest,
    source: Any,
    options: Options,
    state: State,
) -> dict[str, NDArray[Any]]:
    """Translate one picture, and give every output by its name.

    Args:
        compute_all: From one item of each input to one item of each output.
        manifest: What the generator takes and gives.
        source: What `reader.read` takes.
        options: How, and the values of further inputs.
        state: Kept by the caller between pictures.

    Returns:
        The result as `translate` gives it; of the others pictures and masks as uint8 `[H, W, C]` at the picture's size
        times their scale, and other values as one item of the bare tensor.

    Raises:
        UsageError: the generator takes no pictures, or an input beside the picture is missing.
        InputError: as `translate`, and where the picture needs tiles: only whole pictures have further outputs.
    """
    interface = manifest.interface
    stack, options = _prepared(manifest, options)
    run_all = stack.run_all(compute_all)
    if options.memory is not None and None in sides(interface.inputs[0]):
        _cost(lambda pixels: run_all(pixels)[0], manifest, options, state, stack.channels)
    picture = read(source, manifest, options)
    colours, alpha = _channels(picture, interface.inputs[0].channels)
    pixels = stack.join(colours)
    height, width = pixels.shape[:2]
    tall, wide = _fitted(pixels, interface.inputs[0], options)
    if (tall, wide) != (height, width):
        pixels = images.resize(pixels, tall, wide)
    elif _tile_side(lambda part: run_all(part)[0], manifest, height, width, options, state, stack) is not None:
        raise InputError(
            f"a picture of {width} × {height} pixels needs tiles, and the outputs beside the result are made of whole "
            "pictures: allow more memory (--memory), or leave them out"
        )
    rows, columns = (tiles.up(size, interface.inputs[0].multiple) for size in (tall, wide))
    tensors = run_all(tiles.padded(pixels, rows, columns))
    depth = 16 if pixels.dtype == np.uint16 else 8
    outputs: dict[str, NDArray[Any]] = {}
    for port, tensor in zip(interface.outputs, tensors, strict=True):
        if not port.is_picture:
            outputs[port.name] = images.finite(tensor)[0]
            continue
        follows = port is interface.output or any(isinstance(side, str) for side in port.sides)
        made = _cropped(tensor, port, (rows, columns), (tall, wide), depth) if follows else _pixels(tensor, port, depth)
        if (tall, wide) != (height, width):
            made = _scaled_back(made, (tall, wide), (height, width))
        outputs[port.name] = _with_alpha(made, alpha) if port is interface.output else made
    return outputs


def _prepared(manifest: Manifest, options: Options) -> tuple[Stack, Options]:
    """The inputs of one picture, and the options with the artifact's overlap; raises UsageError as `translate`."""
    interface = manifest.interface
    if interface.kind != "image-to-image":
        raise UsageError(f"this generator turns {interface.kind.replace('-', ' ')}: it takes no picture to translate")
    conditions = Conditions(options.label, options.style, options.mask, options.seed)
    stack = Stack(interface, conditions, options.resize, options.max_pixels)
    if options.overlap is None:
        options = replace(options, overlap=CONTEXT if interface.reach is None else interface.reach)
    return stack, options


def _with_alpha(result: NDArray[Any], alpha: NDArray[Any] | None) -> NDArray[Any]:
    """The result with the picture's alpha, where that was taken off and the result has none."""
    if alpha is None or result.shape[-1] == 4:
        return result
    colour = result if result.shape[-1] == 3 else np.repeat(result, 3, axis=-1)
    mask = images.resize(alpha, *result.shape[:2])
    return np.concatenate([reader.to_depth(colour, 8), reader.to_depth(mask, 8)], axis=-1)


def _shared(manifest: Manifest, share: Share | None) -> Callable[[NDArray[Any]], Run] | None:
    """From a reduced picture to a run with its statistics, both from pixels; None where there is nothing to share."""
    port = manifest.interface.inputs[0]
    if manifest.norm_mode not in WHOLE or None not in sides(port):
        return None
    if share is None or len(manifest.interface.inputs) > 1:
        raise UsageError(
            "tiles 'shared' needs an .onnx artifact with one input in onnxruntime or openvino: allow more memory, "
            "or choose always"
        )
    known = share

    def shared(pixels: NDArray[Any]) -> Run:
        run = known(images.from_pixels(pixels, port))
        return lambda tile: run(images.from_pixels(tile, port))

    return shared


def _translate(
    run: Run,
    manifest: Manifest,
    picture: NDArray[Any],
    options: Options,
    state: State,
    stack: Stack,
    shared: Callable[[NDArray[Any]], Run] | None,
) -> NDArray[Any]:
    port = manifest.interface.inputs[0]
    height, width = picture.shape[:2]
    tall, wide = _fitted(picture, port, options)
    if (tall, wide) != (height, width):
        result = _whole(run, manifest, images.resize(picture, tall, wide))
        return _scaled_back(result, (tall, wide), (height, width))
    side = _tile_side(run, manifest, height, width, options, state, stack)
    if shared is not None and (side is not None or options.memory is not None):
        most = side if side is not None else max(height, width)
        run = shared(_reduced(picture, port, most))
    if side is None:
        return _whole(run, manifest, picture)
    assert options.overlap is not None  # `translate` has put the artifact's in its place.
    return tiles.blend(picture, run, port, manifest.interface.output, side, options.overlap)


def _fitted(picture: NDArray[Any], port: Port, options: Options) -> tuple[int, int]:
    """Height and width at which a picture goes in. Raises InputError for another size than the generator's one."""
    height, width = picture.shape[:2]
    tall, wide = (fixed or size for fixed, size in zip(sides(port), (height, width), strict=True))
    if (tall, wide) != (height, width) and not options.resize:
        raise InputError(
            f"a picture of {width} × {height} pixels: this generator takes {_size(port)}; "
            "give that size, or ask for resize (--resize)"
        )
    return tall, wide


def _scaled_back(result: NDArray[Any], taken: tuple[int, int], given: tuple[int, int]) -> NDArray[Any]:
    """A result for a picture that was scaled to the size `taken`, in proportion to the one that was `given`."""
    rows, columns = (max(1, round(size * b / a)) for size, a, b in zip(result.shape[:2], taken, given, strict=True))
    return images.resize(result, rows, columns)


def _whole(run: Run, manifest: Manifest, picture: NDArray[Any]) -> NDArray[Any]:
    """Pad, run, crop."""
    port, output = manifest.interface.inputs[0], manifest.interface.output
    height, width = picture.shape[:2]
    tall, wide = tiles.up(height, port.multiple), tiles.up(width, port.multiple)
    tensor = run(tiles.padded(picture, tall, wide))
    return _cropped(tensor, output, (tall, wide), (height, width), 16 if picture.dtype == np.uint16 else 8)


def _cropped(
    tensor: NDArray[np.generic], port: Port, padded: tuple[int, int], size: tuple[int, int], depth: int
) -> NDArray[Any]:
    """An output for a padded picture as pixels, without what belongs to the padding."""
    scale, border = tiles.geometry(tensor, port, *padded)
    rows, columns = (max(1, round(scale * side) - border) for side in size)
    return np.ascontiguousarray(_pixels(tensor, port, depth)[:rows, :columns])


def _pixels(tensor: NDArray[np.generic], port: Port, depth: int) -> NDArray[Any]:
    """The one item of an output as pixels `[H, W, C]`."""
    pixels: NDArray[Any] = images.to_pixels(tensor, port.range or (0.0, 1.0), port.layout, depth)[0]
    return pixels


def _reduced(picture: NDArray[Any], port: Port, side: int) -> NDArray[Any]:
    """The whole picture as small as one tile, of a size that the port takes."""
    height, width = picture.shape[:2]
    factor = min(1.0, side / max(height, width))
    small = images.resize(picture, max(1, round(factor * height)), max(1, round(factor * width)))
    tall, wide = (tiles.up(size, port.multiple) for size in small.shape[:2])
    return tiles.padded(small, tall, wide)


def _tile_side(
    run: Run, manifest: Manifest, height: int, width: int, options: Options, state: State, stack: Stack
) -> int | None:
    """The side of the tiles that the memory asks for; None where the whole picture fits."""
    port, output = manifest.interface.inputs[0], manifest.interface.output
    if options.memory is None or options.tiles == "never" or None not in sides(port):
        return None
    cost = _cost(run, manifest, options, state, stack.channels)
    tall, wide = tiles.up(height, port.multiple), tiles.up(width, port.multiple)
    needed = cost.per_pixel * tall * wide
    if needed <= tiles.SHARE * options.memory:
        return None
    if manifest.norm_mode in WHOLE and options.tiles == "auto":
        raise InputError(
            f"a picture of {width} × {height} pixels takes about {needed / tiles.SHARE / 1e6:.0f} MB, memory allows "
            f"{options.memory / 1e6:.0f} MB, and this generator normalises over the whole picture, so tiles would look "
            "different: allow more memory (--memory), take statistics from the reduced picture (--tiles shared), "
            "accept that (--tiles always), or take it whole (--tiles never)"
        )
    if stack.has_noise_map:
        raise InputError(
            f"a picture of {width} × {height} pixels takes about {needed / tiles.SHARE / 1e6:.0f} MB, and this "
            "generator takes noise as large as the picture, which tiles would repeat: allow more memory (--memory)"
        )
    return cost.largest_side(options.memory, width, output, port.multiple)


def _cost(run: Run, manifest: Manifest, options: Options, state: State, channels: int) -> tiles.Cost:
    assert options.memory is not None
    assert options.overlap is not None
    port, output = manifest.interface.inputs[0], manifest.interface.output
    key = (options.memory, options.overlap, options.tiles)
    with state.lock:
        if key not in state.costs:
            limit = int(tiles.SHARE * options.memory)
            state.costs[key] = tiles.Cost(run, port, output, options.overlap, limit, channels)
        return state.costs[key]


def sides(port: Port) -> tuple[int | None, int | None]:
    """Height and width that the port takes; None where any will do."""
    height, width = port.shape[2:] if port.layout == "NCHW" else port.shape[1:3]
    return (height if isinstance(height, int) else None), (width if isinstance(width, int) else None)


def _size(port: Port) -> str:
    height, width = sides(port)
    return f"{width or 'any width'} × {height or 'any height'}"


def _channels(picture: NDArray[Any], channels: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The picture with as many channels as the port, and its alpha `[H, W, 1]` where that had to be taken off."""
    alpha = picture[..., 3:] if picture.shape[-1] == 4 and channels != 4 else None
    return reader.to_channels(picture, channels), alpha
