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

WANTS = Wants("images", 16, None, (-1.0, 1.0))


def write_idx(folder: Path, pixels: np.ndarray, *, zipped: bool) -> None:
    raw = struct.pack(">4i", 2051, *pixels.shape) + pixels.tobytes()
    folder.mkdir(exist_ok=True)
    if zipped:
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw))
    else:
        (folder / "train-images-idx3-ubyte").write_bytes(raw)


def test_digits() -> None:
    opened = data.open_data("digits", WANTS)
    assert opened.images.shape == (1797, 1, 16, 16)
    assert opened.facts == {"channels": 1}
    batch = opened.batch(torch.tensor([0, 5]), WANTS, torch.device("cpu"))["images"]
    assert batch.shape == (2, 1, 16, 16)
    assert -1 <= batch.min() < -0.9
    assert 0.5 < batch.max() <= 1


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files(tmp_path: Path, zipped: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8)
    write_idx(tmp_path / "mnist", pixels, zipped=zipped)
    opened = data.open_data(f"mnist:{tmp_path / 'mnist'}", WANTS)
    np.testing.assert_array_equal(opened.images[:, 0].numpy(), pixels)
    assert data.open_data(f"mnist:{tmp_path / 'mnist'}", Wants("images", 32, 3, (0, 1))).images.shape == (5, 3, 32, 32)


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
    assert data.decode(tmp_path / "a.png", 20, 1)[-1].min() == 255
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "b.png")
    assert data.decode(tmp_path / "b.png", 4, 3).min() == 255


def test_sixteen_bits_keep_their_range(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(data.decode(tmp_path / "deep.png", 16, 1).ravel(), np.arange(256))


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
    monkeypatch.setattr(data, "CACHE", tmp_path)
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
