"""CycleGAN: pictures of one kind to pictures of another and back, learned without pairs (arXiv:1703.10593).

    gan-train cyclegan --data monet2photo/ --out runs/monet                     # preset resnet
    gan-train cyclegan --data summer2winter/ --out runs/winter --preset conv    # smaller, at 128×128
    gan-train cyclegan --data monet2photo/ --out runs/small --preset modern     # for edge devices

The preset `modern` is for edge devices and small data sets: the generators of `edge.py`, spectrally normalised
discriminators that see augmented pictures, and a cycle loss in which half of the weight is the distance in the features
of the discriminators (Wang & Lin 2024, arXiv:2408.15374, section 3.1), so that a generator need not hide what it
removes in single pixels to get it back.

`generator-a2b` turns pictures of the folder trainA into such as trainB holds, `generator-b2a` the other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ganedge.models import augment, edge, residual, weights
from ganedge.models.noise import all_gather, rows
from ganedge.models.objectives import OBJECTIVES
from ganedge.models.optimizers import adams
from ganedge.models.patchgan import PatchGAN, feature_distance
from ganedge.models.translation import PatchConfig, seen_alike, to_pictures
from ganedge.models.upsample import Upsampling, doubling
from ganedge.models.variant import Batch, Update, VariantConfig, Wants, only_with, require, usual
from ganedge.runtime.manifest import Interface


@dataclass(frozen=True, kw_only=True)
class Config(PatchConfig):
    """Sizes, weights of the losses and optimisation of a CycleGAN."""

    epochs: int = 200
    """Passes over the larger of the two sets."""
    nets: Literal["resnet", "conv", "edge"] = "resnet"
    """Networks: resnet with InstanceNorm and reflection padding, conv with BatchNorm, or edge, whose generators are
    residual blocks of 3×3 convolutions."""
    norm: Literal["none", "batch"] = only_with("nets", "edge", "none")
    """With --nets edge, normalisation in the generators: none, or BatchNorm, which an export folds into the
    convolutions."""
    size: int = 256
    """Height and width of the pictures in training, pixels, 32 or more: a multiple of 4, or of 8 with --nets conv."""
    blocks: int = 9
    """Residual blocks of each generator."""
    upsample: Upsampling | None = None
    """How the generators double their feature maps: resize (nearest, then a convolution), as --nets resnet does by
    default, transpose (a transposed convolution), as conv does, shuffle (a convolution, then depth-to-space), or
    bilinear (a convolution, then interpolation)."""
    cycle: float = 10.0
    """Weight of the cycle loss: the distance between a picture and its translation there and back."""
    identity: float = 5.0
    """Weight of the identity loss: the distance between a picture and its translation to its own domain; 0: none."""
    halved: bool = True
    """Average the generators' terms over both directions, and halve the discriminators' losses."""
    replay: int = 50
    """Generated pictures per kind that the discriminator sees again later; 0 keeps none."""

    @property
    def trains_in_bf16(self) -> bool:
        """Measured (benchmarks/LOG.md), but not of the networks without normalisation."""
        return self.nets != "edge"

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        multiple = f"a multiple of {self.multiple}" + (" with --nets conv" if self.nets == "conv" else "")
        require(self.size >= 32 and self.size % self.multiple == 0, "size", self.size, f"{multiple}, 32 or more")
        require(self.blocks >= 0, "blocks", self.blocks, "0 or more")
        require(self.cycle >= 0, "cycle", self.cycle, "0 or more")
        require(self.identity >= 0, "identity", self.identity, "0 or more")
        require(self.replay >= 0, "replay", self.replay, "0 or more")

    @property
    def doubling(self) -> Upsampling:
        """How the generators double their feature maps."""
        return self.upsample or ("transpose" if self.nets == "conv" else "resize")

    @property
    def multiple(self) -> int:
        """What height and width of a picture are multiples of, so that they halve evenly."""
        return 8 if self.nets == "conv" else 2**LEVELS


LEVELS = 2
"""How often the generators of resnet and edge halve a picture."""


class Residual(nn.Module):
    """A residual block without an activation after the sum."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.change = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:  # [N, F, H, W] → [N, F, H, W]
        """Add the change."""
        changed: Tensor = features + self.change(features)
        return changed


class ResnetGenerator(nn.Sequential):
    """Pictures `[N, channels, H, W]` to pictures of that shape, both in -1 to 1; sides are multiples of 4."""

    def __init__(self, config: Config) -> None:
        width = config.width
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(config.channels, width, 7), *_instance(width)]
        for _ in range(2):
            layers += [nn.Conv2d(width, 2 * width, 3, 2, 1), *_instance(2 * width)]
            width *= 2
        for _ in range(config.blocks):
            first = (nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), *_instance(width))
            second = (nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width))
            layers.append(Residual(*first, *second))
        for _ in range(2):
            layers += [*doubling(width, width // 2, config.doubling), *_instance(width // 2)]
            width //= 2
        super().__init__(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, config.channels, 7), nn.Tanh())


class ConvGenerator(nn.Sequential):
    """Pictures `[N, channels, H, W]` to pictures of that shape, both in -1 to 1; sides are multiples of 8."""

    def __init__(self, config: Config) -> None:
        wide = (config.width, 2 * config.width, 4 * config.width)
        layers: list[nn.Module] = []
        channels = config.channels
        for features in wide:
            layers += [nn.Conv2d(channels, features, 4, 2, 1, bias=False), *_batch(features)]
            channels = features
        for _ in range(config.blocks):
            first = (nn.Conv2d(channels, channels, 3, 1, 1, bias=False), *_batch(channels))
            second = (nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
            layers.append(Residual(*first, *second))
        for features in wide[1::-1]:
            layers += [*doubling(channels, features, config.doubling, bias=False), *_batch(features)]
            channels = features
        layers += doubling(channels, config.channels, config.doubling, bias=False, last=True)
        super().__init__(*layers, nn.Tanh())


class Replay(nn.Module):
    """Generated pictures of earlier steps, Shrivastava et al. 2017 (arXiv:1612.07828), section 2.3.

    It is a module so that its pictures are saved with the networks and a resumed training finds them again. Where
    several processes share a batch, each keeps the pictures of all of them, so that all hold what one would.
    """

    pictures: Tensor
    count: Tensor

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("pictures", torch.zeros(size, *shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self._filled = 0

    def forward(self, pictures: Tensor) -> Tensor:  # [N, C, H, W] → [N, C, H, W]
        """Until it is full, keep and return each picture; then exchange it for an earlier one with probability ½."""
        if not len(self.pictures):
            return pictures.detach()
        batch = all_gather(pictures)
        return rows(len(pictures), lambda _: self._exchange(batch))

    def _exchange(self, pictures: Tensor) -> Tensor:
        """Keep the pictures of a whole batch one after the other, and give what the discriminator sees for each."""
        size = len(self.pictures)
        chosen = torch.rand(len(pictures), 2).tolist()
        seen: list[Tensor] = []
        for picture, (coin, slot) in zip(pictures, chosen, strict=True):
            filled = self._count()
            if filled < size:
                self.pictures[filled] = picture
                self.count += 1
                self._filled += 1
                seen.append(picture)
            elif coin < 0.5:
                index = int(slot * size)
                seen.append(self.pictures[index].clone().to(picture.dtype))
                self.pictures[index] = picture
            else:
                seen.append(picture)
        return torch.stack(seen)

    def _count(self) -> int:
        """Pictures kept. Read from the device once, after loading, because that waits for it."""
        if not self._filled:
            self._filled = int(self.count)
        return self._filled


CONV: Mapping[str, Any] = {
    "decay": 1.0,
    "nets": "conv",
    "size": 128,
    "blocks": 6,
    "identity": 0.0,
    "halved": False,
    "replay": 0,
    "jitter": False,
}
"""The preset `conv`."""


MODERN: Mapping[str, Any] = {
    "nets": "edge",
    "norm": "none",
    "load_size": None,
    "width": 32,
    "blocks": 6,
    "spectral_norm": True,
    "cycle": 5.0,
    "matching": 5.0,
    "augment": "auto",
}
"""The preset `modern`."""


class CycleGAN:
    """The variant: two generators with one Adam, two discriminators with one each, two replay buffers."""

    name: ClassVar[str] = "cyclegan"
    summary: ClassVar[str] = (
        "pictures of one kind to another and back, learned without pairs (presets: resnet, conv, modern)"
    )
    config_class: ClassVar[type[VariantConfig]] = Config
    sources: ClassVar[Mapping[str, str]] = {"generator-a2b": "a", "generator-b2a": "b"}
    targets: ClassVar[Mapping[str, str]] = {"generator-a2b": "b", "generator-b2a": "a"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "resnet": usual(Config, {*CONV, *MODERN}),
        "conv": {**usual(Config, MODERN), **CONV},
        "modern": {**usual(Config, CONV), **MODERN},
    }

    def __init__(self, config: Config) -> None:
        self.config = config
        self.a2b, self.b2a = make_generator(config), make_generator(config)
        self.discriminator_a, self.discriminator_b = discriminator(config), discriminator(config)
        shape = (config.channels, config.size, config.size)
        self.replay_a, self.replay_b = Replay(config.replay, shape), Replay(config.replay, shape)
        self.networks: Mapping[str, nn.Module] = {
            "generator-a2b": self.a2b,
            "generator-b2a": self.b2a,
            "discriminator-a": self.discriminator_a,
            "discriminator-b": self.discriminator_b,
            "replay-a": self.replay_a,
            "replay-b": self.replay_b,
        }
        for network in self.networks.values():
            network.apply(weights.normal)
        if config.nets == "edge":
            residual.start(self.a2b)
            residual.start(self.b2a)
        if config.spectral_norm:
            nn.ModuleList((self.discriminator_a, self.discriminator_b)).apply(weights.spectral)
        trained: dict[str, nn.Module] = {
            "generators": nn.ModuleList((self.a2b, self.b2a)),
            "discriminator-a": self.discriminator_a,
            "discriminator-b": self.discriminator_b,
        }
        self.optimizers: Mapping[str, Optimizer] = adams(trained, config)

    @staticmethod
    def wants(config: Config) -> Wants:
        """Two sets of pictures in -1 to 1, the range of tanh."""
        return Wants("unpaired", config.size, config.channels, load_size=config.uncut, flip=config.jitter)

    def generators(self) -> dict[str, Interface]:
        """Two generators: pictures to pictures, of any size that halves evenly as often as they do."""
        interface = to_pictures(self.config, self.config.multiple)
        return {"generator-a2b": interface, "generator-b2a": interface}

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Update both generators, then each discriminator."""
        objective, half = OBJECTIVES["lsgan"], 0.5 if self.config.halved else 1.0
        a, b = batch["a"], batch["b"]

        # Update the generators.
        fake_b, fake_a = self.a2b(a), self.b2a(b)
        adversarial = objective.generator(self._judge_b(fake_b)) + objective.generator(self._judge_a(fake_a))
        recovered_a, recovered_b = self.b2a(fake_b), self.a2b(fake_a)
        cycle = F.l1_loss(recovered_a, a) + F.l1_loss(recovered_b, b)
        losses = {"loss_g": half * adversarial, "cycle": half * cycle}
        total = losses["loss_g"] + self.config.cycle * losses["cycle"]
        if self.config.matching > 0:
            pairs = ((self.discriminator_a, recovered_a, a), (self.discriminator_b, recovered_b, b))
            losses["matching"] = half * sum((self._match(*each) for each in pairs), start=cycle.new_zeros(()))
            total = total + self.config.matching * losses["matching"]
        if self.config.identity > 0:
            with frozen_statistics(self.a2b), frozen_statistics(self.b2a):
                losses["identity"] = half * (F.l1_loss(self.b2a(a), a) + F.l1_loss(self.a2b(b), b))
            total = total + self.config.identity * losses["identity"]
        update("generators", total)

        # Update the discriminators.
        for side, judge, real, fake in (
            ("a", self._judge_a, a, self.replay_a(fake_a)),
            ("b", self._judge_b, b, self.replay_b(fake_b)),
        ):
            loss = half * objective.discriminator(judge(real), judge(fake))
            update(f"discriminator-{side}", loss)
            losses[f"loss_d_{side}"] = loss
        return {name: value.detach() for name, value in losses.items()}

    def _judge_a(self, pictures: Tensor) -> Tensor:
        """Verdicts on pictures of A as the discriminator sees them."""
        verdicts: Tensor = self.discriminator_a(augment.augment(pictures, self.config.policy))
        return verdicts

    def _judge_b(self, pictures: Tensor) -> Tensor:
        """Verdicts on pictures of B as the discriminator sees them."""
        verdicts: Tensor = self.discriminator_b(augment.augment(pictures, self.config.policy))
        return verdicts

    def _match(self, judge: PatchGAN, recovered: Tensor, original: Tensor) -> Tensor:
        """Distance of a picture that was translated there and back from the original, in a discriminator's features."""
        recovered, original = seen_alike((recovered, original), self.config.policy)
        _, ours = judge.with_features(recovered)
        with torch.no_grad():
            _, theirs = judge.with_features(original)
        return feature_distance(ours, theirs)

    def strips(self, name: str, networks: Mapping[str, nn.Module], batch: Batch) -> tuple[Tensor, ...]:
        """Input, output, and the output translated back."""
        there, back, source = ("a2b", "b2a", "a") if name == "generator-a2b" else ("b2a", "a2b", "b")
        output = networks[f"generator-{there}"](batch[source])
        return batch[source], output, networks[f"generator-{back}"](output)


def make_generator(config: Config) -> nn.Module:
    """The generator that the config names."""
    if config.nets == "edge":
        is_normed = config.norm == "batch"
        return edge.EdgeGenerator(config.channels, config.width, LEVELS, config.blocks, config.doubling, is_normed)
    return ResnetGenerator(config) if config.nets == "resnet" else ConvGenerator(config)


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Within this, BatchNorm does not count what the network sees towards the statistics that it uses afterwards.

    A generator sees pictures of its output's kind for the identity loss alone. Of the statistics of both kinds together
    it would draw its own kind otherwise than in training.
    """
    kept = [(module, module.momentum) for module in network.modules() if isinstance(module, _BatchNorm)]
    for module, _ in kept:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in kept:
            module.momentum = momentum


def discriminator(config: Config) -> PatchGAN:
    """Pictures to H/16 × W/16 verdicts (resnet), one less each way (conv), or H/8 × W/8 less two (edge)."""
    wide = 8 * config.width
    usual_norm = nn.BatchNorm2d if config.nets == "conv" else nn.InstanceNorm2d
    norm = nn.Identity if config.spectral_norm else usual_norm
    if config.nets == "edge":
        return PatchGAN(config.channels, (2, 2, 2, 1), norm, nn.Conv2d(wide, 1, 4, 1, 1), config.width)
    if config.nets == "resnet":
        last = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(wide, 1, 4, 1, 1))
        return PatchGAN(config.channels, (2, 2, 2, 2), norm, last, config.width)
    relu = lambda: nn.ReLU(inplace=True)  # noqa: E731 - a factory, read in one place
    last = nn.Sequential(nn.Conv2d(wide, 1, 4, 1, 1, bias=False))
    return PatchGAN(config.channels, (2, 2, 2, 2), norm, last, config.width, relu, bias=False)


def _instance(features: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(features), nn.ReLU(inplace=True)


def _batch(features: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(features), nn.ReLU(inplace=True)
