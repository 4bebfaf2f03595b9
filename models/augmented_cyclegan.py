"""Augmented CycleGAN: many results for each picture, learned without pairs (Almahairi et al. 2018, arXiv:1802.10151).

    gan-train augmented-cyclegan --data faces/ --out runs/faces                      # many to many
    gan-train augmented-cyclegan --data edges2shoes/ --out runs/shoes --preset edges # one drawing, many shoes

`generator-a2b` makes a picture of B from one of A and a latent that says what the picture of A does not, such as a
colour. An encoder infers that latent from both pictures, so that the way back can return to the first one. With
`--preset edges`, as in the authors' program, A says nothing that B does not: only B has a latent.

Differences from the authors' program (github.com/aalmah/augmented_cyclegan):

- Their discriminator of latents has BatchNorm. It sees true and inferred latents in batches of their own, and so cannot
  see that these have another mean or deviation. Here it has none.
- They let the rate of the discriminators, a fifth of the generators', jump to that of the generators where the decay
  begins. Here it stays a fifth.
- They multiply normalised features by max(0, Wz + b), start the scale of InstanceNorm without latent around 0, not 1,
  and ignore the number of blocks that is asked for. Here z gives 1 + Wz + b, and the scale starts at 1.
- Their encoders have BatchNorm, here GroupNorm with one group, so that a batch may be one picture, or be spread over
  processes, and gives the same training.
- Both sides have the discriminator that theirs has on side B; gradients are not clipped, theirs were at a norm of 500.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ganedge.models import weights
from ganedge.models.noise import draw
from ganedge.models.objectives import OBJECTIVES
from ganedge.models.optimizers import adams
from ganedge.models.patchgan import PatchGAN
from ganedge.models.translation import JitterConfig, to_pictures
from ganedge.models.upsample import Upsampling, doubling
from ganedge.models.variant import Batch, Update, VariantConfig, Wants, require, usual
from ganedge.runtime.conditions import Conditions, FurtherStream
from ganedge.runtime.manifest import Interface, Port

HALVINGS = 4
"""Strided convolutions of an encoder, where the size of the pictures allows as many."""
SPREAD = 0.3
"""Deviation of scale and shift over latents, at first. With 0.08 the latent had no effect after 750 steps, and encoders
inferred ever larger ones; with 0.6 the first features spread so far that INT8 missed its gate."""
SHOWN = 6
"""Results of each picture in a strip: those of the seeds from 0 on."""


@dataclass(frozen=True, kw_only=True)
class Config(JitterConfig):
    """Sizes, weights of the losses and optimisation of an Augmented CycleGAN."""

    epochs: int = 50
    """Passes over the larger of the two sets."""
    batch: int = 32
    """Items in one step, over all devices."""
    lr: float = 2e-4
    """Adam's learning rate, of generators and encoders."""
    lr_d: float = 4e-5
    """Adam's learning rate, of all discriminators."""
    size: int = 64
    """Height and width of the pictures in training, pixels: a multiple of 4, 16 or more."""
    width: int = 32
    """Features after the first convolution of generators and encoders; discriminators have twice as many."""
    blocks: int = 3
    """Residual blocks of each generator."""
    upsample: Upsampling = "transpose"
    """How the generators double their feature maps: transpose (a transposed convolution), resize (nearest, then a
    convolution), shuffle (a convolution, then depth-to-space) or bilinear (a convolution, then interpolation)."""
    latent_a: int = 16
    """Length of the latent that generator-b2a takes; 0: none, each picture of B has one result in A."""
    latent_b: int = 16
    """Length of the latent that generator-a2b takes; 0: none, each picture of A has one result in B."""
    cycle: float = 1.0
    """Weight of the distance between a picture and what comes back from there and back."""
    cycle_z: float = 0.025
    """Weight of the distance between a latent and the one that the encoder infers from its result."""
    jitter: bool = False
    """Scale pictures to --load-size, cut out a random square and mirror it at random."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.lr_d > 0, "lr_d", self.lr_d, "more than 0")
        require(self.size >= 16 and self.size % 4 == 0, "size", self.size, "a multiple of 4, 16 or more")
        require(self.blocks >= 0, "blocks", self.blocks, "0 or more")
        require(self.latent_a >= 0, "latent_a", self.latent_a, "0 or more")
        some = self.latent_b >= 0 and self.latent_a + self.latent_b > 0
        require(some, "latent_b", self.latent_b, "1 or more, or 0 where --latent-a is more; cyclegan has neither")
        require(self.cycle >= 0, "cycle", self.cycle, "0 or more")
        require(self.cycle_z >= 0, "cycle_z", self.cycle_z, "0 or more")

    @property
    def halvings(self) -> int:
        """Times an encoder halves its pictures."""
        return min(HALVINGS, (self.size & -self.size).bit_length() - 1)


class ConditionalNorm(nn.Module):
    """InstanceNorm whose scale and shift come from a latent; learned as they are where there is none."""

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(features, affine=not latent)
        self.affine = nn.Linear(latent, 2 * features) if latent else None
        if self.affine is not None:
            nn.init.normal_(self.affine.weight, 0.0, SPREAD / latent**0.5)
            nn.init.zeros_(self.affine.bias)

    def forward(
        self, features: Tensor, latent: Tensor | None = None
    ) -> Tensor:  # [N, F, H, W], [N, latent] → [N, F, H, W]
        """Normalise each feature of each picture."""
        normal: Tensor = self.norm(features)
        if self.affine is None:
            return normal
        factors: Tensor = self.affine(latent)[:, :, None, None]
        scale, shift = factors.chunk(2, 1)
        return normal * (1 + scale) + shift


class Layer(nn.Module):
    """Some layers, a normalisation by the latent, and perhaps a ReLU."""

    def __init__(self, latent: int, features: int, *layers: nn.Module, relu: bool = True) -> None:
        super().__init__()
        self.layers, self.norm = nn.Sequential(*layers), ConditionalNorm(features, latent)
        self.relu = relu

    def forward(self, features: Tensor, latent: Tensor | None = None) -> Tensor:
        """Compute the next features."""
        normal: Tensor = self.norm(self.layers(features), latent)
        return F.relu(normal) if self.relu else normal


class Block(nn.Module):
    """Features plus what two convolutions make of them, and a ReLU."""

    def __init__(self, latent: int, features: int) -> None:
        super().__init__()
        self.first = Layer(latent, features, nn.ReflectionPad2d(1), nn.Conv2d(features, features, 3))
        self.second = Layer(latent, features, nn.ReflectionPad2d(1), nn.Conv2d(features, features, 3), relu=False)

    def forward(self, features: Tensor, latent: Tensor | None = None) -> Tensor:
        """Add the change."""
        return F.relu(features + self.second(self.first(features, latent), latent))


class Generator(nn.Module):
    """Pictures `[N, channels, H, W]`, and latents `[N, latent]` if it takes them, to pictures of that shape.

    Both in -1 to 1; height and width are even.
    """

    def __init__(self, config: Config, latent: int) -> None:
        super().__init__()
        wide, channels = config.width, config.channels
        layers: list[nn.Module] = [Layer(latent, wide, nn.ReflectionPad2d(3), nn.Conv2d(channels, wide, 7))]
        layers.append(Layer(latent, 2 * wide, nn.Conv2d(wide, 2 * wide, 3, 1, 1)))
        layers.append(Layer(latent, 4 * wide, nn.Conv2d(2 * wide, 4 * wide, 3, 2, 1)))
        layers += [Block(latent, 4 * wide) for _ in range(config.blocks)]
        layers.append(Layer(latent, 2 * wide, *doubling(4 * wide, 2 * wide, config.upsample)))
        layers.append(Layer(latent, wide, nn.Conv2d(2 * wide, wide, 3, 1, 1)))
        self.layers = nn.ModuleList(layers)
        self.last = nn.Conv2d(wide, channels, 7, 1, 3)

    def forward(self, image: Tensor, latent: Tensor | None = None) -> Tensor:
        """Translate each picture."""
        features = image
        for layer in self.layers:
            features = layer(features, latent)
        result: Tensor = self.last(features).tanh()
        return result


class Encoder(nn.Module):
    """Pictures of A and of B, `[N, channels, size, size]` each, to the latent `[N, latent]` that one of them has."""

    def __init__(self, config: Config, latent: int) -> None:
        super().__init__()
        features, wide = 2 * config.channels, config.width
        layers: list[nn.Module] = []
        for level in range(config.halvings):
            layers += [nn.Conv2d(features, wide, 3, 2, 1), *([nn.GroupNorm(1, wide)] if level else [])]
            layers.append(nn.ReLU(inplace=True))
            features, wide = wide, 2 * wide
        layers += [nn.Conv2d(features, features, config.size >> config.halvings), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(features, latent, 1), nn.Flatten())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Infer each latent."""
        latents: Tensor = self.layers(torch.cat((a, b), 1))
        return latents.float()


class LatentDiscriminator(nn.Sequential):
    """Latents `[N, latent]` to verdicts `[N, 1]`: high means drawn, not inferred."""

    def __init__(self, config: Config, latent: int) -> None:
        wide = 2 * config.width
        layers: list[nn.Module] = []
        for features in (latent, wide, wide):
            layers += [nn.Linear(features, wide), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Linear(wide, 1))


EDGES: Mapping[str, Any] = {"latent_a": 0}
"""The preset `edges`: what the authors' program trains on drawings and photographs of shoes."""


class AugmentedCycleGAN:
    """The variant: two generators and the encoders of their latents with one Adam, and all discriminators with one."""

    name: ClassVar[str] = "augmented-cyclegan"
    summary: ClassVar[str] = "many results for each picture, learned without pairs (presets: both, edges)"
    config_class: ClassVar[type[VariantConfig]] = Config
    sources: ClassVar[Mapping[str, str]] = {"generator-a2b": "a", "generator-b2a": "b"}
    targets: ClassVar[Mapping[str, str]] = {"generator-a2b": "b", "generator-b2a": "a"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"both": usual(Config, EDGES), "edges": EDGES}

    def __init__(self, config: Config) -> None:
        self.config = config
        latents = {"a": config.latent_a, "b": config.latent_b}
        self.a2b, self.b2a = Generator(config, config.latent_b), Generator(config, config.latent_a)
        self.encoders = {side: Encoder(config, length) for side, length in latents.items() if length}
        self.discriminators: dict[str, nn.Module] = {side: discriminator(config) for side in "ab"}
        judges = {f"z-{side}": LatentDiscriminator(config, length) for side, length in latents.items() if length}
        self.discriminators |= judges
        learning: dict[str, nn.Module] = {"generator-a2b": self.a2b, "generator-b2a": self.b2a}
        learning |= {f"encoder-{side}": encoder for side, encoder in self.encoders.items()}
        judging = {f"discriminator-{name}": judge for name, judge in self.discriminators.items()}
        self.networks: Mapping[str, nn.Module] = {**learning, **judging}
        for network in self.networks.values():
            network.apply(weights.normal)
        self.optimizers: Mapping[str, Optimizer] = {
            **adams({"generators": nn.ModuleList(learning.values())}, config),
            **adams({"discriminators": nn.ModuleList(judging.values())}, replace(config, lr=config.lr_d)),
        }

    @staticmethod
    def wants(config: Config) -> Wants:
        """Two sets of pictures in -1 to 1, the range of tanh."""
        return Wants("unpaired", config.size, config.channels, load_size=config.uncut, flip=config.jitter)

    def generators(self) -> dict[str, Interface]:
        """Two generators: pictures of any even size, and the latent of the other side, to pictures."""
        lengths = {"generator-a2b": self.config.latent_b, "generator-b2a": self.config.latent_a}
        return {name: to_pictures(self.config, 2, _further(length)) for name, length in lengths.items()}

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Update the discriminators, then generators and encoders against the new ones."""
        objective, a, b = OBJECTIVES["lsgan"], batch["a"], batch["b"]
        z = {side: draw("normal", len(a), self._length(side), a.device) for side in self.encoders}
        z_a, z_b = ((z[side],) if side in z else () for side in "ab")

        # Go there, and infer what the result does not say: equations 3 to 6 of the paper.
        fake_b, fake_a = self.a2b(a, *z_b), self.b2a(b, *z_a)
        pictures = {"a": (a, fake_b), "b": (fake_a, b)}
        inferred = {side: encoder(*pictures[side]) for side, encoder in self.encoders.items()}
        fakes = {"a": fake_a, "b": fake_b, **{f"z-{side}": each for side, each in inferred.items()}}
        reals = {"a": a, "b": b, **{f"z-{side}": each for side, each in z.items()}}

        # Update the discriminators.
        losses = {
            f"loss_d_{name}".replace("-", "_"): objective.discriminator(judge(reals[name]), judge(fakes[name].detach()))
            / 2
            for name, judge in self.discriminators.items()
        }
        update("discriminators", torch.stack([*losses.values()]).sum())

        # Update generators and encoders: marginal matching, and the way back to pictures and latents.
        verdicts = {name: objective.generator(judge(fakes[name])) for name, judge in self.discriminators.items()}
        back_a, back_b = ((inferred[side],) if side in inferred else () for side in "ab")
        of = {
            "loss_g": verdicts["a"] + verdicts["b"],
            "cycle": F.l1_loss(self.b2a(fake_b, *back_a), a) + F.l1_loss(self.a2b(fake_a, *back_b), b),
            "loss_z": torch.stack([verdicts[f"z-{side}"] for side in z]).sum(),
            "cycle_z": torch.stack([self._returned(side, z[side], (a, b), (fake_a, fake_b)) for side in z]).sum(),
        }
        total = of["loss_g"] + of["loss_z"] + self.config.cycle * of["cycle"] + self.config.cycle_z * of["cycle_z"]
        update("generators", total)
        return {name: value.detach() for name, value in (of | losses).items()}

    def _length(self, side: str) -> int:
        return self.config.latent_a if side == "a" else self.config.latent_b

    def _returned(self, side: str, z: Tensor, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]) -> Tensor:
        """How far a drawn latent is from the one that is inferred from its result and the picture that it joined."""
        pictures = (fake[0], real[1]) if side == "a" else (real[0], fake[1])
        return F.l1_loss(self.encoders[side](*pictures), z)

    def strips(self, name: str, networks: Mapping[str, nn.Module], batch: Batch) -> tuple[Tensor, ...]:
        """Input, and the outputs for the latents of the seeds 0 to 5; one output where it takes no latent."""
        images, interface = batch[self.sources[name]], self.generators()[name]
        streams = (FurtherStream(interface, Conditions(), seed) for seed in range(SHOWN))
        drawn = ([torch.from_numpy(array).to(images.device) for array in stream.take(1)] for stream in streams)
        latents = list(drawn) if len(interface.inputs) > 1 else [[]]
        return images, *(networks[name](images, *(z.expand(len(images), -1) for z in each)) for each in latents)


def discriminator(config: Config) -> PatchGAN:
    """Pictures to (H/4 - 3) × (W/4 - 3) verdicts, of 70 × 70 patches less one halving."""
    wide = 2 * config.width
    last = nn.Sequential(*_patches(4 * wide, 4 * wide), nn.Conv2d(4 * wide, 1, 4, 1, 1))
    return PatchGAN(config.channels, (2, 2, 1), _norm, last, wide)


def _patches(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 4, 1, 1), _norm(outputs), nn.LeakyReLU(0.2, inplace=True)


def _norm(features: int) -> nn.Module:
    return nn.InstanceNorm2d(features, affine=True)


def _further(length: int) -> tuple[Port, ...]:
    """The latent of that length as an input; none where it is 0."""
    return (Port("latent", "vector", "float32", ("batch", length), "NC", distribution="normal"),) if length else ()
