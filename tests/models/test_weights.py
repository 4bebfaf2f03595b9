"""Checkpoints whose networks had parts of other names load, and give the same values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ganedge.models import VARIANTS, find
from ganedge.models.weights import OLD_NAMES, accept_old_keys, normal

OLD_PARTS = {
    "circles": {"generator": ["place"]},
    "mlp": {"generator": ["draw"], "discriminator": ["judge"]},
    "digit": {"generator": ["draw"], "discriminator": ["judge"]},
    "dcgan": {"generator": ["draw"], "discriminator": ["look", "judge"]},
    "wgan": {"generator": ["draw"]},
    "pix2pix": {"discriminator": ["judge"]},
    "cyclegan": {"discriminator-a": ["judge"], "discriminator-b": ["judge"]},
    "stargan": {},
    "augmented-cyclegan": {},
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


def test_start_values_are_those_of_dcgan() -> None:
    torch.manual_seed(0)
    for layer in (torch.nn.Conv2d(64, 64, 4), torch.nn.ConvTranspose2d(64, 64, 4)):
        bias = layer.bias.detach().clone() if layer.bias is not None else None
        layer.apply(normal)
        assert abs(float(layer.weight.detach().mean())) < 3e-4
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
        assert bias is not None
        torch.testing.assert_close(layer.bias, bias)
    norm = torch.nn.BatchNorm2d(20_000).apply(normal)
    assert float(norm.weight.detach().mean()) == pytest.approx(1, abs=1e-3)
    assert float(norm.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    linear = torch.nn.Linear(3, 3)
    before = linear.weight.detach().clone()
    torch.testing.assert_close(linear.apply(normal).weight, before)


def test_old_keys_of_a_part_of_a_larger_network() -> None:
    """Keys keep their prefix, and a part that is called so today is not renamed."""
    inner = torch.nn.Module()
    inner.layers = torch.nn.Linear(2, 2)
    accept_old_keys(inner)
    outer = torch.nn.Module()
    outer.draw, outer.inner = torch.nn.Linear(2, 2), inner
    state = {key: torch.rand_like(value) for key, value in outer.state_dict().items()}
    outer.load_state_dict({key.replace("inner.layers.", "inner.draw."): value for key, value in state.items()})
    assert all(torch.equal(value, state[key]) for key, value in outer.state_dict().items())
    both = torch.nn.Module()
    both.draw, both.layers = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    accept_old_keys(both)
    state = {key: torch.rand_like(value) for key, value in both.state_dict().items()}
    both.load_state_dict(dict(state))
    assert all(torch.equal(value, state[key]) for key, value in both.state_dict().items())
