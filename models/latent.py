"""Common settings of the latent variants, and the step that trains both networks.

A latent variant makes its two networks and its optimizers, and inherits the rest; `--objective` then works for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ganedge.models import augment, weights
from ganedge.models.noise import draw, rows
from ganedge.models.objectives import (
    OBJECTIVES,
    Name,
    accuracy,
    gradient_penalty,
    paired_accuracy,
    r1_penalty,
    r2_penalty,
    smoothed_bce_discriminator,
)
from ganedge.models.variant import ON, Batch, Update, VariantConfig, only_with, require
from ganedge.runtime.manifest import Interface, Noise, Port


@dataclass(frozen=True, kw_only=True)
class LatentConfig(VariantConfig):
    """The settings of every GAN that starts from a latent vector."""

    latent: int = 100
    """Length of the latent vector."""
    objective: Name = "bce"
    """Adversarial loss."""
    real_label: float = 1.0
    """Target of the discriminator for real items with the objective bce; 0.9 smooths it."""
    d_steps: int = 1
    """Steps of the discriminator for one of the generator, each with a batch of its own."""
    clip: float = only_with("objective", "wgan", 0.01)
    """With the objective wgan, the critic's weights are clipped to ± this before each step."""
    gp: float = only_with("objective", "wgan-gp", 10.0)
    """With the objective wgan-gp, weight of the gradient penalty. Its discriminator has layer normalisation in place
    of BatchNorm, with which the penalty would not be each item's own."""
    r1: float = 0.0
    """Weight γ of the gradient penalty R1 on real items, γ/2 ‖∇D(x)‖²; 0 leaves it out."""
    r2: float = 0.0
    """Weight γ of the gradient penalty R2 on generated items, γ/2 ‖∇D(G(z))‖²; 0 leaves it out."""
    penalty_every: int = only_with(("r1", "r2"), ON, 1)
    """Compute --r1 and --r2 in the first of this many steps only, with that many times the weight: 16 takes little more
    time than no penalty (Karras et al. 2020, arXiv:1912.04958, section 3.1)."""
    spectral_norm: bool = False
    """Divide each weight of the discriminator by its largest singular value."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.latent >= 1, "latent", self.latent, "1 or more")
        require(0 < self.real_label <= 1, "real_label", self.real_label, "more than 0, up to 1")
        smoothed = self.real_label != 1
        require(not smoothed or self.objective == "bce", "real_label", self.real_label, "1, or --objective bce")
        require(self.d_steps >= 1, "d_steps", self.d_steps, "1 or more")
        require(self.clip > 0, "clip", self.clip, "more than 0")
        require(self.gp > 0, "gp", self.gp, "more than 0")
        require(self.r1 >= 0, "r1", self.r1, "0 or more")
        require(self.r2 >= 0, "r2", self.r2, "0 or more")
        require(self.penalty_every >= 1, "penalty_every", self.penalty_every, "1 or more")


@dataclass(frozen=True, kw_only=True)
class PictureConfig(LatentConfig):
    """The settings of every GAN that draws pictures from a latent vector."""

    mirror: bool = False
    """Mirror pictures left to right at random: twice as many faces, but not of things that it makes others, as text."""
    augment: str = ""
    """Change what the discriminator sees, for small data sets: color,translation,cutout or some of them, or auto: by
    the number of items."""
    augment_share: float = only_with("augment", ON, 1.0)
    """Probability with which a picture is changed. Where all are, a generator can learn to draw changed ones (Karras et
    al. 2020, arXiv:2006.06676, section 2.2)."""
    augment_ramp: int = only_with("augment", ON, 0)
    """Steps over which that probability rises from 0; with --augment auto, those of 50 passes over the data: a
    discriminator does not know pictures by heart that it has seen a few times."""
    blur: float = 0.0
    """Blur what the discriminator sees at first, so that shapes are learned before details: standard deviation of the
    Gaussian, as a share of the pictures' side; it falls to 0 over --blur-steps."""
    blur_steps: int = only_with("blur", ON, 0)
    """Steps after which nothing is blurred."""
    grid: int = 8
    """Pictures in a row of a sample in the run folder, and rows."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        known = self.augment == augment.AUTO or set(self.policy) <= set(augment.POLICIES)
        names = f"names out of {','.join(augment.POLICIES)}, separated by commas, or {augment.AUTO}"
        require(known, "augment", self.augment, names)
        require(0 < self.augment_share <= 1, "augment_share", self.augment_share, "more than 0, up to 1")
        require(self.augment_ramp >= 0, "augment_ramp", self.augment_ramp, "0 or more")
        require(0 <= self.blur <= 1, "blur", self.blur, "0 to 1, a share of the pictures' side")
        require(self.blur_steps >= 0, "blur_steps", self.blur_steps, "0 or more")
        require(self.blur == 0 or self.blur_steps > 0, "blur", self.blur, "--blur 0, or --blur-steps too")
        require(1 <= self.grid <= 32, "grid", self.grid, "1 to 32")

    def doubts(self, steps: int) -> list[str]:
        """What to warn of: a training that ends before the pictures are sharp."""
        if self.blur == 0 or self.blur_steps < steps:
            return []
        return [f"all {steps} steps blur the pictures: train for more than --blur-steps {self.blur_steps}, or lower it"]

    def for_items(self, count: int) -> VariantConfig:
        """This config with the augmentations for that many pictures in place of `auto`."""
        if self.augment != augment.AUTO:
            return self
        policy = augment.for_items(count)
        ramp = (self.augment_ramp or augment.PASSES * count // self.batch) if policy else 0
        return replace(self, augment=policy, augment_ramp=ramp)

    @property
    def policy(self) -> tuple[str, ...]:
        """The augmentations by name; `auto` is replaced by them once the data are known."""
        assert self.augment != augment.AUTO, "train fills it in"
        return tuple(name for name in self.augment.split(",") if name)


@dataclass(frozen=True, kw_only=True)
class ConditionalConfig(PictureConfig):
    """The settings of every GAN whose pictures can be drawn by class."""

    channels: int | None = None
    """1 grey, 3 colour; as the data has by default."""
    conditional: bool = False
    """Learn the class of each picture, so that a label chooses what is drawn."""
    class_names: str | None = only_with("conditional", True, None)
    """Names of the classes, separated by commas; as the data has by default."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.channels in (None, 1, 3), "channels", self.channels, "1 or 3")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty where it is unconditional.

        Raises:
            UsageError: fewer than two.
        """
        if not self.conditional:
            return ()
        names = tuple((self.class_names or "").split(","))
        require(len(names) >= 2, "class_names", self.class_names, "two classes or more, separated by commas")
        return names


class LatentGAN:
    """A generator and a discriminator, and the step that trains them."""

    noise: Noise = "normal"
    """What latents are drawn from."""
    real_key: str = "images"
    """Where a batch holds the real items."""
    d_factor: float = 1.0
    """What the discriminator's loss, real + fake, is multiplied by."""
    low_is_real: bool = False
    """Whether the discriminator gives low numbers to real items."""
    at: int = 0
    """The step that is being taken."""
    optimizers: Mapping[str, Optimizer]
    """One for each network, by its name; each variant makes its own."""

    def __init__(self, config: LatentConfig, generator: nn.Module, discriminator: nn.Module) -> None:
        if config.objective == "wgan-gp":
            _separate(discriminator)
        if config.spectral_norm:
            discriminator.apply(weights.spectral)
        self.settings = config
        self.networks: Mapping[str, nn.Module] = {"generator": generator, "discriminator": discriminator}

    @property
    def penalty_share(self) -> float:
        """What R1 and R2 are multiplied by in this step."""
        return 1.0

    @property
    def augmented_share(self) -> float:
        """Probability with which a picture is augmented in this step."""
        settings = self.settings
        if not isinstance(settings, PictureConfig):
            return 1.0
        risen = min(1.0, self.at / settings.augment_ramp) if settings.augment_ramp else 1.0
        return risen * settings.augment_share

    def draw(self, count: int, labels: Tensor | None, device: torch.device) -> Tensor:
        """Generate `count` items."""
        latent = draw(self.noise, count, self.settings.latent, device)
        items: Tensor = self.networks["generator"](latent, *([] if labels is None else [labels]))
        return items

    def discriminate(self, items: Tensor, labels: Tensor | None, twice: bool = False) -> Tensor:
        """The discriminator's outputs for items as it sees them, turned round where low is real: high means real.

        Args:
            items: `[N, ...]`.
            labels: `[N]`, or None where it is unconditional.
            twice: Whether the gradient will be differentiated too. That of a compiled network cannot be, and its own
                forward is not compiled.
        """
        if isinstance(self.settings, PictureConfig):
            items = self._changed(items, self.settings)
        discriminator = self.networks["discriminator"]
        given = (items,) if labels is None else (items, labels)
        logits: Tensor = discriminator.forward(*given) if twice else discriminator(*given)
        logits = -logits if self.low_is_real else logits
        return logits.float()  # Losses in bf16 would be too coarse for means and differences.

    def _changed(self, pictures: Tensor, settings: PictureConfig) -> Tensor:
        """Pictures as the discriminator sees them: augmented, and blurred in the first steps."""
        pictures = augment.augment(pictures, settings.policy, self.augmented_share)
        if settings.blur == 0 or self.at >= settings.blur_steps:
            return pictures
        left = 1 - self.at / settings.blur_steps
        return augment.blur(pictures, left * settings.blur * pictures.shape[-1])

    @property
    def has_rounds(self) -> bool:
        """Whether the discriminator ever takes several steps for one of the generator."""
        return self.settings.d_steps > 1

    def is_generators_turn(self, step: int) -> bool:
        """Whether the generator takes a step in this one too: the last of a round."""
        return (step + 1) % self.settings.d_steps == 0

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Update the discriminator, and the generator if it is its turn.

        With one step each, the generator goes first. Neither update changes what the other was computed from, so both
        share one pass of the fakes through the discriminator: a tenth less arithmetic than judging them anew, for the
        same gradients. In rounds the generator goes last, so that it meets a discriminator with all its steps.
        """
        self.at = step
        real, labels = batch[self.real_key], batch.get("labels")
        turn = self.is_generators_turn(step)
        shared = turn and not self.has_rounds
        losses: dict[str, Tensor] = {}
        with torch.set_grad_enabled(turn):
            fake = self.draw(len(real), labels, real.device)

        # Judge both.
        self._clip()
        seen = fake if shared else fake.detach()
        penalised = step % self.settings.penalty_every == 0
        r1, r2 = penalised and self.settings.r1 > 0, penalised and self.settings.r2 > 0
        if r1:
            real.requires_grad_()
        if r2:
            seen.requires_grad_()
        fake_logits = self.discriminate(seen, labels, twice=r2)
        real_logits = self.discriminate(real, labels, twice=r1)

        # Update the generator, with one step each.
        if shared:
            losses["loss_g"] = self._update_generator(fake_logits, real_logits, update, keep_graph=True)

        # Update the discriminator.
        loss_d, of_d = self.discriminator_loss(real, seen, real_logits, fake_logits, labels)
        if penalised:
            loss_d = loss_d + self._penalties(real, seen, real_logits, fake_logits)
        update("discriminator", loss_d)

        # Update the generator, after a round.
        if turn and not shared:
            self._clip()
            fake_logits = self.discriminate(fake, labels)
            if OBJECTIVES[self.settings.objective].is_paired:
                with torch.no_grad():
                    real_logits = self.discriminate(real, labels)
            losses["loss_g"] = self._update_generator(fake_logits, real_logits, update)
        return {**of_d, **losses}

    def _clip(self) -> None:
        """Bound the critic's weights before it is used, with the objective wgan."""
        if self.settings.objective == "wgan":
            clip_weights(self.networks["discriminator"], self.settings.clip)

    def _update_generator(
        self, fake_logits: Tensor, real_logits: Tensor, update: Update, keep_graph: bool = False
    ) -> Tensor:
        """Take the generator's step for what the discriminator says of its items; give the loss."""
        objective = OBJECTIVES[self.settings.objective]
        logits = (fake_logits, real_logits.detach()) if objective.is_paired else (fake_logits,)
        loss = objective.generator(*logits)
        update("generator", loss, keep_graph=keep_graph)
        return loss.detach()

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator minimises, without R1 and R2, and what to report of it."""
        config, objective = self.settings, OBJECTIVES[self.settings.objective]
        if config.real_label == 1:
            loss = objective.discriminator(real_logits, fake_logits)
        else:
            loss = smoothed_bce_discriminator(real_logits, fake_logits, config.real_label)
        loss = loss * self.d_factor
        losses = {"loss_d": loss.detach(), **self._verdicts(real_logits.detach(), fake_logits.detach())}
        if config.objective == "wgan-gp":
            shape = (1,) * (real.ndim - 1)
            mix = rows(len(real), lambda n: torch.rand(n, *shape, device=real.device))
            judge = partial(self.discriminate, labels=labels, twice=True)
            loss = loss + config.gp * gradient_penalty(judge, real, fake.detach(), mix)
        return loss, losses

    def _penalties(self, real: Tensor, fake: Tensor, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """R1 and R2 with their weights, a scalar; 0 where there are none."""
        config = self.settings
        factor = self.penalty_share * config.penalty_every / 2
        total = real_logits.new_zeros(())
        if config.r1 > 0:
            total = total + factor * config.r1 * r1_penalty(real_logits, real)
        if config.r2 > 0:
            total = total + factor * config.r2 * r2_penalty(fake_logits, fake)
        return total

    def _verdicts(self, real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
        """How well the discriminator tells real from fake: as a share where its objective has a boundary or pairs."""
        objective = OBJECTIVES[self.settings.objective]
        if objective.is_paired:
            return {"accuracy_d": paired_accuracy(real_logits, fake_logits)}
        if objective.boundary is not None:
            return {"accuracy_d": accuracy(real_logits, fake_logits, objective.boundary)}
        sign = -1 if self.low_is_real else 1  # Reported as the network's raw outputs.
        return {"real_d": sign * real_logits.mean(), "fake_d": sign * fake_logits.mean()}


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Clip every parameter to ± bound, Arjovsky et al. 2017 (arXiv:1701.07875), algorithm 1."""
    parameters: list[Tensor] = list(network.parameters())
    torch._foreach_clamp_min_(parameters, -bound)
    torch._foreach_clamp_max_(parameters, bound)
    torch.clear_autocast_cache()  # It holds the weights in reduced precision as they were before.


def to_pictures(config: LatentConfig, channels: int, size: int, **given: Any) -> Interface:
    """The interface of a generator that draws pictures.

    Args:
        config: For the latent's length.
        channels: Of a picture.
        size: Height and width, pixels.
        **given: `noise`, `classes` and `range` where they are not the usual ones.
    """
    classes = given.get("classes", ())
    inputs = [Port("latent", "latent", "float32", ("batch", config.latent), "NC")]
    if classes:
        inputs.append(Port("label", "label", "int64", ("batch",), "N"))
    shape = ("batch", channels, size, size)
    image = Port("image", "image", "float32", shape, "NCHW", given.get("range", (-1.0, 1.0)))
    return Interface("latent-to-image", tuple(inputs), (image,), given.get("noise", "normal"), classes)


def _separate(network: nn.Module) -> None:
    """Layer normalisation in place of BatchNorm, Gulrajani et al. 2017 (arXiv:1704.00028), section 4.

    With BatchNorm a score depends on the whole batch, and the norm of a picture's gradient is no longer its own.
    """
    for name, module in network.named_children():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(network, name, nn.GroupNorm(1, module.num_features))
        else:
            _separate(module)
