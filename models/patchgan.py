"""The PatchGAN discriminator: one verdict for each patch of a picture (Isola et al. 2017, arXiv:1611.07004).

    judge = PatchGAN(6, strides=(2, 2, 2, 1), norm=nn.InstanceNorm2d, last=nn.Conv2d(512, 1, 4, 1, 1))

The variants that turn pictures into pictures share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.models import weights


class PatchGAN(nn.Module):
    """Pictures `[N, channels, H, W]` to a map of verdicts `[N, 1, H', W']`: high means real.

    Args:
        channels: Of a picture.
        strides: Of each convolution (4×4, padding 1); features go from `width` to 8 × `width`, doubling.
        norm: Makes a normalisation for that many features; the first convolution has none.
        last: From the features to the verdicts.
        width: Features after the first convolution.
        activation: Makes what follows each convolution.
        bias: Whether convolutions have one.
    """

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        norm: Callable[[int], nn.Module],
        last: nn.Module,
        width: int = 64,
        activation: Callable[[], nn.Module] = lambda: nn.LeakyReLU(0.2, inplace=True),
        bias: bool = True,
    ) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        layers: list[nn.Module] = []
        for index, stride in enumerate(strides):
            features = width * min(2**index, 8)
            layers.append(nn.Conv2d(channels, features, 4, stride, 1, bias=bias))
            layers += [norm(features), activation()] if index else [activation()]
            channels = features
        self.head = nn.Sequential(*layers, last)

    def forward(self, pictures: Tensor) -> Tensor:  # [N, C, H, W] → [N, 1, H', W']
        """Judge each patch."""
        verdicts: Tensor = self.head(pictures)
        return verdicts.float()  # Losses in bf16 would be too coarse for means and differences.

    def with_features(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge each patch; also return the features `[N, F, H', W']` after each convolution's activation."""
        features: list[Tensor] = []
        *layers, last = self.head
        for layer in layers:
            pictures = layer(pictures)
            if isinstance(layer, (nn.LeakyReLU, nn.ReLU)):
                features.append(pictures.float())
        verdicts: Tensor = last(pictures)
        return verdicts.float(), features


def feature_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Mean distance over the layers of a discriminator, Wang et al. 2018 (arXiv:1711.11585), eq. 4.

    Args:
        ours: Features of generated pictures, `[N, F, H, W]` of each layer; gradients go through them.
        theirs: Those of the pictures that they should be.
    """
    distances = [F.l1_loss(a, b.detach()) for a, b in zip(ours, theirs, strict=True)]
    return torch.stack(distances).mean()
