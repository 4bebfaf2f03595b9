"""pix2pix: pictures to pictures, learned from pairs (Isola et al. 2017, arXiv:1611.07004).

    gan-train pix2pix --data facades/ --direction b2a --out runs/facades
    gan-train pix2pix --data facades/ --direction b2a --out runs/facades --preset modern

The write-ups use BatchNorm with a batch of one, which is InstanceNorm. Here it is InstanceNorm by default, so that the
generator does the same in use as in training; `--norm batch` is for larger batches.

The preset `modern` is for edge devices and small data sets: the generator of `edge.py` with BatchNorm, a spectrally
normalised discriminator that sees augmented pictures, the least-squares loss, and the distance in the discriminator's
features (Wang et al. 2018, arXiv:1711.11585), which takes over most of what the L1 distance does. With that distance
both networks learn from one pass through the discriminator, the generator first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ganedge.models import edge, residual, weights
from ganedge.models.noise import Dropout
from ganedge.models.objectives import OBJECTIVES
from ganedge.models.optimizers import adams
from ganedge.models.patchgan import PatchGAN, feature_distance
from ganedge.models.translation import PatchConfig, seen_alike, to_pictures
from ganedge.models.upsample import Upsampling, doubling
from ganedge.models.variant import Batch, Update, VariantConfig, Wants, only_with, require
from ganedge.runtime.manifest import Interface


@dataclass(frozen=True, kw_only=True)
class Config(PatchConfig):
    """Sizes, objective and optimisation of pix2pix."""

    direction: Literal["a2b", "b2a"] = "a2b"
    """Which picture of a pair is the input: a2b takes the left one or the one in folder A."""
    nets: Literal["unet", "edge"] = "unet"
    """Generator: unet as in the paper, or edge, residual blocks of 3×3 convolutions, without InstanceNorm."""
    size: int = 256
    """Height and width of the pictures in training, pixels: a power of two, 32 or more."""
    levels: int | None = None
    """Times the generator halves its picture; by default 8 or as often as it goes, and 4 with --nets edge."""
    blocks: int = only_with("nets", "edge", 4)
    """With --nets edge, residual blocks at the smallest size."""
    norm: Literal["instance", "batch"] = "instance"
    """Normalisation: instance is BatchNorm as it works with a batch of one, in training and in use. With --nets edge,
    instance stands for a generator without normalisation."""
    upsample: Upsampling = "transpose"
    """How the generator doubles its feature maps: transpose is a transposed convolution; resize (nearest, then a
    convolution), shuffle (a convolution, then depth-to-space) and bilinear (a convolution, then interpolation, the
    smoothest) leave no checkerboard and suit more devices."""
    dropout: float = 0.5
    """Share of features dropped in the three innermost levels of the U-Net: the noise."""
    objective: Literal["bce", "lsgan"] = "bce"
    """Adversarial loss."""
    l1: float = 100.0
    """Weight of the mean distance to the target."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        power = self.size >= 32 and self.size & (self.size - 1) == 0
        require(power, "size", self.size, "a power of two, 32 or more")
        most = self.size.bit_length() - 1
        require(self.levels is None or 3 <= self.levels <= most, "levels", self.levels, f"3 to {most}")
        if self.nets == "edge" and self.norm == "batch":  # Of one pixel and one picture there is no deviation.
            require(2**self.depth < self.size, "levels", self.levels, f"less than {most} with --norm batch")
        require(self.blocks >= 0, "blocks", self.blocks, "0 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more and below 1")
        require(self.l1 >= 0, "l1", self.l1, "0 or more")

    @property
    def depth(self) -> int:
        """Times the generator halves its picture."""
        most = 4 if self.nets == "edge" else 8
        return self.levels or min(most, self.size.bit_length() - 1)

    @property
    def make_norm(self) -> Callable[[int], nn.Module]:
        """Makes the normalisation of that many features."""
        return nn.BatchNorm2d if self.norm == "batch" else lambda features: nn.InstanceNorm2d(features, affine=True)


class Generator(nn.Module):
    """U-Net: pictures `[N, channels, H, W]` to pictures of the same shape, both in -1 to 1.

    Height and width are multiples of 2^levels. Level k's result goes to level k - 1 beside what that one made itself.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        features = [config.width * min(2**level, 8) for level in range(config.depth)]
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, wide in enumerate(features):
            self.down.append(_down(config, features[level - 1] if level else config.channels, wide, level))
            innermost = level == config.depth - 1
            self.up.append(_up(config, wide if innermost else 2 * wide, features[level - 1] if level else 0, level))

    def forward(self, image: Tensor) -> Tensor:  # [N, C, H, W] → [N, C, H, W]
        """Translate each picture."""
        kept: list[Tensor] = []
        for down in self.down:
            image = down(image)
            kept.append(image)
        for level in reversed(range(len(kept))):
            image = self.up[level](image if level == len(kept) - 1 else torch.cat((image, kept[level]), 1))
        return image


MODERN: Mapping[str, Any] = {
    "nets": "edge",
    "norm": "batch",
    "load_size": None,
    "upsample": "resize",
    "width": 32,
    "batch": 4,
    "objective": "lsgan",
    "spectral_norm": True,
    "matching": 20.0,
    "l1": 2.0,
    "augment": "auto",
}
"""The preset `modern`."""


class Pix2Pix:
    """The variant: a U-Net, a PatchGAN that sees input and output together, two Adams."""

    name: ClassVar[str] = "pix2pix"
    summary: ClassVar[str] = "pictures to pictures, learned from pairs (preset: modern)"
    config_class: ClassVar[type[VariantConfig]] = Config
    sources: ClassVar[Mapping[str, str]] = {"generator": "input"}
    targets: ClassVar[Mapping[str, str]] = {"generator": "target"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"modern": MODERN}

    def __init__(self, config: Config) -> None:
        self.config = config
        self.generator = make_generator(config)
        last = nn.Conv2d(8 * config.width, 1, 4, 1, 1)
        norm = nn.Identity if config.spectral_norm else config.make_norm
        self.discriminator = PatchGAN(2 * config.channels, (2, 2, 2, 1), norm, last, config.width)
        self.networks: Mapping[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        for network in self.networks.values():
            network.apply(weights.normal)
        if config.nets == "edge":
            residual.start(self.generator)
        if config.spectral_norm:
            self.discriminator.apply(weights.spectral)
        self.optimizers: Mapping[str, Optimizer] = adams(self.networks, config)

    @staticmethod
    def wants(config: Config) -> Wants:
        """Pairs of pictures in -1 to 1, the range of tanh."""
        reverse = config.direction == "b2a"
        return Wants("pairs", config.size, config.channels, load_size=config.uncut, flip=config.jitter, reverse=reverse)

    def generators(self) -> dict[str, Interface]:
        """One generator: pictures to pictures, of any size that halves `levels` times."""
        return {"generator": to_pictures(self.config, 2**self.config.depth)}

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Update both networks: the discriminator first, as the paper does.

        With `matching` the generator goes first. Neither update changes what the other was computed from, so both share
        one pass of the pictures through the discriminator, whose features the generator needs anyway.
        """
        source, target = batch["input"], batch["target"]
        output = self.generator(source)
        if self.config.matching > 0:
            losses = self._update_together(source, output, target, update)
        else:
            losses = self._update_in_turn(source, output, target, update)
        return {name: value.detach() for name, value in losses.items()}

    def _update_in_turn(self, source: Tensor, output: Tensor, target: Tensor, update: Update) -> dict[str, Tensor]:
        """Update the discriminator, then the generator by what the discriminator has learned."""
        objective = OBJECTIVES[self.config.objective]
        real, fake = self._seen(source, target, output.detach())
        loss_d = objective.discriminator(self.discriminator(real), self.discriminator(fake))
        update("discriminator", loss_d)

        (fake,) = self._seen(source, output)
        losses = {"loss_g": objective.generator(self.discriminator(fake)), "l1": F.l1_loss(output, target)}
        update("generator", losses["loss_g"] + self.config.l1 * losses["l1"])
        return {"loss_d": loss_d, **losses}

    def _update_together(self, source: Tensor, output: Tensor, target: Tensor, update: Update) -> dict[str, Tensor]:
        """Update the generator, then the discriminator, from the same verdicts and features."""
        objective = OBJECTIVES[self.config.objective]
        real, fake = self._seen(source, target, output)
        real_verdicts, wanted = self.discriminator.with_features(real)
        fake_verdicts, features = self.discriminator.with_features(fake)

        losses = {
            "matching": feature_distance(features, wanted),
            "loss_g": objective.generator(fake_verdicts),
            "l1": F.l1_loss(output, target),
        }
        total = losses["loss_g"] + self.config.l1 * losses["l1"] + self.config.matching * losses["matching"]
        update("generator", total, keep_graph=True)

        loss_d = objective.discriminator(real_verdicts, fake_verdicts)
        update("discriminator", loss_d)
        return {"loss_d": loss_d, **losses}

    def _seen(self, source: Tensor, *pictures: Tensor) -> list[Tensor]:
        """Each of some pictures beside the input, as the discriminator sees them: all augmented alike."""
        source, *others = seen_alike((source, *pictures), self.config.policy)
        return [torch.cat((source, each), 1) for each in others]

    def strips(self, name: str, networks: Mapping[str, nn.Module], batch: Batch) -> tuple[Tensor, ...]:
        """Input, output and target."""
        return batch["input"], networks[name](batch["input"]), batch["target"]


def make_generator(config: Config) -> nn.Module:
    """The generator that the config names."""
    if config.nets == "unet":
        return Generator(config)
    return edge.EdgeGenerator(
        config.channels, config.width, config.depth, config.blocks, config.upsample, config.norm == "batch"
    )


def _down(config: Config, channels: int, features: int, level: int) -> nn.Sequential:
    """Halve the picture. The outermost level has no activation before it; it and the innermost are not normalised."""
    layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if level else []
    layers.append(nn.Conv2d(channels, features, 4, 2, 1))
    if 0 < level < config.depth - 1:
        layers.append(config.make_norm(features))
    return nn.Sequential(*layers)


def _up(config: Config, channels: int, features: int, level: int) -> nn.Sequential:
    """Double the picture. The outermost level gives the result; the three next to the innermost drop features."""
    outermost = level == 0
    enlarged = doubling(channels, features or config.channels, config.upsample, last=outermost)
    layers: list[nn.Module] = [nn.ReLU(), *enlarged]
    if outermost:
        return nn.Sequential(*layers, nn.Tanh())
    layers.append(config.make_norm(features))
    if config.dropout and config.depth - 4 <= level < config.depth - 1:
        layers.append(Dropout(config.dropout))
    return nn.Sequential(*layers)
