"""Start-up: a whole process from nothing to a picture on disk, beside a bare onnxruntime script that does the same.

    python -m ganedge.benchmarks.startup generator.onnx

A device pays this every time it wakes up. The processes take turns, so that a busy neighbour hits all alike; the
medians and their ratios are printed, then one JSON line.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from ganedge.benchmarks.latency import machine
from ganedge.runtime import terminal
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.manifest import read_artifact

BARE = """
import sys
import numpy, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
latents = numpy.random.RandomState(0).standard_normal((64, {latent})).astype(numpy.float32)
names = [port.name for port in session.get_inputs()]
labels = numpy.arange(64) % {classes}
pictures = session.run(None, dict(zip(names, (latents, labels))))[0]
pictures = ((pictures + 1) * 127.5).round().clip(0, 255).astype(numpy.uint8).transpose(0, 2, 3, 1)
n, h, w, c = pictures.shape
sheet = pictures.reshape(8, 8, h, w, c).transpose(0, 2, 1, 3, 4).reshape(8 * h, 8 * w, c)
Image.fromarray(sheet[..., 0] if c == 1 else sheet).save(sys.argv[2])
"""
API = """
import sys
from pathlib import Path
from ganedge.runtime import images, load
with load(sys.argv[1], engine="onnxruntime", device="cpu") as generator:
    images.save(images.grid(generator.sample(64, seed=0)), Path(sys.argv[2]))
"""


def measure(file: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of each whole process, `runs` times each after one warm-up, in turns."""
    interface = read_artifact(file)[0].interface
    latent, classes = interface.inputs[0].item_shape[0], max(1, len(interface.classes))
    command = [str(Path(sys.executable).with_name("gan-run")), "sample", str(file), "-n", "64", "--seed", "0"]
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "grid.png")
        ways = {
            "bare script": [sys.executable, "-c", BARE.format(latent=latent, classes=classes), str(file), picture],
            "Python API": [sys.executable, "-c", API, str(file), picture],
            "gan-run sample": [*command, "--engine", "onnxruntime", "--device", "cpu", "-o", picture],
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(runs + 1):
            for name, arguments in ways.items():
                begin = time.perf_counter()
                done = subprocess.run(arguments, capture_output=True, text=True)  # noqa: S603 - our own command lines
                if done.returncode:
                    raise GanEdgeError(
                        f"{name} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
                    )
                if turn:
                    times[name].append(time.perf_counter() - begin)
    return times


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Time whole processes from nothing to a picture on disk.")

    @app.command()
    def startup(
        file: Annotated[Path, typer.Argument(help="A latent-to-image artifact.")],
        runs: Annotated[int, typer.Option(min=1, help="Processes of each kind.")] = 20,
    ) -> None:
        times = measure(file, runs)
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, median in medians.items():
            ratio = statistics.median(a / b for a, b in zip(times[name], times["bare script"], strict=True))
            typer.echo(f"{name:<16}{median:7.3f} s  {ratio:5.2f} x")
        typer.echo(json.dumps({"schema": 1, "machine": machine(os.cpu_count() or 0), "seconds": times}))

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.startup`."""
    terminal.run(build, "ganedge.benchmarks.startup", "cpu")


if __name__ == "__main__":
    main()
