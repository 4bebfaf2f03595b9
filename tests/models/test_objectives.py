"""Every objective against its formula, written out plainly."""

from __future__ import annotations

import pytest
import torch

from ganedge.models.objectives import (
    OBJECTIVES,
    accuracy,
    gradient_penalty,
    paired_accuracy,
    r1_penalty,
    r2_penalty,
    smoothed_bce_discriminator,
)

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
    "rpgan": (-torch.log(sigmoid(REAL - FAKE)).mean(), -torch.log(sigmoid(FAKE - REAL)).mean()),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_formula(name: str) -> None:
    objective = OBJECTIVES[name]  # type: ignore[index]
    discriminator, generator = FORMULAS[name]
    torch.testing.assert_close(objective.discriminator(REAL, FAKE), discriminator)
    torch.testing.assert_close(objective.generator(*((FAKE, REAL) if objective.is_paired else (FAKE,))), generator)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_generator_is_pushed_towards_real(name: str) -> None:
    fake = FAKE.clone().requires_grad_()
    objective = OBJECTIVES[name]  # type: ignore[index]
    objective.generator(*((fake, REAL) if objective.is_paired else (fake,))).backward()
    assert fake.grad is not None
    moved = FAKE - fake.grad
    assert (moved >= FAKE).all() or name == "lsgan"


def test_r1_of_a_quadratic() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    logits = (x**2).sum(1)  # gradient 2x, squared norm 4·‖x‖²
    torch.testing.assert_close(r1_penalty(logits, x), torch.tensor(4 * (5 + 9) / 2))


def test_r2_is_a_function_of_the_discriminator_alone() -> None:
    """For D(x) = w·x² its gradient is 2wx: the penalty's own derivative in w is 8w‖x‖²."""
    w, source = torch.tensor(3.0, requires_grad=True), torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True)
    fake = source * 1.0  # Not a leaf, as what a generator draws.
    penalty = r2_penalty(w * (fake**2).sum(1), fake)
    torch.testing.assert_close(penalty, torch.tensor(4 * 9.0 * (5 + 9) / 2))
    (of_w,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(of_w, torch.tensor(8 * 3.0 * (5 + 9) / 2))


def test_a_penalty_of_bf16_fakes_is_summed_in_fp32() -> None:
    fake = torch.ones(1, 4096, dtype=torch.bfloat16, requires_grad=True)
    penalty = r2_penalty((fake * 1.0078125).sum(1), fake)  # bf16 would round the sum to eight bits.
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(4096 * 1.0078125**2)


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


def test_an_output_on_the_boundary_counts_as_generated() -> None:
    assert accuracy(torch.tensor([0.5, 1.0]), torch.tensor([0.5, 0.0]), 0.5) == pytest.approx(0.75)


def test_the_penalties_teach_the_discriminator() -> None:
    """Their gradients reach its weights: of a line with slope w, R1 is w² and the gradient penalty (w - 1)²."""
    x = torch.ones(3, 1, requires_grad=True)
    w = torch.tensor([[3.0]], requires_grad=True)
    (of_w,) = torch.autograd.grad(r1_penalty(x @ w, x), w)
    assert of_w.item() == pytest.approx(6)
    penalty = gradient_penalty(lambda y: y @ w, torch.zeros(2, 1), torch.ones(2, 1), torch.rand(2, 1))
    (of_w,) = torch.autograd.grad(penalty, w)
    assert of_w.item() == pytest.approx(4)


def test_the_gradient_penalty_looks_between_fake_and_real() -> None:
    seen: list[torch.Tensor] = []

    def judge(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.sum(1)

    real, fake = torch.tensor([[2.0], [4.0]]), torch.tensor([[0.0], [8.0]])
    gradient_penalty(judge, real, fake, torch.tensor([[0.25], [0.75]]))
    torch.testing.assert_close(seen[0], torch.tensor([[0.5], [5.0]]))


def test_paired_accuracy() -> None:
    assert paired_accuracy(REAL, FAKE) == pytest.approx(2 / 3)
    assert paired_accuracy(REAL, REAL) == 0
