"""Wasserstein GAN: a critic that measures how far generated pictures are from real ones (arXiv:1701.07875).

    gan-train wgan --data faces/ --out runs/wgan
    gan-train wgan --data faces.csv --fraction 0.1 --out runs/wgan --nets mlp

The critic gives low numbers to real pictures: it minimises C(real) - C(fake), and the generator C(G(z)). Reported are
`loss_d`, that is C(real) - C(fake), its parts `real_d` and `fake_d`, and `loss_g`, that is C(G(z)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ganedge.models import weights
from ganedge.models.latent import LatentGAN, PictureConfig, to_pictures
from ganedge.models.objectives import Name
from ganedge.models.optimizers import rmsprops
from ganedge.models.variant import VariantConfig, Wants, only_with, require
from ganedge.runtime.manifest import Interface

WARM_UP = 25
"""With `--warm-up`, generator steps at the start before each of which the critic takes `LONG` steps."""
EVERY = 500
"""And generator steps after which it does so once more."""
LONG = 100
"""Critic steps before those."""


@dataclass(frozen=True, kw_only=True)
class Config(PictureConfig):
    """Sizes, objective and optimisation of a Wasserstein GAN."""

    epochs: int = 5
    """Passes over the data."""
    size: int = 64
    """Height and width of the pictures, pixels: a power of two, 16 or more."""
    channels: int | None = None
    """1 grey, 3 colour; as the data has by default."""
    width: int = only_with("nets", "conv", 64)
    """Channels of the widest pictures' feature maps; each halving of the size doubles them."""
    extra_layers: int = only_with("nets", "conv", 0)
    """More convolutions (3×3, stride 1) at the widest pictures' feature maps, in both networks."""
    nets: Literal["conv", "mlp"] = "conv"
    """Convolutional networks, or fully connected ones with three hidden layers."""
    hidden: int = only_with("nets", "mlp", 512)
    """Features of the hidden layers with --nets mlp."""
    objective: Name = "wgan"
    """Adversarial loss."""
    d_steps: int = 5
    """Steps of the critic for one of the generator, each with a batch of its own."""
    warm_up: bool = False
    """The original's longer training of the critic: 100 steps for each of the first 25 of the generator, and once more
    after every 500."""
    lr: float = 5e-5
    """RMSprop's learning rate, of both networks."""

    @property
    def trains_in_bf16(self) -> bool:
        """Measured with clipped weights (benchmarks/LOG.md)."""
        return self.r1 == self.r2 == 0 and self.objective == "wgan"

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        power = self.size >= 16 and self.size & (self.size - 1) == 0
        require(power, "size", self.size, "a power of two, 16 or more")
        require(self.channels in (None, 1, 3), "channels", self.channels, "1 or 3")
        require(self.width >= 1, "width", self.width, "1 or more")
        require(self.extra_layers >= 0, "extra_layers", self.extra_layers, "0 or more")
        require(self.hidden >= 1, "hidden", self.hidden, "1 or more")
        require(self.lr > 0, "lr", self.lr, "more than 0")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a picture, `[C, H, W]`."""
        return (self.channels or 3, self.size, self.size)


class Generator(nn.Module):
    """Latents `[N, latent]` to pictures `[N, channels, size, size]` in -1 to 1. BatchNorm follows the activation."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        features = config.size // 8 * config.width
        layers: list[nn.Module] = [nn.Unflatten(1, (config.latent, 1, 1))]
        layers += _block(nn.ConvTranspose2d(config.latent, features, 4, 1, 0, bias=False), nn.ReLU(inplace=True))
        for _ in range(config.size.bit_length() - 4):
            up = nn.ConvTranspose2d(features, features // 2, 4, 2, 1, bias=False)
            layers += _block(up, nn.ReLU(inplace=True))
            features //= 2
        for _ in range(config.extra_layers):
            layers += _block(nn.Conv2d(features, features, 3, 1, 1, bias=False), nn.ReLU(inplace=True))
        layers += [nn.ConvTranspose2d(features, config.shape[0], 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:  # [N, latent] → [N, C, H, W]
        """Draw one picture per latent."""
        pictures: Tensor = self.layers(latent)
        return pictures


class Critic(nn.Module):
    """Pictures `[N, channels, size, size]` to one number each, `[N, 1]`: low means real."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        features = config.width
        first = nn.Conv2d(config.shape[0], features, 4, 2, 1, bias=False)
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.2, inplace=True)]
        for _ in range(config.extra_layers):
            layers += _block(nn.Conv2d(features, features, 3, 1, 1, bias=False), nn.LeakyReLU(0.2, inplace=True))
        for _ in range(config.size.bit_length() - 4):
            layers += _block(nn.Conv2d(features, features * 2, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True))
            features *= 2
        self.score = nn.Sequential(*layers, nn.Conv2d(features, 1, 4, 1, 0, bias=False), nn.Flatten())

    def forward(self, pictures: Tensor) -> Tensor:  # [N, C, H, W] → [N, 1]
        """Score each picture."""
        scores: Tensor = self.score(pictures)
        return scores


class MLPGenerator(nn.Module):
    """Latents `[N, latent]` to pictures `[N, channels, size, size]` in -1 to 1 through fully connected layers."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        channels, height, width = config.shape
        layers = _hidden(config.latent, config.hidden, channels * height * width)
        self.layers = nn.Sequential(*layers, nn.Tanh(), nn.Unflatten(1, config.shape))

    def forward(self, latent: Tensor) -> Tensor:  # [N, latent] → [N, C, H, W]
        """Draw one picture per latent."""
        pictures: Tensor = self.layers(latent)
        return pictures


class WGAN(LatentGAN):
    """The variant: a generator and a critic, two RMSprops, several critic steps for one of the generator."""

    name: ClassVar[str] = "wgan"
    summary: ClassVar[str] = "latents to pictures with a Wasserstein critic, convolutional or fully connected"
    config_class: ClassVar[type[VariantConfig]] = Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    low_is_real = True

    def __init__(self, config: Config) -> None:
        if config.nets == "conv":
            networks: tuple[nn.Module, nn.Module] = (Generator(config), Critic(config))
        else:
            channels, height, width = config.shape
            layers = _hidden(channels * height * width, config.hidden, 1)
            networks = (MLPGenerator(config), nn.Sequential(nn.Flatten(), *layers))
        for network in networks:
            network.apply(weights.normal)
        super().__init__(config, *networks)
        self.config = config
        self.optimizers = rmsprops(self.networks, config.lr, config.lr)

    @staticmethod
    def wants(config: Config) -> Wants:
        """Single pictures in -1 to 1, the range of tanh."""
        return Wants("images", config.size, config.channels, flip=config.mirror)

    def generators(self) -> dict[str, Interface]:
        """One generator: normal latents to pictures."""
        channels, size, _ = self.config.shape
        return {"generator": to_pictures(self.config, channels, size)}

    @property
    def has_rounds(self) -> bool:
        """Whether the critic ever takes several steps for one of the generator."""
        return super().has_rounds or self.config.warm_up

    def is_generators_turn(self, step: int) -> bool:
        """Whether the generator takes a step in this one too: the last of a round."""
        if not self.config.warm_up:
            return super().is_generators_turn(step)
        return is_last_critic_step(step, self.config.d_steps)


def is_last_critic_step(step: int, usual: int) -> bool:
    """Whether a generator step goes with critic step `step`, the last of its round, with the longer warm-up.

    The round of generator step i has 100 critic steps for i < 25 and wherever 500 divides i, and `usual` otherwise.
    """
    at_start = WARM_UP * LONG
    if step < at_start:
        return (step + 1) % LONG == 0
    step -= at_start
    first_round = (EVERY - WARM_UP) * usual  # What is left of the first 500 generator steps.
    if step < first_round:
        return (step + 1) % usual == 0
    step = (step - first_round) % (LONG + (EVERY - 1) * usual)
    return step + 1 == LONG or (step >= LONG and (step + 1 - LONG) % usual == 0)


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module) -> list[nn.Module]:
    """Convolution, activation, then BatchNorm: in this order BatchNorm cannot be folded into the convolution."""
    return [convolution, activation, nn.BatchNorm2d(convolution.out_channels)]


def _hidden(inputs: int, hidden: int, outputs: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.ReLU(inplace=True)]
    for _ in range(2):
        layers += [nn.Linear(hidden, hidden), nn.ReLU(inplace=True)]
    return [*layers, nn.Linear(hidden, outputs)]
