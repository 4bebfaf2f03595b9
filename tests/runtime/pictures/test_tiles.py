"""Tiles without an engine: where they lie, how they fade into each other, and which size a budget allows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ganedge.runtime.errors import InputError
from ganedge.runtime.manifest import Layout, Port
from ganedge.runtime.pictures import tiles

IMAGE = Port("x", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (0.0, 1.0))
LAST = Port("x", "image", "float32", ("batch", "height", "width", 3), "NHWC", (0.0, 1.0))


def test_a_picture_goes_on_as_its_mirror_image() -> None:
    assert tiles.reflected(-2, 9, 4).tolist() == [2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert tiles.reflected(2, 5, 1).tolist() == [0, 0, 0]
    picture = np.arange(12).reshape(3, 4, 1)
    inside = tiles.padded(picture, 2, 3, 1, 1)
    assert inside.base is picture.base, "no copy where none is needed"
    assert inside[..., 0].tolist() == [[5, 6, 7], [9, 10, 11]]
    assert tiles.padded(picture, 3, 4)[..., 0].tolist() == picture[..., 0].tolist()
    assert tiles.padded(picture, 3, 5, 1, 0)[..., 0].tolist() == [[4, 5, 6, 7, 6], [8, 9, 10, 11, 10], [4, 5, 6, 7, 6]]
    assert tiles.padded(picture, 2, 2, 0, 3)[..., 0].tolist() == [[3, 2], [7, 6]]
    assert tiles.padded(picture[:, :1], 2, 3)[..., 0].tolist() == [[0, 0, 0], [4, 4, 4]]
    assert [tiles.up(size, 4) for size in (1, 4, 5)] == [4, 4, 8]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("rows", "columns", "scale", "border"),
    [
        (20, 30, "1", 0),
        (40, 60, "2", 0),
        (10, 15, "1/2", 0),
        (30, 45, "3/2", 0),
        (100, 150, "5", 0),
        (16, 26, "1", 4),
        (11, 21, "1", 9),
        (34, 54, "2", 6),
        (8, 13, "1/2", 2),
        (52, 82, "3", 8),
    ],
)
def test_how_an_output_lies_over_its_input(rows: int, columns: int, scale: str, border: int, layout: Layout) -> None:
    """Of 20 × 30 pixels; the border is what is missing along each side."""
    shape = (1, 3, rows, columns) if layout == "NCHW" else (1, rows, columns, 3)
    port = IMAGE if layout == "NCHW" else LAST
    assert tiles.geometry(np.zeros(shape, np.float32), port, 20, 30) == (Fraction(scale), border)


@pytest.mark.parametrize(("rows", "columns"), [(20, 40), (24, 36), (30, 20), (4, 6), (2, 12), (10, 20)])
def test_an_output_that_lies_nowhere(rows: int, columns: int) -> None:
    with pytest.raises(InputError, match=f"turned 30 × 20 pixels into {columns} × {rows}, neither in proportion"):
        tiles.geometry(np.zeros((1, 3, rows, columns)), IMAGE, 20, 30)


@pytest.mark.parametrize(
    ("shape", "rows", "columns", "scale", "border"),
    [
        (("height-16", "width-16"), 48, 48, "1", 16),
        (("0.75*height", "0.75*width"), 48, 48, "3/4", 0),
        (("2*height-80", "2*width-80"), 48, 48, "2", 80),
        (("height", "width"), 48, 48, "3/4", 0),
    ],
)
def test_the_manifest_says_how_a_square_output_lies(
    shape: tuple[str, str], rows: int, columns: int, scale: str, border: int
) -> None:
    """48 of 64 pixels are three quarters, or a border of 16 less; what the manifest says counts where it is so."""
    port = replace(IMAGE, shape=("batch", 3, *shape))
    assert tiles.geometry(np.zeros((1, 3, rows, columns)), port, 64, 64) == (Fraction(scale), border)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("scale", "border", "size"), [("1", 6, (90, 77)), ("1/2", 0, (64, 130)), ("2", 8, (61, 100)), ("3/2", 3, (70, 64))]
)
def test_tiles_of_other_scales_and_less_a_border_are_at_their_place(
    scale: str, border: int, size: tuple[int, int], layout: Layout
) -> None:
    """Each pixel of a result is the mean of those that it stands for, and half the border is missing on each side."""
    factor = Fraction(scale)
    port = replace(IMAGE, multiple=2 if factor.denominator == 2 else 1)
    output = replace(IMAGE, shape=("batch", 3, *(f"{float(factor)}*{side}-{border}" for side in ("height", "width"))))
    output = output if layout == "NCHW" else replace(LAST, shape=("batch", *output.shape[2:], 3))

    def run(pixels: Any) -> Any:
        wide = pixels.astype(np.float32) / 255
        large = wide.repeat(factor.numerator, 0).repeat(factor.numerator, 1)
        part = large[:: factor.denominator, :: factor.denominator]
        inner = part[
            border // 2 : len(part) - (border - border // 2), border // 2 : part.shape[1] - (border - border // 2)
        ]
        return inner.transpose(2, 0, 1)[None] if layout == "NCHW" else inner[None]

    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    result = tiles.blend(picture, run, port, output, side=48, context=8)
    tall, wide = (tiles.up(side, port.multiple) for side in size)
    whole = tiles.to_pixels(run(tiles.padded(picture, tall, wide)), (0.0, 1.0), layout)[0]
    rows, columns = (round(factor * side) - border for side in size)
    assert result.shape == (rows, columns, 3)
    assert np.abs(result.astype(int) - whole[:rows, :columns].astype(int)).max() <= 1


def local(scale: int, layout: Layout) -> Callable[[Any], Any]:
    """A generator that looks three pixels up and two to the left, and enlarges."""

    def run(pixels: Any) -> Any:
        wide = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
        mixed = (wide + np.roll(wide, 3, 0) + np.roll(wide, 2, 1)) / 3
        large = mixed.repeat(scale, 0).repeat(scale, 1)[None]
        return large.transpose(0, 3, 1, 2) if layout == "NCHW" else large

    return run


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(("scale", "multiple", "size"), [(1, 1, (90, 77)), (2, 4, (61, 130)), (3, 4, (40, 97))])
def test_blended_tiles_are_the_whole_picture(
    scale: int, multiple: int, size: tuple[int, int], depth: type[np.unsignedinteger[Any]], layout: Layout
) -> None:
    port = replace(IMAGE, multiple=multiple)
    output = IMAGE if layout == "NCHW" else LAST
    picture = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (*size, 3), depth, endpoint=True)
    run = local(scale, layout)
    shapes = set()

    def watched(pixels: Any) -> Any:
        shapes.add(pixels.shape)
        return run(pixels)

    result = tiles.blend(picture, watched, port, output, side=48, context=8)
    assert result.dtype == depth
    assert len(shapes) == 1, "an engine prepares for one shape"
    whole = run(tiles.padded(picture, *(tiles.up(side, multiple) for side in size)))
    expected = tiles.to_pixels(whole, (0.0, 1.0), layout, 8 * depth().itemsize)[0][: scale * size[0], : scale * size[1]]
    difference = np.abs(result.astype(int) - expected.astype(int))
    inner = difference[3 * scale :, 2 * scale :]  # The generator looks round the corner there.
    assert inner.max() <= 1
    assert (inner > 0).mean() < 0.02


def test_blending_bytes() -> None:
    """Each pixel counts once, also where four tiles meet."""
    output = Port("y", "image", "uint8", ("batch", "height", "width", 3), "NHWC", (0.0, 255.0))
    picture = np.random.default_rng(1).integers(0, 256, (70, 75, 3), np.uint8)
    result = tiles.blend(picture, lambda pixels: 255 - pixels[None], IMAGE, output, side=40, context=4)
    assert np.abs(result.astype(int) - (255 - picture.astype(int))).max() <= 1


def test_tiles_of_one_axis() -> None:
    starts, weights = tiles._row(50, 60, 8, 4)
    assert starts == [0]
    assert [weight.tolist() for weight in weights] == [[1.0] * 50]
    starts, weights = tiles._row(100, 48, 8, 4)
    assert starts == [0, 16, 32, 48, 52], "every 48 - 2 · 8 - 16 pixels, and the last at the end"
    whole = np.zeros(100)
    for start, weight in zip(starts, weights, strict=True):
        assert weight.dtype == np.float32
        whole[start : start + 48] += weight
        assert (weight[:8] == 0).all() or start == 0, "what a tile only sees"
        assert (weight[-8:] == 0).all() or start == 52
    np.testing.assert_allclose(whole, 1, rtol=1e-6)
    np.testing.assert_allclose(weights[1][8:24], (np.arange(16) + 0.5) / 16, rtol=1e-6)
    assert tiles._row(49, 48, 8, 4)[0] == [0, 1]
    assert tiles._row(48, 48, 8, 4)[0] == [0]


class FakePeak:
    """A process that takes `per_pixel` bytes for each pixel of a tile."""

    bytes: int | None = None

    def __enter__(self) -> FakePeak:
        return self

    def __exit__(self, *_: object) -> None:
        FakePeak.bytes = FakePeak.base + FakePeak.per_pixel * FakePeak.pixels if FakePeak.is_known else None

    base = 1_000_000
    per_pixel = 100
    pixels = 0
    is_known = True


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> type[FakePeak]:
    monkeypatch.setattr(tiles, "Peak", FakePeak)
    monkeypatch.setattr(tiles, "settled", lambda: FakePeak.base)
    monkeypatch.setattr(FakePeak, "per_pixel", 100)
    monkeypatch.setattr(FakePeak, "is_known", True)
    return FakePeak


def probed(sides: list[int], scale: int = 1) -> Callable[[Any], Any]:
    def run(pixels: Any) -> Any:
        sides.append(len(pixels))
        FakePeak.pixels = pixels.shape[0] * pixels.shape[1]
        return np.zeros((1, 3, scale * len(pixels), scale * len(pixels)), np.float32)

    return run


def test_probes_grow_until_the_limit_is_near(peak: type[FakePeak]) -> None:
    sides: list[int] = []
    cost = tiles.Cost(probed(sides, 2), replace(IMAGE, multiple=8), IMAGE, 10, 4_000_000)
    assert sides == [88, 136], "up(2 · 10 + 16 + 48, 8), and 1.5 times that; 208² · 100 would be above the limit"
    assert cost.smallest == 88
    assert cost.scale == 2
    assert cost.per_pixel == 100
    sides.clear()
    tiles.Cost(probed(sides), IMAGE, IMAGE, 10, 10**9)
    assert sides[0] == 84
    assert sides[-1] <= tiles.MAX_SIDE < 1.5 * sides[-1] + 1
    assert all(after == round(1.5 * before) for before, after in itertools.pairwise(sides))


def test_the_smallest_tile_that_costs_too_much_is_refused(peak: type[FakePeak]) -> None:
    with pytest.raises(
        InputError,
        match=re.escape("the smallest tile, 84 × 84 pixels, takes 1 MB: raise memory (--memory) above 1 MB or lower"),
    ):
        tiles.Cost(probed([]), IMAGE, IMAGE, 10, 84 * 84 * 100 - 1)
    assert tiles.Cost(probed([]), IMAGE, IMAGE, 10, 84 * 84 * 100).per_pixel == 100


def test_costs_without_a_measurement(peak: type[FakePeak], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "per_pixel", 0)
    assert tiles.Cost(probed([]), IMAGE, IMAGE, 10, 10**8).per_pixel == 12, "at least the output, 3 float32 values"
    monkeypatch.setattr(peak, "is_known", False)
    assert tiles.Cost(probed([]), IMAGE, IMAGE, 10, 2 * 10**8).per_pixel == tiles.UNKNOWN_COST


def test_the_largest_tile_of_a_budget(peak: type[FakePeak]) -> None:
    cost = tiles.Cost(probed([], 2), IMAGE, IMAGE, 10, 10**6)
    budget, width = 40_000_000, 999
    side = cost.largest_side(budget, width, IMAGE, 4)

    def memory(side: int) -> int:
        return 100 * side * side + 8 * 3 * 4 * 1000 * side

    assert side % 4 == 0
    assert memory(side) <= 0.75 * budget < memory(side + 4)
    assert cost.largest_side(10**12, width, IMAGE, 4) == tiles.MAX_SIDE
    assert cost.largest_side(10**12, width, IMAGE, 100) == 1000
    exact = int(memory(84) / 0.75)
    with pytest.raises(
        InputError, match=re.escape(f"a picture 999 pixels wide takes {exact / 1e6:.0f} MB in tiles of 84")
    ):
        cost.largest_side(exact - 100_000, width, IMAGE, 4)
    cost.per_pixel = 0
    assert cost.largest_side(1, width, IMAGE, 4) == tiles.MAX_SIDE


def test_tiles_count_fully_but_where_they_fade_into_each_other() -> None:
    """Tiles of 64 pixels that see 8 pixels beyond what they decide."""
    starts, weights = tiles._row(100, 64, 8, 4)
    assert starts == [0, 32, 36], "the last ends with the picture"
    assert weights[0][:40].tolist() == [1.0] * 40
    assert sum(len(weight) for weight in weights) == 3 * 64
    starts, weights = tiles._row(80, 64, 8, 1)
    assert starts == [0, 16]
    falling = np.clip((64 - np.arange(64) - 0.5 - 8) / 16, 0, 1)
    growing = falling[::-1]
    np.testing.assert_allclose(weights[0][16:], falling[16:] / (falling[16:] + growing[:48]), atol=1e-6)
    np.testing.assert_allclose(weights[1][:48], growing[:48] / (falling[16:] + growing[:48]), atol=1e-6)
    assert weights[0].dtype == np.float32
    assert tiles._row(60, 64, 8, 4)[0] == [0]
    assert tiles._row(64, 64, 8, 4)[1][0].tolist() == [1.0] * 64
