"""DCGAN: latents to pictures through transposed convolutions (Radford et al. 2015, arXiv:1511.06434).

gan-train dcgan --data digits --out runs/digits --channels 1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ganedge.models.objectives import OBJECTIVES, Name, r1_penalty
from ganedge.models.variant import Batch, Update, VariantConfig, Wants, require
from ganedge.runtime.manifest import Interface, Port


@dataclass(frozen=True, kw_only=True)
class Config(VariantConfig):
    """Sizes, objective and optimisation of a DCGAN."""

    size: int = 32
    """Height and width of the pictures, pixels: a power of two, 16 or more."""
    channels: int | None = None
    """1 grey, 3 colour; as the data has by default."""
    width: int = 32
    """Channels of the widest pictures' feature maps; each halving of the size doubles them."""
    latent: int = 100
    """Length of the latent vector."""
    objective: Name = "bce"
    """Adversarial loss."""
    r1: float = 0.0
    """Weight of the R1 gradient penalty on real pictures; 0 leaves it out."""
    lr: float = 2e-4
    """Adam's learning rate, of both networks."""
    beta1: float = 0.5
    """Adam's decay of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay of the squared gradient."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        power = self.size >= 16 and self.size & (self.size - 1) == 0
        require(power, "size", self.size, "a power of two, 16 or more")
        require(self.channels in (None, 1, 3), "channels", self.channels, "1 or 3")
        require(self.width >= 1, "width", self.width, "1 or more")
        require(self.latent >= 1, "latent", self.latent, "1 or more")
        require(self.r1 >= 0, "r1", self.r1, "0 or more")
        require(self.lr > 0, "lr", self.lr, "more than 0")
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "0 or more and below 1")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "0 or more and below 1")


class Generator(nn.Module):
    """Latents `[N, latent]` to pictures `[N, channels, size, size]` in -1 to 1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        features = config.size // 8 * config.width
        self.project = nn.Linear(config.latent, features * 4 * 4)
        layers: list[nn.Module] = [nn.Unflatten(1, (features, 4, 4))]
        for _ in range(config.size.bit_length() - 4):
            layers += [nn.ConvTranspose2d(features, features // 2, 4, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(features // 2), nn.ReLU(inplace=True)]
            features //= 2
        layers += [nn.ConvTranspose2d(features, config.channels or 3, 4, 2, 1, bias=False), nn.Tanh()]
        self.draw = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:  # [N, latent] → [N, C, H, W]
        """Draw one picture per latent."""
        pictures: Tensor = self.draw(self.project(latent))
        return pictures


class Discriminator(nn.Module):
    """Pictures `[N, channels, size, size]` to one logit each, `[N, 1]`: high means real."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        features = config.width
        layers: list[nn.Module] = [nn.Conv2d(config.channels or 3, features, 4, 2, 1, bias=False)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        for _ in range(config.size.bit_length() - 4):
            layers += [nn.Conv2d(features, features * 2, 4, 2, 1, bias=False)]
            layers += [nn.BatchNorm2d(features * 2), nn.LeakyReLU(0.2, inplace=True)]
            features *= 2
        self.judge = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features * 4 * 4, 1))

    def forward(self, pictures: Tensor) -> Tensor:  # [N, C, H, W] → [N, 1]
        """Judge each picture."""
        logits: Tensor = self.judge(pictures)
        return logits


class DCGAN:
    """The variant: two networks, two Adams, one step each per batch."""

    name: ClassVar[str] = "dcgan"
    summary: ClassVar[str] = "latents to pictures of any power-of-two size through transposed convolutions"
    config_class: ClassVar[type[VariantConfig]] = Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, config: Config) -> None:
        self.config = config
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        self.networks: Mapping[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        for network in self.networks.values():
            network.apply(_initialise)
        betas = (config.beta1, config.beta2)
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(network.parameters(), config.lr, betas, fused=True)
            for name, network in self.networks.items()
        }

    @staticmethod
    def wants(config: Config) -> Wants:
        """Single pictures in -1 to 1, the range of tanh."""
        return Wants("images", config.size, config.channels, (-1.0, 1.0))

    def generators(self) -> dict[str, Interface]:
        """One generator: normal latents to pictures."""
        config = self.config
        latent = Port("latent", "latent", "float32", ("batch", config.latent), "NC")
        shape = ("batch", config.channels or 3, config.size, config.size)
        image = Port("image", "image", "float32", shape, "NCHW", (-1.0, 1.0))
        return {"generator": Interface("latent-to-image", (latent,), (image,), noise="normal")}

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Update the discriminator, then the generator."""
        objective = OBJECTIVES[self.config.objective]
        real = batch["images"]

        # Update the discriminator.
        fake = self.generator(torch.randn(len(real), self.config.latent, device=real.device))
        real.requires_grad_(self.config.r1 > 0)
        real_logits = self.discriminator(real)
        loss_d = objective.discriminator(real_logits, self.discriminator(fake.detach()))
        penalty = self.config.r1 / 2 * r1_penalty(real_logits, real) if self.config.r1 > 0 else 0.0
        update("discriminator", loss_d + penalty)

        # Update the generator.
        loss_g = objective.generator(self.discriminator(fake))
        update("generator", loss_g)
        return {"loss_d": loss_d.detach(), "loss_g": loss_g.detach()}


def _initialise(module: nn.Module) -> None:
    """Radford et al. 2015, section 4: weights from a normal distribution with deviation 0.02."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
