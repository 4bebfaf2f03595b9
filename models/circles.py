"""Points on a circle: the smallest GAN, trained in minutes.

gan-train circles --data circles --out runs/circles
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ganedge.models import weights
from ganedge.models.latent import LatentConfig, LatentGAN
from ganedge.models.optimizers import rmsprops
from ganedge.models.variant import VariantConfig, Wants, require
from ganedge.runtime.manifest import Interface, Port


@dataclass(frozen=True, kw_only=True)
class Config(LatentConfig):
    """Sizes and optimisation of the GAN of a circle."""

    epochs: int = 100
    """Passes over the data."""
    batch: int = 4
    """Items in one step, over all devices."""
    sample_every: int = 20
    """Epochs, or steps where --sample-unit says so, between two plots in the run folder."""
    sample_unit: Literal["steps", "epochs"] = "epochs"
    """What --sample-every counts."""
    latent: int = 2
    """Length of the latent vector."""
    width: int = 8
    """Features of each hidden layer."""
    lr_g: float = 1e-3
    """RMSprop's learning rate of the generator."""
    lr_d: float = 5e-3
    """RMSprop's learning rate of the discriminator."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.width >= 1, "width", self.width, "1 or more")
        require(self.lr_g > 0, "lr_g", self.lr_g, "more than 0")
        require(self.lr_d > 0, "lr_d", self.lr_d, "more than 0")


def network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Two hidden layers with tanh, between features `[N, inputs]` and `[N, outputs]`."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, outputs)
    )


class Generator(nn.Module):
    """Latents `[N, latent]` to points `[N, 2]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        weights.accept_old_keys(self)
        self.layers = network(config.latent, config.width, 2)

    def forward(self, latent: Tensor) -> Tensor:  # [N, latent] → [N, 2]
        """Place one point per latent."""
        points: Tensor = self.layers(latent)
        return points


class Circles(LatentGAN):
    """The variant: two small networks, two RMSprops."""

    name: ClassVar[str] = "circles"
    summary: ClassVar[str] = "latents to points on a circle, with two hidden layers of eight"
    config_class: ClassVar[type[VariantConfig]] = Config
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    real_key = "points"

    def __init__(self, config: Config) -> None:
        super().__init__(config, Generator(config), network(2, config.width, 1))
        self.config = config
        self.optimizers = rmsprops(self.networks, config.lr_g, config.lr_d)

    @staticmethod
    def wants(config: Config) -> Wants:  # noqa: ARG004 - as the protocol has it
        """Points of the plane."""
        return Wants("points")

    def generators(self) -> dict[str, Interface]:
        """One generator: normal latents to points."""
        latent = Port("latent", "latent", "float32", ("batch", self.config.latent), "NC")
        points = Port("points", "points", "float32", ("batch", 2), "NC")
        return {"generator": Interface("latent-to-points", (latent,), (points,), noise="normal")}
