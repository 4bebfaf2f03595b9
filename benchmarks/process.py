"""What a whole process costs: seconds from nothing to the first result, and the most memory it held.

measure({"onnxruntime": artifact_script(Path("generator.onnx"), "onnxruntime", None, "cpu", 2)}, runs=3)
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
ARTIFACT = """
import sys
from pathlib import Path
from ganedge.runtime.engines import start
from ganedge.runtime.generator import Generator, load
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.verify import real_inputs
file, engine, compute, device, threads = sys.argv[1:]
if compute:
    manifest, model = read_artifact(Path(file))
    generator = Generator(manifest, start(model, manifest.precision, engine, device, int(threads), compute))
else:
    generator = load(file, engine, device, int(threads))
generator.run(*real_inputs(generator.manifest.interface, 1))
"""
EAGER = """
import sys
from pathlib import Path
import torch
from ganedge.benchmarks.reference import Said, open_reference
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.verify import real_inputs
spec, file, device, threads, said = sys.argv[1:]
torch.set_num_threads(int(threads))
manifest = read_artifact(Path(file))[0]
network = open_reference(spec, manifest, Said.from_json(said)).to(device)
with torch.inference_mode():
    network(*(torch.from_numpy(a).to(device) for a in real_inputs(manifest.interface, 1))).cpu().numpy()
"""


def artifact_script(file: Path, engine: str, compute: str | None, device: str, threads: int) -> list[str]:
    """The command line that takes an artifact from nothing to its first result."""
    return [sys.executable, "-c", ARTIFACT + PEAK, str(file), engine, compute or "", device, str(threads)]


def eager_script(spec: str, file: Path, device: str, threads: int, said: str) -> list[str]:
    """The same for the PyTorch generator it came from; `said` is what `reference.Said.to_json` gives."""
    return [sys.executable, "-c", EAGER + PEAK, spec, str(file), device, str(threads), said]


def measure(scripts: Mapping[str, list[str]], runs: int) -> dict[str, dict[str, float | int | None]]:
    """Start every process `runs` times, in turns, after one start that is not counted.

    Returns:
        For each, `cold_start_s` (median, whole process) and `peak_bytes` (the most of any; None where the system
        does not tell).

    Raises:
        GanEdgeError: a process fails.
    """
    times: dict[str, list[float]] = {name: [] for name in scripts}
    peaks: dict[str, int] = dict.fromkeys(scripts, 0)
    for turn in range(runs + 1):
        for name, script in scripts.items():
            begin = time.perf_counter()
            peak = _run(name, script)
            if turn:
                times[name].append(time.perf_counter() - begin)
            peaks[name] = max(peaks[name], peak)
    return {
        name: {"cold_start_s": statistics.median(found), "peak_bytes": peaks[name] or None}
        for name, found in times.items()
        if found
    }


def _run(name: str, script: list[str]) -> int:
    """Run one process; its peak memory, bytes, 0 where unknown."""
    try:
        done = subprocess.run(script, capture_output=True, text=True, timeout=LIMIT)  # noqa: S603 - our own
    except subprocess.TimeoutExpired as error:
        raise GanEdgeError(f"a process of {name} gave no result within {LIMIT} s") from error
    if done.returncode:
        raise GanEdgeError(f"a process of {name} failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return int(done.stdout.rpartition("peak")[2].strip() or 0)
