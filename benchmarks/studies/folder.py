"""Speed of `gan-run translate` on a folder, compared with the bare engine.

    python -m ganedge.benchmarks.studies.folder monet2photo.onnx paintings/ --count 500

`gan-run translate`'s own function translates groups of pictures from files to files. After each group the bare engine
is called as many times on an input in memory, so that other load on the machine affects both. The ratio is that of the
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
    """Measure the throughput of both, and their ratio.

    Args:
        file: An image-to-image artifact.
        folder: Pictures of one size, used in order and repeatedly if there are fewer than `count`.
        count: Pictures in total.
        group: Pictures between two turns of the bare engine.
        engine: As `load` takes it.
        threads: Threads of each engine.

    Raises:
        UsageError: a generator that takes no pictures.
        InputError: no pictures, or pictures of several sizes.
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
    with tempfile.TemporaryDirectory() as target, load(file, engine, "cpu", threads) as generator:
        jobs = plan([folder], Path(target))
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
            some = [jobs[(done + index) % len(jobs)] for index in range(min(group, count - done))]
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
    app = terminal.app("Measure the translation of a folder of pictures, compared with the bare engine.")

    @app.command()
    def folder(
        file: Annotated[Path, typer.Argument(help="An image-to-image artifact.")],
        pictures: Annotated[Path, typer.Argument(help="A folder of pictures of one size.")],
        count: Annotated[int, typer.Option(min=1, help="Pictures in total.")] = 500,
        group: Annotated[int, typer.Option(min=1, help="Pictures between two turns of the bare engine.")] = 25,
        engine: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
        threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 2,
    ) -> None:
        report = measure(file, pictures, count, group, engine, threads)
        typer.echo(
            f"{report['pictures_per_s']:.2f} pictures/s through the pipeline, {report['bare_per_s']:.2f} bare: "
            f"{report['ratio']:.3f} x"
        )
        typer.echo(json.dumps({"schema": 1, "machine": machine(cores()), "engine": engine, **report}))

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.folder`."""
    terminal.run(build, "ganedge.benchmarks.studies.folder", "cpu")


if __name__ == "__main__":
    main()
