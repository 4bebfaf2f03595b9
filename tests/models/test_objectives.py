"""Every objective against its formula, written out plainly."""

from __future__ import annotations

import pytest
import torch

from ganedge.models.objectives import OBJECTIVES, accuracy, gradient_penalty, r1_penalty, smoothed_bce_discriminator

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
    "wgan-gp": (FAKE.mean() - REAL.mean(), -FAKE.mean()),
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


def test_the_gradient_penalty_of_a_line() -> None:
    slope = torch.tensor([3.0, 4.0])  # The gradient is the slope everywhere: (5 - 1)².
    penalty = gradient_penalty(lambda x: x @ slope, torch.zeros(2, 2), torch.ones(2, 2), torch.rand(2, 1))
    torch.testing.assert_close(penalty, torch.tensor(16.0))


def test_smoothing_is_bce_at_another_target() -> None:
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    wanted = bce(REAL, torch.full_like(REAL, 0.9)) + bce(FAKE, torch.zeros_like(FAKE))
    torch.testing.assert_close(smoothed_bce_discriminator(REAL, FAKE, 0.9), wanted)


def test_accuracy() -> None:
    assert accuracy(REAL, FAKE, 0.0) == pytest.approx((2 / 3 + 1 / 3) / 2)
