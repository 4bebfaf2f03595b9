"""A student with the networks of its teacher, narrower or with fewer blocks (`gan-compress --student same`).

It suits where the pictures must come from the same kind of network, normalisation over the picture included; the edge
student of `ganedge.models.student` is faster on most devices.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import nn

from ganedge.models.circles import Circles
from ganedge.models.cyclegan import CycleGAN
from ganedge.models.dcgan import DCGAN
from ganedge.models.pix2pix import Pix2Pix
from ganedge.models.student import (
    LatentConfig,
    LatentStudent,
    PictureConfig,
    PictureStudent,
    StudentConfig,
)
from ganedge.models.variant import Variant, VariantConfig
from ganedge.models.wgan import WGAN
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Interface

TEACHERS: tuple[type[Variant], ...] = (Circles, DCGAN, WGAN, Pix2Pix, CycleGAN)
"""Variants whose networks have a width, and whose generators take what a student takes."""


@dataclass(frozen=True, kw_only=True)
class NarrowConfig(StudentConfig):
    """The GAN that a student has its networks from."""

    variant: str = ""
    """The teacher's variant."""
    variant_config: str = "{}"
    """The teacher's config, as JSON."""
    generator: str = "generator"
    """Which of its generators."""

    @property
    def narrowed(self) -> tuple[type[Variant], VariantConfig]:
        """The variant and its config with the student's width and blocks, without dropout.

        Raises:
            UsageError: a variant whose networks have no width, or sizes above the teacher's.
        """
        variant = next((each for each in TEACHERS if each.name == self.variant), None)
        known = {} if variant is None else {item.name for item in fields(variant.config_class)}
        if variant is None or "width" not in known:
            names = ", ".join(each.name for each in TEACHERS)
            raise UsageError(f"--student same: {self.variant or 'this teacher'} has no width; that is for {names}")
        given: dict[str, Any] = json.loads(self.variant_config)
        changed: dict[str, Any] = {"width": self.width}
        changed |= {"blocks": self.blocks} if "blocks" in known else {}
        changed |= {"dropout": 0.0} if "dropout" in known else {}
        for name in ("width", "blocks"):
            if changed.get(name, 0) > given.get(name, changed.get(name, 0)):
                raise UsageError(f"--{name} {changed[name]}: the teacher has {given[name]}, give that or less")
        return variant, variant.config_class(**{**given, **changed})

    @property
    def network(self) -> nn.Module:
        """The generator, untrained."""
        variant, config = self.narrowed
        return variant(config).networks[self.generator]

    @property
    def interface(self) -> Interface:
        """What it takes and gives."""
        return _interface(*self.narrowed, self.generator)


@functools.lru_cache(maxsize=8)
def _interface(variant: type[Variant], config: VariantConfig, name: str) -> Interface:
    return variant(config).generators()[name]


@dataclass(frozen=True, kw_only=True)
class NarrowPictureConfig(PictureConfig, NarrowConfig):
    """A narrower generator of pictures from pictures."""

    def count_macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one picture of this size."""
        return _count_macs(self, (1, self.inputs, height, width))


@dataclass(frozen=True, kw_only=True)
class NarrowLatentConfig(LatentConfig, NarrowConfig):
    """A narrower generator of pictures or points from latents."""

    def count_macs(self) -> int:
        """Multiply-accumulates for one latent."""
        return _count_macs(self, (1, self.latent, *((1, 1) if self.maps else ())))


class _Narrow:
    """The network of a student that has those of its teacher."""

    config: Any

    @staticmethod
    def make_generator(config: Any) -> nn.Module:
        """The teacher's generator, narrower."""
        network: nn.Module = config.network
        return network

    def generators(self) -> dict[str, Interface]:
        """One generator, with what its teacher takes and gives."""
        return {"generator": self.config.interface}


class NarrowPictureStudent(_Narrow, PictureStudent):
    """A student of pictures with the networks of its teacher."""

    name: ClassVar[str] = "narrow-student"
    config_class: ClassVar[type[VariantConfig]] = NarrowPictureConfig


class NarrowLatentStudent(_Narrow, LatentStudent):
    """A student of latents with the networks of its teacher."""

    name: ClassVar[str] = "narrow-latent-student"
    config_class: ClassVar[type[VariantConfig]] = NarrowLatentConfig


def _count_macs(config: NarrowConfig, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of convolutions and linear layers, without computing anything."""
    from torch.utils.flop_counter import FlopCounterMode  # It imports Triton, which takes a tenth of a second.

    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        inputs = [torch.zeros(shape)]
        if config.interface.classes:
            inputs.append(torch.zeros(1, dtype=torch.int64))
        config.network.eval()(*inputs)
    return int(counter.get_total_flops()) // 2
