"""What a file is as pixels: the same in training, calibration, proof, verification and on the device."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ganedge.runtime import load
from ganedge.runtime.errors import InputError, PictureWarning
from ganedge.runtime.inputs import from_folder
from ganedge.runtime.pictures import reader
from ganedge.runtime.pictures.folder import plan, translate_files

SIDE = 32
RAMP = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 64
COLOURS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 1), np.uint8)


def grey16(path: Path) -> None:
    Image.fromarray(RAMP).save(path)


def int32(path: Path) -> None:
    Image.fromarray(RAMP.astype(np.int32)).save(path.with_suffix(".tif"))


def float32(path: Path) -> None:
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(path.with_suffix(".tif"))


def alpha(path: Path) -> None:
    Image.fromarray(np.concatenate([COLOURS, ALPHA], -1)).save(path)


def grey_alpha(path: Path) -> None:
    Image.fromarray(np.concatenate([COLOURS[..., :1], ALPHA], -1)).save(path)


def cmyk(path: Path) -> None:
    Image.fromarray(COLOURS).convert("CMYK").save(path.with_suffix(".tif"))


def palette(path: Path) -> None:
    Image.fromarray(COLOURS).convert("P").save(path)


def transparent_palette(path: Path) -> None:
    Image.fromarray(COLOURS).convert("P").save(path, transparency=3)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(path, exif=exif)


def bits(path: Path) -> None:
    Image.fromarray(COLOURS[..., 0] > 127).save(path)


KINDS = [grey16, int32, float32, alpha, grey_alpha, cmyk, palette, transparent_palette, rotated, bits]


@pytest.fixture
def identity(make: Callable[..., Path]) -> Callable[[int], Path]:
    """An artifact that returns its picture unchanged."""
    from onnx import helper

    return lambda channels: make([helper.make_node("Identity", ["x"], ["y"])], channels=channels)


@pytest.mark.filterwarnings("ignore::ganedge.runtime.errors.PictureWarning")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)
def test_all_readers_agree(
    tmp_path: Path, identity: Callable[[int], Path], write: Callable[[Path], None], channels: int
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    write(folder / "0.png")
    (path,) = folder.iterdir()
    device = reader.to_channels(reader.read(path), channels)
    calibration = from_folder(folder, 1, SIDE, SIDE, channels)[0]
    np.testing.assert_array_equal(calibration, device)
    with load(identity(channels), engine="onnxruntime", device="cpu") as generator:
        result = generator.translate(path)
    colours = result[..., :3] if result.shape[-1] == 4 else result
    np.testing.assert_array_equal(colours if channels == 3 or colours.shape[-1] == 1 else colours[..., :1], device)
    decode = pytest.importorskip("ganedge.train.pictures", reason="training is not installed").decode
    np.testing.assert_array_equal(decode(path, SIDE, channels), device)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey16(tmp_path / "x.png")
    with pytest.warns(PictureWarning, match="16 bits per channel are reduced to 8"):
        levels = reader.read(tmp_path / "x.png")
    assert abs(float(levels.mean()) - float(RAMP.mean()) / 257) < 0.01
    np.testing.assert_array_equal(reader.read(tmp_path / "x.png", depth="source")[..., 0], RAMP)


def test_integers_and_floats_say_their_range_by_their_largest_value(tmp_path: Path) -> None:
    small = RAMP // 257
    for name, values in (("int", small.astype(np.int32)), ("float", (small / 255).astype(np.float32))):
        Image.fromarray(values).save(tmp_path / f"{name}.tif")
    np.testing.assert_array_equal(reader.read(tmp_path / "int.tif")[..., 0], small)
    with pytest.warns(PictureWarning):
        np.testing.assert_array_equal(reader.read(tmp_path / "float.tif")[..., 0], small)
    damaged = np.full((4, 4), np.nan, np.float32)
    Image.fromarray(damaged).save(tmp_path / "nan.tif")
    with pytest.warns(PictureWarning):
        assert reader.read(tmp_path / "nan.tif").max() == 0


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4, 4), (255, 0, 0, 0), np.uint8)).save(tmp_path / "x.png")
    assert (reader.to_channels(reader.read(tmp_path / "x.png"), 3) == 255).all()


def test_a_profile_is_converted(tmp_path: Path) -> None:
    swapped = _profile_with_swapped_primaries()
    Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8)).save(tmp_path / "x.png", icc_profile=swapped)
    red, green, _ = reader.read(tmp_path / "x.png")[0, 0]
    assert green > 200, "what the file calls red is green"
    assert red < 60
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(COLOURS).save(tmp_path / "y.png", icc_profile=srgb)
    np.testing.assert_array_equal(reader.read(tmp_path / "y.png"), COLOURS)
    Image.fromarray(COLOURS).save(tmp_path / "z.png", icc_profile=b"damaged")
    np.testing.assert_array_equal(reader.read(tmp_path / "z.png"), COLOURS)


def test_a_profile_is_converted_where_a_colour_is_transparent(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8))
    image.putpixel((3, 3), (0, 0, 255))
    profile = _profile_with_swapped_primaries()
    image.save(tmp_path / "rgb.png", icc_profile=profile, transparency=(0, 0, 255))
    indexed = image.quantize(4)
    indexed.save(tmp_path / "indexed.png", icc_profile=profile, transparency=indexed.getpixel((3, 3)))
    for name in ("rgb.png", "indexed.png"):
        pixels = reader.read(tmp_path / name)
        assert pixels.shape == (4, 4, 4)
        assert pixels[0, 0, 1] > 200 > 60 > pixels[0, 0, 0], name
        assert pixels[0, 0, 3] == 255, name
        assert pixels[3, 3, 3] == 0, name


def _profile_with_swapped_primaries() -> bytes:
    """A profile called sRGB in which the red and the green primary have changed places."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {}
    for index in range(int.from_bytes(data[128:132], "big")):
        begin = 132 + 12 * index
        entries[bytes(data[begin : begin + 4])] = begin + 4
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    data[red : red + 8], data[green : green + 8] = bytes(data[green : green + 8]), bytes(data[red : red + 8])
    return bytes(data)


def test_further_frames_are_reported(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), 60 * index, np.uint8)) for index in range(4)]
    for ending in ("gif", "tif", "webp", "png"):
        path = tmp_path / f"x.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.warns(PictureWarning, match=f"{path.name}: the first of 4 frames is used"):
            reader.read(path)


def test_the_command_reports_what_a_picture_holds_beyond_its_result(
    tmp_path: Path, identity: Callable[[int], Path], command: Callable[..., object]
) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), 60 * index, np.uint8)) for index in range(3)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    shown = warnings.showwarning
    try:
        done = command("gan-run", "translate", identity(3), tmp_path / "x.gif", "-o", tmp_path / "out.png")
    finally:
        warnings.showwarning = shown
    assert done.code == 0  # type: ignore[attr-defined]
    assert "the first of 3 frames" in done.err  # type: ignore[attr-defined]


@pytest.mark.parametrize("tiled", [False, True])
def test_sixteen_bits_stay_where_the_format_holds_them(
    tmp_path: Path, identity: Callable[[int], Path], tiled: bool
) -> None:
    levels = np.arange(512 * 512, dtype=np.uint32).reshape(512, 512) % 65536
    Image.fromarray(levels.astype(np.uint16)).save(tmp_path / "x.png")
    options = {"memory": 30_000_000, "tiles": "always"} if tiled else {}
    with load(identity(1), engine="onnxruntime", device="cpu") as generator:
        translate_files(generator, plan([tmp_path / "x.png"], tmp_path / "y.png"), **options)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "y.png")), levels)
        with pytest.warns(PictureWarning, match="JPEG holds no more"):
            translate_files(generator, plan([tmp_path / "x.png"], tmp_path / "y.jpg"))
        with pytest.warns(PictureWarning, match="reduced to 8"):
            assert generator.translate(tmp_path / "x.png").dtype == np.uint8
        assert generator.translate(RAMP, depth=16).dtype == np.uint16


def test_a_colour_picture_of_sixteen_bits_says_that_it_is_reduced() -> None:
    image = Image.fromarray(COLOURS)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    stream.seek(0)
    opened = Image.open(stream)
    opened.tile = [tile._replace(args="RGB;16B") for tile in opened.tile]  # As Pillow opens such a file.
    assert reader._has_deep_colour(opened)


def test_one_list_of_endings(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.JPG", "c.tga", "d.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in reader.listed(tmp_path)] == ["a.jfif", "b.JPG", "c.tga"]
    assert [job.source.name for job in plan([tmp_path], tmp_path / "out")] == ["a.jfif", "b.JPG", "c.tga"]


def test_arrays_of_another_kind() -> None:
    for array in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 9), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(InputError):
            reader.read(array)
    with pytest.raises(InputError, match="channels"):
        reader.to_channels(COLOURS, 5)
