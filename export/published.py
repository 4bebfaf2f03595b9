"""Generators of public repositories, built with the layers and widths that their weights have.

    network = resnet(state, "conv_block")

Zhu et al. 2017 (arXiv:1703.10593), appendix 7.2: c7s1-64, d128, d256, nine R256, u128, u64, c7s1-3, as
pytorch-CycleGAN-and-pix2pix, pix2pixHD and PyTorch-GAN lay it out; Isola et al. 2017 (arXiv:1611.07004), appendix
6.1.1: a U-Net of 4×4 convolutions; Radford et al. 2015 (arXiv:1511.06434), as the PyTorch example and PyTorch-GAN have
it.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["instance", "batch"]
Layer = Callable[[int], nn.Module]
"""Makes a normalisation of so many channels."""
EPS = 0.8
"""BatchNorm's addition to the variance in PyTorch-GAN, which passes its momentum there."""


def _normalisation(state: Mapping[str, Tensor], norm: Norm) -> Layer:
    """BatchNorm has scales and statistics; InstanceNorm scales or none, and may carry statistics that it never used."""
    scales = {key for key, value in state.items() if key.endswith(".weight") and value.ndim == 1}
    if any(key.replace(".weight", ".running_mean") in state for key in scales) or (norm == "batch" and not scales):
        return functools.partial(nn.BatchNorm2d)
    return functools.partial(nn.InstanceNorm2d, affine=bool(scales), track_running_stats=False)


class _Residual(nn.Module):
    """x + f(x), two padded 3×3 convolutions under the name that the checkpoint gives them."""

    def __init__(self, name: str, width: int, norm: Layer, dropout: bool, bias: bool) -> None:
        super().__init__()
        self.name = name
        layers: list[nn.Module] = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm(width), nn.ReLU()]
        layers += [nn.Dropout(0.5)] if dropout else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm(width)]
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        changed: Tensor = self.get_submodule(self.name)(x)
        return x + changed


class Model(nn.Module):
    """Everything under the name `model`, as those checkpoints have it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        """Translate pictures `[N, C, H, W]`."""
        translated: Tensor = self.model(pictures)
        return translated


def resnet(
    state: Mapping[str, Tensor], residual: str, norm: Norm = "instance", blocks: int | None = None
) -> nn.Sequential:
    """Build a generator of residual blocks between strided convolutions and their reverse, as its weights count them.

    Args:
        state: The weights, under the numbers of the layers: `1.weight`, `10.conv_block.1.weight`.
        residual: Name of the convolutions in a residual block.
        norm: See `build`.
        blocks: Residual blocks; as many as the weights have by default.

    Raises:
        KeyError: a weight is missing.
        ValueError: a weight has another number of dimensions.
    """
    layer = _normalisation(state, norm)
    width, channels, kernel, _ = state["1.weight"].shape
    bias = "1.bias" in state
    layers: list[nn.Module] = [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(channels, width, kernel, bias=bias)]
    layers += [layer(width), nn.ReLU()]

    # Halve the picture, while the weights do.
    while f"{len(layers)}.weight" in state:
        wider, _, _, _ = state[f"{len(layers)}.weight"].shape
        layers += [nn.Conv2d(width, wider, 3, 2, 1, bias=bias), layer(wider), nn.ReLU()]
        width = wider
    sixth = state.get(f"{len(layers)}.{residual}.6.weight")
    dropout = sixth is not None and sixth.ndim == 4  # Dropout before it makes the second convolution the sixth layer.
    count = 0
    while f"{len(layers)}.{residual}.1.weight" in state:
        layers.append(_Residual(residual, width, layer, dropout, bias))
        count += 1
    if count == 0 or count != (blocks or count):
        raise ValueError(f"they have {count} residual blocks")

    # Double it by transposed convolutions, or by repeated pixels before convolutions.
    while f"{len(layers)}.weight" in state or f"{len(layers) + 5}.weight" in state:
        if f"{len(layers)}.weight" in state:
            _, narrower, _, _ = state[f"{len(layers)}.weight"].shape
            layers.append(nn.ConvTranspose2d(width, narrower, 3, 2, 1, output_padding=1, bias=bias))
        else:
            narrower, _, _, _ = state[f"{len(layers) + 1}.weight"].shape
            layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, narrower, 3, 1, 1, bias=bias)]
        layers += [layer(narrower), nn.ReLU()]
        width = narrower
    returned, _, kernel, _ = state[f"{len(layers) + 1}.weight"].shape
    layers += [nn.ReflectionPad2d(kernel // 2), nn.Conv2d(width, returned, kernel), nn.Tanh()]
    return nn.Sequential(*layers)


class _Level(nn.Module):
    """One level of a U-Net: down, the level below, up again, and the input beside the result."""

    def __init__(self, layers: list[nn.Module], outermost: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        deep: Tensor = self.model(x)
        return deep if self.outermost else torch.cat([x, deep], 1)


def unet(depth: int, state: Mapping[str, Tensor], choice: Norm = "instance") -> nn.Module:
    """Build a U-Net that halves its picture `depth` times; errors as for `resnet`."""
    norm = _normalisation(state, choice)
    first = state["model.model.0.weight"]
    width, taken = first.shape[:2]
    given = state["model.model.3.weight"].shape[1]
    widths = [width * min(2**level, 8) for level in range(depth)]
    bias = "model.model.1.model.1.bias" in state
    # The activations there work in place, so the skip connection carries activated values; as here.
    below: nn.Module | None = None
    for level in reversed(range(1, depth)):
        outer, inner = widths[level - 1], widths[level]
        down: list[nn.Module] = [nn.LeakyReLU(0.2, True), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        if below is None:
            up: list[nn.Module] = [nn.ReLU(True), nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=bias), norm(outer)]
            below = _Level([*down, *up], outermost=False)
            continue
        up = [nn.ReLU(True), nn.ConvTranspose2d(inner * 2, outer, 4, 2, 1, bias=bias), norm(outer)]
        below = _Level([*down, norm(inner), below, *up], outermost=False)
    assert below is not None
    last: list[nn.Module] = [nn.ReLU(True), nn.ConvTranspose2d(width * 2, given, 4, 2, 1), nn.Tanh()]
    return Model(_Level([nn.Conv2d(taken, width, 4, 2, 1, bias=bias), below, *last], outermost=True))


def transposed(state: Mapping[str, Tensor]) -> nn.Sequential:
    """Build the generator of the PyTorch example dcgan, `main`: transposed 4×4 convolutions from one pixel.

    Raises:
        KeyError: a weight is missing.
        ValueError: a weight has another number of dimensions.
    """
    layers: list[nn.Module] = []
    while True:
        inputs, outputs, kernel, _ = state[f"main.{len(layers)}.weight"].shape
        bias = f"main.{len(layers)}.bias" in state
        stride, padding = (2, 1) if layers else (1, 0)
        layers.append(nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, bias=bias))
        if kernel != 4:
            raise ValueError(f"a kernel of {kernel}")
        if f"main.{len(layers)}.running_mean" not in state:
            return nn.Sequential(OrderedDict(main=nn.Sequential(*layers, nn.Tanh())))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]


class Upsampling(nn.Module):
    """The DCGAN of PyTorch-GAN: latents `[N, latent]` to images through repeated pixels and convolutions."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        values, latent = state["l1.0.weight"].shape
        (width,), (last, _, _, _) = state["conv_blocks.0.weight"].shape, state["conv_blocks.9.weight"].shape
        narrow = state["conv_blocks.6.weight"].shape[0]
        self.shape = (width, *[round((values / width) ** 0.5)] * 2)
        self.l1 = nn.Sequential(nn.Linear(latent, values))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width, EPS),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, narrow, 3, padding=1),
            nn.BatchNorm2d(narrow, EPS),
            nn.LeakyReLU(0.2),
            nn.Conv2d(narrow, last, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Compute."""
        features: Tensor = self.l1(latent)
        images: Tensor = self.conv_blocks(features.reshape(-1, *self.shape))
        return images
