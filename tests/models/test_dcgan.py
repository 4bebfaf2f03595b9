"""The DCGAN's networks have the shapes of the recipe, and its step moves the right weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ganedge.models import VARIANTS, find
from ganedge.models.dcgan import DCGAN, Config
from ganedge.runtime.errors import UsageError


def layers(network: nn.Module, kind: type) -> list[tuple[int, int]]:
    return [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, kind)]


def test_dcgan_64() -> None:
    gan = DCGAN(Config(size=64, width=64, channels=3))
    assert gan.generator.project.out_features == 512 * 4 * 4
    assert layers(gan.generator, nn.ConvTranspose2d) == [(512, 256), (256, 128), (128, 64), (64, 3)]
    assert layers(gan.discriminator, nn.Conv2d) == [(3, 64), (64, 128), (128, 256), (256, 512)]
    assert len([m for m in gan.generator.modules() if isinstance(m, nn.BatchNorm2d)]) == 3
    assert len([m for m in gan.discriminator.modules() if isinstance(m, nn.BatchNorm2d)]) == 3
    for module in (*gan.generator.modules(), *gan.discriminator.modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            assert (module.kernel_size, module.stride, module.padding, module.bias) == ((4, 4), (2, 2), (1, 1), None)


@pytest.mark.parametrize("size", [16, 32, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size: int, channels: int) -> None:
    gan = DCGAN(Config(size=size, width=4, channels=channels))
    pictures = gan.generator(torch.randn(2, 100))
    assert pictures.shape == (2, channels, size, size)
    assert pictures.abs().max() <= 1
    assert gan.discriminator(pictures).shape == (2, 1)


@pytest.mark.parametrize("objective", ["bce", "lsgan", "wgan", "wgan-gp", "hinge"])
def test_a_step_updates_each_network_with_its_own_loss(objective: Any) -> None:
    torch.manual_seed(0)
    gan = DCGAN(Config(size=16, width=4, channels=1, objective=objective, r1=1.0))
    touched: list[tuple[str, set[str]]] = []

    def update(name: str, loss: torch.Tensor, keep_graph: bool = False) -> None:
        before = {key: [p.detach().clone() for p in network.parameters()] for key, network in gan.networks.items()}
        optimizer = gan.optimizers[name]
        optimizer.zero_grad()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        loss.backward(retain_graph=keep_graph, inputs=parameters)  # type: ignore[no-untyped-call]
        optimizer.step()
        moved = {
            key
            for key, network in gan.networks.items()
            if any(not torch.equal(a, b) for a, b in zip(network.parameters(), before[key], strict=True))
        }
        touched.append((name, moved))

    losses = gan.step({"images": torch.rand(8, 1, 16, 16) * 2 - 1}, 0, update)
    assert touched == [("generator", {"generator"}), ("discriminator", {"discriminator"})]
    assert all(value.ndim == 0 and not value.requires_grad for value in losses.values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 30),
        ("size", 8),
        ("channels", 2),
        ("width", 0),
        ("latent", 0),
        ("lr", 0),
        ("beta1", 1),
        ("ema", 1),
        ("batch", 0),
    ],
)
def test_a_config_that_cannot_work_names_the_option(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{field} is {value}"):
        Config(**{field: value})


def test_find() -> None:
    assert find("dcgan") is DCGAN
    with pytest.raises(UsageError, match=r"unknown variant 'dcgam': choose .*dcgan"):
        find("dcgam")
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
