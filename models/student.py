"""The edge student: a small generator of what devices are fast at, taught by a large one (`gan-compress`).

Pictures: space-to-depth, 3×3 convolutions with BatchNorm that export folds away, residual blocks, depth-to-space.
There is no normalisation over the picture, no transposed convolution, no reflection padding and no larger kernel, so
that all of it can be INT8 and a tile equals its part of the whole picture. Latents: two linear layers, then 3×3
convolutions and depth-to-space. Sources:

- the picture's own pixels go into the last convolution beside the features, a learnt form of the anchor of Du et al.
  2021 (arXiv:2105.09750), so that a student of few features keeps detail;
- space-to-depth and its inverse are those of Shi et al. 2016 (arXiv:1609.05158).

`ganedge.train.distill` holds the training step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim import Optimizer

from ganedge.models.optimizers import AdamConfig, adams
from ganedge.models.residual import Residual, normed_convolution
from ganedge.models.variant import Batch, Update, VariantConfig, Wants, require
from ganedge.runtime.cli.options import option
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Interface, Noise, Port

TAUGHT = "taught"
"""Where a batch holds what the teacher makes of its inputs."""
SMALLEST = 7
"""Feature maps of the latent student are not halved below this side, pixels."""
LEAST_WIDTH = 4
"""Channels that a stage of the latent student has at least."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig(AdamConfig):
    """What every student has: how it learns, its size, and what it was compressed from."""

    epochs: int = 200
    """Passes over the data; a pass over latents is 10000 of them."""
    batch: int = field(default=8, metadata=option(default="8; latents 64"))
    """Items in one step, over all devices."""
    decay: float = 0.5
    """Share of the epochs after which the learning rates fall linearly, to reach 0 after the last; 1 keeps them."""
    lr: float = 1e-3
    """Adam's learning rate, of the student and of the discriminator."""
    structure: float = 0.5
    """Weight of the structural distance to the teacher, 1 - SSIM at up to three scales, beside an L1 distance of 1."""
    matching: float = 1.0
    """Weight of the distance to the teacher in the features of a discriminator; 0 leaves it out."""
    adversarial: float = field(default=0.01, metadata=option(default="0.01; latents 0.1"))
    """Weight of the adversarial loss; real pictures are those of --data, else the teacher's. 0 leaves it out."""
    width: int = 64
    """Features of the student: of all its maps for pictures, of the smallest ones for latents."""
    blocks: int = field(default=6, metadata=option(default="6; latents 0"))
    """Residual blocks, for latents at each size of the maps."""
    channels: int = 3
    """Of the pictures that it gives."""
    low: float = -1.0
    """Value of black in the pictures that it gives."""
    high: float = 1.0
    """Value of white in the pictures that it gives."""
    teacher: str = ""
    """The generator that it was compressed from."""
    teacher_digest: str = ""
    """sha256 of the teacher's weights."""
    teacher_macs: int = 0
    """Multiply-accumulates of the teacher for one input."""
    teacher_parameters: int = 0
    """Weights of the teacher."""
    macs: int = 0
    """Multiply-accumulates of the student for the same input."""
    parameters: int = 0
    """Weights of the student after BatchNorm was folded."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        for name in ("structure", "matching", "adversarial"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.width >= 1, "width", self.width, "1 or more")
        require(self.blocks >= 0, "blocks", self.blocks, "0 or more")

    @property
    def discriminates(self) -> bool:
        """Whether a discriminator is trained beside the student."""
        return self.matching > 0 or self.adversarial > 0

    def to_range(self, values: Tensor) -> Tensor:
        """What tanh gave, -1 to 1, in the range of the output."""
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return values if (middle, half) == (0, 1) else values * half + middle

    def to_unit(self, values: Tensor) -> Tensor:
        """Values in the range of the output as -1 to 1, in FP32: what the losses see."""
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return (values.float() - middle) / half


@dataclass(frozen=True, kw_only=True)
class PictureConfig(StudentConfig):
    """A student that turns pictures into pictures."""

    crop: int = 128
    """Height and width of the squares that it learns on, pixels; at most those of the teacher's pictures."""
    size: int = 256
    """Height and width of the pictures that the teacher sees, pixels."""
    inputs: int = 3
    """Channels of the pictures that it takes."""
    input_low: float = -1.0
    """Value of black in the pictures that it takes."""
    input_high: float = 1.0
    """Value of white in the pictures that it takes."""
    scale: int = 1
    """How many times as high and wide as its input its output is."""
    stride: int = 4
    """Height and width of the squares of pixels that become channels."""
    data_kind: Literal["images", "pairs", "unpaired"] = "images"
    """How the training data are laid out."""
    source_key: str = "images"
    """Where a batch holds the inputs."""
    real_key: str = ""
    """Where a batch holds real outputs; empty where the data hold none."""
    reverse: bool = False
    """Whether the second picture of a pair is the input."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        fits = self.stride <= self.crop <= self.size and self.crop % self.stride == 0
        require(fits, "crop", self.crop, f"a multiple of {self.stride}, at most {self.size}")

    def count_macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one picture of this size."""
        pixels = height * width // self.stride**2
        own, last = self.inputs * self.stride**2, self.channels * (self.stride * self.scale) ** 2
        weights = own * self.width + 2 * self.blocks * self.width**2 + (own + self.width) * last
        return 9 * weights * pixels


@dataclass(frozen=True, kw_only=True)
class LatentConfig(StudentConfig):
    """A student that turns latents into pictures or points."""

    batch: int = 64
    """Items in one step, over all devices."""
    blocks: int = 0
    """Residual blocks at each size of the maps."""
    adversarial: float = 0.1
    """Weight of the adversarial loss; real pictures are those of --data, else the teacher's. 0 leaves it out."""
    sample_every: int = 1000
    """Steps, or epochs where --sample-unit says so, between two pictures of the same noise in the run folder."""
    grid: int = 8
    """Pictures in a row of a sample in the run folder, and rows."""
    latent: int = 100
    """Length of the latent vector."""
    maps: bool = False
    """Whether latents are `[N, latent, 1, 1]`."""
    latent_name: str = "latent"
    """Name of the first input."""
    label_name: str = "label"
    """Name of the second input, where it is conditional."""
    output_name: str = "image"
    """Name of the output."""
    noise: Noise = "normal"
    """Distribution of the latents."""
    class_names: str = ""
    """Names of the classes, separated by commas; empty where it is unconditional."""
    height: int = 32
    """Of the pictures, pixels; 0 where it gives points."""
    wide: int = 32
    """Width of the pictures, pixels; 0 where it gives points."""
    has_data: bool = False
    """Whether there are real pictures."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty where it is unconditional."""
        return tuple(self.class_names.split(",")) if self.class_names else ()

    @property
    def hidden(self) -> int:
        """Features of the linear layer that the latents go through first."""
        return 2 * self.width

    @property
    def doublings(self) -> int:
        """How often the first feature maps are doubled."""
        count, height, wide = 0, self.height, self.wide
        while height and height % 2 == 0 and wide % 2 == 0 and min(height, wide) > SMALLEST:
            count, height, wide = count + 1, height // 2, wide // 2
        return count

    @property
    def start(self) -> tuple[int, int]:
        """Height and width of the first feature maps."""
        return self.height >> self.doublings, self.wide >> self.doublings

    def features(self, stage: int) -> int:
        """Channels of the feature maps after that many doublings."""
        return max(self.width >> stage, LEAST_WIDTH)

    def count_macs(self) -> int:
        """Multiply-accumulates for one latent."""
        if not self.height:
            return self.latent * self.hidden + self.hidden**2 + self.hidden * self.channels
        pixels = self.start[0] * self.start[1]
        count = self.latent * self.hidden + self.hidden * self.features(0) * pixels
        for stage in range(max(self.doublings, 1)):
            own, last = self.features(stage), stage >= self.doublings - 1
            after = self.channels if last else self.features(stage + 1)
            count += pixels * 9 * own * (2 * self.blocks * own + after * (4 if self.doublings else 1))
            pixels *= 4
        return count


class PictureGenerator(nn.Module):
    """Pictures `[N, inputs, H, W]` to `[N, channels, scale·H, scale·W]`; sides are multiples of the stride.

    Both are in the ranges that the config names.
    """

    def __init__(self, config: PictureConfig) -> None:
        super().__init__()
        self.config = config
        own = config.inputs * config.stride**2
        side = config.stride * config.scale
        body: list[nn.Module] = [*normed_convolution(own, config.width), nn.ReLU()]
        self.body = nn.Sequential(*body, *(Residual(config.width) for _ in range(config.blocks)))
        self.last = nn.Conv2d(own + config.width, config.channels * side**2, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(side)

    def forward(self, picture: Tensor) -> Tensor:
        """Translate each picture."""
        config = self.config
        middle, half = (config.input_high + config.input_low) / 2, (config.input_high - config.input_low) / 2
        if (middle, half) != (0, 1):
            picture = (picture - middle) / half
        squares = space_to_depth(picture, config.stride)
        values = self.last(torch.cat((squares, self.body(squares)), 1))
        return config.to_range(torch.tanh(self.shuffle(values)))


class LatentGenerator(nn.Module):
    """Latents `[N, latent]` and perhaps labels `[N]` to pictures `[N, channels, height, wide]` or points `[N, 2]`."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        self.config = config
        first, hidden, (height, wide) = config.features(0), config.hidden, config.start
        self.project = nn.Linear(config.latent, hidden)
        self.embed = nn.Embedding(len(config.classes), hidden) if config.classes else None
        if not config.height:
            self.layers = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, config.channels))
            return
        layers: list[nn.Module] = [nn.Linear(hidden, first * height * wide), nn.Unflatten(1, (first, height, wide))]
        for stage in range(max(config.doublings, 1)):
            own, last = config.features(stage), stage >= config.doublings - 1
            layers += [nn.ReLU(), *(Residual(own) for _ in range(config.blocks))]
            after = config.channels if last else config.features(stage + 1)
            factor = 2 if config.doublings else 1
            layers += (
                [nn.Conv2d(own, after * factor**2, 3, 1, 1)] if last else normed_convolution(own, after * factor**2)
            )
            layers += [nn.PixelShuffle(factor)] if factor > 1 else []
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Draw one item per latent."""
        hidden = self.project(latent.flatten(1))
        if self.embed is not None:
            hidden = hidden + self.embed(label)
        values: Tensor = self.layers(torch.relu(hidden))
        return self.config.to_range(torch.tanh(values)) if self.config.height else values


class Discriminator(nn.Module):
    """Pictures `[N, C, H, W]` in -1 to 1 to verdicts `[N, 1, h, w]`, high means real, and the features on the way.

    Weights are normalised spectrally (Miyato et al. 2018, arXiv:1802.05957). A label adds the product of its embedding
    and the mean features (Miyato & Koyama 2018, arXiv:1802.05637).
    """

    def __init__(self, channels: int, classes: int = 0, width: int = 32) -> None:
        super().__init__()
        sizes = (channels, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            parametrizations.spectral_norm(nn.Conv2d(inputs, outputs, 4, 2, 1)) for inputs, outputs in pairwise(sizes)
        )
        self.head = parametrizations.spectral_norm(nn.Conv2d(sizes[-1], 1, 3, 1, 1))
        self.embed = nn.Embedding(classes, sizes[-1]) if classes else None

    def forward(self, pictures: Tensor, label: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Judge each part of each picture; the features are those after each convolution."""
        features: list[Tensor] = []
        for layer in self.layers:
            pictures = F.leaky_relu(layer(pictures), 0.2)
            features.append(pictures.float())
        verdicts: Tensor = self.head(pictures).float()
        if self.embed is not None:
            product = (self.embed(label) * features[-1].mean((2, 3))).sum(1)
            verdicts = verdicts + product[:, None, None, None]
        return verdicts, features


class Student:
    """What both students share. It is no variant of gan-train: without its teacher it cannot learn."""

    summary: ClassVar[str] = "a small generator that learned from a large one (gan-compress)"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, config: StudentConfig, generator: nn.Module, discriminator: nn.Module | None) -> None:
        self.generator = generator
        self.discriminator = discriminator
        networks = {"generator": generator, "discriminator": discriminator}
        self.networks: Mapping[str, nn.Module] = {name: each for name, each in networks.items() if each is not None}
        self.optimizers: Mapping[str, Optimizer] = adams(self.networks, config)

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Refuse: the step is the teacher's (`ganedge.train.distill`)."""
        raise UsageError("a student learns from its teacher alone: go on with gan-compress --resume")


class PictureStudent(Student):
    """A student of a generator that turns pictures into pictures."""

    name: ClassVar[str] = "student"
    config_class: ClassVar[type[VariantConfig]] = PictureConfig
    strip_order: ClassVar[tuple[int, ...]] = (0, 2, 1)

    def __init__(self, config: PictureConfig) -> None:
        self.config = config
        self.sources: Mapping[str, str] = {"generator": config.source_key}
        self.targets: Mapping[str, str] = {"generator": config.real_key or TAUGHT}
        discriminator = Discriminator(config.channels) if config.discriminates else None
        super().__init__(config, self.make_generator(config), discriminator)

    @staticmethod
    def make_generator(config: PictureConfig) -> nn.Module:
        """The network that a config describes, untrained."""
        return PictureGenerator(config)

    @staticmethod
    def wants(config: PictureConfig) -> Wants:
        """Pictures as large as the teacher takes them, of which squares are cut out."""
        bounds = (config.input_low, config.input_high)
        load_size = config.size if config.size > config.crop else 0
        kind, channels = config.data_kind, config.inputs
        return Wants(kind, config.crop, channels, bounds, load_size=load_size, flip=True, reverse=config.reverse)

    def generators(self) -> dict[str, Interface]:
        """One generator: pictures of any size that is a multiple of the stride."""
        config = self.config
        larger = f"{config.scale}*" if config.scale > 1 else ""
        taken = ("batch", config.inputs, "height", "width")
        made = ("batch", config.channels, f"{larger}height", f"{larger}width")
        source = Port("input", "image", "float32", taken, "NCHW", (config.input_low, config.input_high), config.stride)
        multiple = config.stride * config.scale
        target = Port("output", "image", "float32", made, "NCHW", (config.low, config.high), multiple)
        return {"generator": Interface("image-to-image", (source,), (target,))}

    def strips(self, name: str, networks: Mapping[str, nn.Module], batch: Batch) -> tuple[Tensor, ...]:
        """Input, output and what the teacher gives, all as large and in as many channels as the output."""
        config, pictures = self.config, batch[self.sources[name]]
        shown = (pictures - config.input_low) / (config.input_high - config.input_low)
        shown = shown * (config.high - config.low) + config.low
        if config.scale > 1:
            shown = F.interpolate(shown, scale_factor=float(config.scale))
        if shown.shape[1] != config.channels:
            shown = shown[:, :3].mean(1, keepdim=True).expand(-1, config.channels, -1, -1)
        return shown, networks[name](pictures), batch[TAUGHT]


class LatentStudent(Student):
    """A student of a generator that draws pictures or points from latents."""

    name: ClassVar[str] = "latent-student"
    config_class: ClassVar[type[VariantConfig]] = LatentConfig

    def __init__(self, config: LatentConfig) -> None:
        self.config = config
        judged = config.discriminates and config.height > 0
        discriminator = Discriminator(config.channels, len(config.classes)) if judged else None
        super().__init__(config, self.make_generator(config), discriminator)

    @staticmethod
    def make_generator(config: LatentConfig) -> nn.Module:
        """The network that a config describes, untrained."""
        return LatentGenerator(config)

    @staticmethod
    def wants(config: LatentConfig) -> Wants:
        """Real pictures where there are any; else latents alone."""
        if not config.has_data:
            return Wants("latents")
        bounds = (config.low, config.high)
        return Wants("images", config.height, config.channels, bounds, labels=bool(config.classes))

    def generators(self) -> dict[str, Interface]:
        """One generator, with the inputs of its teacher."""
        config = self.config
        shape = ("batch", config.latent, *((1, 1) if config.maps else ()))
        inputs = [Port(config.latent_name, "latent", "float32", shape, "NCHW" if config.maps else "NC")]
        if config.classes:
            inputs.append(Port(config.label_name, "label", "int64", ("batch",), "N"))
        if not config.height:
            points = Port(config.output_name, "points", "float32", ("batch", config.channels), "NC")
            return {"generator": Interface("latent-to-points", tuple(inputs), (points,), config.noise, config.classes)}
        shown = ("batch", config.channels, config.height, config.wide)
        image = Port(config.output_name, "image", "float32", shown, "NCHW", (config.low, config.high))
        return {"generator": Interface("latent-to-image", tuple(inputs), (image,), config.noise, config.classes)}


def space_to_depth(pictures: Tensor, side: int) -> Tensor:
    """Squares of side × side pixels as channels, in the order of ONNX's SpaceToDepth: row, column, channel.

    Args:
        pictures: `[N, C, H, W]`; height and width are multiples of the side.
        side: Of a square, pixels.

    Returns:
        `[N, side² · C, H / side, W / side]`.
    """
    if side == 1:
        return pictures
    count, channels, height, width = pictures.shape
    shape = (count, side * side * channels, height // side, width // side)
    if torch.onnx.is_in_onnx_export():  # As one operator: the exporter makes 18 of pixel_unshuffle.
        attributes: dict[str, Any] = {"blocksize": side}
        return torch.onnx.ops.symbolic(
            "SpaceToDepth", (pictures,), attributes, dtype=pictures.dtype, shape=shape, version=13
        )
    squares = F.pixel_unshuffle(pictures, side)
    return squares.reshape(count, channels, side * side, *shape[2:]).transpose(1, 2).reshape(shape)
