"""Pictures that are not square: cut, padded or stretched, alike in every layout, and what a cut leaves out is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganedge.models import find
from ganedge.models.variant import Wants
from ganedge.runtime.errors import UsageError
from ganedge.train import checkpoint
from ganedge.train.data import Options, open_data
from ganedge.train.loop import train
from ganedge.train.pictures import Fit, decode, decode_halves
from ganedge.train.settings import Settings


def write_wide(path: Path, width: int = 320, height: int = 32) -> None:
    """A picture whose left end is red, whose right end is blue and whose middle is green."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 1] = 255
    pixels[:, : width // 4] = (255, 0, 0)
    pixels[:, -width // 4 :] = (0, 0, 255)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_whole_picture_is_there_unless_it_is_cut(tmp_path: Path, channels: int) -> None:
    write_wide(tmp_path / "wide.png")
    cut, padded, stretched = (decode(tmp_path / "wide.png", 32, channels, fit) for fit in ("crop", "pad", "stretch"))
    assert cut.shape == padded.shape == stretched.shape == (32, 32, channels)
    assert len(np.unique(cut)) == channels - (channels > 1), "only the middle is left"
    red, blue = padded[0, 0], padded[0, -1]
    for whole in (padded, stretched):
        assert np.array_equal(whole[0, 0], red)
        assert np.array_equal(whole[-1, -1], blue)
        assert not np.array_equal(red, blue)
    assert np.array_equal(padded[0], padded[15]), "rows beside the picture repeat its edge"
    assert len(np.unique(padded.reshape(-1, channels), axis=0)) <= len(
        np.unique(stretched.reshape(-1, channels), axis=0)
    )


def test_square_pictures_are_the_same_whatever_the_fit(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "square.png")
    cut, padded, stretched = (decode(tmp_path / "square.png", 24, 3, fit) for fit in ("crop", "pad", "stretch"))
    assert np.array_equal(cut, padded)
    assert np.array_equal(cut, stretched)


def test_halves_are_fitted_each(tmp_path: Path) -> None:
    left, right = np.zeros((64, 16, 3), np.uint8), np.full((64, 16, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([left, right], 1)).save(tmp_path / "pair.png")
    for fit in ("crop", "pad", "stretch"):
        first, second = decode_halves(tmp_path / "pair.png", 16, 3, fit)  # type: ignore[arg-type]
        assert (first.max(), second.min()) == (0, 255)


@pytest.mark.parametrize(
    ("kind", "folders", "size", "cut"),
    [
        ("images", ("",), (320, 32), "crops off 90% on average"),
        ("images", ("",), (32, 320), "crops off 90% on average"),
        ("images", ("",), (40, 36), ""),
        ("unpaired", ("trainA", "trainB"), (64, 32), "crops off 50% on average"),
        ("pairs", ("train_A", "train_B"), (64, 32), "crops off 50% on average"),
        ("pairs", ("",), (64, 32), ""),
    ],
)
def test_a_cut_that_leaves_out_much_is_told(
    tmp_path: Path, kind: Any, folders: tuple[str, ...], size: tuple[int, int], cut: str
) -> None:
    for folder in folders:
        for index in range(3):
            write_wide(tmp_path / folder / f"{index}.png", *size)
    wants = Wants(kind, 16, 3)
    assert cut in open_data(str(tmp_path), wants).cut
    assert bool(cut) == bool(open_data(str(tmp_path), wants).cut)
    for fit in ("pad", "stretch"):
        assert open_data(str(tmp_path), wants, Options(fit=fit)).cut == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", [4.0, 0.0], ids=["in memory", "from disk"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_every_layout_is_fitted_alike(tmp_path: Path, fit: Fit, memory: float) -> None:
    for side in ("A", "B"):
        for index in range(2):
            write_wide(tmp_path / side / f"{index}.png", 96, 32)
    expected = torch.tensor(decode(tmp_path / "A" / "0.png", 16, 3, fit)).permute(2, 0, 1)
    for kind, keys in (("pairs", ("input", "target")), ("unpaired", ("a", "b")), ("images", ("images",))):
        data = open_data(str(tmp_path), Wants(kind, 16, 3), Options(fit=fit, memory=memory))  # type: ignore[arg-type]
        for key in keys:
            assert torch.equal(data.pictures(key, torch.tensor([0]))[0], expected)
        if data.examples is not None:
            assert all(
                torch.equal(shown[0].add(1).mul(127.5).round().byte(), expected) for shown in data.examples.values()
            )


def test_it_goes_on_bit_for_bit_and_with_the_same_fit(tmp_path: Path) -> None:
    for side in ("trainA", "trainB"):
        for index in range(3):
            write_wide(tmp_path / "data" / side / f"{index}.png", 96, 32)
    tiny = {"size": 32, "width": 4}
    given: dict[str, Any] = {"data": str(tmp_path / "data"), "device": "cpu", "precision": "fp32", "fit": "pad"}
    variant = find("pix2pix")
    whole = train(variant, tiny, Settings(out=tmp_path / "whole", steps=3, **given))
    run = train(variant, tiny, Settings(out=tmp_path / "run", steps=2, **given))
    train(variant, {}, Settings(out=run, steps=3, resume=True, **{**given, "fit": "crop"}))  # As left at its default.
    states = [checkpoint.load(folder, 3)["networks"]["generator"] for folder in (whole, run)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(UsageError, match=r"fit is stretch, but .* was trained with pad: leave it out"):
        train(variant, {}, Settings(out=run, steps=4, resume=True, **{**given, "fit": "stretch"}))
