"""What Ray Data's workers gain, compared with processes that share nothing: pictures per second, start-up excluded.

    python -m ganedge.benchmarks.studies.workers generator.onnx --workers 2 --runs 3

Every run measures in turn one bare process, as many bare processes as workers, and `runtime.scale` with that many
workers, all with one thread each, on the same pictures. Ray's start-up is excluded by subtracting a job with a tenth
of the pictures. One JSON line comes last.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.random import default_rng

from ganedge.benchmarks.conditions import machine
from ganedge.runtime import scale
from ganedge.runtime.cli import terminal
from ganedge.runtime.pictures import images

BARE = """
import sys, time
from pathlib import Path
from ganedge.runtime import load
from ganedge.runtime.pictures import images
artifact, source, output, first, step = sys.argv[1:]
generator = load(artifact, threads=1)
paths = sorted(Path(source).iterdir())[int(first)::int(step)]
generator.translate(paths[0])
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
for path in paths:
    images.save(generator.translate(path), Path(output) / path.name)
print(time.perf_counter() - began, flush=True)
"""
"""A process that translates its share of a folder when it reads a line."""


def bare(artifact: Path, source: Path, output: Path, processes: int) -> float:
    """Return the pictures per second of processes that begin together; the slowest counts."""
    output.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BARE, str(artifact), str(source), str(output)]
    started = [
        subprocess.Popen(  # noqa: S603 - our own code
            [*command, str(first), str(processes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for first in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    times = [float(process.communicate()[0]) for process in started]
    return len(list(source.iterdir())) / max(times)


def with_ray(artifact: Path, source: Path, few: Path, output: Path, workers: int) -> float:
    """Return the pictures per second of Ray's workers beyond what a job with few pictures takes."""
    seconds: list[float] = []
    for folder in (few, source):
        began = time.perf_counter()
        scale.translate(artifact, str(folder), str(output / folder.name), workers=workers, batch=4)
        seconds.append(time.perf_counter() - began)
    return (len(list(source.iterdir())) - len(list(few.iterdir()))) / (seconds[1] - seconds[0])


def make_pictures(folder: Path, count: int, side: int) -> Path:
    """Write pictures of coloured squares; `side` in pixels, a multiple of 8."""
    folder.mkdir()
    random = default_rng(0)
    for number in range(count):
        squares = random.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
        images.save(np.kron(squares, np.ones((8, 8, 1), np.uint8)), folder / f"{number:05d}.png")
    return folder


def measure(artifact: Path, workers: int, pictures: int, side: int) -> dict[str, float]:
    """Measure one process, several, and Ray's workers, in pictures per second; `share` is Ray's of the several."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_pictures(folder / "many", pictures, side)
        few = make_pictures(folder / "few", pictures // 10, side)
        one = bare(artifact, source, folder / "bare", 1)
        several = bare(artifact, source, folder / "bare", workers)
        ray = with_ray(artifact, source, few, folder / "ray", workers)
    return {"one": one, "several": several, "ray": ray, "share": ray / several}


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Compare Ray's workers with processes that share nothing.")

    @app.command()
    def workers(
        file: Annotated[Path, typer.Argument(help="An artifact that translates pictures of any size.")],
        workers: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
        runs: Annotated[int, typer.Option(min=1, help="Times everything is measured.")] = 3,
        pictures: Annotated[int, typer.Option(min=20, help="Pictures in each measurement.")] = 160,
        side: Annotated[int, typer.Option(min=8, help="Their height and width, pixels.")] = 256,
    ) -> None:
        import ray

        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
        rows = []
        for run in range(runs):
            row = measure(file, workers, pictures, side)
            rows.append(row)
            typer.echo(
                f"run {run + 1}: one process {row['one']:.1f} pictures/s, {workers} processes {row['several']:.1f}, "
                f"Ray {row['ray']:.1f}: {row['share']:.2f} of them"
            )
        share = statistics.median(row["share"] for row in rows)
        report = {"schema": 1, "machine": machine(1), "workers": workers, "share": share, "runs": rows}
        typer.echo(json.dumps(report))

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.workers`."""
    terminal.run(build, "ganedge.benchmarks.studies.workers", "ray")


if __name__ == "__main__":
    main()
