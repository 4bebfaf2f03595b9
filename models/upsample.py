"""Ways to double a feature map: transposed convolution, or one of resizing and shuffling that leaves no checkerboard.

    up = nn.Sequential(*doubling(64, 32, "resize"))        # [N, 64, H, W] → [N, 32, 2H, 2W]

A 4×4 transposed convolution of stride 2 computes neighbouring pixels with different weights, which shows as a
checkerboard (Odena et al. 2016, doi:10.23915/distill.00003).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Upsampling = Literal["transpose", "resize", "shuffle"]
"""How a generator doubles its feature maps."""


class PhaseConv(nn.Conv2d):
    """A 3×3 convolution to four times the features, whose 2×2 blocks depth-to-space lays out as pixels.

    Shi et al. 2016 (arXiv:1609.05158). `start_alike` makes the four phases equal at first, so that it begins as a
    convolution before a nearest resize (Aitken et al. 2017, arXiv:1707.02937).
    """

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, 4 * outputs, 3, 1, 1, bias=bias)

    @torch.no_grad()
    def start_alike(self) -> None:
        """Give the four phases of each feature the weights of the first."""
        for tensor in self.parameters():
            tensor.copy_(tensor[::4].repeat_interleave(4, 0))


def doubling(inputs: int, outputs: int, way: Upsampling, bias: bool = True) -> list[nn.Module]:
    """The layers from `[N, inputs, H, W]` to `[N, outputs, 2H, 2W]`.

    Args:
        inputs: Channels.
        outputs: Channels.
        way: `transpose`: 4×4, stride 2. `resize`: nearest, then a 3×3 convolution. `shuffle`: a 3×3 convolution to four
            times the channels, then depth-to-space.
        bias: Whether the convolution has one.
    """
    if way == "transpose":
        return [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)]
    if way == "shuffle":
        return [PhaseConv(inputs, outputs, bias), nn.PixelShuffle(2)]
    return [nn.Upsample(scale_factor=2.0), nn.Conv2d(inputs, outputs, 3, 1, 1, bias=bias)]
