"""The plain loops train as the variants do: a step has the same losses and the same gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganedge.benchmarks import plain, training
from ganedge.models import find

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"size": 16, "latent": 6, "halve_d": True},
    "dcgan": {"size": 16, "width": 4},
    "pix2pix": {"size": 32, "width": 4, "dropout": 0.0},
    "cyclegan": {"size": 32, "width": 4, "blocks": 1},
}


class Recorder(torch.optim.SGD):
    """Keeps the gradient of its last step, and changes nothing."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__([parameter for network in networks for parameter in network.parameters()], lr=0.0)
        self.gradient = torch.zeros(())

    def step(self, _closure: Any = None) -> None:  # noqa: D102
        (group,) = self.param_groups
        self.gradient = torch.cat([parameter.grad.flatten() for parameter in group["params"]])


@pytest.mark.parametrize("done", [0, 1])
@pytest.mark.parametrize("name", training.CASES)
def test_a_step_is_that_of_the_variant(name: str, done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step, and the second, which has no penalties where they are computed in some steps only."""
    variant = find(name.partition("-")[0])
    config: Any = variant.config_class(**{**training.CASES[name], **SMALL[variant.name], "batch": 2})
    torch.manual_seed(0)
    gan: Any = variant(config)
    shape = (2, config.channels, config.size, config.size)
    batch = {key: torch.rand(shape) * 2 - 1 for key in training.KEYS[variant.wants(config).kind]}
    latent = torch.randn(2, getattr(config, "latent", 1))
    _settle(gan.networks)
    networks = copy.deepcopy(dict(gan.networks))
    step, trained = plain.STEPS.get(variant.name, (plain.latent_step, plain.LATENT))
    monkeypatch.setattr(torch, "randn", lambda *_shape, **_where: latent)
    monkeypatch.setattr("ganedge.models.latent.draw", lambda *_: latent)

    theirs = [Recorder([networks[each] for each in names]) for names in trained]
    plain_losses = step(networks, theirs, [each.clone() for each in batch.values()], config, done)

    ours = [Recorder([gan.networks[each] for each in names]) for names in trained]
    by_name = dict(zip(gan.optimizers, ours, strict=True))

    def update(key: str, loss: Tensor, keep_graph: bool = False) -> None:
        for optimizer in ours:
            optimizer.zero_grad()
        loss.backward(retain_graph=keep_graph)  # type: ignore[no-untyped-call]
        by_name[key].step()

    losses = gan.step({key: each.clone() for key, each in batch.items()}, done, update)
    halved = 2 if name == "dcgan" else 1  # Tutorials halve the discriminator's loss.
    for key, value in plain_losses.items():
        assert value * (halved if key == "loss_d" else 1) == pytest.approx(float(losses[key]), rel=1e-3), key
    for index, (own, their) in enumerate(zip(ours, theirs, strict=True)):
        error = (their.gradient * (halved if index else 1) - own.gradient).norm() / own.gradient.norm()
        assert error < 5e-3, index


@torch.no_grad()
def _settle(networks: Any) -> None:
    """Let the estimates of spectral normalisation settle, which each pass through a network in training changes."""
    for network in networks.values():
        network.train()
        for module in network.modules():
            if hasattr(module, "parametrizations"):
                for _ in range(100):
                    module.weight  # noqa: B018
