"""Start values of convolutional GANs, spectral normalisation, and weights that were saved under earlier names.

network.apply(normal)
network.apply(spectral)
accept_old_keys(network)
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrizations

from ganedge.models.upsample import PhaseConv

OLD_NAMES = {"draw": "layers", "look": "features", "judge": "head", "place": "layers"}
"""Earlier names of the networks' parts and their present names, so that old checkpoints keep loading."""


def normal(module: nn.Module) -> None:
    """Normal weights with deviation 0.02 (Radford et al. 2015, arXiv:1511.06434, section 4); BatchNorm's around 1."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    if isinstance(module, PhaseConv):
        module.start_alike()


def spectral(module: nn.Module) -> None:
    """Spectral normalisation, Miyato et al. 2018 (arXiv:1802.05957), by one power iteration a step."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        parametrizations.spectral_norm(module)


def accept_old_keys(network: nn.Module) -> None:
    """Let a network load checkpoints in which its parts have the names of `OLD_NAMES`."""
    network.register_load_state_dict_pre_hook(_rename_old_keys)  # type: ignore[no-untyped-call]


def _rename_old_keys(network: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Give the keys of an older checkpoint their new names, in place; a pre-hook of `load_state_dict`."""
    for key in [key for key in state if key.startswith(prefix)]:
        part, dot, rest = key.removeprefix(prefix).partition(".")
        new = OLD_NAMES.get(part)
        if new is not None and hasattr(network, new) and not hasattr(network, part):
            state[f"{prefix}{new}{dot}{rest}"] = state.pop(key)
