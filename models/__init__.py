"""What a GAN is: one variant, one file, and the tuple that names them all.

from ganedge.models import find
variant = find("dcgan")
"""

from ganedge.models.dcgan import DCGAN
from ganedge.models.variant import Variant
from ganedge.runtime.errors import UsageError

VARIANTS: tuple[type[Variant], ...] = (DCGAN,)
"""Every variant, in the order of `gan-train --list`."""


def find(name: str) -> type[Variant]:
    """The variant of that name.

    Raises:
        UsageError: there is none.
    """
    for variant in VARIANTS:
        if variant.name == name:
            return variant
    known = ", ".join(variant.name for variant in VARIANTS)
    raise UsageError(f"unknown variant {name!r}: choose {known} (gan-train --list describes them)")


__all__ = ["VARIANTS", "Variant", "find"]
