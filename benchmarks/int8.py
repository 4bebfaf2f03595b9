"""INT8 beside FP32, beside quantisation as it comes, and beside eager PyTorch: speed, closeness and size together.

    python -m ganedge.benchmarks.int8 runs/faces --batch 16 --threads 2 --seconds 5 --json int8.json

Trained weights are what counts: random ones have other ranges. All competitors take turns in one process, on the same
latents, from a NumPy array to a NumPy array.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ganedge.benchmarks import timing
from ganedge.benchmarks.conditions import machine
from ganedge.export import artifact, parity, quantize
from ganedge.export.original import Original
from ganedge.runtime import engines, fidelity, terminal
from ganedge.runtime.errors import UsageError
from ganedge.runtime.files import write_whole

Run = Callable[[Sequence[NDArray[np.generic]]], NDArray[np.generic]]
FP32, PLAIN, OURS, OPENVINO, EAGER = (
    "FP32, ONNX Runtime",
    "plain static quantisation, ONNX Runtime",
    "INT8 for ort, ONNX Runtime",
    "INT8 for openvino, OpenVINO",
    "eager PyTorch FP32",
)
POOL = 8
"""Batches that take turns as inputs."""


def measure(source: Path, batch: int, threads: int, seconds: float, iterations: int = 15) -> dict[str, Any]:
    """Make every form of a generator, prove ours, and time all in turns.

    Args:
        source: A run, or an FP32 .onnx of ours; a run brings eager PyTorch with it.
        batch: Items in one call.
        threads: Of every competitor.
        seconds: Each is timed at least this long.
        iterations: And at least this often.

    Returns:
        The report, ready for JSON: times, PSNR against the FP32 generator, and sizes as shares of the FP32 file.

    Raises:
        GanEdgeError: a form of ours misses its gate.
    """
    original, eager = _open(source, threads)
    if original.precision != "fp32":
        raise UsageError(f"{source} is {original.precision}: give a run, or an FP32 artifact")
    made = {
        "fp32": artifact.make(original, artifact.Wanted("fp32")).data,
        "fp16": artifact.make(original, artifact.Wanted("fp16")).data,
        "int8 for ort": artifact.make(original, artifact.Wanted("int8", target="ort")).data,
        "int8 for openvino": artifact.make(original, artifact.Wanted("int8", target="openvino")).data,
        "plain": plain(original),
    }
    runs = {
        FP32: _in_engine(made["fp32"], "fp32", "onnxruntime", threads, original),
        PLAIN: _in_engine(made["plain"], "int8", "onnxruntime", threads, original),
        OURS: _in_engine(made["int8 for ort"], "int8", "onnxruntime", threads, original),
    }
    if engines.installed("openvino"):
        runs[OPENVINO] = _in_engine(made["int8 for openvino"], "int8", "openvino", threads, original)
    if eager is not None:
        runs[EAGER] = eager
    inputs = parity.real_inputs(original.interface, POOL * batch, seed=1)
    pool = [[array[i * batch : (i + 1) * batch] for array in inputs] for i in range(POOL)]
    timed = {name: timing.here(partial(_call, run, pool)) for name, run in runs.items()}
    figures = {name: timing.figures(turns) for name, turns in timing.interleaved(timed, seconds, iterations).items()}
    wanted = np.concatenate([runs[FP32](arrays) for arrays in pool])
    port = original.interface.output
    psnr = {
        name: fidelity.difference(np.concatenate([run(arrays) for arrays in pool]), wanted, port).psnr
        for name, run in runs.items()
    }
    middle = {name: found.p50 for name, found in figures.items()}
    return {
        "schema": 1,
        "machine": machine(threads),
        "batch": batch,
        "trained steps": original.source.step,
        "results": {name: {**asdict(figures[name]), "psnr": psnr[name]} for name in runs},
        "ratios": {
            "INT8 for ort × FP32 there": middle[FP32] / middle[OURS],
            "INT8 for ort × plain quantisation": middle[PLAIN] / middle[OURS],
            **(
                {"OpenVINO × eager PyTorch": middle[EAGER] / middle[OPENVINO]} if {EAGER, OPENVINO} <= set(runs) else {}
            ),
        },
        "sizes": {name: len(data) / len(made["fp32"]) for name, data in made.items()},
    }


def _call(run: Run, pool: Sequence[Sequence[NDArray[np.generic]]], number: int) -> NDArray[np.generic]:
    return run(pool[number % len(pool)])


def plain(original: Original) -> bytes:
    """The FP32 graph through onnxruntime's static quantisation with its defaults, calibrated on the same latents."""
    import onnx
    from onnxruntime.quantization import quantize_static

    inputs = artifact.calibration(original, artifact.Wanted("int8"))
    names = [port.name for port in original.interface.inputs]
    with tempfile.TemporaryDirectory() as folder, quantize.quiet():
        given, written = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(original.model, given)
        quantize_static(given, written, quantize.Reader(names, inputs, 1))
        return written.read_bytes()


def _open(source: Path, threads: int) -> tuple[Original, Run | None]:
    """The generator, and eager PyTorch where the source is a run."""
    if source.suffix == ".onnx":
        from ganedge.export.from_onnx import of_onnx

        return of_onnx(source), None
    import torch

    from ganedge.export.from_torch import of_run
    from ganedge.train import run_folder

    network, _ = run_folder.read(source).generator()
    torch.set_num_threads(threads)

    def run(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        with torch.inference_mode():
            output: NDArray[np.generic] = network(*map(torch.from_numpy, arrays)).numpy()
            return output

    return of_run(source), run


def _in_engine(data: bytes, precision: str, name: str, threads: int, original: Original) -> Run:
    engine = engines.start(data, precision, name, "cpu", threads)
    names = [port.name for port in original.interface.inputs]
    return lambda arrays: engine.run(dict(zip(names, arrays, strict=True)))[0]


def table(report: dict[str, Any]) -> str:
    """What was found, for people."""
    lines = [
        f"{name:42} {found['p50'] * 1e3:9.2f} ms  "
        + ("identical" if found["psnr"] is None else f"PSNR {found['psnr']:.1f} dB")
        for name, found in report["results"].items()
    ]
    lines += [f"{name:42} {ratio:9.2f}" for name, ratio in report["ratios"].items()]
    lines += [f"file, {name:36} {share:9.2f} of FP32's" for name, share in report["sizes"].items()]
    return "\n".join(lines)


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("INT8 beside FP32, plain quantisation and eager PyTorch: speed, closeness and size.")

    @app.command()
    def compare(
        source: Annotated[Path, typer.Argument(help="A run, or an FP32 artifact.")],
        batch: Annotated[int, typer.Option(min=1, help="Items in one call.")] = 16,
        threads: Annotated[int, typer.Option(min=1, help="Of every competitor.")] = 2,
        seconds: Annotated[float, typer.Option(min=0.0, help="Time each at least this long.")] = 5.0,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    ) -> None:
        report = measure(source, batch, threads, seconds)
        typer.echo(table(report))
        line = json.dumps(report)
        typer.echo(line)
        if json_file is not None:
            write_whole(json_file, line + "\n")

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.int8`."""
    terminal.run(build, "ganedge.benchmarks.int8", "export")


if __name__ == "__main__":
    main()
