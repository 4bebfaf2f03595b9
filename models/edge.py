"""The generator of `--nets edge`: pictures to pictures by residual blocks without normalisation, for edge devices.

    network = EdgeGenerator(channels=3, width=32, levels=2, blocks=6, way="resize")
    network(torch.zeros(1, 3, 64, 64))        # [1, 3, 64, 64]

What is slow or inexact on devices is left out. Without InstanceNorm no value depends on the whole picture, so that a
tile equals its part of the picture and every layer can be INT8; start values keep the scale instead (Zhang et al. 2019,
arXiv:1901.09321; Huang et al. 2024, arXiv:2501.05441, section 3). There is no transposed convolution, which leaves a
checkerboard (Odena et al. 2016, doi:10.23915/distill.00003), no kernel above 3×3 and no reflection padding. As in a
U-Net (Isola et al. 2017, section 3.2.1) the maps of each size on the way down are added on the way up.
"""

from __future__ import annotations

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
    """

    def __init__(self, channels: int, width: int, levels: int, blocks: int, way: Upsampling) -> None:
        super().__init__()
        features = [width * min(2**level, LARGEST) for level in range(levels + 1)]
        self.first = nn.Conv2d(channels, width, 3, 1, 1)
        self.down = nn.ModuleList(
            residual.Down(features[level], features[level + 1], slope=0.0) for level in range(levels)
        )
        self.body = nn.Sequential(*(residual.Same(features[-1]) for _ in range(blocks)))
        self.up = nn.ModuleList(residual.Up(features[level + 1], features[level], way) for level in range(levels))
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


def reach(levels: int, blocks: int, way: Upsampling) -> int:
    """Input pixels on each side on which an output pixel depends at most.

    A 3×3 convolution adds one pixel of its map, which is 2^level pixels of the picture; so does averaging 2×2, and
    bilinear interpolation, whose convolutions are both at the smaller size.
    """
    ends = 2
    halvings = sum(2**level + 2**level + 2 ** (level + 1) for level in range(levels))
    each = 6 if way == "bilinear" else 3  # In pixels of the larger map.
    doublings = sum(each * 2**level for level in range(levels))
    return int(ends + halvings + doublings + 2 * blocks * 2**levels)
