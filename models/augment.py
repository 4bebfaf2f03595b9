"""Differentiable augmentation: what the discriminator sees is changed at random, real and generated pictures alike.

    seen = augment(pictures, ("color", "translation", "cutout"))

Zhao et al. 2020 (arXiv:2006.10738). On a small data set the discriminator cannot learn the pictures by heart, and as
the gradients go through the changes, the generator does not learn to draw them. `blur` is for the beginning of a
training: a discriminator that sees no details yet leads the generator to shapes first, as in Karras et al. 2021
(arXiv:2106.12423).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ganedge.models.noise import rows

SHIFT = 1 / 8
"""Largest translation, as a share of the side."""
HOLE = 1 / 2
"""Side of the cut-out square, as a share of the side."""

FEW, MANY = 5_000, 30_000
"""Pictures in a data set up to which all augmentations are used, and up to which those are that cover nothing."""


def color(pictures: Tensor) -> Tensor:
    """Change brightness by up to ±0.5, saturation by a factor of 0 to 2 and contrast by one of 0.5 to 1.5."""
    brightness, saturation, contrast = _uniform(pictures, 3)
    pictures = pictures + (brightness - 0.5)
    grey = pictures.mean(1, keepdim=True)
    pictures = torch.lerp(grey, pictures, saturation * 2)
    return torch.lerp(pictures.mean((1, 2, 3), keepdim=True), pictures, contrast + 0.5)


def translation(pictures: Tensor) -> Tensor:
    """Move each picture by up to an eighth of its side; zeros come in."""
    height, width = pictures.shape[-2:]
    reach_y, reach_x = round(height * SHIFT), round(width * SHIFT)
    down, right = _uniform(pictures, 2)
    y = _positions(height, pictures) + _whole(down, 2 * reach_y + 1)
    x = _positions(width, pictures) + _whole(right, 2 * reach_x + 1)
    padded = F.pad(pictures, (reach_x, reach_x, reach_y, reach_y)).permute(0, 2, 3, 1)
    items = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    return padded[items, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def cutout(pictures: Tensor) -> Tensor:
    """Set a square of half the side to zero; it may reach over the edge."""
    height, width = pictures.shape[-2:]
    down, right = _uniform(pictures, 2)
    y, x = _hole(height, down, pictures), _hole(width, right, pictures)
    return pictures * ~(y[:, None, :, None] & x[:, None, None, :])


def _hole(length: int, share: Tensor, pictures: Tensor) -> Tensor:
    """Along one side of each picture, which pixels are cut out, bool `[N, length]`; its middle may lie on the edge."""
    hole = round(length * HOLE)
    behind = _positions(length, pictures) - _whole(share, length + 1 - hole % 2) + hole // 2  # Its first pixel.
    return (behind >= 0) & (behind < hole)


POLICIES: dict[str, Callable[[Tensor], Tensor]] = {"color": color, "translation": translation, "cutout": cutout}
"""Augmentations by name, in the order in which they are applied."""


def blur(pictures: Tensor, deviation: float) -> Tensor:
    """Blur pictures with a Gaussian; beyond the edge there is nothing, and what is inside counts the more.

    As a product with one matrix for each direction, which is quick for small pictures on every device.

    Args:
        pictures: `[N, C, H, W]`.
        deviation: Of the Gaussian, pixels; below a tenth it changes nothing.

    Returns:
        The same shape.
    """
    if deviation < 0.1:
        return pictures
    for axis in (2, 3):
        places = torch.arange(pictures.shape[axis], device=pictures.device, dtype=torch.float32)
        weights = torch.exp(-0.5 * ((places[:, None] - places) / deviation) ** 2)
        weights = (weights / weights.sum(1, keepdim=True)).to(pictures.dtype)
        pictures = weights @ pictures if axis == 2 else pictures @ weights.T
    return pictures


PASSES = 50
"""Passes over the data set over which the share of augmented pictures rises from 0."""
AUTO = "auto"
"""Stands for the augmentations of `for_items`."""


def for_items(count: int) -> str:
    """Augmentations for a data set of that many pictures, as `--augment` takes them: the fewer, the more of them.

    Zhao et al. 2020, table 3 and 6: with a tenth of CIFAR-10 or a hundred pictures all three help most, and
    with tens of thousands they hardly matter.
    """
    if count <= FEW:
        return ",".join(POLICIES)
    return "color,translation" if count <= MANY else ""


def augment(pictures: Tensor, policy: tuple[str, ...], share: float = 1.0) -> Tensor:
    """Change each picture in its own way.

    Args:
        pictures: `[N, C, H, W]`.
        policy: Names out of `POLICIES`.
        share: Probability with which a picture is changed.

    Returns:
        The same shape.
    """
    if not policy or share <= 0:
        return pictures
    changed = pictures
    for name in policy:
        changed = POLICIES[name](changed)
    if share >= 1:
        return changed
    (drawn,) = _uniform(pictures, 1)
    return torch.where(drawn < share, changed, pictures)


def _uniform(pictures: Tensor, count: int) -> tuple[Tensor, ...]:
    """`count` numbers of 0 to 1 for each picture, each `[N, 1, 1, 1]`."""
    drawn = rows(len(pictures), lambda n: torch.rand(n, count, device=pictures.device))
    return tuple(column[:, None, None, None] for column in drawn.unbind(1))


def _positions(length: int, pictures: Tensor) -> Tensor:
    return torch.arange(length, device=pictures.device)[None]


def _whole(share: Tensor, count: int) -> Tensor:
    """A whole number of 0 to `count` - 1 for each picture, `[N, 1]`."""
    return (share.flatten(1) * count).long()
