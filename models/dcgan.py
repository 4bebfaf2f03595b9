"""DCGAN: latents to pictures through transposed convolutions (Radford et al. 2015, arXiv:1511.06434).

    gan-train dcgan --data digits --out runs/digits --channels 1
    gan-train dcgan --data mnist --out runs/mnist --preset mnist --max-minutes 20
    gan-train dcgan --data faces/ --out runs/faces --preset modern --size 64

The preset `mnist` draws its own 28 × 28 by class, twice as wide, with twice the learning rate, and with the gradient
penalty R1 in every eighth step: after twenty minutes on a CPU its digits are far nearer to MNIST's than the default's
(docs/quality.md has the figures). Its epochs are more than twenty minutes there: `--max-minutes` bounds it. On several
CUDA devices it needs `--r1 0`, because their BatchNorm has no gradient of its own gradient.

The preset `modern` is for one's own pictures: the objective of Huang et al. 2024 (arXiv:2501.05441), real and generated
pictures judged in pairs, with both gradient penalties in every eighth step, whose weights change over the first steps,
as do the learning rate and β2. The generator has residual blocks, bilinear upsampling, and BatchNorm, which an export
folds into the convolutions; every layer is of a type that edge devices have. What differs from the paper is for
trainings of an hour on small machines: BatchNorm in the discriminator too, small batches, β1 of 0.5, and blurred
pictures at first. docs/quality.md has the figures, benchmarks/LOG.md what was tried. Several CUDA devices need
`--norm none`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ganedge.models import residual, weights
from ganedge.models.latent import ConditionalConfig, LatentGAN, to_pictures
from ganedge.models.optimizers import AdamConfig, adams
from ganedge.models.upsample import Upsampling, doubling
from ganedge.models.variant import ON, Batch, Update, VariantConfig, Wants, only_with, require
from ganedge.runtime.manifest import Interface


@dataclass(frozen=True, kw_only=True)
class Config(ConditionalConfig, AdamConfig):
    """Sizes, objective and optimisation of a DCGAN."""

    size: int = 32
    """Height and width of the pictures, pixels: 4, 5, 6 or 7, doubled twice or more (16, 28, 32, 48, 64...)."""
    width: int = 32
    """Channels of the widest pictures' feature maps; each halving of the size doubles them."""
    arch: Literal["plain", "resnet"] = "plain"
    """Networks: plain has one 4×4 convolution for each doubling and BatchNorm, resnet residual blocks of 3×3
    convolutions."""
    norm: Literal["none", "batch"] = only_with("arch", "resnet", "none")
    """With --arch resnet, normalisation: none, or BatchNorm in both networks, which learn sooner with it; the
    discriminator has the layers of plain."""
    upsample: Upsampling = "transpose"
    """How the generator doubles its feature maps: transpose is a transposed convolution; resize (nearest, then a
    convolution), shuffle (a convolution, then depth-to-space) and bilinear (a convolution, then interpolation, the
    smoothest) leave no checkerboard and suit more devices."""
    ramp: int = 0
    """Steps over which the next three take effect, along a cosine; 0 keeps all as it begins."""
    penalty_end: float = only_with("ramp", ON, 1.0)
    """What is left of --r1 and --r2 after the ramp, as a share."""
    lr_end: float = only_with("ramp", ON, 1.0)
    """What is left of --lr after the ramp, as a share."""
    beta2_end: float | None = only_with("ramp", ON, None)
    """--beta2 after the ramp; the same by default."""

    @property
    def trains_in_bf16(self) -> bool:
        """Measured with and without R1, and with pairs and R2 for the preset `modern` only (benchmarks/LOG.md)."""
        if self.arch == "resnet" and self.norm == "batch":
            return self.objective != "wgan-gp"
        return self.objective not in ("wgan-gp", "rpgan") and self.r2 == 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(
            self.size == self.start << self.doublings >= 16, "size", self.size, "4, 5, 6 or 7 doubled twice or more"
        )
        require(self.width >= 1, "width", self.width, "1 or more")
        require(self.ramp >= 0, "ramp", self.ramp, "0 or more")
        require(0 <= self.penalty_end <= 1, "penalty_end", self.penalty_end, "0 to 1")
        require(0 < self.lr_end <= 1, "lr_end", self.lr_end, "more than 0, up to 1")
        lowered_once = self.ramp == 0 or self.lr_end == 1 or self.decay == 1
        require(lowered_once, "lr_end", self.lr_end, "1, or --decay 1: both lower the rates")
        require(0 <= (self.beta2_end or 0) < 1, "beta2_end", self.beta2_end, "0 or more and below 1")

    @property
    def doublings(self) -> int:
        """How often the generator doubles its first feature maps, and the discriminator halves the picture."""
        return max(self.size.bit_length() - 3, 0)

    @property
    def start(self) -> int:
        """Height and width of the smallest feature maps, 4 to 7."""
        return self.size >> self.doublings

    @property
    def features(self) -> int:
        """Channels of the smallest feature maps."""
        return self.width << (self.doublings - 1)


class Generator(nn.Module):
    """Latents `[N, latent]` and perhaps labels `[N]` to pictures `[N, channels, size, size]` in -1 to 1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        features, start = config.features, config.start
        classes = len(config.classes)
        self.embed = nn.Embedding(classes, classes) if classes else None
        self.project = nn.Linear(config.latent + classes, features * start * start)
        make = _plain_up if config.arch == "plain" else _residual_up
        self.layers = nn.Sequential(nn.Unflatten(1, (features, start, start)), *make(config), nn.Tanh())

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:  # [N, latent], [N] → [N, C, H, W]
        """Draw one picture per latent."""
        if self.embed is not None:
            latent = torch.cat((latent, self.embed(label)), 1)
        pictures: Tensor = self.layers(self.project(latent))
        return pictures


class Discriminator(nn.Module):
    """Pictures `[N, channels, size, size]` and perhaps labels `[N]` to one logit each, `[N, 1]`: high means real.

    A label adds the product of its embedding and the picture's features, Miyato & Koyama 2018 (arXiv:1802.05637).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        is_plain = config.arch == "plain" or config.norm == "batch"
        layers = (_plain_down if is_plain else _residual_down)(config)
        features = config.features * config.start**2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(features, 1)
        self.embed = nn.Embedding(len(config.classes), features) if config.classes else None

    def forward(self, pictures: Tensor, label: Tensor | None = None) -> Tensor:  # [N, C, H, W], [N] → [N, 1]
        """Judge each picture."""
        seen = self.features(pictures)
        logits: Tensor = self.head(seen)
        if self.embed is not None:
            logits = logits + (self.embed(label) * seen).sum(1, keepdim=True) / seen.shape[1] ** 0.5
        return logits


def _plain_up(config: Config) -> list[nn.Module]:
    """Layers from the smallest feature maps to pictures before tanh."""
    features = config.features
    layers: list[nn.Module] = []
    for _ in range(config.doublings - 1):
        layers += doubling(features, features // 2, config.upsample, bias=False)
        layers += [nn.BatchNorm2d(features // 2), nn.ReLU(inplace=True)]
        features //= 2
    return [*layers, *doubling(features, config.channels or 3, config.upsample, bias=False, last=True)]


def _residual_up(config: Config) -> list[nn.Module]:
    """Layers from the smallest feature maps to pictures before tanh.

    With BatchNorm the last block has the pictures' own size: without an activation there, what has been interpolated
    cannot become sharp, and edges get rings.
    """
    features, channels = config.features, config.channels or 3
    is_normed = config.norm == "batch"
    block = residual.normed_up if is_normed else residual.Up
    layers: list[nn.Module] = []
    for _ in range(config.doublings if is_normed else config.doublings - 1):
        outputs = max(features // 2, 1)
        layers.append(block(features, outputs, config.upsample))
        features = outputs
    if is_normed:
        return [*layers, nn.Conv2d(features, channels, 3, 1, 1)]
    return [*layers, nn.ReLU(inplace=True), *doubling(features, channels, config.upsample, last=True)]


def _plain_down(config: Config) -> list[nn.Module]:
    """Layers from pictures to the smallest feature maps."""
    features = config.width
    layers: list[nn.Module] = [nn.Conv2d(config.channels or 3, features, 4, 2, 1, bias=False)]
    layers += [nn.LeakyReLU(0.2, inplace=True)]
    for _ in range(config.doublings - 1):
        layers += [nn.Conv2d(features, features * 2, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(features * 2), nn.LeakyReLU(0.2, inplace=True)]
        features *= 2
    return layers


def _residual_down(config: Config) -> list[nn.Module]:
    """Layers from pictures to the smallest feature maps."""
    features = config.width
    layers: list[nn.Module] = [nn.Conv2d(config.channels or 3, features, 4, 2, 1)]
    for _ in range(config.doublings - 1):
        layers.append(residual.Down(features, features * 2))
        features *= 2
    return [*layers, nn.LeakyReLU(0.2, inplace=True)]


MODERN: Mapping[str, Any] = {
    "arch": "resnet",
    "norm": "batch",
    "upsample": "bilinear",
    "batch": 16,
    "objective": "rpgan",
    "r1": 1.0,
    "r2": 1.0,
    "penalty_every": 8,
    "ramp": 10_000,
    "penalty_end": 0.1,
    "lr_end": 0.25,
    "beta1": 0.5,
    "beta2": 0.99,
    "beta2_end": 0.999,
    "augment": "auto",
    "augment_share": 0.5,
    "blur": 1 / 32,
    "blur_steps": 1000,
    "ema": 0.9995,
    "epochs": 200,
}
"""The preset `modern`."""
MNIST: Mapping[str, Any] = {
    "size": 28,
    "width": 64,
    "conditional": True,
    "lr": 4e-4,
    "ema": 0.9998,
    "epochs": 40,
    "r1": 0.5,
    "penalty_every": 8,
}
"""The preset `mnist`."""


class DCGAN(LatentGAN):
    """The variant: two networks, two Adams, one step each per batch."""

    name: ClassVar[str] = "dcgan"
    summary: ClassVar[str] = "latents to pictures through convolutions (presets: mnist, modern)"
    config_class: ClassVar[type[VariantConfig]] = Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mnist": MNIST,
        "modern": MODERN,
    }

    def __init__(self, config: Config) -> None:
        self.config = config
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        for network in (self.generator, self.discriminator):
            if config.arch == "plain":
                network.apply(weights.normal)
            else:
                residual.start(network)
        super().__init__(config, self.generator, self.discriminator)
        self.optimizers = adams(self.networks, config)

    @staticmethod
    def wants(config: Config) -> Wants:
        """Single pictures in -1 to 1, the range of tanh."""
        return Wants("images", config.size, config.channels, labels=config.conditional, flip=config.mirror)

    def generators(self) -> dict[str, Interface]:
        """One generator: normal latents, and a label where it is conditional, to pictures."""
        config = self.config
        return {"generator": to_pictures(config, config.channels or 3, config.size, classes=config.classes)}

    @property
    def penalty_share(self) -> float:
        """What R1 and R2 are multiplied by in this step."""
        return 1 + self._ramped(self.at) * (self.config.penalty_end - 1)

    def _ramped(self, step: int) -> float:
        """How much of the ramp has passed, 0 to 1, along a cosine."""
        return (1 - math.cos(math.pi * min(step / self.config.ramp, 1.0))) / 2 if self.config.ramp else 0.0

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Set what the ramp changes, then update as every latent variant does."""
        if self.config.ramp:
            self._set_rates(self._ramped(step))
        return super().step(batch, step, update)

    def _set_rates(self, done: float) -> None:
        """Set β2 and the learning rate, functions of the step alone."""
        config = self.config
        beta2_end = config.beta2 if config.beta2_end is None else config.beta2_end
        changed: dict[str, Any] = {"betas": (config.beta1, config.beta2 + done * (beta2_end - config.beta2))}
        if config.lr_end != 1:  # Otherwise --decay may lower it.
            changed["lr"] = config.lr * (1 + done * (config.lr_end - 1))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group.update(changed)
