"""What a whole process costs: seconds from nothing to the first result, and the most memory it held.

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
SIZED = """
from dataclasses import replace
def sized(interface, shape):
    first, *rest = interface.inputs
    if shape:
        first = replace(first, shape=(first.shape[0], *map(int, shape.split("x"))))
    return replace(interface, inputs=(first, *rest))
"""
"""Gives an interface's pictures the size that is measured."""
ARTIFACT = """
import sys
from pathlib import Path
from ganedge.runtime.engines import start
from ganedge.runtime.generator import Generator, load
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.verify import real_inputs
file, engine, compute, device, threads, shape = sys.argv[1:]
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
from ganedge.benchmarks.reference import Said, open_reference
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.verify import real_inputs
spec, file, device, threads, shape, said = sys.argv[1:]
torch.set_num_threads(int(threads))
manifest = read_artifact(Path(file))[0]
network = open_reference(spec, manifest, Said.from_json(said)).to(device)
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
    script = SIZED + ARTIFACT + PEAK
    return [sys.executable, "-c", script, str(file), engine, compute or "", device, str(threads), shape]


def eager_script(spec: str, file: Path, device: str, threads: int, shape: str, said: str) -> list[str]:
    """The same for the PyTorch generator it came from; `said` is what `reference.Said.to_json` gives."""
    return [sys.executable, "-c", SIZED + EAGER + PEAK, spec, str(file), device, str(threads), shape, said]


def measure(
    scripts: Mapping[str, list[str]], runs: int, failed: dict[str, str]
) -> dict[str, dict[str, float | int | None]]:
    """Start every process `runs` times, in turns, after one start that is not counted.

    Args:
        scripts: Command lines by name.
        runs: Starts that are counted.
        failed: Where it is put why one gave no result; the others go on.

    Returns:
        For each that ran, `cold_start_s` (median, whole process) and `peak_bytes` (the most of any; None where the
        system does not tell).
    """
    times: dict[str, list[float]] = {name: [] for name in scripts}
    peaks: dict[str, int] = dict.fromkeys(scripts, 0)
    for turn in range(runs + 1):
        for name in [name for name in scripts if name not in failed]:
            begin = time.perf_counter()
            try:
                peak = _run(scripts[name])
            except GanEdgeError as error:
                failed[name] = str(error)
                continue
            if turn:
                times[name].append(time.perf_counter() - begin)
            peaks[name] = max(peaks[name], peak)
    return {
        name: {"cold_start_s": statistics.median(found), "peak_bytes": peaks[name] or None}
        for name, found in times.items()
        if found and name not in failed
    }


def _run(script: list[str]) -> int:
    """Run one process; its peak memory, bytes, 0 where unknown."""
    try:
        done = subprocess.run(script, capture_output=True, text=True, timeout=LIMIT)  # noqa: S603 - our own
    except subprocess.TimeoutExpired as error:
        raise GanEdgeError(f"a whole process gave no result within {LIMIT} s") from error
    if done.returncode:
        raise GanEdgeError(f"a whole process failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return int(done.stdout.rpartition("peak")[2].strip() or 0)
