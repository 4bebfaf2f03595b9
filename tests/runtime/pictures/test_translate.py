"""Pictures to pictures: their own size, channels and alpha; tiles beside the whole; pipelines in order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from ganedge.runtime import EngineError, InputError, UsageError, load
from ganedge.runtime.errors import PictureWarning
from ganedge.runtime.latents import LatentStream, between
from ganedge.runtime.pictures import images, reader
from ganedge.runtime.pictures.tiles import reflected

Make = Callable[..., Path]
IDENTITY = [helper.make_node("Identity", ["x"], ["y"])]
NEGATIVE = [helper.make_node("Neg", ["x"], ["y"])]


def blur(reach: int) -> tuple[list[object], dict[str, np.ndarray]]:
    """Two convolutions that see `reach` pixels around each pixel and shift colours into one another."""
    random = np.random.default_rng(0)
    side = reach + 1
    assert reach % 2 == 0
    kernels = {
        name: (random.normal(size=(3, 3, side, side)) / side).astype(np.float32) * 0.5 for name in ("first", "last")
    }
    pads = [reach // 2] * 4
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], pads=pads),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "last"], ["c"], pads=pads),
        helper.make_node("Tanh", ["c"], ["y"]),
    ]
    return nodes, kernels


@pytest.mark.parametrize("multiple", [1, 4, 32])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (33, 64), (40, 17)])
def test_any_size_comes_back_at_its_own(make: Make, multiple: int, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    with load(make(NEGATIVE, multiple=multiple)) as generator:
        np.testing.assert_array_equal(generator.translate(picture), 255 - picture)


def test_padding_is_a_mirror() -> None:
    assert reflected(0, 9, 4).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert reflected(0, 3, 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_and_alpha(make: Make, channels: int) -> None:
    random = np.random.default_rng(2)
    with load(make(NEGATIVE, channels=channels)) as generator:
        for given in (1, 3, 4):
            picture = random.integers(0, 256, (6, 7, given), np.uint8)
            result = generator.translate(picture)
            if given == 4 and channels != 4:
                np.testing.assert_array_equal(result[..., 3], picture[..., 3])
            if given == channels:
                np.testing.assert_array_equal(result, 255 - picture)
            assert result.shape == (6, 7, 4 if 4 in (given, channels) else channels)
        colour = random.integers(0, 256, (6, 7, 3), np.uint8)
        if channels == 1:
            grey = 255 - np.asarray(Image.fromarray(colour).convert("L"))
            np.testing.assert_array_equal(generator.translate(colour)[..., 0], grey)


def test_bytes_in_and_out(make: Make) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (9, 10, 3), np.uint8)
    with load(make(IDENTITY, multiple=4, kind="uint8")) as generator:
        np.testing.assert_array_equal(generator.translate(picture), picture)
        assert generator.run(picture[None, :8, :8].copy()).dtype == np.uint8


def test_a_generator_that_enlarges(make: Make) -> None:
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")]
    path = make(nodes, {"scales": np.float32([1, 1, 2, 2])}, multiple=4, out=("tall", "wide"))
    picture = np.random.default_rng(4).integers(0, 256, (150, 219, 4), np.uint8)
    with load(path, engine="onnxruntime") as generator:
        result = generator.translate(picture)
        assert result.shape == (300, 438, 4)
        np.testing.assert_array_equal(result[::2, ::2, :3], reader.over_white(picture))


def test_a_fixed_size_is_said_and_resized_to_only_if_asked(make: Make) -> None:
    picture = np.full((30, 20, 3), 80, np.uint8)
    with load(make(NEGATIVE, size=(16, 16))) as generator:
        with pytest.raises(InputError, match=r"20 × 30 pixels: this generator takes 16 × 16.*--resize"):
            generator.translate(picture)
        np.testing.assert_array_equal(generator.translate(picture, resize=True), 255 - picture)


def test_files_and_images(make: Make, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    picture = random.integers(0, 256, (8, 6, 3), np.uint8)
    image = Image.fromarray(picture)
    notes = Image.Exif()
    notes[0x0112] = 6  # Turn right by a quarter to see it upright.
    image.save(tmp_path / "ümlaut name.png", exif=notes)
    deep = (np.arange(48, dtype=np.uint16) * 1300).reshape(6, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image.convert("P").save(tmp_path / "palette.gif")
    image.convert("CMYK").save(tmp_path / "print.tif")
    with load(make(IDENTITY)) as generator:
        np.testing.assert_array_equal(generator.translate(image), picture)
        np.testing.assert_array_equal(generator.translate(tmp_path / "ümlaut name.png"), np.rot90(picture, -1))
        with pytest.warns(PictureWarning, match="reduced to 8"):
            eight = generator.translate(str(tmp_path / "deep.png"))
        np.testing.assert_array_equal(eight[..., 1], np.rint(deep / 257))
        assert generator.translate(tmp_path / "palette.gif").shape == picture.shape
        assert np.abs(generator.translate(tmp_path / "print.tif").astype(int) - picture).max() <= 2


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32: give uint8"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 9), np.uint8), "shape"),
        (np.zeros((4, 4, 5), np.uint8), "5 channels, and 3 are needed"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (None, "NoneType"),
        ("missing.png", "missing.png: No such file"),
    ],
)
def test_what_is_no_picture(make: Make, picture: object, said: str) -> None:
    with load(make(IDENTITY)) as generator, pytest.raises(InputError, match=said):
        generator.translate(picture)


def test_files_that_are_no_pictures(make: Make, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(6).integers(0, 256, (50, 50, 3), np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    with load(make(IDENTITY)) as generator:
        for name in ("cut.jpg", "text.png", "empty.png", "."):
            with pytest.raises(InputError, match="cannot read"):
                generator.translate(tmp_path / name)
        with pytest.raises(InputError, match=r"limit of 0.002499 million.*--max-pixels"):
            generator.translate(tmp_path / "a.jpg", max_pixels=2499)


def test_options_that_make_no_sense(make: Make, artifact: Path) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    with load(make(IDENTITY)) as generator:
        for options in ({"memory": 0}, {"tiles": "some"}, {"overlap": -1}, {"max_pixels": 0}):
            with pytest.raises(UsageError, match=next(iter(options))):
                generator.translate(picture, **options)
        with pytest.raises(UsageError, match="no latents"):
            generator.sample(1)
    with load(artifact) as generator, pytest.raises(UsageError, match="takes no picture"):
        generator.translate(picture)


@pytest.mark.parametrize("multiple", [1, 8])
def test_tiles_equal_the_whole_where_the_overlap_suffices(make: Make, multiple: int) -> None:
    nodes, weights = blur(16)
    picture = np.random.default_rng(7).integers(0, 256, (701, 533, 3), np.uint8)
    from ganedge.runtime.pictures import tiles
    from ganedge.runtime.pictures.images import from_pixels

    with load(make(nodes, weights, multiple=multiple), engine="onnxruntime", threads=2) as generator:
        ports = generator.manifest.interface
        whole = generator.translate(picture).astype(int)
        run = lambda pixels: generator.run(from_pixels(pixels, ports.inputs[0]))  # noqa: E731
        parts = tiles.blend(picture, run, ports.inputs[0], ports.output, side=160, context=16)
        assert np.abs(parts - whole).max() <= 1, "rounding may tip over, nothing more"
        assert (parts != whole).mean() < 1e-3
        rough = tiles.blend(picture, run, ports.inputs[0], ports.output, side=160, context=0)
        assert np.abs(rough - whole).max() > 1, "the test can fail: too little overlap shows"


def test_memory_decides_about_tiles(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganedge.runtime.pictures import tiles

    nodes, weights = blur(16)
    picture = np.random.default_rng(8).integers(0, 256, (1100, 1000, 3), np.uint8)
    sides = []
    blend = tiles.blend
    monkeypatch.setattr(tiles, "blend", lambda *a: sides.append(a[4]) or blend(*a))
    with load(make(nodes, weights, multiple=4), engine="onnxruntime", threads=2) as generator:
        whole = generator.translate(picture).astype(int)
        assert sides == []
    with load(make(nodes, weights, multiple=4), engine="onnxruntime", threads=2) as generator:
        parts = generator.translate(picture, memory=30_000_000, overlap=16)
        assert len(sides) == 1
        assert sides[0] < 1000
        assert np.abs(parts - whole).max() <= 1
        with pytest.raises(InputError, match=r"smallest tile.*raise memory"):
            generator.translate(picture, memory=100_000, overlap=16)


def test_memory_is_kept_in_a_fresh_process(make: Make) -> None:
    code = (
        "import sys; import numpy as np; from ganedge.runtime import load, memory\n"
        "picture = np.random.default_rng(8).integers(0, 256, (1100, 1000, 3), np.uint8)\n"
        "with load(sys.argv[1], engine='onnxruntime', threads=2) as generator:\n"
        "    before = memory.resident()\n"
        "    with memory.Peak() as peak:\n"
        "        generator.translate(picture, memory=30_000_000, overlap=16)\n"
        "print(peak.bytes - before)"
    )
    nodes, weights = blur(16)
    done = subprocess.run(
        [sys.executable, "-c", code, make(nodes, weights, multiple=4)], capture_output=True, text=True, check=True
    )
    assert 0 < int(done.stdout) <= 30_000_000 + 1100 * 1000 * 3 + 5_000_000


def test_instance_normalisation_is_not_cut_in_silence(make: Make) -> None:
    nodes = [helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"])]
    weights = {"scale": np.float32([0.3] * 3), "bias": np.float32([0] * 3)}
    picture = np.random.default_rng(9).integers(0, 256, (1500, 1500, 3), np.uint8)
    picture[:750] //= 4
    with load(make(nodes, weights, norm="instance"), engine="onnxruntime") as generator:
        budget = 25_000_000
        with pytest.raises(InputError, match=r"normalises over the whole picture.*--tiles always.*--tiles never"):
            generator.translate(picture, memory=budget)
        whole = generator.translate(picture, memory=budget, tiles="never")
        np.testing.assert_array_equal(whole, generator.translate(picture))
        parts = generator.translate(picture, memory=budget, tiles="always")
        assert np.abs(parts.astype(int) - whole).max() > 10


def test_many_in_order_with_errors_in_their_place(make: Make, tmp_path: Path) -> None:
    pictures = [np.full((4 + i, 5, 3), i, np.uint8) for i in range(9)]
    mixed = [*pictures[:4], tmp_path / "missing.png", *pictures[4:]]
    taken = []

    def watched() -> object:
        for index, picture in enumerate(mixed):
            taken.append(index)
            yield picture

    with load(make(NEGATIVE)) as generator:
        results = list(generator.translate_many(watched(), errors="yield"))
        assert isinstance(results[4], InputError)
        for picture, result in zip(pictures, results[:4] + results[5:], strict=True):
            np.testing.assert_array_equal(result, 255 - picture)
        with pytest.raises(InputError, match=r"missing\.png"):
            list(generator.translate_many(mixed))
        taken.clear()
        results = generator.translate_many(watched())
        next(iter(results))
        results.close()
        assert len(taken) < 6, "it takes few ahead"
        with pytest.raises(UsageError, match="errors"):
            list(generator.translate_many(mixed, errors="ignore"))


def test_an_engine_that_fails_says_so(make: Make) -> None:
    nodes = [helper.make_node("Add", ["x", "other"], ["y"])]
    path = make(nodes, {"other": np.zeros((1, 3, 4, 4), np.float32)})
    for name in ("onnxruntime", "openvino"):
        with load(path, engine=name) as generator, pytest.raises(EngineError, match=f"{name} could not run"):
            generator.translate(np.zeros((5, 5, 3), np.uint8))


def test_interpolation_has_both_ends_and_the_arc_between(artifact: Path) -> None:
    with load(artifact) as generator:
        path = generator.interpolate(3, 8, 7)
        assert path.shape == (7, 16, 16, 1)
        for place, seed in ((0, 3), (-1, 8)):
            assert np.abs(path[place].astype(int) - generator.sample(1, seed=seed)[0]).max() <= 1
        with pytest.raises(UsageError, match="steps is 1"):
            generator.interpolate(0, 1, 1)
    a, b = (LatentStream("normal", (64,), seed).take(1)[0] for seed in (0, 1))
    lengths = np.linalg.norm(between("normal", a, b, 9), axis=1)
    assert lengths.min() > 0.95 * min(lengths[0], lengths[-1])
    np.testing.assert_allclose(between("uniform", a, b, 3)[1], (a + b) / 2, rtol=1e-5)
    np.testing.assert_allclose(between("normal", a, a, 3)[1], a, rtol=1e-5)


def test_truncation() -> None:
    whole = LatentStream("normal", (50,), 4, truncation=0.5).take(6)
    assert np.abs(whole).max() <= 0.5
    assert np.abs(whole).max() > 0.45
    split = LatentStream("normal", (50,), 4, truncation=0.5)
    np.testing.assert_array_equal(np.concatenate([split.take(2), split.take(4)]), whole)
    assert np.abs(LatentStream("uniform", (50,), 4, truncation=0.5).take(6)).max() <= 0.5
    for noise, value in (("normal", 0.0), ("normal", -1.0), ("uniform", 1.5), ("normal", float("nan"))):
        with pytest.raises(UsageError, match="truncation"):
            LatentStream(noise, (2,), 0, truncation=value)


def test_half_the_size_and_a_border_less(make: Make) -> None:
    """Scales below one, and convolutions without padding: what comes out is where it belongs."""
    picture = np.random.default_rng(5).integers(0, 256, (20, 31, 3), np.uint8)
    halved = [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])]
    with load(make(halved, multiple=4, out=("0.5*height", "0.5*width")), engine="onnxruntime") as generator:
        result = generator.translate(picture)
        assert result.shape == (10, 16, 3)
        exact = picture[:, :30].reshape(10, 2, 15, 2, 3).mean((1, 3))
        assert np.abs(result[:, :15] - exact).max() <= 1
        large = np.random.default_rng(6).integers(0, 256, (900, 900, 3), np.uint8)
        exact = large.reshape(450, 2, 450, 2, 3).mean((1, 3))
        assert np.abs(generator.translate(large, memory=9_000_000) - exact).max() <= 1, "in tiles"
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    for channel in range(3):
        kernel[channel, channel, 1, 1] = 1.0
    valid = [helper.make_node("Conv", ["x", "w"], ["y"])]
    with load(make(valid, {"w": kernel}, size=(20, 31), out=(18, 29))) as generator:
        np.testing.assert_array_equal(generator.translate(picture), picture[1:-1, 1:-1])


def test_channels_without_a_usual_meaning(make: Make, tmp_path: Path) -> None:
    array = np.random.default_rng(6).integers(0, 256, (9, 8, 6), np.uint8)
    with load(make(NEGATIVE, channels=6)) as generator:
        np.testing.assert_array_equal(generator.translate(array), 255 - array)
        np.save(tmp_path / "six.npy", array)
        np.testing.assert_array_equal(generator.translate(tmp_path / "six.npy"), 255 - array)
        with pytest.raises(InputError, match="a picture has 3 channels, and 6 are needed"):
            generator.translate(array[..., :3])
    images.save(array[..., :2], tmp_path / "two.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "two.npy"), array[..., :2])
    with pytest.raises(UsageError, match=r"PNG holds no picture of 2 channels: write .npy"):
        images.save(array[..., :2], tmp_path / "two.png")
