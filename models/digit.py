"""Pictures of one handwritten digit: a generator with one upsampling, and a small convolutional discriminator.

gan-train digit --data mnist --out runs/fives
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ganedge.models import weights
from ganedge.models.latent import LatentGAN, PictureConfig, to_pictures
from ganedge.models.optimizers import rmsprops
from ganedge.models.variant import VariantConfig, Wants, require
from ganedge.runtime.manifest import Interface

SIZE = 28
"""Height and width of the pictures, pixels."""


@dataclass(frozen=True, kw_only=True)
class Config(PictureConfig):
    """Sizes and optimisation of the GAN of one digit."""

    epochs: int = 26
    """Passes over the data."""
    sample_every: int = 1
    """Epochs, or steps where --sample-unit says so, between two pictures of the same noise in the run folder."""
    sample_unit: Literal["steps", "epochs"] = "epochs"
    """What --sample-every counts."""
    grid: int = 6
    """Pictures in a row of a sample in the run folder, and rows."""
    latent: int = 32
    """Length of the latent vector."""
    digit: str = "5"
    """The class to train on; empty trains on all there are."""
    lr_g: float = 5e-3
    """RMSprop's learning rate of the generator."""
    lr_d: float = 1e-3
    """RMSprop's learning rate of the discriminator."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.lr_g > 0, "lr_g", self.lr_g, "more than 0")
        require(self.lr_d > 0, "lr_d", self.lr_d, "more than 0")


class Generator(nn.Module):
    """Latents `[N, latent]` to grey pictures `[N, 1, 28, 28]` in 0 to 1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        self.layers = nn.Sequential(
            nn.Linear(config.latent, 32 * 14 * 14),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (32, 14, 14)),
            nn.ConvTranspose2d(32, 32, 3, 2, 1, output_padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 1, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latent: Tensor) -> Tensor:  # [N, latent] → [N, 1, 28, 28]
        """Draw one picture per latent."""
        pictures: Tensor = self.layers(latent)
        return pictures


class Discriminator(nn.Module):
    """Grey pictures `[N, 1, 28, 28]` to one logit each, `[N, 1]`: high means real."""

    def __init__(self) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        self.head = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, 32),
            nn.ReLU(inplace=True),
            nn.Linear(32, 8),
            nn.ReLU(inplace=True),
            nn.Linear(8, 1),
        )

    def forward(self, pictures: Tensor) -> Tensor:  # [N, 1, 28, 28] → [N, 1]
        """Judge each picture."""
        logits: Tensor = self.head(pictures)
        return logits


class Digit(LatentGAN):
    """The variant: two networks, two RMSprops."""

    name: ClassVar[str] = "digit"
    summary: ClassVar[str] = "latents to one class of MNIST (5 by default), in 0 to 1"
    config_class: ClassVar[type[VariantConfig]] = Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), Discriminator())
        self.config = config
        self.optimizers = rmsprops(self.networks, config.lr_g, config.lr_d)

    @staticmethod
    def wants(config: Config) -> Wants:
        """Grey pictures of one class in 0 to 1, the range of the sigmoid. The original scaled them twice by mistake."""
        classes = (config.digit,) if config.digit else ()
        return Wants("images", SIZE, 1, (0.0, 1.0), classes=classes, option="digit", flip=config.mirror)

    def generators(self) -> dict[str, Interface]:
        """One generator: normal latents to pictures."""
        return {"generator": to_pictures(self.config, 1, SIZE, range=(0.0, 1.0))}
