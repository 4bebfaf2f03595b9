"""Adversarial objectives as plain functions, each with its paper and equation.

    loss = OBJECTIVES["hinge"].discriminator(real_logits, fake_logits)

Every function takes the discriminator's raw outputs ("logits", any shape) and returns one scalar to minimise. D's
losses are real + fake, not halved. The weight γ of a penalty R1 or R2 is for γ/2 ‖∇D‖², as the papers write them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Name = Literal["bce", "lsgan", "wgan", "wgan-gp", "hinge", "rpgan"]
"""The objectives that a latent variant can be trained with."""


def bce_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), Goodfellow et al. 2014 (arXiv:1406.2661), eq. 1."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def smoothed_bce_discriminator(real: Tensor, fake: Tensor, target: float) -> Tensor:
    """-t log D(x) - (1 - t) log(1 - D(x)) - log(1 - D(G(z))), Salimans et al. 2016 (arXiv:1606.03498), section 3.4."""
    return (F.softplus(-real) + (1 - target) * real).mean() + F.softplus(fake).mean()


def bce_generator(fake: Tensor) -> Tensor:
    """-log D(G(z)), the non-saturating form, Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake).mean()


def lsgan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """(D(x) - 1)² + D(G(z))², Mao et al. 2017 (arXiv:1611.04076), eq. 9 without the factor ½."""
    return (real - 1).square().mean() + fake.square().mean()


def lsgan_generator(fake: Tensor) -> Tensor:
    """(D(G(z)) - 1)², Mao et al. 2017, eq. 9 without the factor ½."""
    return (fake - 1).square().mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))), Lim & Ye 2017 (arXiv:1705.02894)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def critic(real: Tensor, fake: Tensor) -> Tensor:
    """-C(x) + C(G(z)), Arjovsky et al. 2017 (arXiv:1701.07875), eq. 2 negated to be minimised."""
    return fake.mean() - real.mean()


def negated(fake: Tensor) -> Tensor:
    """-D(G(z)): the generator's loss of the Wasserstein and the hinge GAN."""
    return -fake.mean()


def rpgan_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log σ(D(x) - D(G(z))) over pairs, Jolicoeur-Martineau 2018 (arXiv:1807.00734), eq. 6.

    Huang et al. 2024 (arXiv:2501.05441), eq. 2 with f(t) = -log(1 + exp(-t)): real and fake are judged relative to each
    other, so that a mode which the generator drops costs it. With R1 and R2 on both sides it converges locally.
    """
    return F.softplus(fake - real).mean()


def rpgan_generator(fake: Tensor, real: Tensor) -> Tensor:
    """-log σ(D(G(z)) - D(x)) over pairs, Jolicoeur-Martineau 2018, eq. 7; the mirror image of D's."""
    return F.softplus(real - fake).mean()


class Objective(NamedTuple):
    """The losses of one adversarial objective."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    """Takes the logits of fakes; of real items too, in pairs with the fakes, where `is_paired`."""
    boundary: float | None = None
    """The output above which a picture counts as taken for real; None where there is no such line."""
    is_paired: bool = False
    """Whether each fake is judged relative to a real item."""


OBJECTIVES: dict[Name, Objective] = {
    "bce": Objective(bce_discriminator, bce_generator, 0.0),
    "lsgan": Objective(lsgan_discriminator, lsgan_generator, 0.5),
    "wgan": Objective(critic, negated),
    "wgan-gp": Objective(critic, negated),
    "hinge": Objective(hinge_discriminator, negated, 0.0),
    "rpgan": Objective(rpgan_discriminator, rpgan_generator, is_paired=True),
}


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """‖∇D(x)‖² averaged over the batch, Mescheder et al. 2018 (arXiv:1801.04406), eq. 9 without γ/2.

    Args:
        real_logits: D's output for `real`, which must require gradients.
        real: `[N, ...]`.
    """
    return _squared_gradient(real_logits, real)


def r2_penalty(fake_logits: Tensor, fake: Tensor) -> Tensor:
    """‖∇D(G(z))‖² averaged over the batch, Mescheder et al. 2018, eq. 10 without γ/2.

    Args:
        fake_logits: D's output for `fake`, which must require gradients. Those of D's weights are the penalty's alone:
            the generator learns nothing from it.
        fake: `[N, ...]`.
    """
    return _squared_gradient(fake_logits, fake)


def _squared_gradient(logits: Tensor, items: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(logits.sum(), items, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()  # Fakes, and so their gradients, may be bf16.


def gradient_penalty(judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """(‖∇D(x̂)‖ - 1)² averaged over the batch, Gulrajani et al. 2017 (arXiv:1704.00028), eq. 3 without λ.

    Args:
        judge: The discriminator.
        real: `[N, ...]`.
        fake: `[N, ...]`, detached.
        mix: 0 to 1, `[N, 1, ...]`: where between fake and real each x̂ lies.
    """
    fake, mix = fake.to(real.dtype), mix.to(real.dtype)  # Under autocast fakes have fewer bits than the data.
    between = torch.lerp(fake, real.detach(), mix).requires_grad_()
    (gradient,) = torch.autograd.grad(judge(between).sum(), between, create_graph=True)
    lengths: Tensor = gradient.flatten(1).norm(dim=1)
    return (lengths - 1).square().mean()


def accuracy(real: Tensor, fake: Tensor, boundary: float) -> Tensor:
    """Share of the pictures that the discriminator tells right, 0 to 1."""
    return ((real > boundary).float().mean() + (fake <= boundary).float().mean()) / 2


def paired_accuracy(real: Tensor, fake: Tensor) -> Tensor:
    """Share of the pairs in which the discriminator prefers the real picture, 0 to 1: ½ where it cannot tell."""
    return (real > fake).float().mean()
