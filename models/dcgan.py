"""DCGAN: latents to pictures through transposed convolutions (Radford et al. 2015, arXiv:1511.06434).

    gan-train dcgan --data digits --out runs/digits --channels 1
    gan-train dcgan --data mnist --out runs/mnist --preset mnist --max-minutes 20

The preset `mnist` draws its own 28 × 28 by class, twice as wide and with twice the learning rate: after twenty minutes
on two CPU cores its digits are far nearer to MNIST's than the default's (benchmarks/LOG.md has the figures).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ganedge.models import weights
from ganedge.models.latent import ConditionalConfig, LatentGAN, to_pictures
from ganedge.models.optimizers import AdamConfig, adams
from ganedge.models.variant import VariantConfig, Wants, require
from ganedge.runtime.manifest import Interface


@dataclass(frozen=True, kw_only=True)
class Config(ConditionalConfig, AdamConfig):
    """Sizes, objective and optimisation of a DCGAN."""

    size: int = 32
    """Height and width of the pictures, pixels: 4, 5, 6 or 7, doubled twice or more (16, 28, 32, 48, 64...)."""
    width: int = 32
    """Channels of the widest pictures' feature maps; each halving of the size doubles them."""

    @property
    def trains_in_bf16(self) -> bool:
        """Measured, also with the penalty R1; not with that of wgan-gp, nor with pairs and R2 (benchmarks/LOG.md)."""
        return self.objective not in ("wgan-gp", "rpgan") and self.r2 == 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(
            self.size == self.start << self.doublings >= 16, "size", self.size, "4, 5, 6 or 7 doubled twice or more"
        )
        require(self.width >= 1, "width", self.width, "1 or more")

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
        layers: list[nn.Module] = [nn.Unflatten(1, (features, start, start))]
        for _ in range(config.doublings - 1):
            layers += [nn.ConvTranspose2d(features, features // 2, 4, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(features // 2), nn.ReLU(inplace=True)]
            features //= 2
        layers += [nn.ConvTranspose2d(features, config.channels or 3, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

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
        features = config.width
        layers: list[nn.Module] = [nn.Conv2d(config.channels or 3, features, 4, 2, 1, bias=False)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        for _ in range(config.doublings - 1):
            layers += [nn.Conv2d(features, features * 2, 4, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(features * 2), nn.LeakyReLU(0.2, inplace=True)]
            features *= 2
        features *= config.start**2
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


class DCGAN(LatentGAN):
    """The variant: two networks, two Adams, one step each per batch."""

    name: ClassVar[str] = "dcgan"
    summary: ClassVar[str] = "latents to pictures through transposed convolutions (preset: mnist)"
    config_class: ClassVar[type[VariantConfig]] = Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mnist": {"size": 28, "width": 64, "conditional": True, "lr": 4e-4, "ema": 0.9998, "epochs": 15}
    }

    def __init__(self, config: Config) -> None:
        self.config = config
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        for network in (self.generator, self.discriminator):
            network.apply(weights.normal)
        super().__init__(config, self.generator, self.discriminator)
        self.optimizers = adams(self.networks, config)

    @staticmethod
    def wants(config: Config) -> Wants:
        """Single pictures in -1 to 1, the range of tanh."""
        return Wants("images", config.size, config.channels, labels=config.conditional)

    def generators(self) -> dict[str, Interface]:
        """One generator: normal latents, and a label where it is conditional, to pictures."""
        config = self.config
        return {"generator": to_pictures(config, config.channels or 3, config.size, classes=config.classes)}
