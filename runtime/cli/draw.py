"""gan-run sample and interpolate: new pictures from latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ganedge.runtime.engines import EngineOptions
from ganedge.runtime.pictures import images

from . import terminal
from .opening import open_generator
from .options import argument, option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ganedge.runtime.generator import Generator


@dataclass(frozen=True)
class Sheet:
    """The picture to write."""

    output: Path = field(metadata=option(short="-o"))
    """Picture to write; its ending names the format."""
    columns: int | None = field(default=None, metadata=option(minimum=1))
    """Pictures in a row; a square for sample and one row for interpolate by default."""

    def __post_init__(self) -> None:
        """Refuse an unknown format before anything is computed."""
        images.check_format(self.output)


@dataclass(frozen=True)
class Samples(Sheet):
    """The picture to write, and what else."""

    save_outputs: bool = False
    """Write the outputs that the export kept beside the result too: GRID.mask.png, GRID.latents.npy."""


@dataclass(frozen=True)
class Latents:
    """Which latents to use."""

    label: int | str | None = field(default=None, metadata=option(type=str))
    """Class to draw, by number or name, for a conditional generator."""
    style: str | None = None
    """Style vector, where the generator takes one: numbers with commas, or a .npy file."""
    truncation: float | None = None
    """Keep latents within ± this: less variety, more typical. Of a generator with an input `truncation`, as in
    StyleGAN's W: that input, from 0, the mean, to 1, as trained."""


@dataclass(frozen=True)
class Draws(Latents):
    """How many pictures, and the seed."""

    n: int = field(default=64, metadata=option(flag="-n"))
    """Pictures to draw."""
    seed: int | None = None
    """0 to 4294967295; the same seed draws the same pictures."""


@dataclass(frozen=True)
class Steps(Latents):
    """Number of steps of an interpolation."""

    steps: int = 8
    """Pictures on the path, both ends included."""


def sample(file: Path, sheet: Samples, draws: Draws, engine: EngineOptions) -> None:
    """Draw new pictures and lay them out in one grid."""
    with open_generator(file, engine) as generator:
        items = _save_extras(generator, sheet, draws) if sheet.save_outputs else generator.sample(**vars(draws))
        images.save(_layout(generator, items, sheet.columns), sheet.output)
        terminal.note(f"{sheet.output}: {draws.n} pictures drawn with {generator.engine}")


def _save_extras(generator: Generator, sheet: Samples, draws: Draws) -> NDArray[np.generic]:
    """Write the outputs beside the result, which is returned."""
    from ganedge.runtime.pictures.folder import beside, extras_of, save_output

    files = beside(sheet.output, extras_of(generator))
    outputs = generator.sample_outputs(**vars(draws))
    for name, path in files.items():
        values = outputs[name]
        shown = values if path.suffix == ".npy" else images.grid(values.astype(np.uint8, copy=False), sheet.columns)
        save_output(shown, path)
    return next(iter(outputs.values()))


def interpolate(file: Path, seed_a: int, seed_b: int, sheet: Sheet, steps: Steps, engine: EngineOptions) -> None:
    """Go from one picture to another through latent space."""
    with open_generator(file, engine) as generator:
        items = generator.interpolate(seed_a, seed_b, **vars(steps))
        images.save(_layout(generator, items, sheet.columns or steps.steps), sheet.output)
        terminal.note(f"{sheet.output}: {steps.steps} steps from seed {seed_a} to {seed_b} with {generator.engine}")


def _layout(generator: Generator, items: NDArray[np.generic], columns: int | None) -> NDArray[np.uint8]:
    """Return one picture of many items, or of many points."""
    if generator.manifest.interface.output.role != "image":
        return images.scatter(items)
    return images.grid(items.astype(np.uint8, copy=False), columns)


FILE = argument("file", Path, "An artifact that gan-export wrote.")
COMMANDS = {
    "sample": (sample, (FILE,)),
    "interpolate": (
        interpolate,
        (
            FILE,
            argument("seed_a", int, "Seed of the first picture."),
            argument("seed_b", int, "Seed of the last picture."),
        ),
    ),
}
