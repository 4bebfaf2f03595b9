"""The optimizers of the variants, one for each network.

optimizers = adams({"generator": generator, "discriminator": discriminator}, config)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from ganedge.models.variant import VariantConfig, require


@dataclass(frozen=True, kw_only=True)
class AdamConfig(VariantConfig):
    """The settings of every GAN that Adam trains."""

    lr: float = 2e-4
    """Adam's learning rate, of all networks."""
    beta1: float = 0.5
    """Adam's decay of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay of the squared gradient."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.lr > 0, "lr", self.lr, "more than 0")
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "0 or more and below 1")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "0 or more and below 1")


def adams(networks: Mapping[str, nn.Module], config: AdamConfig) -> dict[str, Optimizer]:
    """One Adam for each network."""
    betas = (config.beta1, config.beta2)
    return {name: torch.optim.Adam(each.parameters(), config.lr, betas, fused=True) for name, each in networks.items()}


def rmsprops(networks: Mapping[str, nn.Module], lr_g: float, lr_d: float) -> dict[str, Optimizer]:
    """One RMSprop for the generator and one for the discriminator."""
    rates = {"generator": lr_g, "discriminator": lr_d}
    return {name: torch.optim.RMSprop(networks[name].parameters(), lr) for name, lr in rates.items()}
