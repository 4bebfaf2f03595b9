"""Latency of a generator: artifacts in their engines beside the eager PyTorch module they came from.

    report = measure([Path("generator.onnx")], against=Path("runs/digits"), batches=(1, 8))

What is timed is one call from a NumPy array on the host to a NumPy array on the host, with fresh real latents each
time, on the same number of threads for all.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks import timing
from ganedge.export import parity
from ganedge.runtime import engines
from ganedge.runtime.errors import EngineError, InputError, UsageError
from ganedge.runtime.generator import load
from ganedge.runtime.manifest import Interface, Precision, read_artifact
from ganedge.runtime.terminal import note

SCHEMA = 1
"""Version of the report."""
POOL_BYTES = 2**22
"""Inputs kept ready, at least this much together and at least 8 batches."""
EAGER = "eager PyTorch"
Run = Callable[[Sequence[NDArray[np.generic]]], NDArray[np.generic]]


@dataclass(frozen=True)
class Result:
    """One competitor at one batch size."""

    competitor: str
    """The artifact's file name and engine, or eager PyTorch."""
    precision: str
    """What it computes in."""
    batch: int
    """Items in one call."""
    figures: timing.Figures
    """Latency of one call, seconds."""
    images_per_s: float
    """Batch over mean latency."""
    speedup: float | None
    """Median latency of eager PyTorch over its own; None where there is no eager PyTorch to compare with."""
    psnr: float | None
    """Against eager PyTorch on the same latents, worst item, dB; None: identical, or nothing to compare with."""
    same: bool | None
    """Whether that passes the gate of the artifact's precision."""


def measure(
    files: Sequence[Path],
    against: Path | None,
    batches: Sequence[int],
    engine: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 3.0,
    iterations: int = 50,
) -> dict[str, Any]:
    """Measure artifacts, and the run they came from in eager PyTorch.

    Args:
        files: Artifacts.
        against: A run folder; None leaves eager PyTorch out.
        batches: Batch sizes.
        engine: An engine, "auto" for the first installed, or "all" for every installed one.
        device: "cpu" or "cuda", for all competitors alike.
        threads: For all competitors; all cores this process may use by default.
        seconds: Each competitor is timed for at least this long.
        iterations: And at least this often.

    Returns:
        The report, ready for JSON: machine, method and results.

    Raises:
        UsageError: arguments out of range.
        ArtifactError: a file that is no artifact, a folder that is no run.
        InputError: artifacts that take different inputs.
    """
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device is {device!r}: give cpu or cuda, the same for every competitor")
    if not files or any(batch < 1 for batch in batches) or not batches:
        raise UsageError(f"nothing to measure: {len(files)} files, batches {','.join(map(str, batches))}")
    threads = threads or len(os.sched_getaffinity(0))
    found = machine(threads)
    interface, runs = _competitors(files, engine, device, threads)
    if against is not None:
        runs = {
            EAGER: (_eager(against, read_artifact(files[0])[0].source.weights, interface, device, threads), "fp32"),
            **runs,
        }
    results = [
        result
        for batch in batches
        for result in _at_batch(interface, runs, batch, seconds=seconds, iterations=iterations)
    ]
    return {
        "schema": SCHEMA,
        "machine": found,
        "method": {
            "timed": "one call, NumPy array in to NumPy array out, fresh latents each time",
            "warmup": "until the median settles",
            "order": f"interleaved in turns of {timing.BLOCK_SECONDS} s, rotating",
            "seconds": seconds,
            "iterations": iterations,
            "dropped": 0,
        },
        "results": [asdict(result) for result in results],
    }


def machine(threads: int) -> dict[str, object]:
    """What the figures were measured on."""
    names = ("ganedge", "numpy", "torch", "onnxruntime", "openvino")
    versions = {name: _version(name) for name in names if engines.installed(name)}
    return {
        "processor": _processor(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _version(module: str) -> str:
    """The version of the package that brings a module: `onnxruntime` may come from `onnxruntime-gpu`."""
    packages = packages_distributions().get(module, [module])
    return version("ganedge" if module == "ganedge" else packages[0])


def _processor() -> str:
    """The processor's own name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return named[0] if named else platform.processor() or platform.machine()


def _competitors(
    files: Sequence[Path], engine: str, device: str, threads: int
) -> tuple[Interface, dict[str, tuple[Run, Precision]]]:
    """Every artifact in every engine asked for, by a name that tells them apart."""
    names = [name for name in engines.MODULES if engines.installed(name)] if engine == "all" else [engine]
    runs: dict[str, tuple[Run, Precision]] = {}
    first: Interface | None = None
    for file in files:
        for name in names:
            generator = load(file, name, device, threads)
            interface = generator.manifest.interface
            first = first or interface
            if interface.inputs != first.inputs or interface.outputs != first.outputs:
                raise InputError(f"{file} takes or gives something else than {files[0]}: measure them one at a time")
            label = f"{file.name}, {generator.engine.name}"
            if label in runs:
                label = f"{file}, {generator.engine.name}"
            runs[label] = (lambda arrays, g=generator: g.run(*arrays), generator.manifest.precision)  # type: ignore[misc]
    assert first is not None
    return first, runs


def _eager(against: Path, made_from: str, interface: Interface, device: str, threads: int) -> Run:
    """The run's generator in eager PyTorch, FP32."""
    import torch

    from ganedge.train import run_folder

    opened = run_folder.read(against)
    network, source = opened.generator()
    if source.weights != made_from:
        note(f"{against} holds other weights than the artifact was exported from")
    own = opened.variant(opened.config).generators()[source.generator]
    if [p.shape for p in (*own.inputs, own.output)] != [p.shape for p in (*interface.inputs, interface.output)]:
        raise InputError(f"the generator of {against} takes or gives something else than the artifact")
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError("device 'cuda': PyTorch sees no CUDA device here; use --device cpu")
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # FP32 is what it says.
    network.to(device)

    def run(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        with torch.inference_mode():
            output: NDArray[np.generic] = (
                network(*(torch.from_numpy(array).to(device) for array in arrays)).cpu().numpy()
            )
            return output

    return run


def _at_batch(
    interface: Interface, runs: dict[str, tuple[Run, Precision]], batch: int, *, seconds: float, iterations: int
) -> list[Result]:
    """Time every competitor at one batch size and compare what they give."""
    pool = _pool(interface, batch)
    timed = {name: (lambda i, run=run: run(pool[i % len(pool)])) for name, (run, _) in runs.items()}
    turns = timing.interleaved(timed, seconds, iterations)
    figures = {name: timing.figures(turns[name]) for name in runs}
    reference = np.concatenate([runs[EAGER][0](arrays) for arrays in pool[:8]]) if EAGER in runs else None
    results = []
    for name, (run, precision) in runs.items():
        psnr = same = None
        if reference is not None and name != EAGER:
            output = np.concatenate([run(arrays) for arrays in pool[:8]])
            found = parity.difference(output, reference, interface.output)
            psnr, same = found.psnr, parity.GATES[precision].holds(found)
        results.append(
            Result(
                competitor=name,
                precision=precision,
                batch=batch,
                figures=figures[name],
                images_per_s=batch / figures[name].mean,
                speedup=figures[EAGER].p50 / figures[name].p50 if EAGER in runs else None,
                psnr=psnr,
                same=same,
            )
        )
    return results


def _pool(interface: Interface, batch: int) -> list[list[NDArray[np.generic]]]:
    """Enough real inputs that no call sees the one before again soon."""
    size = 4 * batch * int(np.prod(interface.inputs[0].item_shape))
    count = min(max(8, POOL_BYTES // size), 4096)
    arrays = parity.real_inputs(interface, count * batch, seed=1)
    return [[array[i * batch : (i + 1) * batch] for array in arrays] for i in range(count)]
