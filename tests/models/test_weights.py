"""Checkpoints whose networks had parts of other names load, and give the same values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ganedge.models import VARIANTS, find
from ganedge.models.weights import OLD_NAMES

OLD_PARTS = {
    "circles": {"generator": ["place"]},
    "mlp": {"generator": ["draw"], "discriminator": ["judge"]},
    "digit": {"generator": ["draw"], "discriminator": ["judge"]},
    "dcgan": {"generator": ["draw"], "discriminator": ["look", "judge"]},
    "wgan": {"generator": ["draw"]},
    "pix2pix": {"discriminator": ["judge"]},
    "cyclegan": {"discriminator-a": ["judge"], "discriminator-b": ["judge"]},
    "stargan": {},
}
"""By variant and network: the parts that were called so."""


def test_every_variant_is_here() -> None:
    assert OLD_PARTS.keys() == {variant.name for variant in VARIANTS}


@pytest.mark.parametrize("name", OLD_PARTS)
def test_old_keys_load(name: str) -> None:
    variant = find(name)
    config = variant.config_class()
    if hasattr(config, "channels"):
        config = replace(config, channels=3)
    gan = variant(replace(config, class_names="a,b") if name == "stargan" else config)
    for network_name, parts in OLD_PARTS[name].items():
        network = gan.networks[network_name]
        state = {key: torch.rand_like(value.float()).to(value.dtype) for key, value in network.state_dict().items()}
        old = dict(state)
        for part in parts:
            begin = f"{OLD_NAMES[part]}."
            changed = [key for key in old if key.startswith(begin)]
            assert changed, (network_name, part)
            for key in changed:
                old[f"{part}.{key.removeprefix(begin)}"] = old.pop(key)
        network.load_state_dict(old)
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_a_key_that_never_was_is_still_refused() -> None:
    network = find("dcgan")(replace(find("dcgan").config_class(), channels=1)).networks["discriminator"]
    with pytest.raises(RuntimeError, match="unknown"):
        network.load_state_dict({**network.state_dict(), "unknown.weight": torch.zeros(1)})
