"""Ways to double a feature map: transposed convolution, or one of resizing and shuffling that leaves no checkerboard.

    up = nn.Sequential(*doubling(64, 32, "resize"))        # [N, 64, H, W] → [N, 32, 2H, 2W]

A 4×4 transposed convolution of stride 2 computes neighbouring pixels with different weights, which shows as a
checkerboard (Odena et al. 2016, doi:10.23915/distill.00003).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Upsampling = Literal["transpose", "resize", "shuffle", "bilinear"]
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


class ResizeConv(nn.Conv2d):
    """Nearest resize to twice the size, then a 3×3 convolution: `[N, inputs, H, W]` → `[N, outputs, 2H, 2W]`.

    In training it is computed as the 4×4 transposed convolution that it equals, with less than half the arithmetic: a
    pixel's four copies meet the same weights in turn, so their sums are one kernel. In evaluation, and thus in what is
    exported, it is the two layers.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, 3, 1, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is the library's
        """Enlarge."""
        if self.training:
            return F.conv_transpose2d(input, boxed(self.weight.flip(2, 3)).transpose(0, 1), self.bias, 2, 1)
        return super().forward(F.interpolate(input, scale_factor=2.0))


def boxed(kernels: Tensor) -> Tensor:
    """Kernels convolved with a 2×2 box of ones: `[O, I, 3, 3]` → `[O, I, 4, 4]`."""
    padded = F.pad(kernels, (1, 1, 1, 1))
    rows = padded[..., :-1, :] + padded[..., 1:, :]
    return rows[..., :-1] + rows[..., 1:]


def enlarge(way: Upsampling) -> nn.Upsample:
    """The layer without weights from `[N, C, H, W]` to `[N, C, 2H, 2W]`: bilinear with `bilinear`, else nearest."""
    return nn.Upsample(scale_factor=2.0, mode="bilinear" if way == "bilinear" else "nearest")


def doubling(inputs: int, outputs: int, way: Upsampling, bias: bool = True, last: bool = False) -> list[nn.Module]:
    """The layers from `[N, inputs, H, W]` to `[N, outputs, 2H, 2W]`.

    Args:
        inputs: Channels.
        outputs: Channels.
        way: `transpose`: 4×4, stride 2. `resize`: nearest, then a 3×3 convolution. `shuffle`: a 3×3 convolution to four
            times the channels, then depth-to-space. `bilinear`: a 3×3 convolution, then bilinear interpolation: smooth
            across pixels, and in use a quarter of the arithmetic of `resize`.
        bias: Whether the convolution has one.
        last: Whether no convolution follows. The bilinear one is then after the interpolation, for details of a pixel.
    """
    if way == "bilinear":
        convolution = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=bias)
        return [enlarge(way), convolution] if last else [convolution, enlarge(way)]
    if way == "transpose":
        return [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)]
    if way == "shuffle":
        return [PhaseConv(inputs, outputs, bias), nn.PixelShuffle(2)]
    return [nn.Identity(), ResizeConv(inputs, outputs, bias)]  # Identity: checkpoints have the weights in the second.
