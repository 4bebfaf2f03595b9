"""Common settings and interface of the variants that translate pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganedge.models import augment
from ganedge.models.optimizers import AdamConfig
from ganedge.models.variant import VariantConfig, only_with, require
from ganedge.runtime.manifest import Interface, Port

AUGMENTATIONS = ("translation", "cutout")
"""Those of `augment.POLICIES` that translators use: they move and cut a picture and what belongs to it alike."""
JITTER = 286 / 256
"""Pictures are scaled to this times the size, by default, before a random square is cut out (Isola et al. 2017, section
6.2)."""


@dataclass(frozen=True, kw_only=True)
class TranslationConfig(AdamConfig):
    """The settings of every GAN that turns pictures into pictures."""

    epochs: int = 200
    """Passes over the data."""
    batch: int = 1
    """Items in one step, over all devices."""
    decay: float = 0.5
    """Share of the epochs after which the learning rates fall linearly, to reach 0 after the last; 1 keeps them."""
    size: int = 256
    """Height and width of the pictures in training, pixels."""
    channels: int = 3
    """1 grey, 3 colour."""
    width: int = 64
    """Features after the first convolution of all networks."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.channels in (1, 3), "channels", self.channels, "1 or 3")
        require(self.width >= 1, "width", self.width, "1 or more")


@dataclass(frozen=True, kw_only=True)
class JitterConfig(TranslationConfig):
    """The settings of variants that train on randomly cropped and mirrored pictures."""

    jitter: bool = True
    """Scale pictures to --load-size, cut out a random square and mirror it at random."""
    load_size: int | None = only_with("jitter", True, None)
    """Height and width that pictures are scaled to before the square is cut out, pixels: 286/256 of the size by
    default. With more, a small part of each picture is seen at its own scale, and a step takes less time."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        accepted = f"{self.size} or more, the size of what is cut out"
        require(self.load_size is None or self.load_size >= self.size, "load_size", self.load_size, accepted)

    @property
    def uncut(self) -> int:
        """Height and width of the pictures that squares are cut out of, pixels; 0: no cut."""
        return (self.load_size or round(self.size * JITTER)) if self.jitter else 0


@dataclass(frozen=True, kw_only=True)
class PatchConfig(JitterConfig):
    """The settings of variants with a PatchGAN: its normalisation, feature matching and augmentation."""

    spectral_norm: bool = False
    """Divide each weight of the discriminators by its largest singular value, in place of other normalisation."""
    matching: float = 0.0
    """Weight of the distance in the features of the discriminators, between each output and the picture that it should
    be; 0 leaves it out."""
    augment: str = ""
    """Change what the discriminators see, for small data sets: translation,cutout or one of them, or auto: by the
    number of items."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        super().__post_init__()
        require(self.matching >= 0, "matching", self.matching, "0 or more")
        known = self.augment == augment.AUTO or set(self.policy) <= set(AUGMENTATIONS)
        names = f"names out of {','.join(AUGMENTATIONS)}, separated by commas, or {augment.AUTO}"
        require(known, "augment", self.augment, names)

    @property
    def policy(self) -> tuple[str, ...]:
        """The augmentations by name; `auto` is replaced by them once the data are known."""
        assert self.augment != augment.AUTO, "train fills it in"
        return tuple(name for name in self.augment.split(",") if name)

    def for_items(self, count: int) -> VariantConfig:
        """This config with the augmentations for that many pictures in place of `auto`."""
        if self.augment != augment.AUTO:
            return self
        chosen = [name for name in augment.for_items(count).split(",") if name in AUGMENTATIONS]
        return replace(self, augment=",".join(chosen))


def seen_alike(pictures: Sequence[Tensor], policy: tuple[str, ...]) -> Sequence[Tensor]:
    """Augment pictures that belong together, `[N, C, H, W]` each: all of them are moved and cut alike."""
    if not policy:
        return pictures
    channels = [each.shape[1] for each in pictures]
    return torch.split(augment.augment(torch.cat(tuple(pictures), 1), policy), channels, 1)


def to_pictures(
    config: TranslationConfig, multiple: int, further: Sequence[Port] = (), classes: tuple[str, ...] = ()
) -> Interface:
    """The interface of a generator that turns pictures in -1 to 1 into pictures of the same size.

    Args:
        config: For the channels.
        multiple: What height and width are multiples of.
        further: What it takes beside the picture.
        classes: Names of the classes, where one of these is a label.
    """
    shape = ("batch", config.channels, "height", "width")
    ports = (Port(name, "image", "float32", shape, "NCHW", (-1.0, 1.0), multiple) for name in ("input", "output"))
    source, target = ports
    return Interface("image-to-image", (source, *further), (target,), classes=classes)
