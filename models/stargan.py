"""StarGAN: pictures of one domain to pictures of any other with one generator (Choi et al. 2018, arXiv:1711.09020).

    gan-train stargan --data styles/ --out runs/styles          # a folder for each domain
    gan-train stargan --data faces/ --attributes list_attr_celeba.txt --attribute-names Blond_Hair,Male --out runs/faces

The discriminator also classifies a picture's domain. The generator has to make pictures that it takes for real and for
the target domain, and from which it can make the original again. Where a table gives each picture several attributes, a
domain is a combination of them, such as `Blond_Hair+Male`, and each attribute is classified separately.

The paper writes the penalty for a discriminator with one output; its authors' program takes the gradient of the sum
over all patches while the loss takes their mean, and so does this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ganedge.models.cyclegan import Residual
from ganedge.models.noise import all_gather, rows
from ganedge.models.objectives import OBJECTIVES, gradient_penalty
from ganedge.models.optimizers import adams
from ganedge.models.translation import TranslationConfig, to_pictures
from ganedge.models.variant import JOIN, NONE, Batch, Update, VariantConfig, Wants, require, usual
from ganedge.runtime.manifest import Interface, Port

HALVINGS = 6
"""Strided convolutions of the discriminator, where the size of the pictures allows as many."""
SHOWN = 16
"""Domains that a strip shows, at most."""


@dataclass(frozen=True, kw_only=True)
class Config(TranslationConfig):
    """Sizes, weights of the losses and optimisation of a StarGAN."""

    epochs: int = 20
    """Passes over the data."""
    batch: int = 16
    """Items in one step, over all devices."""
    lr: float = 1e-4
    """Adam's learning rate, of all networks."""
    size: int = 128
    """Height and width of the pictures in training, pixels: a multiple of 4, 16 or more."""
    blocks: int = 6
    """Residual blocks of the generator."""
    d_layers: int | None = None
    """Times the discriminator halves its picture; 6 or as often as it halves evenly by default."""
    d_steps: int = 5
    """Steps of the discriminator for each one of the generator."""
    classification: float = 1.0
    """Weight of the domain's classification by the discriminator, of real and of generated pictures."""
    reconstruction: float = 10.0
    """Weight of the cycle loss: the distance between a picture and its translation to another domain and back."""
    gp: float = 10.0
    """Weight of the gradient penalty."""
    mirror: bool = True
    """Mirror pictures left to right at random; --no-mirror where that changes what they show, as of digits."""
    class_names: str | None = None
    """Names of the domains, separated by commas; as the data has by default."""
    attribute_names: str | None = None
    """Attributes of the table --attributes to learn, separated by commas; all of them by default, 8 at most."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.size >= 16 and self.size % 4 == 0, "size", self.size, "a multiple of 4, 16 or more")
        require(self.blocks >= 0, "blocks", self.blocks, "0 or more")
        most = (self.size & -self.size).bit_length() - 1
        even = self.d_layers is None or 1 <= self.d_layers <= most
        require(even, "d_layers", self.d_layers, f"1 to {most}: so often does {self.size} halve evenly")
        require(self.d_steps >= 1, "d_steps", self.d_steps, "1 or more")
        require(self.classification > 0, "classification", self.classification, "more than 0")
        require(self.reconstruction >= 0, "reconstruction", self.reconstruction, "0 or more")
        require(self.gp > 0, "gp", self.gp, "more than 0")
        known = {NONE, *self.attributes}
        fits = not self.attributes or all(set(name.split(JOIN)) <= known for name in self._names)
        require(fits, "class_names", self.class_names, f"combinations of {', '.join(self.attributes)}, or leave it out")

    @property
    def depth(self) -> int:
        """Times the discriminator halves its picture."""
        return self.d_layers or min(HALVINGS, (self.size & -self.size).bit_length() - 1)

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple((self.class_names or "").split(",")) if self.class_names else ()

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains.

        Raises:
            UsageError: fewer than two.
        """
        require(len(self._names) >= 2, "class_names", self.class_names, "two domains or more, separated by commas")
        return self._names

    @property
    def attributes(self) -> tuple[str, ...]:
        """Attributes of which a domain is a combination; empty where each domain is one class."""
        return tuple(self.attribute_names.split(",")) if self.attribute_names else ()

    @property
    def codes(self) -> Tensor:
        """The code of each domain, `[domains, K]`: one of K classes, or each of K attributes or not."""
        if not self.attributes:
            return torch.eye(len(self.domains))
        chosen = [name.split(JOIN) for name in self.domains]
        return torch.tensor([[float(each in parts) for each in self.attributes] for parts in chosen])


class Generator(nn.Module):
    """Pictures `[N, channels, H, W]` and domains, int64 `[N]`, to pictures of that shape, both in -1 to 1.

    Height and width are multiples of 4. A plane for each class or attribute is joined to the picture (appendix,
    table 4 of the paper).
    """

    codes: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.register_buffer("codes", config.codes, persistent=False)
        width, planes = config.width, self.codes.shape[1]
        layers: list[nn.Module] = [nn.Conv2d(config.channels + planes, width, 7, 1, 3, bias=False), *_norm(width)]
        for _ in range(2):
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), *_norm(2 * width)]
            width *= 2
        for _ in range(config.blocks):
            first = (nn.Conv2d(width, width, 3, 1, 1, bias=False), *_norm(width))
            second = (nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.InstanceNorm2d(width, affine=True))
            layers.append(Residual(*first, *second))
        for _ in range(2):
            layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False), *_norm(width // 2)]
            width //= 2
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, config.channels, 7, 1, 3, bias=False), nn.Tanh())

    def forward(self, image: Tensor, label: Tensor) -> Tensor:  # [N, C, H, W], [N] → [N, C, H, W]
        """Translate each picture to its domain."""
        planes = F.embedding(label, self.codes)[:, :, None, None].expand(-1, -1, image.shape[2], image.shape[3])
        result: Tensor = self.layers(torch.cat((image, planes.to(image.dtype)), 1))
        return result


class Discriminator(nn.Module):
    """Pictures `[N, C, size, size]` to verdicts of patches, high means real, and to logits of domains `[N, K]`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels, features = config.channels, config.width
        layers: list[nn.Module] = []
        for _ in range(config.depth):
            layers += [nn.Conv2d(channels, features, 4, 2, 1), nn.LeakyReLU(0.01)]
            channels, features = features, 2 * features
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, 1, 3, 1, 1, bias=False)
        self.domains = nn.Conv2d(channels, config.codes.shape[1], config.size >> config.depth, bias=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:  # [N, C, H, W] → [N, 1, H', W'], [N, K]
        """Judge each patch, and classify the domain."""
        features = self.features(pictures)
        return self.head(features).float(), self.domains(features).flatten(1).float()


RAFD: Mapping[str, Any] = {"epochs": 200}
"""The preset `rafd`: a few thousand pictures, with one class each."""


class StarGAN:
    """The variant: one generator for all domains, and a discriminator that also classifies the domain."""

    name: ClassVar[str] = "stargan"
    summary: ClassVar[str] = "pictures of one domain to any other with one generator (presets: celeba, rafd)"
    config_class: ClassVar[type[VariantConfig]] = Config
    sources: ClassVar[Mapping[str, str]] = {"generator": "images"}
    targets: ClassVar[Mapping[str, str]] = {"generator": "images"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"celeba": usual(Config, RAFD), "rafd": RAFD}

    def __init__(self, config: Config) -> None:
        self.config = config
        self.generator, self.discriminator = Generator(config), Discriminator(config)
        self.networks: Mapping[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        self.optimizers: Mapping[str, Optimizer] = adams(self.networks, config)

    @staticmethod
    def wants(config: Config) -> Wants:
        """Pictures in -1 to 1, the range of tanh, with the domain of each."""
        size, channels, names = config.size, config.channels, config.attributes
        return Wants("images", size, channels, labels=True, flip=config.mirror, examples=True, attributes=names)

    def generators(self) -> dict[str, Interface]:
        """One generator: pictures of any size that halves twice, and the number of a domain."""
        label = Port("label", "label", "int64", ("batch",), "N")
        return {"generator": to_pictures(self.config, 4, (label,), self.config.domains)}

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Update the discriminator, and the generator after each `d_steps` of these."""
        config, objective = self.config, OBJECTIVES["wgan-gp"]
        real, source = batch["images"], batch["labels"]
        every = all_gather(source)  # Other domains come as often as the data has them: the batch's, in random order.
        target = every[rows(len(source), lambda n: torch.randperm(n, device=source.device))]
        turn = (step + 1) % config.d_steps == 0
        with torch.set_grad_enabled(turn):
            fake = self.generator(real, target)

        # Update the discriminator.
        (real_verdict, logits), (fake_verdict, _) = self.discriminator(real), self.discriminator(fake.detach())
        loss_d = objective.discriminator(real_verdict, fake_verdict)
        class_real = self.classification_loss(logits, source)
        mix = rows(len(real), lambda n: torch.rand(n, 1, 1, 1, device=real.device))
        # Without a compiled network: that of its gradient cannot be differentiated again.
        penalty = gradient_penalty(lambda items: self.discriminator.forward(items)[0], real, fake.detach(), mix)
        losses = {"loss_d": loss_d, "class_real": class_real, "penalty": penalty}
        update("discriminator", loss_d + config.classification * class_real + config.gp * penalty)

        # Update the generator.
        if turn:
            verdict, logits = self.discriminator(fake)
            loss_g, class_fake = objective.generator(verdict), self.classification_loss(logits, target)
            back = F.l1_loss(self.generator(fake, source), real)
            update("generator", loss_g + config.classification * class_fake + config.reconstruction * back)
            losses |= {"loss_g": loss_g, "class_fake": class_fake, "reconstruction": back}
        return {name: value.detach() for name, value in losses.items()}

    def classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of the predicted domain, summed over attributes (eq. 2 and 3)."""
        if not self.config.attributes:
            return F.cross_entropy(logits, labels)
        codes = self.generator.codes[labels]
        return F.binary_cross_entropy_with_logits(logits, codes, reduction="sum") / len(labels)

    def strips(self, name: str, networks: Mapping[str, nn.Module], batch: Batch) -> tuple[Tensor, ...]:
        """Input, and the output for every domain, up to 16 of them."""
        images = batch["images"]
        domains = range(min(len(self.config.domains), SHOWN))
        labels = (torch.full((len(images),), domain, device=images.device) for domain in domains)
        return images, *(networks[name](images, label) for label in labels)


def _norm(features: int) -> tuple[nn.Module, nn.Module]:
    return nn.InstanceNorm2d(features, affine=True), nn.ReLU(inplace=True)
