"""Residual blocks: what `dcgan --arch resnet`, the generators of `--nets edge` and students are made of.

    layers = [Up(256, 128, "resize"), Up(128, 64, "resize")]
    start(nn.Sequential(*layers))

As in Huang et al. 2024 (arXiv:2501.05441), section 3, nothing is normalised: start values and gradient penalties keep
the scale. `Normed` and `NormedSame` are the exception: they begin as a plain generator with BatchNorm does, and learn
sooner (benchmarks/LOG.md). Every layer is one that edge engines have in INT8: 3×3 and 1×1 convolutions, which
BatchNorm is folded into, ReLU, resize, sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.models import weights
from ganedge.models.upsample import PhaseConv, Upsampling, boxed, doubling, enlarge


class Up(nn.Module):
    """Double a feature map: `[N, inputs, H, W]` to `[N, outputs, 2H, 2W]`.

    The channels change at the smaller size, where it costs a quarter.
    """

    def __init__(self, inputs: int, outputs: int, way: Upsampling) -> None:
        super().__init__()
        self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), enlarge(way))
        self.change = nn.Sequential(
            nn.ReLU(), nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(inplace=True), *doubling(outputs, outputs, way)
        )

    def forward(self, features: Tensor) -> Tensor:  # [N, I, H, W] → [N, O, 2H, 2W]
        """Enlarge, and add the change."""
        changed: Tensor = self.skip(features) + self.change(features)
        return changed


class Normed(nn.Module):
    """A block with BatchNorm: `[N, inputs, H, W]` to `[N, features, H', W']`, 0 or more.

    Args:
        first: Layers that change size and channels, the last a BatchNorm.
        features: What they give.
    """

    def __init__(self, first: list[nn.Module], features: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*first)
        self.change = nn.Sequential(nn.ReLU(), *normed_convolution(features, features))

    def forward(self, features: Tensor) -> Tensor:  # [N, I, H, W] → [N, F, H', W']
        """Change size and channels, and add the change."""
        features = self.first(features)
        return torch.relu(features + self.change(features))


def normed_convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """A 3×3 convolution with BatchNorm."""
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]


def normed_up(inputs: int, outputs: int, way: Upsampling) -> Normed:
    """Double a feature map with BatchNorm: `[N, inputs, H, W]` to `[N, outputs, 2H, 2W]`."""
    return Normed([*doubling(inputs, outputs, way, bias=False), nn.BatchNorm2d(outputs)], outputs)


def normed_down(inputs: int, outputs: int) -> Normed:
    """Halve a feature map with BatchNorm: `[N, inputs, H, W]` to `[N, outputs, H/2, W/2]`."""
    return Normed(normed_convolution(inputs, outputs, 2), outputs)


class PoolConv(nn.Conv2d):
    """A 3×3 convolution, then the means of 2×2 pixels: `[N, inputs, H, W]` → `[N, outputs, H/2, W/2]`.

    In training it is computed as the 4×4 convolution of stride 2 that it equals, with less than half the arithmetic.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, 1, 1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is the library's
        """Convolve and reduce."""
        if self.training:
            return F.conv2d(input, boxed(self.weight) / 4, self.bias, 2, 1)
        return F.avg_pool2d(super().forward(input), 2)


class Down(nn.Module):
    """Halve a feature map: `[N, inputs, H, W]` to `[N, outputs, H/2, W/2]`.

    `slope` is that of the activations below 0; with 0 they are ReLU.
    """

    def __init__(self, inputs: int, outputs: int, slope: float = 0.2) -> None:
        super().__init__()
        before = nn.LeakyReLU(slope) if slope else nn.ReLU()
        between = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))
        self.change = nn.Sequential(
            *(before, PoolConv(inputs, inputs), nn.Identity()),  # Identity: checkpoints have the weights in 1 and 4.
            *(between, nn.Conv2d(inputs, outputs, 3, 1, 1)),
        )

    def forward(self, features: Tensor) -> Tensor:  # [N, I, H, W] → [N, O, H/2, W/2]
        """Reduce, and add the change."""
        changed: Tensor = self.skip(features) + self.change(features)
        return changed


class Same(nn.Module):
    """Change a feature map `[N, features, H, W]` at its own size."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.skip = nn.Identity()
        self.change = nn.Sequential(
            *(nn.ReLU(), nn.Conv2d(features, features, 3, 1, 1)),
            *(nn.ReLU(inplace=True), nn.Conv2d(features, features, 3, 1, 1)),
        )

    def forward(self, features: Tensor) -> Tensor:  # [N, F, H, W] → [N, F, H, W]
        """Add the change."""
        changed: Tensor = features + self.change(features)
        return changed


class Residual(nn.Module):
    """Change a feature map `[N, features, H, W]` at its own size, with BatchNorm."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *normed_convolution(features, features), nn.ReLU(), *normed_convolution(features, features)
        )

    def forward(self, features: Tensor) -> Tensor:  # [N, F, H, W] → [N, F, H, W]
        """Add the change."""
        changed: Tensor = features + self.change(features)
        return changed


class NormedSame(Residual):
    """A `Residual` that gives 0 or more, as the blocks beside it do."""

    def forward(self, features: Tensor) -> Tensor:  # [N, F, H, W] → [N, F, H, W]
        """Add the change."""
        return torch.relu(super().forward(features))


@torch.no_grad()
def start(network: nn.Module) -> None:
    """Start values that keep the scale without normalisation, Zhang et al. 2019 (arXiv:1901.09321), section 3.

    Weights are He et al.'s (arXiv:1502.01852, eq. 10); of L residual blocks, each with two convolutions, the first
    convolution is scaled by L^-½ and the last begins at 0, so that the network begins as its skips. A network without
    blocks gets He et al.'s alone. A generator of blocks with BatchNorm begins as a plain DCGAN instead.
    """
    if any(isinstance(module, (Normed, NormedSame)) for module in network.modules()):
        _start_plain(network)
        return
    blocks = [module for module in network.modules() if isinstance(module, (Up, Down, Same))]
    skips = {module for block in blocks for module in block.skip.modules()}  # Linear: no activation to make up for.
    for module in network.modules():
        if isinstance(module, nn.Linear) or (module in skips and isinstance(module, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            # A transposed convolution's weight is [inputs, outputs, ...].
            nn.init.kaiming_normal_(
                module.weight, 0.2, "fan_out" if isinstance(module, nn.ConvTranspose2d) else "fan_in"
            )
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for block in blocks:
        convolutions = [
            module for module in block.change.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        ]
        convolutions[0].weight.mul_(len(blocks) ** -0.5)
        nn.init.zeros_(convolutions[-1].weight)
    for module in network.modules():
        if isinstance(module, PhaseConv):
            module.start_alike()


def _start_plain(network: nn.Module) -> None:
    """Start values of a plain DCGAN.

    The last BatchNorm of each block begins at 0, Goyal et al. 2017 (arXiv:1706.02677), section 5.1.
    """
    network.apply(weights.normal)
    for module in network.modules():
        if isinstance(module, (Normed, NormedSame)):
            norm = module.change[-1]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)
