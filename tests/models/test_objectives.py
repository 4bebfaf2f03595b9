"""Every objective against its formula, written out plainly."""

from __future__ import annotations

import pytest
import torch

from ganedge.models.objectives import OBJECTIVES, r1_penalty

REAL = torch.tensor([0.3, -1.2, 4.0], dtype=torch.float64)
FAKE = torch.tensor([-0.5, 2.5, 0.1], dtype=torch.float64)


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


FORMULAS = {
    "bce": (
        -(torch.log(sigmoid(REAL)).mean() + torch.log(1 - sigmoid(FAKE)).mean()),
        -torch.log(sigmoid(FAKE)).mean(),
    ),
    "lsgan": (((REAL - 1) ** 2).mean() + (FAKE**2).mean(), ((FAKE - 1) ** 2).mean()),
    "wgan": (FAKE.mean() - REAL.mean(), -FAKE.mean()),
    "hinge": (torch.clamp(1 - REAL, min=0).mean() + torch.clamp(1 + FAKE, min=0).mean(), -FAKE.mean()),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_formula(name: str) -> None:
    objective = OBJECTIVES[name]  # type: ignore[index]
    discriminator, generator = FORMULAS[name]
    torch.testing.assert_close(objective.discriminator(REAL, FAKE), discriminator)
    torch.testing.assert_close(objective.generator(FAKE), generator)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_generator_is_pushed_towards_real(name: str) -> None:
    fake = FAKE.clone().requires_grad_()
    OBJECTIVES[name].generator(fake).backward()  # type: ignore[index]
    assert fake.grad is not None
    moved = FAKE - fake.grad
    assert (moved >= FAKE).all() or name == "lsgan"


def test_r1_of_a_quadratic() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    logits = (x**2).sum(1)  # gradient 2x, squared norm 4·‖x‖²
    torch.testing.assert_close(r1_penalty(logits, x), torch.tensor(4 * (5 + 9) / 2))
