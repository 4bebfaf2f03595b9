"""Train every system for a few steps at a small size: what matrices of formats and devices go through.

run = train_system("dcgan", Path("build/systems"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from ganedge.models import find
from ganedge.runtime import inputs

SYSTEMS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "circles": ("circles", None, {}),
    "mlp-dropout": ("mlp", "dropout", {"size": 8, "batch": 16}),
    "mlp-batchnorm": ("mlp", "batchnorm", {"size": 8, "batch": 16}),
    "digit": ("digit", None, {"batch": 4}),
    "dcgan": ("dcgan", None, {"size": 16, "width": 8, "batch": 8}),
    "dcgan-modern": ("dcgan", "modern", {"size": 16, "width": 8, "batch": 8}),
    "wgan": ("wgan", None, {"size": 16, "width": 8, "batch": 8, "d_steps": 1}),
    "pix2pix": ("pix2pix", None, {"size": 32, "width": 8}),
    "pix2pix-shuffle": ("pix2pix", None, {"size": 32, "width": 8, "upsample": "shuffle"}),
    "pix2pix-modern": ("pix2pix", "modern", {"size": 32, "width": 8, "blocks": 1, "batch": 2}),
    "cyclegan-conv": ("cyclegan", "conv", {"size": 32, "width": 8, "blocks": 1}),
    "cyclegan-resnet": ("cyclegan", "resnet", {"size": 32, "width": 8, "blocks": 1}),
    "cyclegan-modern": ("cyclegan", "modern", {"size": 32, "width": 8, "blocks": 1}),
    "stargan": ("stargan", None, {"size": 32, "width": 8, "blocks": 1, "batch": 4, "d_steps": 1}),
    "augmented-cyclegan": ("augmented-cyclegan", None, {"size": 32, "width": 8, "blocks": 1, "batch": 2}),
}
"""Variant, preset and the settings that make it small."""
NINE = (
    "circles",
    "mlp-dropout",
    "mlp-batchnorm",
    "digit",
    "dcgan",
    "wgan",
    "pix2pix",
    "cyclegan-conv",
    "cyclegan-resnet",
)
"""The systems that every engine has to run."""
PICTURES = {"pairs": (96, 192), "sets/trainA": (96, 96), "sets/trainB": (96, 96)}
"""Folders of pictures made by code, and their height and width."""


def train_system(name: str, folder: Path, full: bool = False, **options: Any) -> Path:
    """The run of a system after three steps, made when it is first asked for.

    Args:
        name: One of `SYSTEMS`.
        folder: Where runs and their pictures lie.
        full: At its default size.
        **options: Further options of the variant, always the same for one name and folder.
    """
    from ganedge.train.loop import train  # The names above are needed where the extra train is not installed, too.
    from ganedge.train.settings import Settings

    out = folder / f"{name}-{'full' if full else 'tiny'}"
    if out.is_dir():
        return out
    variant_name, preset, small = SYSTEMS[name]
    variant = find(variant_name)
    config = {**small, **options}
    if full:
        few = {"batch": 4} if variant_name in ("wgan", "dcgan") else {}
        config = {**few, **{key: value for key, value in small.items() if key == "upsample"}, **options}
    wants = variant.wants(variant.config_class(**{**variant.presets.get(preset or "", {}), **config}))
    data = {"images": "digits", "points": "circles", "pairs": "pairs", "unpaired": "sets"}[wants.kind]
    if data in ("pairs", "sets"):
        make_pictures(folder)
        data = str(folder / data)
    return train(variant, config, Settings(data=data, out=out, steps=3, device="cpu", preset=preset))


def train_student(folder: Path) -> Path:
    """The run of an edge student of the CycleGAN with residual blocks, after two steps."""
    from ganedge.export import compress

    out = folder / "student"
    if not out.is_dir():
        teacher = train_system("cyclegan-resnet", folder)
        compress(
            teacher,
            which="a2b",
            data=str(folder / "sets" / "trainA"),
            out=out,
            steps=2,
            batch=2,
            width=8,
            device="cpu",
            precision="fp32",
        )
    return out


def make_pictures(folder: Path) -> None:
    """Write the pictures that systems of pictures learn from."""
    for name, (height, width) in PICTURES.items():
        if (folder / name).is_dir():
            continue
        (folder / name).mkdir(parents=True)
        for index, pixels in enumerate(inputs.natural(4, height, width, 3, len(name))):
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
