"""Cost of a whole process: seconds until the first result, and peak memory.

measure({"onnxruntime": artifact_script(Path("generator.onnx"), "onnxruntime", None, "cpu", 2, "")}, 3, {})
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ganedge.runtime.errors import GanEdgeError

LIMIT = 300
"""Seconds after which a process counts as stuck."""
DEVICE = """
import time
asking = 0.0
def held():
    global asking
    begin = time.perf_counter()
    from ganedge.benchmarks.conditions import gpu_memory
    told = gpu_memory() or 0
    asking += time.perf_counter() - begin
    return told
"""
"""What a GPU's memory holds; nothing else may come or go there meanwhile. Asked on CUDA only; that time is not its."""
PEAK = """
import sys
try:
    status = open("/proc/self/status").read()
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
except (OSError, IndexError, ValueError):
    peak = 0
print("peak", peak)
"""
"""A process's own high-water mark: what its parent held does not count, as it does in getrusage."""
DEVICE_PEAK = """
print("device", max(0, held() - empty) if empty else 0)
print("asking", asking)
"""
SIZED = """
def sized(interface, shape):
    if not shape:
        return interface
    sizes = tuple(map(int, shape.split("x")))
    return interface.at_size(*(sizes[1:] if interface.inputs[0].layout == "NCHW" else sizes[:2]))
"""
"""Gives an interface's pictures the size that is measured."""
ARTIFACT = """
import sys
from pathlib import Path
from ganedge.runtime.engines import start
from ganedge.runtime.generator import Generator, load
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.inputs import real_inputs
file, engine, compute, device, threads, shape = sys.argv[1:]
empty = held() if device != "cpu" else 0
if compute:
    manifest, model = read_artifact(Path(file))
    generator = Generator(manifest, start(model, manifest.precision, engine, device, int(threads), compute))
else:
    generator = load(file, engine, device, int(threads))
generator.run(*real_inputs(sized(generator.manifest.interface, shape), 1))
"""
EAGER = """
import sys
from pathlib import Path
import torch
from ganedge.benchmarks.reference import ReferenceSpec, open_reference
from ganedge.benchmarks.competitor import common
from ganedge.runtime.inputs import real_inputs
reference, file, device, threads, shape = sys.argv[1:]
empty = held() if device != "cpu" else 0
torch.set_num_threads(int(threads))
manifest = common([Path(file)])
network = open_reference(ReferenceSpec.from_json(reference), manifest).to(device)
with torch.inference_mode():
    network(*(torch.from_numpy(a).to(device) for a in real_inputs(sized(manifest.interface, shape), 1))).cpu().numpy()
"""


def artifact_script(file: Path, engine: str, compute: str | None, device: str, threads: int, shape: str) -> list[str]:
    """The command line that takes an artifact from nothing to its first result.

    Args:
        file: The artifact.
        engine: As `runtime.load` takes it.
        compute: The precision that the engine is told to compute in, where that is not the artifact's.
        device: cpu or cuda.
        threads: Of the engine.
        shape: Of one picture that goes in, `3x256x256`; empty where the artifact says it.
    """
    script = SIZED + DEVICE + ARTIFACT + DEVICE_PEAK + PEAK
    return [sys.executable, "-c", script, str(file), engine, compute or "", device, str(threads), shape]


def eager_script(reference: str, file: Path, device: str, threads: int, shape: str) -> list[str]:
    """The same for the PyTorch generator it came from; `reference` is what `ReferenceSpec.to_json` returns."""
    return [
        sys.executable,
        "-c",
        SIZED + DEVICE + EAGER + DEVICE_PEAK + PEAK,
        reference,
        str(file),
        device,
        str(threads),
        shape,
    ]


def measure(
    scripts: Mapping[str, list[str]],
    runs: int,
    failed: dict[str, str],
    costs: dict[str, dict[str, float | int | None]] | None = None,
) -> dict[str, dict[str, float | int | None]]:
    """Start every process `runs` times, in turns, after one start that is not counted.

    Args:
        scripts: Command lines by name.
        runs: Starts that are counted.
        failed: Where it is put why one gave no result; the others go on.
        costs: Where the costs go, so that they are there after an interruption; a new table by default.

    Returns:
        For each that ran, `cold_start_s` (median, whole process), `peak_bytes` (the most of any) and `device_bytes`
        (the same on a GPU); None where the system does not tell.
    """
    costs = {} if costs is None else costs
    times: dict[str, list[float]] = {name: [] for name in scripts}
    peaks: dict[str, list[int]] = {name: [0, 0] for name in scripts}
    for turn in range(runs + 1):
        for name in [name for name in scripts if name not in failed]:
            begin = time.perf_counter()
            try:
                *memory, asking = _run(scripts[name])
            except GanEdgeError as error:
                failed[name] = str(error)
                costs.pop(name, None)
                continue
            peaks[name] = [max(int(most), int(now)) for most, now in zip(peaks[name], memory, strict=True)]
            if turn:
                times[name].append(time.perf_counter() - begin - asking)
                host, device = (most or None for most in peaks[name])
                costs[name] = {
                    "cold_start_s": statistics.median(times[name]),
                    "peak_bytes": host,
                    "device_bytes": device,
                }
    return costs


def _run(script: list[str]) -> tuple[int, int, float]:
    """Run one process; its peak memory on the host and on a GPU, bytes, 0 where unknown; seconds it asked for that."""
    try:
        done = subprocess.run(script, capture_output=True, text=True, timeout=LIMIT)  # noqa: S603 - our own
    except subprocess.TimeoutExpired as error:
        raise GanEdgeError(f"a whole process gave no result within {LIMIT} s") from error
    if done.returncode:
        raise GanEdgeError(f"a whole process failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    figures = dict(
        line.split() for line in done.stdout.splitlines() if line.startswith(("peak ", "device ", "asking "))
    )
    return int(figures.get("peak", 0)), int(figures.get("device", 0)), float(figures.get("asking", 0))
