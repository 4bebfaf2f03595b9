"""The optimizers of the variants, one for each network.

optimizers = adams({"generator": generator, "discriminator": discriminator}, config)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

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


class Optimizers(Mapping[str, Optimizer]):
    """Optimizers by name, made when the first is needed: what an export has no use for takes seconds to import.

    Args:
        make: Makes one of them for the parameters of a network.
        networks: The networks, by the names of their optimizers.
    """

    def __init__(self, make: Callable[[str, nn.Module], Optimizer], networks: Mapping[str, nn.Module]) -> None:
        self._make = make
        self._networks = dict(networks)

    @cached_property
    def _made(self) -> dict[str, Optimizer]:
        return {name: self._make(name, network) for name, network in self._networks.items()}

    def __getitem__(self, name: str) -> Optimizer:
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)


def adams(networks: Mapping[str, nn.Module], config: AdamConfig) -> Optimizers:
    """One Adam for each network."""
    betas = (config.beta1, config.beta2)
    return Optimizers(lambda _, each: torch.optim.Adam(each.parameters(), config.lr, betas, fused=True), networks)


def rmsprops(networks: Mapping[str, nn.Module], lr_g: float, lr_d: float) -> Optimizers:
    """One RMSprop for the generator and one for the discriminator."""
    rates = {"generator": lr_g, "discriminator": lr_d}
    trained = {name: networks[name] for name in rates}
    return Optimizers(lambda name, each: torch.optim.RMSprop(each.parameters(), rates[name]), trained)
