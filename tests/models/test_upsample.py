"""Ways to double a feature map: their shapes, their start, and the networks that they are in."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganedge.models import find, weights
from ganedge.models.residual import PoolConv
from ganedge.models.upsample import PhaseConv, ResizeConv, Upsampling, doubling

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


@pytest.mark.parametrize("last", [False, True])
def test_bilinear_doubling_is_smooth_but_for_a_last_convolution(last: bool) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*doubling(6, 5, "bilinear", last=last))
    features = torch.randn(2, 6, 3, 4)
    convolution = next(module for module in layers if isinstance(module, nn.Conv2d))
    enlarged = F.interpolate(features if last else convolution(features), scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(layers(features), convolution(enlarged) if last else enlarged)


def test_shuffling_begins_as_a_resize_after_a_convolution() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*doubling(6, 5, "shuffle"))
    features = torch.randn(2, 6, 3, 4)
    assert not torch.equal(layers(features), F.interpolate(layers(features)[..., ::2, ::2], scale_factor=2.0))
    layers.apply(weights.normal)
    torch.testing.assert_close(layers(features), F.interpolate(layers(features)[..., ::2, ::2], scale_factor=2.0))


@pytest.mark.parametrize("kind", [ResizeConv, PoolConv])
@pytest.mark.parametrize("sides", [(6, 4), (5, 7), (2, 2)])
def test_training_computes_what_is_exported(kind: Any, sides: tuple[int, int]) -> None:
    """Values, gradients and the gradients of a gradient penalty, by another convolution and less arithmetic."""
    torch.manual_seed(0)
    layer = (ResizeConv(3, 5, bias=True) if kind is ResizeConv else PoolConv(3, 5)).double()
    convolution = nn.Conv2d(3, 5, 3, 1, 1).double()
    convolution.load_state_dict(layer.state_dict())
    plain = [nn.Upsample(scale_factor=2.0), convolution] if kind is ResizeConv else [convolution, nn.AvgPool2d(2)]
    features = torch.randn(2, 3, *sides, dtype=torch.float64, requires_grad=True)
    found = []
    for is_training in (True, False):
        layer.train(is_training)
        output = layer(features)
        (slope,) = torch.autograd.grad(output.square().sum(), features, create_graph=True)
        found.append((output, slope, *torch.autograd.grad(slope.square().sum(), (features, *layer.parameters()))))
    for trained, exported in zip(*found, strict=True):
        torch.testing.assert_close(trained, exported)
    torch.testing.assert_close(found[0][0], nn.Sequential(*plain)(features))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SMALL)
def test_every_generator_has_it(name: str, way: Upsampling) -> None:
    torch.manual_seed(0)
    network = build(name, upsample=way).eval()
    kinds = {type(module) for module in network.modules()}
    assert (nn.ConvTranspose2d in kinds) == (way == "transpose")
    assert (PhaseConv in kinds) == (way == "shuffle")
    resized = {module.mode for module in network.modules() if isinstance(module, nn.Upsample)}
    assert ("bilinear" in resized) == (way == "bilinear")
    assert "nearest" not in resized or way != "bilinear", "nor in a skip"
    given = torch.randn(2, 100) if "dcgan" in name else torch.randn(2, 1, 32, 32)
    assert network(given).shape[2:] == ((16, 16) if "dcgan" in name else (32, 32))


@pytest.mark.parametrize(
    ("name", "faithful"),
    [("dcgan", "transpose"), ("pix2pix", "transpose"), ("cyclegan", "resize"), ("cyclegan, conv", "transpose")],
)
def test_the_default_is_the_write_ups(name: str, faithful: Upsampling) -> None:
    assert list(build(name).state_dict()) == list(build(name, upsample=faithful).state_dict())
