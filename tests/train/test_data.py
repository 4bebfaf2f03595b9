"""Data: every way in, odd pictures, and what is refused."""

from __future__ import annotations

import gzip
import pickle
import struct
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CelebA

from ganedge.models.variant import Wants
from ganedge.runtime.errors import InputError, UsageError
from ganedge.train import data, layouts
from ganedge.train import pictures as reading
from ganedge.train.layouts import Group, Layout
from ganedge.train.sources import InMemory, OnDisk

WANTS = Wants("images", 16, None, (-1.0, 1.0))


def everything(opened: data.Data) -> torch.Tensor:
    return opened.take("images", torch.arange(len(opened)))


def write_idx(folder: Path, pixels: np.ndarray, *, zipped: bool) -> None:
    raw = struct.pack(">4i", 2051, *pixels.shape) + pixels.tobytes()
    folder.mkdir(exist_ok=True)
    labels = struct.pack(">2i", 2049, len(pixels)) + bytes(index % 10 for index in range(len(pixels)))
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    if zipped:
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw))
    else:
        (folder / "train-images-idx3-ubyte").write_bytes(raw)


def test_digits() -> None:
    opened = data.open_data("digits", WANTS)
    assert everything(opened).shape == (1797, 1, 16, 16)
    assert opened.facts == {"channels": 1}
    batch = opened.batch(torch.tensor([0, 5]), torch.device("cpu"))["images"]
    assert batch.shape == (2, 1, 16, 16)
    assert -1 <= batch.min() < -0.9
    assert 0.5 < batch.max() <= 1


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files(tmp_path: Path, zipped: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8)
    write_idx(tmp_path / "mnist", pixels, zipped=zipped)
    opened = data.open_data(f"mnist:{tmp_path / 'mnist'}", WANTS)
    np.testing.assert_array_equal(everything(opened)[:, 0].numpy(), pixels)
    wide = data.open_data(f"mnist:{tmp_path / 'mnist'}", Wants("images", 32, 3, (0, 1)))
    assert everything(wide).shape == (5, 3, 32, 32)


@pytest.mark.parametrize("cut", [0, 3, 15, 100, 5 * 256 + 15])
def test_a_cut_idx_file(tmp_path: Path, cut: int) -> None:
    write_idx(tmp_path, np.zeros((5, 16, 16), np.uint8), zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="idx3-ubyte"):
        data.open_data(f"mnist:{tmp_path}", WANTS)


def test_a_folder_is_searched_and_its_train_part_used(pictures: Path) -> None:
    assert len(data.open_data(str(pictures), WANTS)) == 24
    (pictures / "train").mkdir()
    (pictures / "00.png").rename(pictures / "train" / "00.png")
    assert len(data.open_data(str(pictures), WANTS)) == 1


def test_odd_pictures(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (20, 20), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(random.integers(0, 256, (20, 20, 4), np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(grey).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(random.integers(0, 65536, (20, 20), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(grey[:1, :3]).save(tmp_path / "tiny.png")
    Image.fromarray(grey).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    opened = data.open_data(str(tmp_path), WANTS)
    assert len(opened) == 6
    assert sorted(Path(line.partition(": ")[0]).name for line in opened.skipped) == ["cut.png", "empty.png", "text.jpg"]


def test_orientation_and_transparency(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # Upside down.
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert reading.decode(tmp_path / "a.png", 20, 1)[-1].min() == 255
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "b.png")
    assert reading.decode(tmp_path / "b.png", 4, 3).min() == 255


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(reading.decode(tmp_path / "deep.png", 16, 1).ravel(), np.arange(256))


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("digts", UsageError, "digits, mnist"),
        ("{tmp}/nowhere", UsageError, "neither"),
        ("{tmp}/file", UsageError, "is a file"),
        ("{tmp}/empty", InputError, "no pictures"),
        ("{tmp}/bad", InputError, "none of 1 pictures"),
        ("mnist:{tmp}/empty", UsageError, "train-images-idx3-ubyte"),
        ("digits:{tmp}", UsageError, "built in"),
    ],
)
def test_what_is_refused(tmp_path: Path, spec: str, error: type[Exception], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("x")
    (tmp_path / "file").touch()
    with pytest.raises(error, match=said):
        data.open_data(spec.format(tmp=tmp_path), WANTS)


def test_nothing_is_downloaded_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="--download"):
        data.open_data("mnist", WANTS)


def test_batches_go_through_every_item_once_an_epoch() -> None:
    def permutation(epoch: int) -> torch.Tensor:
        return data.order(7, epoch, lambda index: index)

    seen = torch.cat([data.indices(7, begin, 3, permutation) for begin in range(0, 21, 3)])
    for epoch in range(3):
        assert sorted(seen[epoch * 7 : epoch * 7 + 7].tolist()) == list(range(7))
    assert seen[:7].tolist() != seen[7:14].tolist()
    assert len(data.indices(2, 1, 9, lambda epoch: data.order(2, epoch, int))) == 9


def pair_files(folder: Path, count: int) -> None:
    """Files with two pictures side by side: black on the left, their own grey on the right."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.zeros((32, 64, 3), np.uint8)
        pixels[:, 32:] = 10 * (index + 1)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def batch_of(opened: data.Data, *chosen: int) -> dict[str, torch.Tensor]:
    return opened.batch(torch.tensor(chosen), torch.device("cpu"))


def test_points() -> None:
    opened = data.open_data("circles", Wants("points"))
    points = batch_of(opened, *range(1000))["points"]
    torch.testing.assert_close(points.norm(dim=1), torch.full((1000,), 0.8))
    with pytest.raises(UsageError, match="points"):
        data.open_data("digits", Wants("points"))
    with pytest.raises(UsageError, match="single pictures"):
        data.open_data("circles", WANTS)


def test_classes_and_labels(pictures: Path) -> None:
    wants = Wants("images", 16, 1, labels=True)
    opened = data.open_data("digits", wants, data.Options(classes=("3", "7")))
    assert opened.facts["class_names"] == "3,7"
    labels = batch_of(opened, *range(len(opened)))["labels"]
    assert labels.dtype == torch.int64
    assert set(labels.tolist()) == {0, 1}
    assert 300 < len(opened) < 400
    with pytest.raises(UsageError, match="no class 'x': it has '0', '1'"):
        data.open_data("digits", wants, data.Options(classes=("x",)))
    with pytest.raises(InputError, match="without a class"):
        data.open_data(str(pictures), wants)
    for index, path in enumerate(sorted(pictures.glob("*.png"))):
        (pictures / "less").mkdir(exist_ok=True)
        path.rename(pictures / "less" / path.name)
        assert index < 24
    both = data.open_data(str(pictures), wants)
    assert both.names == ("less", "more")
    assert both.sources[0].labels is not None
    assert both.sources[0].labels.tolist() == [0] * 12 + [1] * 12


def test_a_list_of_paths(pictures: Path) -> None:
    (pictures / "list.csv").write_text("00.png,1\nmore/01.png,-1\nmore/none.png,1\n")
    opened = data.open_data(str(pictures / "list.csv"), Wants("images", 16, 3, labels=True))
    assert len(opened) == 2
    assert opened.names == ("-1", "1")
    assert batch_of(opened, 0, 1)["labels"].tolist() == [1, 0]
    assert "none.png" in opened.skipped[0]
    (pictures / "empty.csv").touch()
    with pytest.raises(InputError, match="empty"):
        data.open_data(str(pictures / "empty.csv"), WANTS)


def test_a_fraction_is_always_the_same() -> None:
    one, other = (data.open_data("digits", WANTS, data.Options(fraction=0.1)) for _ in range(2))
    assert len(one) == 180
    assert torch.equal(everything(one), everything(other))


def test_pairs_side_by_side(tmp_path: Path) -> None:
    pair_files(tmp_path / "train", 3)
    pair_files(tmp_path / "val", 5)
    wants = Wants("pairs", 16, 3, (0.0, 255.0), load_size=18, flip=True)
    opened = data.open_data(str(tmp_path), wants)
    assert len(opened) == 3
    batch = batch_of(opened, 0, 2)
    assert batch["input"].shape == batch["target"].shape == (2, 3, 16, 16)
    assert batch["input"].max() == 0
    assert batch["target"][:, 0, 8, 8].tolist() == [10, 30]
    assert opened.examples is not None
    assert opened.examples["target"].shape == (4, 3, 16, 16), "from val"
    turned = data.open_data(str(tmp_path), Wants("pairs", 16, 3, reverse=True))
    assert batch_of(turned, 0)["target"].max() == -1


def test_both_pictures_of_a_pair_change_alike(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for side in ("A", "B"):
        (tmp_path / side).mkdir()
    for index in range(4):
        pixels = random.integers(0, 256, (24, 24, 3), np.uint8)
        for side in ("A", "B"):
            Image.fromarray(pixels).save(tmp_path / side / f"{index}.png")
    (tmp_path / "A" / "alone.png").write_text("x")
    (tmp_path / "B" / "3.png").write_text("x")
    opened = data.open_data(str(tmp_path), Wants("pairs", 16, 3, load_size=24, flip=True))
    assert len(opened) == 3
    assert "3.png" in opened.skipped[0]
    assert "alone.png: no partner of the same name in" in opened.skipped[1]
    seen = [batch_of(opened, 1) for _ in range(8)]
    assert all(torch.equal(batch["input"], batch["target"]) for batch in seen)
    assert any(not torch.equal(batch["input"], seen[0]["input"]) for batch in seen)


def test_pictures_of_the_same_name_in_one_folder_are_named(tmp_path: Path) -> None:
    numbered(tmp_path / "A", 3)
    numbered(tmp_path / "B", 3)
    Image.new("RGB", (20, 20), "white").save(tmp_path / "A" / "01.jpg")
    opened = data.open_data(str(tmp_path), Wants("pairs", 16, 3))
    assert len(opened) == 3
    assert [line.partition("A/")[2] for line in opened.news()] == [
        "01.jpg: 01.png has the same name and is taken in its place"
    ]


def test_single_pictures_of_two_sets_are_those_to_train_on(tmp_path: Path) -> None:
    for place in (tmp_path / "one", tmp_path / "other"):
        for side in ("A", "B"):
            numbered(place / (f"train{side}" if place.name == "one" else f"{side}/train"), 2)
            numbered(place / (f"test{side}" if place.name == "one" else f"{side}/test"), 3)
        opened = data.open_data(str(place), Wants("images", 16, 3, labels=True))
        assert len(opened) == 4
        assert [name[-1] for name in opened.names] == ["A", "B"]


def test_classes_called_a_and_b_are_two_of_many(tmp_path: Path) -> None:
    for letter in "ABC":
        numbered(tmp_path / "train" / letter, 2)
        numbered(tmp_path / "test" / letter, 1)
    opened = data.open_data(str(tmp_path), Wants("images", 16, 3, labels=True))
    assert (len(opened), list(opened.names)) == (6, ["A", "B", "C"])


def test_a_class_that_an_option_names(pictures: Path) -> None:
    wants = Wants("images", 16, 1, classes=("5",), option="digit")
    with pytest.raises(UsageError, match=r"no class '5': it has .*give another --digit, or --digit '' for all"):
        data.open_data(str(pictures), wants)


def test_many_classes_are_numbered_in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20_000
    monkeypatch.setattr(data, "_open", lambda *given: [InMemory({"images": torch.zeros(count, 1)}, given[-1])])
    names = [f"{number:05d}" for number in range(count)]
    before = time.process_time()
    layout = Layout((Group(("images",), [(Path("x"),)] * count),), "x", names)
    opened = data._single(layout, "x", Wants("images", 16, 1, labels=True), data.Options())
    assert time.process_time() - before < 1.5, "seconds where each name is searched for"
    assert opened.names == tuple(names)


def test_unpaired(tmp_path: Path) -> None:
    for folder, count in (("trainA", 2), ("trainB", 5), ("testA", 1), ("testB", 2)):
        (tmp_path / folder).mkdir()
        for index in range(count):
            level = 100 + index if folder.endswith("B") else index
            Image.new("RGB", (20, 20), (level, level, level)).save(tmp_path / folder / f"{index}.png")
    opened = data.open_data(str(tmp_path), Wants("unpaired", 16, 3, (0.0, 255.0)))
    assert len(opened) == 5
    seen = [batch_of(opened, index) for index in range(5)]
    assert [int(batch["a"].max()) for batch in seen] == [0, 1, 0, 1, 0]
    assert all(batch["b"].min() >= 100 for batch in seen)
    assert opened.examples is not None
    assert len(opened.examples["a"]) == 1
    (tmp_path / "trainB").rename(tmp_path / "other")
    with pytest.raises(UsageError, match="no folders trainA and trainB"):
        data.open_data(str(tmp_path), Wants("unpaired", 16, 3))


def test_a_set_too_large_for_memory_is_read_as_needed(pictures: Path) -> None:
    kept = data.open_data(str(pictures), WANTS)
    (pictures / "zz.png").write_text("x")
    read = data.open_data(str(pictures), WANTS, data.Options(memory=0.0))
    assert isinstance(read.sources[0], OnDisk)
    assert len(read) == 25
    read.prepare(torch.tensor([3, 24]))
    batch = batch_of(read, 3, 24, 0)["images"]
    assert torch.equal(batch, batch_of(kept, 3, 0, 0)["images"]), "the next that can be read stands in"
    assert "zz.png" in read.skipped[0]
    assert len(read.news()) == 1
    assert not read.news(), "told once"


def test_a_share_of_a_batch_is_a_slice_of_it(tmp_path: Path) -> None:
    pair_files(tmp_path, 4)
    opened = data.open_data(str(tmp_path), Wants("pairs", 16, 3, load_size=30, flip=True))
    torch.manual_seed(0)
    whole = opened.batch(torch.arange(4), torch.device("cpu"))
    torch.manual_seed(0)
    share = opened.batch(torch.arange(4), torch.device("cpu"), slice(2, 4))
    assert torch.equal(whole["target"][2:], share["target"])


def numbered(folder: Path, count: int, *, shift: int = 0, size: tuple[int, int] = (20, 20)) -> None:
    """Pictures whose level is ten times their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        level = 10 * index + shift
        Image.new("RGB", size, (level, level, level)).save(folder / f"{index:02d}.png")


@pytest.mark.parametrize("memory", [0.0, 1.0])
def test_a_broken_half_takes_its_partner_with_it(tmp_path: Path, memory: float) -> None:
    numbered(tmp_path / "A", 5)
    numbered(tmp_path / "B", 5, shift=1)
    (tmp_path / "B" / "03.png").write_bytes((tmp_path / "B" / "03.png").read_bytes()[:60])
    options = data.Options(memory=memory)
    opened = data.open_data(str(tmp_path), Wants("pairs", 16, 3, (0.0, 255.0)), options)
    opened.prepare(torch.tensor([3]))
    batch = batch_of(opened, *range(len(opened)))
    assert torch.equal(batch["input"] + 1, batch["target"])
    assert "B/03.png" in str(opened.skipped)
    assert len(opened.skipped) == 1


def test_a_pair_in_one_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair_files(tmp_path, 8)
    (tmp_path / "8.png").write_text("x")
    opens: list[Path] = []
    real = Image.open
    monkeypatch.setattr(layouts, "size_of", lambda path: (40, 20))  # Headers are read beforehand.
    monkeypatch.setattr(Image, "open", lambda file, **more: opens.append(file) or real(file, **more))
    opened = data.open_data(str(tmp_path), Wants("pairs", 16, 3))
    assert len(opened) == 8
    assert len(opens) == 9 + 5, "each file once, and a few for previews"


def test_a_label_goes_with_its_picture_when_streaming(tmp_path: Path) -> None:
    for name in ("one", "two"):
        numbered(tmp_path / name, 2, shift=100 * (name == "two"))
    (tmp_path / "one" / "01.png").write_text("x")
    wants = Wants("images", 16, 1, (0.0, 255.0), labels=True)
    batch = batch_of(data.open_data(str(tmp_path), wants, data.Options(memory=0.0)), 0, 1, 2)
    assert batch["images"][:, 0, 0, 0].tolist() == [0, 100, 100]
    assert batch["labels"].tolist() == [0, 1, 1]


def test_unpaired_sets_stream_and_read_both_sides_ahead(tmp_path: Path) -> None:
    numbered(tmp_path / "trainA", 3)
    numbered(tmp_path / "trainB", 7, shift=100)
    wants = Wants("unpaired", 16, 3, (0.0, 255.0), load_size=18, flip=True)
    kept, read = (data.open_data(str(tmp_path), wants, data.Options(memory=memory)) for memory in (1.0, 0.0))
    chosen = torch.tensor([5, 6])
    read.prepare(chosen, partners=4)
    begun = [source._ahead.keys() for source in read.sources if isinstance(source, OnDisk)]
    assert [len(places) for places in begun] == [2, 2]
    batches = []
    for opened in (kept, read):
        torch.manual_seed(0)
        batches.append(opened.batch(chosen, torch.device("cpu"), partners=4))
    torch.testing.assert_close(batches[0], batches[1], rtol=0, atol=0)
    assert not any(begun), "what was read ahead is what was taken"
    partners = [kept.batch(chosen, torch.device("cpu"), partners=seed)["b"][:, 0, 0, 0] for seed in range(9)]
    assert any(not torch.equal(one, partners[0]) for one in partners)


def test_both_sides_share_the_memory(tmp_path: Path) -> None:
    numbered(tmp_path / "trainA", 4)
    numbered(tmp_path / "trainB", 4)
    side = 4 * 3 * 16 * 16 / data.GIB
    for memory, kind in ((1.5 * side, OnDisk), (2.5 * side, InMemory)):
        opened = data.open_data(str(tmp_path), Wants("unpaired", 16, 3), data.Options(memory=memory))
        assert all(isinstance(source, kind) for source in opened.sources)


def test_pictures_are_held_once(tmp_path: Path) -> None:
    numbered(tmp_path, 40, size=(8, 8))
    (tmp_path / "05.png").write_text("x")
    tracemalloc.start()
    opened = data.open_data(str(tmp_path), Wants("images", 256, 3, (0.0, 255.0)), data.Options(workers=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 39 * 3 * 256 * 256 / 2, "beside the one tensor that holds them"
    numbers = [index for index in range(40) if index != 5]
    assert everything(opened)[:, 0, 0, 0].tolist() == [min(10 * index, 255) for index in numbers]


def test_examples_have_the_scale_of_training(tmp_path: Path) -> None:
    """They are the middle of what squares are cut out of at random, here without the frame."""
    pixels = np.full((32, 64), 255, np.uint8)
    pixels[8:24, 8:24] = pixels[8:24, 40:56] = 0
    Image.fromarray(pixels).save(tmp_path / "0.png")
    opened = data.open_data(str(tmp_path), Wants("pairs", 16, 1, (0.0, 255.0), load_size=32))
    assert opened.examples is not None
    assert opened.examples["input"].shape == (1, 1, 16, 16)
    assert not opened.examples["input"].any() and not opened.examples["target"].any()


def test_examples_come_from_the_test_split_whatever_the_sides_hold(tmp_path: Path) -> None:
    for split, counts in (("train", (2, 2)), ("test", (5, 20))):
        for side, count in zip("AB", counts, strict=True):
            numbered(tmp_path / split / side, count, shift=5 * (split == "test"))
    for index in (0, 2):
        (tmp_path / "test" / "A" / f"0{index}.png").write_text("x")
    opened = data.open_data(str(tmp_path), Wants("unpaired", 8, 3, (0.0, 255.0)))
    assert opened.examples is not None
    assert opened.examples["a"][:, 0, 0, 0].sort().values.tolist() == [15, 35, 45]
    assert opened.examples["b"].shape == (3, 3, 8, 8)
    assert all(level % 10 == 5 for level in opened.examples["b"][:, 0, 0, 0].tolist())
    assert len(opened.skipped) == 2
    assert "test/A/02.png" in str(opened.skipped)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_damaged_exif_block_is_named(tmp_path: Path, kind: str) -> None:
    numbered(tmp_path, 1)
    for length in range(12):
        path = tmp_path / f"{length}.{kind.lower()}"
        Image.new("RGB", (9, 9)).save(path, kind, exif=b"MM\0*\0\0\0\x08\0\1\1\x12"[:length], dpi=(72, 72))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on what it overlooks.
        opened = data.open_data(str(tmp_path), WANTS, data.Options(workers=1))
    assert len(opened) + len(opened.skipped) == 13
    assert all("EXIF" in line or "TIFF" in line or "damaged" in line for line in opened.skipped)


def test_channels_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, mode in (("1", "L"), ("2", "LA"), ("deep/3", "I;16"), ("4", "1")):
        Image.new(mode, (9, 9)).save(tmp_path / f"{name}.png")
    Image.new("L", (9, 9)).quantize(4).save(tmp_path / "5.png")
    (tmp_path / "6.png").write_text("x")
    (tmp_path / "list.csv").write_text("1.png\n2.png\n")
    for spec in (tmp_path, tmp_path / "list.csv"):
        for memory in (0.0, 1.0):
            opened = data.open_data(str(spec), WANTS, data.Options(memory=memory))
            assert opened.facts == {"channels": 1}
            assert batch_of(opened, 0)["images"].shape[1] == 1
    Image.new("RGB", (9, 9)).save(tmp_path / "deep" / "7.png")
    assert data.open_data(str(tmp_path), WANTS).facts == {"channels": 3}


def test_a_list_with_classes(tmp_path: Path) -> None:
    numbered(tmp_path, 4)
    (tmp_path / "list.csv").write_text("00.png,x\n01.png,y\n02.png,z\n03.png,y\n")
    wants = Wants("images", 16, 1, (0.0, 255.0), labels=True)
    for memory in (0.0, 1.0):
        options = data.Options(classes=("y", "z"), memory=memory)
        batch = batch_of(data.open_data(str(tmp_path / "list.csv"), wants, options), 0, 1, 2)
        assert batch["images"][:, 0, 0, 0].tolist() == [10, 20, 30]
        assert batch["labels"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("spec", "wants", "said"),
    [
        ("circles", Wants("points"), "classes is 7: only single pictures"),
        ("{tmp}", Wants("pairs", 16, 3), "classes is 7: only single pictures"),
        ("{tmp}", Wants("unpaired", 16, 3), "classes is 7: only single pictures"),
        ("digits", Wants("images", 16, 1, classes=("3",)), "classes is 7, but an option of this variant says 3"),
    ],
)
def test_classes_are_never_left_out_in_silence(tmp_path: Path, spec: str, wants: Wants, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        data.open_data(spec.format(tmp=tmp_path), wants, data.Options(classes=("7",)))


def test_faces_are_no_pairs() -> None:
    with pytest.raises(UsageError, match="pairs of pictures: give a folder"):
        data.open_data("celeba", Wants("pairs", 16, 3))


def test_all_at_once_cuts_as_one_after_the_other() -> None:
    items = torch.randint(0, 256, (7, 3, 20, 20), dtype=torch.uint8)
    corners = torch.randint(5, (7, 2))
    mirrored = torch.tensor([True, False] * 3 + [True])
    one, other = (cut(items, corners, mirrored, 16) for cut in (data.cut_each, data.cut_all))
    assert torch.equal(one, other)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_built_in_set_too_large_for_memory_is_scaled_as_needed(channels: int) -> None:
    wants = Wants("images", 16, channels, labels=True)
    kept, later = (data.open_data("digits", wants, data.Options(memory=memory)) for memory in (1.0, 0.0))
    items = [opened.sources[0]._items["images"] for opened in (kept, later) if hasattr(opened.sources[0], "_items")]
    assert [tuple(held.shape[1:]) for held in items] == [(channels, 16, 16), (1, 8, 8)]
    torch.testing.assert_close(batch_of(later, 5, 9, 5), batch_of(kept, 5, 9, 5), rtol=0, atol=0)


def test_what_is_moved_is_held_once() -> None:
    opened = data.open_data("digits", Wants("images", 16, labels=True))
    meta = torch.device("meta")
    assert opened.on(meta) is opened
    taken = opened.sources[0].take(torch.tensor([1]).to(meta))
    assert {tensor.device.type for tensor in taken.values()} == {"meta"}


def test_fashion_mnist(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    write_idx(tmp_path, pixels, zipped=True)
    wants = Wants("images", 28, 1, labels=True)
    opened = data.open_data(f"fashion-mnist:{tmp_path}", wants, data.Options(classes=("coat", "bag")))
    assert opened.names == ("coat", "bag")
    np.testing.assert_array_equal(everything(opened)[:, 0].numpy(), pixels[[4, 8, 14, 18]])
    assert batch_of(opened, 0, 1, 2, 3)["labels"].tolist() == [0, 1, 0, 1]


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 32, 32), np.uint8)
    for number, (name, _) in enumerate(CIFAR10.train_list):
        said = {"data": pixels[number].reshape(2, -1), "labels": [number, 9]}
        (folder / name).write_bytes(pickle.dumps(said))
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    opened = data.open_data(f"cifar10:{tmp_path}", Wants("images", 32, None, labels=True))
    assert opened.names == tuple("abcdej")
    np.testing.assert_array_equal(everything(opened).numpy(), pixels.reshape(10, 3, 32, 32))
    grey = data.open_data(f"cifar10:{tmp_path}", Wants("images", 32, 1), data.Options(classes=("j",)))
    assert everything(grey).shape == (5, 1, 32, 32)


def test_celeba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--download"):
        data.open_data(f"celeba:{tmp_path}", WANTS)
    numbered(tmp_path / "celeba" / "img_align_celeba", 3)
    for name, lines in (
        ("list_eval_partition.txt", "{0:02d}.png 0"),
        ("identity_CelebA.txt", "{0:02d}.png 1"),
        ("list_bbox_celeba.txt", "{0:02d}.png 1 1 1 1"),
        ("list_landmarks_align_celeba.txt", "{0:02d}.png 1"),
        ("list_attr_celeba.txt", "{0:02d}.png 1"),
    ):
        head = {"list_bbox_celeba.txt": "3\nimage_id a b c d\n"}.get(
            name, "3\na\n" if "align" in name or "attr" in name else ""
        )
        (tmp_path / "celeba" / name).write_text(head + "".join(lines.format(index) + "\n" for index in range(3)))
    monkeypatch.setattr(CelebA, "_check_integrity", lambda self: True)
    opened = data.open_data(f"celeba:{tmp_path}", Wants("images", 16, None, (0.0, 255.0)))
    assert batch_of(opened, 0, 1, 2)["images"][:, 0, 0, 0].tolist() == [0, 10, 20]
    assert opened.facts == {"channels": 3}


def held(pictures: torch.Tensor, wants: Wants) -> data.Data:
    """Pictures in memory as an opened set."""
    return data.Data((InMemory({"images": pictures}),), "these", wants)


def test_cuts_reach_every_corner_and_half_are_mirrored() -> None:
    pictures = torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6).expand(600, 1, 6, 6)
    torch.manual_seed(0)
    batch = held(pictures, Wants("images", 4, 1, (0.0, 255.0), load_size=6, flip=True)).batch(
        torch.arange(600), torch.device("cpu")
    )["images"]
    mirrored = batch[:, 0, 0, 0] > batch[:, 0, 0, 1]
    assert 0.4 < float(mirrored.float().mean()) < 0.6
    first = torch.where(mirrored, batch[:, 0, 0, 3], batch[:, 0, 0, 0]).int().tolist()
    assert sorted(set(first)) == [6 * y + x for y in range(3) for x in range(3)]
    straight = held(pictures, Wants("images", 4, 1, (0.0, 255.0), load_size=6))
    batch = straight.batch(torch.arange(600), torch.device("cpu"))["images"]
    assert bool((batch[..., 0] < batch[..., 1]).all())
    torch.manual_seed(1)
    corners = torch.randint(3, (600, 2))
    torch.manual_seed(1)
    batch = straight.batch(torch.arange(600), torch.device("cpu"), slice(5, 8))["images"]
    assert batch[:, 0, 0, 0].int().tolist() == [6 * y + x for y, x in corners[5:8].tolist()]


def test_what_a_teacher_enlarged_is_cut_in_proportion() -> None:
    large = torch.arange(144, dtype=torch.uint8).view(1, 1, 12, 12).expand(50, 1, 12, 12)
    opened = held(large, Wants("images", 4, 1, (0.0, 255.0), load_size=6))
    batch = opened.batch(torch.arange(50), torch.device("cpu"))["images"]
    assert batch.shape == (50, 1, 8, 8)
    assert set(batch[:, 0, 0, 0].int().tolist()) == {12 * y + x for y in (0, 2, 4) for x in (0, 2, 4)}
    whole = held(large, Wants("images", 12, 1, (0.0, 255.0)))
    assert torch.equal(whole.batch(torch.tensor([0]), torch.device("cpu"))["images"][0], large[0].float())


def test_previews_show_the_middle_in_the_wanted_range() -> None:
    pictures = torch.arange(49, dtype=torch.uint8).view(1, 1, 7, 7)
    opened = held(pictures, Wants("images", 4, 1, (-1.0, 3.0), load_size=7, flip=True))
    middle = opened.pictures("images", torch.tensor([0]))
    assert torch.equal(middle, pictures[..., 1:5, 1:5])
    assert torch.equal(opened.preview(torch.tensor([0]))["images"], middle.float() * (4 / 255) - 1)
    assert (opened.count("images"), len(opened), opened.facts) == (1, 1, {"channels": 1})


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 10), (2.0, 10), (0.25, 3), (0.01, 1), (0.999, 10), (0.2, 2)])
def test_a_share_of_the_items_in_order(fraction: float, count: int) -> None:
    kept = data._part(10, fraction).tolist()
    assert len(kept) == count
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(10))
    assert kept == sorted(torch.randperm(10, generator=torch.Generator().manual_seed(0))[:count].tolist())


def test_the_order_of_an_epoch_is_pinned() -> None:
    """Another order would train another generator from the same seed."""
    expected = torch.randperm(9, generator=torch.Generator().manual_seed(14))
    assert torch.equal(data.order(9, 7, lambda epoch: 2 * epoch), expected)


def test_partners_of_unpaired_items_are_pinned() -> None:
    sources = (InMemory({"a": torch.zeros(3, 1)}), InMemory({"b": torch.zeros(7, 1)}))
    opened = data.Data(sources, "these", Wants("unpaired"))
    first, second = opened._indices(torch.tensor([0, 4, 6]), 5)
    assert first.tolist() == [0, 1, 0]
    assert torch.equal(second, torch.randint(7, (3,), generator=torch.Generator().manual_seed(5)))
    assert (len(opened), opened.count("a"), opened.count("b")) == (7, 3, 7)
    (alone,) = held(torch.zeros(3, 1), Wants("images"))._indices(torch.tensor([2]), 5)
    assert alone.tolist() == [2]


def test_files_that_were_left_out_are_listed_up_to_a_count() -> None:
    assert data.describe_skipped([]) == []
    assert data.describe_skipped([*"abcde"]) == [f"skipped {name}" for name in "abcde"]
    assert data.describe_skipped([*"abcdefg"], 3) == ["skipped a", "skipped b", "skipped c", "skipped 4 more"]


@pytest.mark.parametrize(
    ("wants", "options", "message"),
    [
        (Wants("pairs"), {"classes": ("a", "b")}, "classes is a,b: only single pictures have classes, leave it out"),
        (
            Wants("images", classes=("5",), option="digit"),
            {"classes": ("3", "5")},
            "classes is 3,5, but an option of this variant says 5: leave out --classes, and give that option",
        ),
        (
            Wants("points"),
            {},
            "data 'digits' are pictures, and this trains on points of the plane: give --data circles",
        ),
        (Wants("pairs", 8), {}, "data 'digits' does not fit, this trains on pairs of pictures: give a folder of them"),
        (Wants("unpaired", 8), {}, "this trains on a folder with trainA and trainB"),
        (Wants("images", 8, classes=("x",)), {}, r"data 'digits' has no class 'x': it has '0', '1', .*, '9'$"),
        (
            Wants("images", 8, classes=("x",), option="digit"),
            {},
            "it has .*: give another --digit, or --digit '' for all",
        ),
        (Wants("images", 8, labels=True), {"classes": ("3",)}, "data 'digits' has one class only: leave out --cond"),
        (
            Wants("images", 8, attributes=("Hat", "Tie")),
            {},
            "attribute-names is Hat,Tie, but has an effect with --attributes only: give the table",
        ),
        (Wants("images", 8), {"attributes": Path("t.csv")}, "attributes is t.csv: this variant does not learn attrib"),
        (
            Wants("images", 8, attributes=()),
            {"attributes": Path("t.csv")},
            "attributes is t.csv, but data 'digits' is no folder: give that of the pictures",
        ),
    ],
)
def test_data_and_options_that_do_not_fit(wants: Wants, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        data.open_data("digits", wants, data.Options(**options))  # type: ignore[arg-type]


def test_classes_are_numbered_without_gaps() -> None:
    source = InMemory({"images": torch.zeros(4, 1)}, torch.tensor([5, 2, 2, 7]))
    assert data._number_classes(source, tuple("abcdefgh"), "x") == ("c", "f", "h")
    assert source.labels is not None
    assert source.labels.tolist() == [1, 0, 0, 2]
    assert data._number_classes(InMemory({"images": torch.zeros(4, 1)}), ("a",), "x") == ()
    labels = np.array([0, 1, 2, 1])
    chosen = data._choose(labels, ("a", "b", "c"), Wants("images", classes=("b", "c")), data.Options(), "x")
    assert chosen.tolist() == [1, 2, 3]
    with pytest.raises(UsageError, match="data 'x': a class name has a comma; rename that folder or label"):
        data._choose(labels, ("a", "b,", "c"), Wants("images", labels=True), data.Options(), "x")
    with pytest.raises(UsageError, match="has no class 'b': it has no classes: no folder for each"):
        data._choose(labels * 0, ("",), Wants("images", classes=("b",)), data.Options(), "x")


def test_a_set_that_just_fits_is_held(tmp_path: Path) -> None:
    numbered(tmp_path, 3, size=(8, 8))
    for more, source in ((0, InMemory), (-1, OnDisk)):
        memory = (3 * 3 * 64 + more) / 2**30
        opened = data.open_data(str(tmp_path), Wants("images", 8, 3), data.Options(memory=memory))
        assert type(opened.sources[0]) is source


def test_long_pictures_that_lose_their_ends_are_told(tmp_path: Path) -> None:
    numbered(tmp_path, 3, size=(40, 20))
    told = data.open_data(str(tmp_path), Wants("images", 8, 3)).cut
    assert told.startswith(f"data {str(tmp_path)!r}: the middle square of each picture is used, which crops off 50% on")
    assert data.open_data(str(tmp_path), Wants("images", 8, 3), data.Options(fit="pad")).cut == ""
    for path in tmp_path.glob("*.png"):
        Image.new("RGB", (26, 20)).save(path)
    assert data.open_data(str(tmp_path), Wants("images", 8, 3)).cut == "", "a quarter is what any photo loses"
    for side in ("trainA", "trainB"):
        numbered(tmp_path / "sets" / side, 2, size=(40, 20))
    assert "crops off 50%" in data.open_data(str(tmp_path / "sets"), Wants("unpaired", 8, 3)).cut


def test_grey_as_pillow_makes_it_and_grey_in_three_channels() -> None:
    colours = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), np.uint8))
    grey = np.asarray(Image.fromarray(colours[0].permute(1, 2, 0).numpy()).convert("L"))
    assert int((data._fit(colours, 1, 8)[0, 0].int() - torch.from_numpy(grey.astype(np.int32))).abs().max()) <= 1
    assert torch.equal(data._fit(colours, 3, 8), colours)
    wide = data._fit(colours[:, :1], 3, 8)
    assert torch.equal(wide, colours[:, :1].expand(1, 3, 8, 8))
    assert data._fit(colours, 3, 4).shape == (1, 3, 4, 4)
    assert data._fit(torch.full((1, 1, 4, 8), 9, dtype=torch.uint8), 1, 8).tolist() == [[[[9] * 8] * 8]]


def test_previews_of_broken_files_are_refused(tmp_path: Path) -> None:
    numbered(tmp_path / "A" / "train", 2)
    numbered(tmp_path / "B" / "train", 2)
    for side in ("A", "B"):
        (tmp_path / side / "test").mkdir()
        (tmp_path / side / "test" / "00.png").write_text("x")
    with pytest.raises(InputError, match=r"none of the pictures for previews can be read: .*00.png"):
        data.open_data(str(tmp_path), Wants("unpaired", 8, 3))
    items = [(tmp_path / "A" / "test" / "00.png",), *[(tmp_path / "A" / "train" / f"0{i % 2}.png",) for i in range(8)]]
    readable, broken = data._first_few(items, 8, 3, "crop")
    assert len(readable) == 4
    assert len(broken) <= 1
    none, all_broken = data._first_few(items[:1], 8, 3, "crop")
    assert (none, len(all_broken)) == ([], 1)


def test_previews_of_a_built_in_set_are_always_the_same() -> None:
    opened = data.open_data("digits", Wants("images", 8, 1, (0.0, 1.0), examples=True))
    few = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:4]
    assert opened.examples is not None
    torch.testing.assert_close(opened.examples["images"], everything(opened)[few] / 255)
    assert data.open_data("digits", WANTS).examples is None
