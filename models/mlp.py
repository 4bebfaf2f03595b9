"""The GAN of fully connected layers, with which Goodfellow et al. 2014 (arXiv:1406.2661) began.

    gan-train mlp --data mnist --out runs/mlp                       # preset batchnorm
    gan-train mlp --data mnist --out runs/mlp --preset dropout

The preset `batchnorm` is the default: its samples are the sharper ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ganedge.models import weights
from ganedge.models.latent import ConditionalConfig, LatentGAN, to_pictures
from ganedge.models.noise import Dropout
from ganedge.models.optimizers import AdamConfig, adams
from ganedge.models.variant import VariantConfig, Wants, require, usual
from ganedge.runtime.manifest import Interface, Noise

EPS = 0.8
"""Epsilon of BatchNorm. The original write-up meant it as momentum; kept, because its results depend on it."""


@dataclass(frozen=True, kw_only=True)
class Config(ConditionalConfig, AdamConfig):
    """Sizes, objective and optimisation of a fully connected GAN."""

    epochs: int = 200
    """Passes over the data."""
    sample_every: int = 400
    """Steps, or epochs where --sample-unit says so, between two pictures of the same noise in the run folder."""
    grid: int = 5
    """Pictures in a row of a sample in the run folder, and rows."""
    size: int = 28
    """Height and width of the pictures, pixels."""
    hidden_g: str = "128,256,512,1024"
    """Features of the generator's hidden layers."""
    hidden_d: str = "512,256"
    """Features of the discriminator's hidden layers."""
    batchnorm: bool = True
    """BatchNorm on the generator's hidden layers but the first."""
    dropout: float = 0.0
    """Share of the hidden features that both networks drop in training."""
    noise: Noise = "normal"
    """What latents are drawn from: standard normal, or uniform over -1 to 1."""
    halve_d: bool = True
    """Halve the discriminator's loss: the mean over real and generated pictures in place of the sum."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.size >= 4, "size", self.size, "4 or more")
        for name in ("hidden_g", "hidden_d"):
            text = getattr(self, name)
            plain = all(part.isascii() and part.isdigit() and int(part) > 0 for part in text.split(","))
            require(plain, name, text, "whole numbers from 1, separated by commas")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more and below 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a picture, `[C, H, W]`."""
        return (self.channels or 1, self.size, self.size)


def _hidden(config: Config, features: int, widths: str, batchnorm: bool = False) -> tuple[list[nn.Module], int]:
    """Make the hidden layers for so many input features; returns them and their number of output features."""
    layers: list[nn.Module] = []
    for width in map(int, widths.split(",")):
        normalised = batchnorm and bool(layers)  # Not the first layer.
        layers.append(nn.Linear(features, width))
        layers += [nn.BatchNorm1d(width, EPS)] if normalised else []
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        layers += [Dropout(config.dropout)] if config.dropout else []
        features = width
    return layers, features


class Generator(nn.Module):
    """Latents `[N, latent]` and perhaps labels `[N]` to pictures `[N, channels, size, size]` in -1 to 1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        classes = len(config.classes)
        self.embed = nn.Embedding(classes, classes) if classes else None
        layers, features = _hidden(config, config.latent + classes, config.hidden_g, config.batchnorm)
        channels, height, width = config.shape
        layers += [nn.Linear(features, channels * height * width), nn.Tanh(), nn.Unflatten(1, config.shape)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:  # [N, latent], [N] → [N, C, H, W]
        """Draw one picture per latent."""
        if self.embed is not None:
            latent = torch.cat((latent, self.embed(label)), 1)
        pictures: Tensor = self.layers(latent)
        return pictures


class Discriminator(nn.Module):
    """Pictures `[N, channels, size, size]` and perhaps labels `[N]` to one logit each, `[N, 1]`: high means real."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        classes = len(config.classes)
        self.embed = nn.Embedding(classes, classes) if classes else None
        channels, height, width = config.shape
        layers, features = _hidden(config, channels * height * width + classes, config.hidden_d)
        self.head = nn.Sequential(*layers, nn.Linear(features, 1))

    def forward(self, pictures: Tensor, label: Tensor | None = None) -> Tensor:  # [N, C, H, W], [N] → [N, 1]
        """Judge each picture."""
        seen = pictures.flatten(1)
        if self.embed is not None:
            seen = torch.cat((seen, self.embed(label)), 1)
        logits: Tensor = self.head(seen)
        return logits


DROPOUT: Mapping[str, Any] = {
    "epochs": 100,
    "sample_every": 1,
    "sample_unit": "epochs",
    "grid": 8,
    "hidden_g": "32,64,128",
    "hidden_d": "128,64,32",
    "batchnorm": False,
    "dropout": 0.3,
    "noise": "uniform",
    "halve_d": False,
    "real_label": 0.9,
    "lr": 2e-3,
    "beta1": 0.9,
}
"""The preset `dropout`."""


class MLP(LatentGAN):
    """The variant: two networks and two Adams."""

    name: ClassVar[str] = "mlp"
    summary: ClassVar[str] = "latents to small pictures through fully connected layers (presets: batchnorm, dropout)"
    config_class: ClassVar[type[VariantConfig]] = Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "batchnorm": usual(Config, DROPOUT),
        "dropout": DROPOUT,
    }

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), Discriminator(config))
        self.config = config
        self.noise = config.noise
        self.d_factor = 0.5 if config.halve_d else 1.0
        self.optimizers = adams(self.networks, config)

    @staticmethod
    def wants(config: Config) -> Wants:
        """Single pictures in -1 to 1, the range of tanh."""
        return Wants("images", config.size, config.channels, labels=config.conditional, flip=config.mirror)

    def generators(self) -> dict[str, Interface]:
        """One generator: latents, and a label where it is conditional, to pictures."""
        channels, size, _ = self.config.shape
        given = {"noise": self.config.noise, "classes": self.config.classes}
        return {"generator": to_pictures(self.config, channels, size, **given)}
