"""A folder of pictures through the whole pipeline, beside the bare engine: is decoding and encoding hidden?

    python -m ganedge.benchmarks.studies.folder monet2photo.onnx paintings/ --count 500

Pictures go through `gan-run translate`'s own function, from files to files, in groups; after each group the bare engine
computes as many on an input that lies ready, so that a busy neighbour hits both alike. The ratio is that of the
throughputs over all groups.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ganedge.benchmarks.conditions import machine
from ganedge.runtime.cli import terminal
from ganedge.runtime.engines import cores, start
from ganedge.runtime.errors import InputError, UsageError
from ganedge.runtime.generator import load
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.pictures import images, reader, tiles
from ganedge.runtime.pictures.folder import plan, translate_files


def measure(file: Path, folder: Path, count: int, group: int, engine: str, threads: int) -> dict[str, object]:
    """Seconds of both for each group, and the ratio of throughputs.

    Args:
        file: An image-to-image artifact.
        folder: Pictures of one size; they are taken in order, and again from the first where they do not suffice.
        count: Pictures in all.
        group: Pictures between two turns of the bare engine.
        engine: As `load` takes it.
        threads: Of each engine.

    Raises:
        UsageError: a generator that takes no pictures.
        InputError: no pictures, or of several sizes, which one bare call cannot stand for.
    """
    manifest, model = read_artifact(file)
    if manifest.interface.kind != "image-to-image":
        raise UsageError(f"{file} takes no pictures: give an image-to-image artifact")
    if len(manifest.interface.inputs) != 1 or isinstance(manifest.interface.inputs[0].shape[0], int):
        raise UsageError(f"{file} takes more than pictures, or a fixed number of them: give another artifact")
    port = manifest.interface.inputs[0]
    bare = start(model, manifest.precision, engine, "cpu", threads)
    pipeline: list[float] = []
    alone: list[float] = []
    with tempfile.TemporaryDirectory() as place, load(file, engine, "cpu", threads) as generator:
        jobs = plan([folder], Path(place))
        sizes = {reader.read(job.source).shape for job in jobs[: min(count, len(jobs))]}
        if len(sizes) != 1:
            raise InputError(f"{folder} holds pictures of {len(sizes)} sizes: give some of one size")
        picture = reader.read(jobs[0].source)
        tall, wide = (tiles.up(side, port.multiple) for side in picture.shape[:2])  # As the pipeline pads them.
        if picture.shape[2] != port.channels:
            raise InputError(f"{folder} holds pictures of {picture.shape[2]} channels: {file} takes {port.channels}")
        tensor = images.from_pixels(tiles.padded(picture, tall, wide), port)
        bare.run({port.name: tensor})
        translate_files(generator, jobs[:2])
        done = 0
        while done < count:
            some = [jobs[(done + place) % len(jobs)] for place in range(min(group, count - done))]
            begin = time.perf_counter()
            if translate_files(generator, some).failed:
                raise InputError(f"pictures of {folder} cannot be translated: see above")
            middle = time.perf_counter()
            for _ in some:
                bare.run({port.name: tensor})
            alone.append(time.perf_counter() - middle)
            pipeline.append(middle - begin)
            done += len(some)
    bare.close()
    ratios = np.array(alone) / np.array(pipeline)
    return {
        "pictures": count,
        "shape": list(sizes.pop()),
        "pictures_per_s": count / sum(pipeline),
        "bare_per_s": count / sum(alone),
        "ratio": sum(alone) / sum(pipeline),
        "ratio_of_groups": [float(value) for value in np.percentile(ratios, [10, 50, 90])],
    }


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("A folder of pictures through the pipeline, beside the bare engine.")

    @app.command()
    def folder(
        file: Annotated[Path, typer.Argument(help="An image-to-image artifact.")],
        pictures: Annotated[Path, typer.Argument(help="A folder of pictures of one size.")],
        count: Annotated[int, typer.Option(min=1, help="Pictures in all.")] = 500,
        group: Annotated[int, typer.Option(min=1, help="Pictures between two turns of the bare engine.")] = 25,
        engine: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
        threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 2,
    ) -> None:
        found = measure(file, pictures, count, group, engine, threads)
        typer.echo(
            f"{found['pictures_per_s']:.2f} pictures/s through the pipeline, {found['bare_per_s']:.2f} bare: "
            f"{found['ratio']:.3f} x"
        )
        typer.echo(json.dumps({"schema": 1, "machine": machine(cores()), "engine": engine, **found}))

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.folder`."""
    terminal.run(build, "ganedge.benchmarks.studies.folder", "cpu")


if __name__ == "__main__":
    main()
