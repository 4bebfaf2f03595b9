"""Pixels: rounding, clipping, layout, grids, and files that appear whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganedge.runtime.errors import GanEdgeError, InputError, UsageError
from ganedge.runtime.pictures import images, reader


def test_rounding_and_clipping() -> None:
    tensor = np.float32([-2, -1, -1 + 0.9 / 127.5, 0, 1, 3]).reshape(1, 1, 1, 6)
    assert images.to_pixels(tensor, (-1, 1), "NCHW").ravel().tolist() == [0, 0, 1, 128, 255, 255]
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
