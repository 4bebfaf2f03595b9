"""Pixels: rounding, clipping, layout, grids, and files that appear whole."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganedge.runtime.errors import GanEdgeError, InputError, UsageError
from ganedge.runtime.manifest import Layout, Port
from ganedge.runtime.pictures import images, reader


def test_rounding_and_clipping() -> None:
    tensor = np.float32([-2, -1, -1 + 0.9 / 127.5, 0, 1, 3]).reshape(1, 1, 1, 6)
    assert images.to_pixels(tensor, (-1, 1), "NCHW").ravel().tolist() == [0, 0, 1, 128, 255, 255]
    assert images.to_pixels(tensor, (-1, 1), "NCHW").dtype == np.uint8
    deep = images.to_pixels(tensor, (-1, 1), "NCHW", 16)
    assert (deep.dtype, deep.ravel().tolist()) == (np.uint16, [0, 0, 231, 32768, 65535, 65535])
    assert images.to_pixels(np.float32([[[[0.2]]]]), (0, 1), "NCHW").item() == 51


def test_every_level_survives_the_round_trip() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)):
        tensor = (levels.astype(np.float32) / 255 * (high - low) + low).astype(np.float32)
        np.testing.assert_array_equal(images.to_pixels(tensor, (low, high), "NHWC"), levels)


def test_layouts() -> None:
    tensor = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 5)).astype(np.float32)
    first = images.to_pixels(tensor, (-1, 1), "NCHW")
    last = images.to_pixels(np.ascontiguousarray(tensor.transpose(0, 2, 3, 1)), (-1, 1), "NHWC")
    assert first.shape == (2, 4, 5, 3)
    assert first.flags.c_contiguous
    np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_no_picture_can_show(bad: float) -> None:
    tensor = np.zeros((1, 1, 2, 2), np.float32)
    tensor[0, 0, 1, 1] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        images.to_pixels(tensor, (-1, 1), "NCHW")


def test_grid() -> None:
    pictures = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(2, 1).repeat(3, 2)
    sheet = images.grid(pictures, gap=1)
    assert sheet.shape == (2 * 3 - 1, 3 * 4 - 1, 1)
    assert sheet[0, 0, 0] == 0
    assert sheet[0, 4, 0] == 1
    assert sheet[3, 0, 0] == 3
    assert sheet[-1, -1, 0] == 255
    assert images.grid(pictures, columns=5).shape[0] == 2


def test_scatter_draws_where_the_points_are() -> None:
    sheet = images.scatter(np.array([[1.0, 1.0], [-1.0, -1.0]]), size=101)
    dark = np.argwhere(sheet.sum(-1) < 765)
    assert dark.min() < 10
    assert dark.max() > 90
    assert (sheet[50, 50] == 255).all()


def test_save(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    images.save(picture, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    images.save(picture[..., :1], tmp_path / "grey.PNG")
    with Image.open(tmp_path / "grey.PNG") as image:
        assert image.mode == "L"
    images.save(np.zeros((2, 2, 4), np.uint8), tmp_path / "alpha.jpg")
    with Image.open(tmp_path / "alpha.jpg") as image:
        assert image.mode == "RGB"


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.xyz"):
        images.save(np.zeros((2, 2, 1), np.uint8), tmp_path / "a.xyz")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(GanEdgeError, match="is a folder"):
        images.save(np.zeros((2, 2, 1), np.uint8), tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(GanEdgeError, match="not an ordinary file"):
        images.save(np.zeros((2, 2, 1), np.uint8), tmp_path / "pipe.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "pipe.png"]


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"WEBP goes to 16383: use \.png"):
        images.save(np.zeros((1, 20_000, 1), np.uint8), tmp_path / "wide.webp")
    assert not list(tmp_path.iterdir())


def test_large_values_are_finite() -> None:
    tensor = np.full((1, 1, 20, 20), 3e37, np.float32)
    assert images.to_pixels(tensor, (-1, 1), "NCHW").min() == 255


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "there" / "real.png")
    images.save(np.zeros((2, 2, 1), np.uint8), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "there" / "real.png").is_file()


def test_a_damaged_image_object_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png", exif=b"MM\0*\0")
    with pytest.raises(InputError, match=r"cannot read this image: it is damaged \(error\)"):
        reader.read(Image.open(tmp_path / "x.png"))
    with pytest.raises(InputError, match=r"x\.png: it is damaged"):
        reader.read(tmp_path / "x.png")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_pixels_as_a_port_takes_them(layout: Layout, depth: type[np.unsignedinteger[Any]]) -> None:
    top = np.iinfo(depth).max
    picture = np.random.default_rng(0).integers(0, top, (4, 6, 3), depth, endpoint=True)
    shape = ("batch", 3, 4, 6) if layout == "NCHW" else ("batch", 4, 6, 3)
    laid = picture.transpose(2, 0, 1) if layout == "NCHW" else picture
    tensor = images.from_pixels(picture, Port("x", "image", "float32", shape, layout, (-1.0, 3.0)))
    assert tensor.dtype == np.float32
    np.testing.assert_allclose(tensor, laid[None] / top * 4 - 1, atol=1e-6)
    np.testing.assert_array_equal(images.to_pixels(tensor, (-1.0, 3.0), layout, 8 * depth().itemsize)[0], picture)
    plain = images.from_pixels(picture, Port("x", "image", "uint8", shape, layout, (0.0, 255.0)))
    assert plain.dtype == np.uint8
    assert plain.flags.c_contiguous
    np.testing.assert_array_equal(plain, np.rint(laid[None] / (top // 255)).astype(np.uint8))
    np.testing.assert_array_equal(
        images.to_pixels(plain, (0.0, 255.0), layout)[0], plain[0].transpose(1, 2, 0) if layout == "NCHW" else plain[0]
    )


def test_resizing_keeps_every_channel() -> None:
    picture = np.zeros((4, 6, 5), np.uint8) + np.arange(0, 50, 10, dtype=np.uint8)
    assert images.resize(picture, 4, 6) is picture
    for height, width in ((4, 12), (8, 6), (2, 3)):
        np.testing.assert_array_equal(
            images.resize(picture, height, width), np.zeros((height, width, 5), np.uint8) + picture[0, 0]
        )
    ramp = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None] * 30, 4, 1)
    with Image.fromarray(ramp[..., 0]) as image:
        wanted = np.asarray(image.resize((5, 3), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(images.resize(ramp, 3, 5)[..., 0], wanted)


def test_many_values_that_are_finite_though_their_sum_is_not() -> None:
    many = np.full(5000, 3e38, np.float32)
    assert images.all_finite(many)
    many[4321] = np.nan
    assert not images.all_finite(many)
    many[:] = 1
    many[7], many[8] = np.inf, -np.inf
    assert not images.all_finite(many)


def test_grid_and_scatter_to_the_pixel() -> None:
    sheet = images.grid(np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1), columns=2)
    assert sheet.dtype == np.uint8
    np.testing.assert_array_equal(sheet[..., 0], [[0, 255, 255, 1], [255] * 4, [255] * 4, [2, 255, 255, 255]])
    clouds = [np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]]), np.array([[0.0, 0.0]])]
    plot = images.scatter(*clouds, size=103)
    assert plot.shape == (103, 103, 3)
    colours = ((31, 119, 180), (255, 127, 14), (44, 160, 44))
    for colour, (y, x) in zip(colours, ((51, 96), (6, 51), (51, 51)), strict=True):
        where = np.argwhere((plot == colour).all(-1))
        np.testing.assert_array_equal(where.min(0), (y - 1, x - 1))
        np.testing.assert_array_equal(where.max(0), (y + 1, x + 1))
    assert images.scatter(np.zeros((1, 2)), size=11)[5, 5].tolist() == [31, 119, 180]


def test_what_formats_hold_and_how_well() -> None:
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    sizes = {}
    for name, settings in (("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("PNG", {"compress_level": 6})):
        stream, same = io.BytesIO(), io.BytesIO()
        images.encode(picture, name, stream)
        Image.fromarray(picture).save(same, format=name, **settings)  # type: ignore[arg-type]
        assert stream.getvalue() == same.getvalue(), name
        sizes[name] = len(stream.getvalue())
    none = io.BytesIO()
    images.encode(picture, "PNG", none, effort=0)
    assert len(none.getvalue()) > 2 * sizes["PNG"]
    deep = random.integers(0, 65536, (4, 5, 1), np.uint16)
    stream = io.BytesIO()
    images.encode(deep, "PNG", stream)
    np.testing.assert_array_equal(np.asarray(Image.open(stream)), deep[..., 0])
    for bad, name in ((deep, "BMP"), (deep.repeat(3, -1), "PNG")):
        stream = io.BytesIO()
        with pytest.warns(reader.PictureWarning, match=f"8 bits per channel: {name} holds no more"):
            images.encode(bad, name, stream)
        np.testing.assert_array_equal(np.asarray(Image.open(stream)).reshape(4, 5, -1), reader.to_depth(bad, 8))
    stream = io.BytesIO()
    images.encode(np.zeros((1, 2, 7), np.uint8), "NPY", stream)
    assert np.load(io.BytesIO(stream.getvalue())).shape == (1, 2, 7)
    with pytest.raises(UsageError, match="PNG holds no picture of 2 channels"):
        images.encode(np.zeros((1, 2, 2), np.uint8), "PNG", io.BytesIO())
    images.encode(np.zeros((1, 16_383, 1), np.uint8), "WEBP", io.BytesIO())
    with pytest.raises(UsageError, match="WEBP holds 16383 pixels a side, this is 16384 × 1"):
        images.encode(np.zeros((1, 16_384, 1), np.uint8), "WEBP", io.BytesIO())
