"""Common settings and interface of the variants that translate pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ganedge.models.optimizers import AdamConfig
from ganedge.models.variant import require
from ganedge.runtime.manifest import Interface, Port

JITTER = 286 / 256
"""Pictures are scaled to this times the size before a random square is cut out (Isola et al. 2017, section 6.2)."""


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
    """Scale pictures up by 286/256, cut out a random square and mirror it at random."""

    @property
    def load_size(self) -> int:
        """Height and width that pictures are scaled to before the cut, pixels; 0: no cut."""
        return round(self.size * JITTER) if self.jitter else 0


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
