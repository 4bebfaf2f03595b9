"""The DCGAN's networks have the shapes of the recipe, and its step moves the right weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ganedge.models import VARIANTS, find
from ganedge.models.dcgan import DCGAN, Config
from ganedge.models.objectives import OBJECTIVES
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


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_updates_each_network_with_its_own_loss(objective: Any) -> None:
    torch.manual_seed(0)
    gan = DCGAN(Config(size=16, width=4, channels=1, objective=objective, r1=1.0, r2=0.5))
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


@pytest.mark.parametrize("d_steps", [1, 2])
def test_the_losses_with_pairs_and_both_penalties_are_the_papers(d_steps: int) -> None:
    """Huang et al. 2024 (arXiv:2501.05441), algorithm of section 2, written out plainly."""
    torch.manual_seed(0)
    gan = DCGAN(Config(size=16, width=4, channels=1, objective="rpgan", r1=3.0, r2=0.5, d_steps=d_steps))
    for network in gan.networks.values():
        network.eval()  # BatchNorm as a constant.
    losses: dict[str, torch.Tensor] = {}
    reported: dict[str, torch.Tensor] = {}
    real = torch.rand(8, 1, 16, 16) * 2 - 1

    def collect(name: str, loss: torch.Tensor, keep_graph: bool = False) -> None:
        losses[name] = loss

    torch.manual_seed(1)
    reported = gan.step({"images": real.clone()}, d_steps - 1, collect)
    torch.manual_seed(1)
    latent = torch.randn(8, 100)
    x, y = real.clone().requires_grad_(), gan.generator(latent).detach().requires_grad_()
    of_x, of_y = gan.discriminator(x), gan.discriminator(y)
    penalties = []
    for logits, items in ((of_x, x), (of_y, y)):
        (slope,) = torch.autograd.grad(logits.sum(), items, create_graph=True)
        penalties.append(slope.flatten(1).norm(dim=1).square().mean())
    adversarial = torch.log(1 + torch.exp(-(of_x - of_y))).mean()
    torch.testing.assert_close(losses["discriminator"], adversarial + 1.5 * penalties[0] + 0.25 * penalties[1])
    torch.testing.assert_close(losses["generator"], torch.log(1 + torch.exp(of_x - of_y)).mean())
    torch.testing.assert_close(reported["loss_d"], adversarial.detach())
    assert reported["accuracy_d"] == (of_x > of_y).float().mean()
    own = list(gan.discriminator.parameters())
    expected = torch.autograd.grad(adversarial + 1.5 * penalties[0] + 0.25 * penalties[1], own, allow_unused=True)
    gradients = torch.autograd.grad(losses["discriminator"], own, allow_unused=True)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r1", -1),
        ("r2", -1),
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
