"""Plain training loops as tutorials write them, with which `gan-bench train` compares this project's loop.

    steps = plain.steps("dcgan", config, {"images": pixels})
    next(steps)                                      # trains one step

They read pictures through a DataLoader with transforms for each picture, train in FP32 with the default Adam and read
every loss with `.item()`. The loop of GANs that draw from latents also computes gradients of the discriminator's
weights in the generator's step, as most tutorials do; those of pix2pix and CycleGAN do not, like their authors' code.
Networks are those of the variant. Its losses are written out here, as a tutorial does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from ganedge.models import find
from ganedge.models.patchgan import feature_distance

Device = Literal["cpu", "cuda"]
Networks = Mapping[str, nn.Module]
Step = Callable[[Networks, Sequence[Optimizer], Sequence[Tensor], Any, int], dict[str, float]]
"""Trains all networks on a batch: by their names, optimizers in the order of `trained`, tensors in the order of the
batch's names, the variant's config, and the number of the step. It gives the losses."""


class Pictures(Dataset[tuple[Tensor, ...]]):
    """Pictures with the transforms of a tutorial: from an array through Pillow to a normalised tensor, one by one.

    Args:
        pixels: uint8 `[N, S, S, C]` for each thing that an item holds.
        config: Of the variant: how large pictures are, and whether they are cut out of larger ones and mirrored.
        are_pairs: Whether all pictures of an item are cut and mirrored alike.
    """

    def __init__(self, pixels: Sequence[np.ndarray], config: Any, are_pairs: bool = False) -> None:
        from torchvision import transforms
        from torchvision.transforms import v2

        self._pixels, self._are_pairs = pixels, are_pairs
        half = [0.5] * pixels[0].shape[-1]
        load_size = getattr(config, "uncut", 0)
        self._change = v2.Compose([v2.RandomCrop(config.size), v2.RandomHorizontalFlip()]) if load_size else None
        self._transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(half, half)])
        self._resize = transforms.Resize(load_size or config.size)

    def __len__(self) -> int:
        return len(self._pixels[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:  # [C, H, W] each
        pixels = [each[index] for each in self._pixels]
        images = [Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in pixels]
        images = [self._resize(image) for image in images]
        if self._change is not None:
            images = self._change(images) if self._are_pairs else [self._change(image) for image in images]
        return tuple(self._transform(image) for image in images)


def steps(name: str, config: Any, pixels: Mapping[str, np.ndarray], device: Device = "cpu") -> Iterator[str]:
    """Train without end: each `next` trains one step and returns the precision.

    Args:
        name: Of the variant.
        config: Its config.
        pixels: uint8 `[N, S, S, C]` by the names that a batch has for them.
        device: Where to train.
    """
    torch.manual_seed(0)
    networks = find(name)(config).networks
    for network in networks.values():
        network.to(device).train()
    step, trained = STEPS.get(name, (latent_step, LATENT))
    optimizers = [_adam([networks[each] for each in names], config) for names in trained]
    pictures = Pictures(list(pixels.values()), config, are_pairs=name == "pix2pix")
    loader = DataLoader(pictures, config.batch, shuffle=True, drop_last=True)
    done = 0
    while True:
        for batch in loader:
            step(networks, optimizers, [each.to(device) for each in batch], config, done)
            done += 1
            yield "fp32"


def _adam(networks: Iterable[nn.Module], config: Any) -> Optimizer:
    parameters = [parameter for network in networks for parameter in network.parameters()]
    return torch.optim.Adam(parameters, lr=config.lr, betas=(config.beta1, config.beta2))


def latent_step(
    networks: Networks, optimizers: Sequence[Optimizer], batch: Sequence[Tensor], config: Any, done: int
) -> dict[str, float]:
    """GANs that draw from latents, with the objectives bce and rpgan."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    optimizer_g, optimizer_d = optimizers
    (real,) = batch
    valid, invalid = (make(len(real), 1, device=real.device) for make in (torch.ones, torch.zeros))
    is_paired = config.objective == "rpgan"

    # Train the generator.
    optimizer_g.zero_grad()
    fake = generator(torch.randn(len(real), config.latent, device=real.device))
    if is_paired:
        loss_g = F.softplus(discriminator(real) - discriminator(fake)).mean()
    else:
        loss_g = F.binary_cross_entropy_with_logits(discriminator(fake), valid)
    loss_g.backward()  # type: ignore[no-untyped-call]
    optimizer_g.step()

    # Train the discriminator.
    optimizer_d.zero_grad()
    is_penalised = (config.r1 > 0 or config.r2 > 0) and done % config.penalty_every == 0
    real, fake = real.requires_grad_(is_penalised), fake.detach().requires_grad_(is_penalised)
    real_logits, fake_logits = discriminator(real), discriminator(fake)
    if is_paired:
        loss_d = F.softplus(fake_logits - real_logits).mean()
    else:
        real_loss = F.binary_cross_entropy_with_logits(real_logits, valid)
        loss_d = (real_loss + F.binary_cross_entropy_with_logits(fake_logits, invalid)) / 2
    total = loss_d
    for weight, items, logits in ((config.r1, real, real_logits), (config.r2, fake, fake_logits)):
        if is_penalised and weight > 0:
            (slope,) = torch.autograd.grad(logits.sum(), items, create_graph=True)
            total = total + config.penalty_every * weight / 2 * slope.square().sum((1, 2, 3)).mean()
    total.backward()  # type: ignore[no-untyped-call]
    optimizer_d.step()
    return {"loss_d": loss_d.item(), "loss_g": loss_g.item()}


def pair_step(
    networks: Networks, optimizers: Sequence[Optimizer], batch: Sequence[Tensor], config: Any, _done: int
) -> dict[str, float]:
    """pix2pix with its objectives bce and lsgan, and with the distance in the discriminator's features."""
    generator, discriminator = networks["generator"], networks["discriminator"]
    optimizer_g, optimizer_d = optimizers
    source, target = batch
    adversarial = _adversarial(config.objective)
    output = generator(source)

    # Train the discriminator.
    discriminator.requires_grad_(True)
    optimizer_d.zero_grad()
    fake_loss = adversarial(discriminator(torch.cat((source, output.detach()), 1)), 0.0)
    loss_d = adversarial(discriminator(torch.cat((source, target), 1)), 1.0) + fake_loss
    loss_d.backward()  # type: ignore[no-untyped-call]
    optimizer_d.step()

    # Train the generator.
    discriminator.requires_grad_(False)
    optimizer_g.zero_grad()
    verdicts, features = _judge(discriminator, torch.cat((source, output), 1), config)
    loss_g, l1 = adversarial(verdicts, 1.0), F.l1_loss(output, target)
    total = loss_g + config.l1 * l1
    losses = {"loss_d": loss_d, "loss_g": loss_g, "l1": l1}
    if config.matching > 0:
        losses["matching"] = feature_distance(
            features, _judge(discriminator, torch.cat((source, target), 1), config)[1]
        )
        total = total + config.matching * losses["matching"]
    total.backward()
    optimizer_g.step()
    return {key: value.item() for key, value in losses.items()}


def cycle_step(
    networks: Networks, optimizers: Sequence[Optimizer], batch: Sequence[Tensor], config: Any, _done: int
) -> dict[str, float]:
    """CycleGAN, with the cycle loss in pixels, and in the discriminators' features where it has a weight."""
    a2b, b2a = networks["generator-a2b"], networks["generator-b2a"]
    judges = {"a": networks["discriminator-a"], "b": networks["discriminator-b"]}
    optimizer_g, *optimizers_d = optimizers
    a, b = batch
    half, adversarial = 0.5 if config.halved else 1.0, _adversarial("lsgan")

    # Train the generators.
    for judge in judges.values():
        judge.requires_grad_(False)
    optimizer_g.zero_grad()
    fake_b, fake_a = a2b(a), b2a(b)
    recovered_a, recovered_b = b2a(fake_b), a2b(fake_a)
    loss_g = half * (adversarial(judges["b"](fake_b), 1.0) + adversarial(judges["a"](fake_a), 1.0))
    cycle = half * (F.l1_loss(recovered_a, a) + F.l1_loss(recovered_b, b))
    total = loss_g + config.cycle * cycle
    losses = {"loss_g": loss_g, "cycle": cycle}
    if config.matching > 0:
        distances = [
            feature_distance(_judge(judge, recovered, config)[1], _judge(judge, original, config)[1])
            for judge, recovered, original in ((judges["a"], recovered_a, a), (judges["b"], recovered_b, b))
        ]
        losses["matching"] = half * (distances[0] + distances[1])
        total = total + config.matching * losses["matching"]
    if config.identity > 0:
        losses["identity"] = half * (F.l1_loss(b2a(a), a) + F.l1_loss(a2b(b), b))
        total = total + config.identity * losses["identity"]
    total.backward()
    optimizer_g.step()

    # Train the discriminators.
    for (side, judge), optimizer, real, fake in zip(
        judges.items(), optimizers_d, (a, b), (fake_a, fake_b), strict=True
    ):
        judge.requires_grad_(True)
        optimizer.zero_grad()
        earlier = networks[f"replay-{side}"](fake.detach())
        loss_d = half * (adversarial(judge(real), 1.0) + adversarial(judge(earlier), 0.0))
        loss_d.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[f"loss_d_{side}"] = loss_d
    return {key: value.item() for key, value in losses.items()}


LATENT = (("generator",), ("discriminator",))
"""Networks of each optimizer of `latent_step`."""
STEPS: dict[str, tuple[Step, tuple[tuple[str, ...], ...]]] = {
    "pix2pix": (pair_step, LATENT),
    "cyclegan": (cycle_step, (("generator-a2b", "generator-b2a"), ("discriminator-a",), ("discriminator-b",))),
}
"""How variants that translate pictures train, and the networks of each optimizer."""


def _adversarial(objective: str) -> Callable[[Tensor, float], Tensor]:
    """The loss of verdicts that should be 1 for real or 0 for generated."""
    loss = F.mse_loss if objective == "lsgan" else F.binary_cross_entropy_with_logits
    return lambda verdicts, target: loss(verdicts, torch.full_like(verdicts, target))


def _judge(discriminator: Any, pictures: Tensor, config: Any) -> tuple[Tensor, list[Tensor]]:
    """Verdicts on pictures, and the discriminator's features where they have a weight."""
    if config.matching > 0:
        verdicts, features = discriminator.with_features(pictures)
        return verdicts, features
    return discriminator(pictures), []
