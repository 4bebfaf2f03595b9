"""Data: every way in, odd pictures, and what is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganedge.models.variant import Wants
from ganedge.runtime.errors import InputError, UsageError
from ganedge.train import data
from ganedge.train import pictures as reading

WANTS = Wants("images", 16, None, (-1.0, 1.0))


def everything(opened: data.Data) -> torch.Tensor:
    return opened.sources["images"].take(torch.arange(len(opened)))


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
    assert both.labels is not None
    assert both.labels.tolist() == [0] * 12 + [1] * 12


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
    seen = [batch_of(opened, 1) for _ in range(8)]
    assert all(torch.equal(batch["input"], batch["target"]) for batch in seen)
    assert any(not torch.equal(batch["input"], seen[0]["input"]) for batch in seen)


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
    assert isinstance(read.sources["images"], data.OnDisk)
    assert len(read) == 25
    read.prepare(torch.tensor([3, 24]))
    batch = batch_of(read, 3, 24, 0)["images"]
    assert torch.equal(batch, batch_of(kept, 3, 0, 0)["images"]), "the next that can be read stands in"
    assert "zz.png" in read.skipped[0]


def test_a_share_of_a_batch_is_a_slice_of_it(tmp_path: Path) -> None:
    pair_files(tmp_path, 4)
    opened = data.open_data(str(tmp_path), Wants("pairs", 16, 3, load_size=30, flip=True))
    torch.manual_seed(0)
    whole = opened.batch(torch.arange(4), torch.device("cpu"))
    torch.manual_seed(0)
    share = opened.batch(torch.arange(4), torch.device("cpu"), slice(2, 4))
    assert torch.equal(whole["target"][2:], share["target"])
