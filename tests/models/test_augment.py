"""Differentiable augmentation: what it does to pictures, and that the discriminator sees nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ganedge.models import augment
from ganedge.models.dcgan import DCGAN
from ganedge.models.latent import LatentGAN


def test_a_translation_moves_by_an_eighth_at_most_and_zeros_come_in() -> None:
    torch.manual_seed(0)
    height, width = 16, 24
    pictures = torch.rand(400, 2, height, width) + 1  # No zero of their own.
    seen: set[tuple[int, int]] = set()
    for before, after in zip(pictures, augment.translation(pictures), strict=True):
        there = after[0].nonzero()
        (top, left), (bottom, right) = there.min(0).values.tolist(), there.max(0).values.tolist()
        down = top if top else bottom - (height - 1)
        across = left if left else right - (width - 1)
        expected = torch.zeros_like(before)
        rows, columns = (
            slice(max(shift, 0), length + min(shift, 0)) for shift, length in ((down, height), (across, width))
        )
        from_rows, from_columns = (
            slice(max(-shift, 0), length + min(-shift, 0)) for shift, length in ((down, height), (across, width))
        )
        expected[:, rows, columns] = before[:, from_rows, from_columns]
        assert torch.equal(after, expected)
        seen.add((down, across))
    assert seen == {(down, across) for down in range(-2, 3) for across in range(-3, 4)}


def test_a_cutout_is_a_square_of_half_the_side_or_what_the_edge_leaves_of_it() -> None:
    torch.manual_seed(0)
    sizes: set[tuple[int, int]] = set()
    for after in augment.cutout(torch.ones(400, 3, 16, 16)):
        hole = (after == 0).nonzero()
        assert set(after.unique().tolist()) == {0.0, 1.0}
        height, width = (hole[:, 1:].max(0).values - hole[:, 1:].min(0).values + 1).tolist()
        assert len(hole) == 3 * height * width, "one rectangle, in all channels"
        sizes.add((height, width))
    assert sizes == {(height, width) for height in range(4, 9) for width in range(4, 9)}, "half may be over the edge"


def test_color_changes_each_picture_within_its_bounds() -> None:
    torch.manual_seed(0)
    grey = torch.zeros(1000, 3, 2, 2)
    brightness = augment.color(grey)[:, 0, 0, 0]  # Of one level neither saturation nor contrast changes anything.
    assert -0.5 <= float(brightness.min()) < -0.45
    assert 0.45 < float(brightness.max()) <= 0.5
    stripes = torch.tensor([-1.0, 1.0]).expand(1000, 3, 2, 2)
    contrast = augment.color(stripes)[:, 0, 0].diff().flatten() / 2
    assert 0.5 <= float(contrast.min()) < 0.55
    assert 1.45 < float(contrast.max()) <= 1.5


@pytest.mark.parametrize("name", augment.POLICIES)
def test_each_picture_changes_in_its_own_way_and_lets_gradients_pass(name: str) -> None:
    torch.manual_seed(0)
    pictures = torch.rand(1, 3, 16, 16).expand(8, 3, 16, 16).clone().requires_grad_()
    changed = augment.augment(pictures, (name,))
    assert changed.shape == pictures.shape
    assert len({tuple(each.flatten().tolist()) for each in changed.detach()}) > 5, "of 25 moves two may be the same"
    changed.square().sum().backward()  # type: ignore[no-untyped-call]
    assert pictures.grad is not None
    assert all(float(each.abs().max()) > 0 for each in pictures.grad)


@pytest.mark.parametrize("d_steps", [1, 2])
def test_real_and_generated_pictures_are_both_changed(monkeypatch: pytest.MonkeyPatch, d_steps: int) -> None:
    torch.manual_seed(0)
    policy = "color,translation,cutout"
    gan = DCGAN(DCGAN.config_class(size=16, width=4, batch=4, augment=policy, d_steps=d_steps))
    judged: list[Tensor] = []
    changed: list[Tensor] = []
    gan.discriminator.register_forward_pre_hook(lambda _, given: judged.append(given[0]))
    real_augment = augment.augment

    def remember(pictures: Tensor, names: tuple[str, ...], share: float) -> Tensor:
        assert (",".join(names), share) == (policy, 1.0)
        changed.append(real_augment(pictures, names))
        return changed[-1]

    monkeypatch.setattr(augment, "augment", remember)
    batch: dict[str, Any] = {"images": torch.rand(4, 3, 16, 16)}
    LatentGAN.step(gan, batch, d_steps - 1, lambda name, loss, keep_graph=False: None)
    assert len(judged) == len(changed) == (2 if d_steps == 1 else 3), (
        "real, generated, and generated anew after a round"
    )
    assert all(one is other for one, other in zip(judged, changed, strict=True))


def test_a_share_of_the_pictures_changes() -> None:
    torch.manual_seed(0)
    pictures = torch.rand(1000, 3, 8, 8)
    changed = (augment.augment(pictures, ("color",), 0.3) != pictures).flatten(1)
    assert 0.25 < float(changed.any(1).double().mean()) < 0.35
    assert torch.equal(changed.any(1), changed.double().mean(1) > 0.9), "a picture changes as a whole or not at all"
    assert augment.augment(pictures, ("color",), 0.0) is pictures


def test_the_share_rises_with_the_steps() -> None:
    shares, most = [], {"augment_ramp": 10, "augment_share": 0.5}
    gan = DCGAN(DCGAN.config_class(size=16, width=4, batch=4, augment="color", **most))
    for step in (0, 5, 10, 99):
        gan.step({"images": torch.rand(4, 3, 16, 16)}, step, lambda name, loss, keep_graph=False: None)
        shares.append(gan.augmented_share)
    assert shares == [0.0, 0.25, 0.5, 0.5]


def test_a_blur_by_its_definition() -> None:
    point = torch.zeros(1, 2, 25, 31)
    point[0, 1, 12, 15] = 1
    blurred = augment.blur(point, 2.0)
    assert not blurred[0, 0].any(), "channels apart"
    places = torch.arange(-5, 6.0)
    expected = torch.exp(-(places[:, None] ** 2 + places**2) / 8) / (8 * torch.pi)
    torch.testing.assert_close(blurred[0, 1, 7:18, 10:21], expected, rtol=1e-3, atol=1e-6)
    even = torch.full((2, 3, 8, 12), 0.7)
    torch.testing.assert_close(augment.blur(even, 3.0), even)
    assert augment.blur(even, 0.05) is even


def test_the_blur_falls_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(augment, "blur", lambda pictures, deviation: (seen.append(deviation), pictures)[1])
    gan = DCGAN(DCGAN.config_class(size=16, width=4, batch=4, blur=0.125, blur_steps=10))
    for step in (0, 5, 9, 10, 99):
        gan.step({"images": torch.rand(4, 3, 16, 16)}, step, lambda name, loss, keep_graph=False: None)
    assert seen == pytest.approx([2.0, 2.0, 1.0, 1.0, 0.2, 0.2]), "real and generated pictures alike"


def test_color_by_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness is added, saturation stretches from the grey of each pixel, contrast from the mean of the picture."""
    shares = torch.tensor([[0.9, 0.75, 0.2], [0.1, 0.5, 0.5], [0.5, 0.0, 0.5]])[:, :, None, None, None]
    monkeypatch.setattr(augment, "_uniform", lambda pictures, count: tuple(shares[:, index] for index in range(count)))
    pictures = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    bright = pictures[0] + 0.4
    vivid = bright.mean(0) + (bright - bright.mean(0)) * 1.5
    changed = augment.color(pictures)
    torch.testing.assert_close(changed[0], vivid.mean() + (vivid - vivid.mean()) * 0.7)
    torch.testing.assert_close(changed[1], pictures[1] - 0.4)
    torch.testing.assert_close(changed[2], pictures[2].mean(0).expand(3, 4, 5))


@pytest.mark.parametrize(
    ("length", "share", "cut"),
    [
        (8, 0.0, range(2)),
        (8, 0.999, range(6, 8)),
        (6, 0.0, range(2)),
        (6, 0.999, range(4, 6)),
        (6, 0.5, range(2, 5)),
        (7, 0.0, range(2)),
        (7, 0.999, range(5, 7)),
    ],
)
def test_the_middle_of_a_hole_may_lie_on_the_edge(length: int, share: float, cut: range) -> None:
    hole = augment._hole(length, torch.tensor([share]).view(1, 1, 1, 1), torch.zeros(1, 3, length, length))
    assert hole.tolist() == [[index in cut for index in range(length)]]


@pytest.mark.parametrize(
    ("items", "policy"),
    [
        (1, "color,translation,cutout"),
        (5_000, "color,translation,cutout"),
        (5_001, "color,translation"),
        (30_000, "color,translation"),
        (30_001, ""),
    ],
)
def test_the_fewer_pictures_the_more_augmentations(items: int, policy: str) -> None:
    assert augment.for_items(items) == policy
