"""Ways to double a feature map: their shapes, their start, and the networks that they are in."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganedge.models import find, weights
from ganedge.models.upsample import PhaseConv, Upsampling, doubling

WAYS = get_args(Upsampling)
SMALL: dict[str, dict[str, Any]] = {
    "dcgan": {"size": 16, "width": 4},
    "dcgan, resnet": {"size": 16, "width": 4, "arch": "resnet"},
    "pix2pix": {"size": 32, "width": 4, "channels": 1},
    "cyclegan": {"size": 32, "width": 4, "blocks": 1, "channels": 1},
    "cyclegan, conv": {"size": 32, "width": 4, "blocks": 1, "channels": 1, "nets": "conv"},
}


def build(name: str, **more: Any) -> nn.Module:
    variant = find(name.partition(",")[0])
    gan = variant(variant.config_class(**{**SMALL[name], **more}))
    return gan.networks[next(iter(gan.generators()))]


@pytest.mark.parametrize("way", WAYS)
def test_it_doubles(way: Upsampling) -> None:
    layers = nn.Sequential(*doubling(6, 5, way, bias=False))
    assert layers(torch.randn(2, 6, 3, 4)).shape == (2, 5, 6, 8)
    assert all(not name.endswith("bias") for name, _ in layers.named_parameters())


def test_shuffling_begins_as_a_resize_after_a_convolution() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*doubling(6, 5, "shuffle"))
    features = torch.randn(2, 6, 3, 4)
    assert not torch.equal(layers(features), F.interpolate(layers(features)[..., ::2, ::2], scale_factor=2.0))
    layers.apply(weights.normal)
    torch.testing.assert_close(layers(features), F.interpolate(layers(features)[..., ::2, ::2], scale_factor=2.0))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SMALL)
def test_every_generator_has_it(name: str, way: Upsampling) -> None:
    torch.manual_seed(0)
    network = build(name, upsample=way).eval()
    kinds = {type(module) for module in network.modules()}
    assert (nn.ConvTranspose2d in kinds) == (way == "transpose")
    assert (PhaseConv in kinds) == (way == "shuffle")
    given = torch.randn(2, 100) if "dcgan" in name else torch.randn(2, 1, 32, 32)
    assert network(given).shape[2:] == ((16, 16) if "dcgan" in name else (32, 32))


@pytest.mark.parametrize(
    ("name", "faithful"),
    [("dcgan", "transpose"), ("pix2pix", "transpose"), ("cyclegan", "resize"), ("cyclegan, conv", "transpose")],
)
def test_the_default_is_the_write_ups(name: str, faithful: Upsampling) -> None:
    assert list(build(name).state_dict()) == list(build(name, upsample=faithful).state_dict())
