"""The GAN variants, one file each, and the tuple that lists them.

from ganedge.models import find
variant = find("dcgan")
"""

from ganedge.models.augmented_cyclegan import AugmentedCycleGAN
from ganedge.models.circles import Circles
from ganedge.models.cyclegan import CycleGAN
from ganedge.models.dcgan import DCGAN
from ganedge.models.digit import Digit
from ganedge.models.mlp import MLP
from ganedge.models.narrower import NarrowLatentStudent, NarrowPictureStudent
from ganedge.models.pix2pix import Pix2Pix
from ganedge.models.stargan import StarGAN
from ganedge.models.student import LatentStudent, PictureStudent
from ganedge.models.variant import Variant
from ganedge.models.wgan import WGAN
from ganedge.runtime.errors import UsageError

VARIANTS: tuple[type[Variant], ...] = (Circles, MLP, Digit, DCGAN, WGAN, Pix2Pix, CycleGAN, StarGAN, AugmentedCycleGAN)
"""Every variant, in the order of `gan-train --list`."""
STUDENTS: tuple[type[Variant], ...] = (PictureStudent, LatentStudent, NarrowPictureStudent, NarrowLatentStudent)
"""What `gan-compress` trains; a run of it is opened as that of any variant."""


def find(name: str) -> type[Variant]:
    """The variant of that name.

    Raises:
        UsageError: there is none.
    """
    for variant in (*VARIANTS, *STUDENTS):
        if variant.name == name:
            return variant
    known = ", ".join(variant.name for variant in VARIANTS)
    raise UsageError(f"unknown variant {name!r}: choose {known} (gan-train --list describes them)")


__all__ = ["STUDENTS", "VARIANTS", "Variant", "find"]
