"""Start-up time of a whole process, compared with scripts that do not use ganedge.

    python -m ganedge.benchmarks.studies.startup generator.onnx
    python -m ganedge.benchmarks.studies.startup generator.onnx --against runs/digits      # and eager PyTorch

A device needs this time whenever it starts. Processes run in turns, so that other load on the machine affects all of
them. Medians, ratios to the bare script and peak memory are printed, then one JSON line.
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

import typer

from ganedge.benchmarks.conditions import machine
from ganedge.benchmarks.process import PEAK
from ganedge.runtime.cli import terminal
from ganedge.runtime.engines import cores
from ganedge.runtime.errors import GanEdgeError, UsageError
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
from ganedge.runtime import load
from ganedge.runtime.pictures import images
with load(sys.argv[1], engine="onnxruntime", device="cpu") as generator:
    images.save(images.grid(generator.sample(64, seed=0)), Path(sys.argv[2]))
"""


EAGER = """
import sys
import numpy, torch
from pathlib import Path
from PIL import Image
from ganedge.train import run_folder
network = run_folder.read(Path(sys.argv[3])).generator("generator")[0].eval()
latents = numpy.random.RandomState(0).standard_normal((64, {latent})).astype(numpy.float32)
labels = numpy.arange(64) % {classes}
with torch.inference_mode():
    pictures = network(*map(torch.from_numpy, (latents, labels)[: {inputs}])).numpy()
pictures = ((pictures + 1) * 127.5).round().clip(0, 255).astype(numpy.uint8).transpose(0, 2, 3, 1)
n, h, w, c = pictures.shape
sheet = pictures.reshape(8, 8, h, w, c).transpose(0, 2, 1, 3, 4).reshape(8 * h, 8 * w, c)
Image.fromarray(sheet[..., 0] if c == 1 else sheet).save(sys.argv[2])
"""


def measure(file: Path, runs: int, against: Path | None = None) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Run each process `runs` times in turns, after one warm-up; returns seconds, and peak memory in bytes.

    The peak memory of `gan-run` is not measured, because it is a command and not one of these scripts.
    """
    interface = read_artifact(file)[0].interface
    if interface.kind != "latent-to-image" or isinstance(interface.inputs[0].shape[0], int):
        raise UsageError(f"{file}: give a latent-to-image artifact whose batch is open")
    latent, classes = interface.inputs[0].item_shape[0], max(1, len(interface.classes))
    command = [str(Path(sys.executable).with_name("gan-run")), "sample", str(file), "-n", "64", "--seed", "0"]
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "grid.png")
        ways = {
            "bare script": [
                sys.executable,
                "-c",
                BARE.format(latent=latent, classes=classes) + PEAK,
                str(file),
                picture,
            ],
            "Python API": [sys.executable, "-c", API + PEAK, str(file), picture],
            "eager PyTorch": [
                sys.executable,
                "-c",
                EAGER.format(latent=latent, classes=classes, inputs=len(interface.inputs)) + PEAK,
                str(file),
                picture,
                str(against),
            ],
            "gan-run sample": [*command, "--engine", "onnxruntime", "--device", "cpu", "-o", picture],
        }
        if against is None:
            del ways["eager PyTorch"]
        times: dict[str, list[float]] = {name: [] for name in ways}
        peaks: dict[str, int] = {}
        for turn in range(runs + 1):
            for name, arguments in ways.items():
                begin = time.perf_counter()
                done = subprocess.run(arguments, capture_output=True, text=True)  # noqa: S603 - our own command lines
                if done.returncode:
                    raise GanEdgeError(
                        f"{name} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
                    )
                if " " in done.stdout:
                    peaks[name] = max(peaks.get(name, 0), int(done.stdout.split()[-1]))
                if turn:
                    times[name].append(time.perf_counter() - begin)
    return times, peaks


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Time whole processes from their start to a picture on disk.")

    @app.command()
    def startup(
        file: Annotated[Path, typer.Argument(help="A latent-to-image artifact.")],
        runs: Annotated[int, typer.Option(min=1, help="Processes of each way.")] = 20,
        against: Annotated[Path | None, typer.Option(help="The run it came from, for eager PyTorch.")] = None,
    ) -> None:
        times, peaks = measure(file, runs, against)
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, median in medians.items():
            ratio = statistics.median(a / b for a, b in zip(times[name], times["bare script"], strict=True))
            memory = f"  {peaks[name] / 1e6:5.0f} MB" if name in peaks else ""
            typer.echo(f"{name:<16}{median:7.3f} s  {ratio:5.2f} x{memory}")
        typer.echo(json.dumps({"schema": 1, "machine": machine(cores()), "seconds": times, "bytes": peaks}))

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.startup`."""
    terminal.run(build, "ganedge.benchmarks.studies.startup", "cpu")


if __name__ == "__main__":
    main()
