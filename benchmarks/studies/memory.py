"""Memory of a training that reads images from disk, per epoch.

    python -m ganedge.benchmarks.studies.memory --pictures 100000 --epochs 3 --json memory.json

Writes small pictures into a temporary folder and trains a tiny DCGAN on them with `--memory 0`, so that every picture
is read from disk each time it is needed. The result is how much the process grows after its first epoch.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from ganedge.benchmarks.conditions import machine
from ganedge.models import find
from ganedge.runtime import engines, memory
from ganedge.runtime.cli import terminal
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.files import write_whole
from ganedge.train import data
from ganedge.train.devices import make_fabric
from ganedge.train.reporter import Reporter
from ganedge.train.settings import Settings
from ganedge.train.trainer import Trainer

SCHEMA = 1
BATCH = 250
SIZE = 16
PER_FOLDER = 1000


def write_pictures(folder: Path, count: int, size: int = SIZE) -> None:
    """Write `count` random PNGs of `size` × `size` pixels, a thousand to a folder."""
    random = np.random.default_rng(0)
    for begin in range(0, count, PER_FOLDER):
        part = folder / f"{begin // PER_FOLDER:05d}"
        part.mkdir()
        for number, pixels in enumerate(
            random.integers(0, 256, (min(PER_FOLDER, count - begin), size, size, 3), np.uint8)
        ):
            Image.fromarray(pixels).save(part / f"{number:04d}.png", compress_level=1)


def measure(folder: Path, epochs: int, size: int = SIZE, batch: int = BATCH) -> dict[str, Any]:
    """Train for some epochs on a folder of pictures, reading each from disk.

    Args:
        folder: Folder with the pictures.
        epochs: Passes over them.
        size: Height and width of the pictures, pixels: larger ones make a leak more visible.
        batch: Pictures in a step: fewer cause less fluctuation.

    Returns:
        Number of pictures, the process's resident memory at the end of each epoch, MB, and its growth as a share.
    """
    variant = find("dcgan")
    config_values: dict[str, Any] = {"size": size, "width": 4, "channels": 3, "batch": batch, "epochs": epochs}
    config = variant.config_class(**config_values)
    with tempfile.TemporaryDirectory() as out:
        settings = Settings(data=str(folder), out=Path(out), device="cpu", memory=0.0)
        items = data.open_data(settings.data, variant.wants(config), settings.opening)
        trainer = Trainer(make_fabric(settings), variant, config, settings, items)
        resident: list[float] = []
        with Reporter(trainer, math.inf) as reporter:  # Losses, pictures and checkpoints are part of a training.
            for _ in range(epochs):
                for _ in range(math.ceil(len(items) / batch)):
                    if trainer.step < trainer.total:
                        reporter.after_step(trainer.advance())
                resident.append(round(_resident_mb(), 1))
    return {"pictures": len(items), "resident_mb": resident, "growth": resident[-1] / resident[0] - 1}


def _resident_mb() -> float:
    """Return the resident memory of this process, MB."""
    resident = memory.resident()
    if resident is None:
        raise GanEdgeError("this system does not report how much memory a process uses: run it on Linux")
    return resident / 1e6


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Measure the memory of a training from a large folder.")

    @app.command()
    def bench(
        pictures: Annotated[int, typer.Option(min=BATCH, help="Pictures to write and train on.")] = 100_000,
        epochs: Annotated[int, typer.Option(min=2, help="Passes over them.")] = 3,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    ) -> None:
        """Print the memory after each epoch, and then one JSON line."""
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(Path(folder), pictures)
            report = measure(Path(folder), epochs)
        typer.echo(
            f"{report['pictures']} pictures: {report['resident_mb']} MB after each epoch, {report['growth']:+.2%}"
        )
        line = json.dumps({"schema": SCHEMA, "machine": machine(engines.cores()), **report})
        typer.echo(line)
        if json_file is not None:
            write_whole(json_file, line + "\n")

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.memory`."""
    terminal.run(build, "memory", "train")


if __name__ == "__main__":
    main()
