"""The generator of `--nets edge`: pictures to pictures by residual blocks, for edge devices.

    network = EdgeGenerator(channels=3, width=32, levels=2, blocks=6, way="resize")
    network(torch.zeros(1, 3, 64, 64))        # [1, 3, 64, 64]

What is slow or inexact on devices is left out. Without InstanceNorm no value depends on the whole picture, so that a
tile equals its part of the picture and every layer can be INT8. Instead, start values keep the scale (Zhang et al.
2019, arXiv:1901.09321; Huang et al. 2024, arXiv:2501.05441, section 3), or the blocks have BatchNorm, which an export
folds into the convolutions unless a shuffle comes between. There is no transposed convolution, which leaves a
checkerboard (Odena et al. 2016, doi:10.23915/distill.00003), no kernel above 3×3 and no reflection padding. As in a
U-Net (Isola et al. 2017, section 3.2.1) the maps of each size on the way down are added on the way up.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ganedge.models import residual
from ganedge.models.upsample import Upsampling

LARGEST = 8
"""Features of the smallest maps at most, in units of the width."""


class EdgeGenerator(nn.Module):
    """Pictures `[N, channels, H, W]` to pictures of that shape, both in -1 to 1; sides are multiples of 2^levels.

    Args:
        channels: Of the pictures.
        width: Features at the pictures' own size; each halving doubles them, up to eight times.
        levels: How often the maps are halved.
        blocks: Residual blocks at the smallest size.
        way: How maps are doubled.
        normed: Whether the blocks have BatchNorm, which an export folds into the convolutions.
    """

    def __init__(
        self, channels: int, width: int, levels: int, blocks: int, way: Upsampling, normed: bool = False
    ) -> None:
        super().__init__()
        features = [width * min(2**level, LARGEST) for level in range(levels + 1)]
        self.first = nn.Conv2d(channels, width, 3, 1, 1)
        down = residual.normed_down if normed else partial(residual.Down, slope=0.0)
        same = residual.NormedSame if normed else residual.Same
        up = residual.normed_up if normed else residual.Up
        self.down = nn.ModuleList(down(features[level], features[level + 1]) for level in range(levels))
        self.body = nn.Sequential(*(same(features[-1]) for _ in range(blocks)))
        self.up = nn.ModuleList(up(features[level + 1], features[level], way) for level in range(levels))
        self.last = nn.Conv2d(width, channels, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:  # [N, C, H, W] → [N, C, H, W]
        """Translate each picture."""
        maps = self.first(image)
        kept: list[Tensor] = []
        for down in self.down:
            kept.append(maps)
            maps = down(maps)
        maps = self.body(maps)
        for level in reversed(range(len(kept))):
            maps = self.up[level](maps) + kept[level]
        return torch.tanh(self.last(torch.relu(maps)))
