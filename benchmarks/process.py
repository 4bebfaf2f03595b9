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
query_seconds = 0.0
def gpu_bytes():
    global query_seconds
    begin = time.perf_counter()
    from ganedge.benchmarks.conditions import gpu_memory
    used = gpu_memory() or 0
    query_seconds += time.perf_counter() - begin
    return used
"""
"""Queries the GPU's used memory, on CUDA only. Other processes must not change it meanwhile. The time that the queries
take is subtracted from the cold start."""
PEAK = """
import sys
try:
    status = open("/proc/self/status").read()
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
except (OSError, IndexError, ValueError):
    peak = 0
print("peak", peak)
"""
"""The process's own high-water mark, which unlike getrusage's does not include its parent's memory."""
DEVICE_PEAK = """
print("device", max(0, gpu_bytes() - before) if before else 0)
print("query", query_seconds)
"""
SIZED = """
def sized(interface, shape):
    if not shape:
        return interface
    sizes = tuple(map(int, shape.split("x")))
    return interface.at_size(*(sizes[1:] if interface.inputs[0].layout == "NCHW" else sizes[:2]))
"""
"""Sets the picture size of an interface to the measured one."""
ARTIFACT = """
import sys
from pathlib import Path
from ganedge.runtime.engines import start
from ganedge.runtime.generator import Generator, load
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.inputs import real_inputs
file, engine, compute, device, threads, shape = sys.argv[1:]
before = gpu_bytes() if device != "cpu" else 0
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
before = gpu_bytes() if device != "cpu" else 0
torch.set_num_threads(int(threads))
manifest = common([Path(file)])
network = open_reference(ReferenceSpec.from_json(reference), manifest).to(device)
with torch.inference_mode():
    network(*(torch.from_numpy(a).to(device) for a in real_inputs(sized(manifest.interface, shape), 1))).cpu().numpy()
"""


def artifact_script(file: Path, engine: str, compute: str | None, device: str, threads: int, shape: str) -> list[str]:
    """Return the command line of a process that loads an artifact and computes one result.

    Args:
        file: The artifact.
        engine: As `runtime.load` takes it.
        compute: Precision requested of the engine, where it is not the artifact's.
        device: cpu or cuda.
        threads: Threads of the engine.
        shape: Shape of an input picture, `3x256x256`; empty where the artifact fixes it.
    """
    script = SIZED + DEVICE + ARTIFACT + DEVICE_PEAK + PEAK
    return [sys.executable, "-c", script, str(file), engine, compute or "", device, str(threads), shape]


def eager_script(reference: str, file: Path, device: str, threads: int, shape: str) -> list[str]:
    """Return the same for the PyTorch generator; `reference` is what `ReferenceSpec.to_json` returns."""
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
        failed: Filled with the reasons of processes that failed, while the others continue.
        costs: Filled with the costs, which remain available after an interruption; a new table by default.

    Returns:
        For each process that ran, `cold_start_s` (median of the whole process), `peak_bytes` (maximum over the starts)
        and `device_bytes` (the same on a GPU); None where the system does not report it.
    """
    costs = {} if costs is None else costs
    times: dict[str, list[float]] = {name: [] for name in scripts}
    peaks: dict[str, list[int]] = {name: [0, 0] for name in scripts}
    for turn in range(runs + 1):
        for name in [name for name in scripts if name not in failed]:
            begin = time.perf_counter()
            try:
                *memory, query_seconds = _run(scripts[name])
            except GanEdgeError as error:
                failed[name] = str(error)
                costs.pop(name, None)
                continue
            peaks[name] = [max(int(most), int(now)) for most, now in zip(peaks[name], memory, strict=True)]
            if turn:
                times[name].append(time.perf_counter() - begin - query_seconds)
                host, device = (most or None for most in peaks[name])
                costs[name] = {
                    "cold_start_s": statistics.median(times[name]),
                    "peak_bytes": host,
                    "device_bytes": device,
                }
    return costs


def _run(script: list[str]) -> tuple[int, int, float]:
    """Run one process.

    Returns:
        Peak memory on the host and on the GPU, bytes, 0 where unknown; and the seconds that querying the GPU took.
    """
    try:
        done = subprocess.run(script, capture_output=True, text=True, timeout=LIMIT)  # noqa: S603 - our own
    except subprocess.TimeoutExpired as error:
        raise GanEdgeError(f"the process gave no result within {LIMIT} s") from error
    if done.returncode:
        raise GanEdgeError(f"the process failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    figures = dict(line.split() for line in done.stdout.splitlines() if line.startswith(("peak ", "device ", "query ")))
    return int(figures.get("peak", 0)), int(figures.get("device", 0)), float(figures.get("query", 0))
