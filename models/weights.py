"""How convolutional GANs start: weights close to zero.

network.apply(normal)
"""

from __future__ import annotations

from torch import nn


def normal(module: nn.Module) -> None:
    """Normal weights with deviation 0.02 (Radford et al. 2015, arXiv:1511.06434, section 4); BatchNorm's around 1."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
