"""The machine and its state: clock, governor, temperature, power and load.

    before = conditions()        # {"governor": "performance", "clock_mhz": 2800.0, "temperature_c": 51.0, …}

Values come from Linux's sysfs (on a Jetson, its power rails too) and NVIDIA's nvidia-smi. A value that the platform
does not report is left out, never guessed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from ganedge.runtime import engines
from ganedge.runtime.tuning import processor

SYSFS = Path("/sys")
NVIDIA = ("clocks.sm", "temperature.gpu", "power.draw", "utilization.gpu")
"""Fields queried from nvidia-smi: MHz, °C, W and %."""
WATCH_SECONDS = 2.0
"""Least seconds between two samples of the state during timing."""
FELL = 0.1
"""Share by which a clock may fall without a warning."""
PACKAGES = ("ganedge", "numpy", "torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
"""Packages whose versions are recorded in reports."""


def machine(threads: int) -> dict[str, object]:
    """Return the hardware, system and package versions that figures are measured on."""
    return {
        "processor": processor(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: engines.package_version(name) for name in PACKAGES if engines.installed(name)},
        "gpu": _nvidia("name,driver_version"),
    }


def conditions(root: Path = SYSFS, *, gpu: bool = True) -> dict[str, object]:
    """Return the machine's state now.

    Args:
        root: Where sysfs is mounted.
        gpu: Whether to query NVIDIA's driver too.

    Returns:
        Those of these that the platform reports: load (average of the last minute), governor, clock_mhz (mean over the
            cores that this process may use), temperature_c (hottest zone), power_w (by rail), gpu.
    """
    state: dict[str, object] = {}
    if hasattr(os, "getloadavg"):
        state["load"] = os.getloadavg()[0]
    cpu = root / "devices/system/cpu"
    governors = sorted({_text(path) for path in cpu.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""})
    if governors:
        state["governor"] = ", ".join(governors)
    names = [f"cpu{core}" for core in os.sched_getaffinity(0)] if hasattr(os, "sched_getaffinity") else ["cpu[0-9]*"]
    clocks = [_number(path) for name in names for path in cpu.glob(f"{name}/cpufreq/scaling_cur_freq")]
    known = [clock for clock in clocks if clock is not None]
    if known:
        state["clock_mhz"] = sum(known) / len(known) / 1000
    heats = [_number(path) for path in (root / "class/thermal").glob("thermal_zone*/temp")]
    warm = [heat / 1000 for heat in heats if heat is not None and 0 < heat < 200_000]
    if warm:
        state["temperature_c"] = max(warm)
    rails = _rails(root)
    if rails:
        state["power_w"] = rails
    gpu_state = _nvidia(",".join(NVIDIA)) if gpu else ""
    if gpu_state:
        state["gpu"] = dict(zip(NVIDIA, (part.strip() for part in gpu_state.split(",")), strict=False))
    return state


class Watch:
    """Samples the machine's state during timing, between turns, at most every `WATCH_SECONDS`.

    Args:
        device: cpu or cuda; the GPU is only queried for cuda.
        root: Where sysfs is mounted.
    """

    def __init__(self, device: str = "cpu", root: Path = SYSFS) -> None:
        self._device = device
        self._root = root
        self._next = 0.0
        self._seen: list[dict[str, float]] = []
        self._energy = [(time.monotonic(), _energy(root))]

    def look(self) -> None:
        """Record the state, unless the last sample is more recent than `WATCH_SECONDS`."""
        if time.monotonic() < self._next:
            return
        self._seen.append(_figures(conditions(self._root, gpu=self._device != "cpu")))
        self._energy.append((time.monotonic(), _energy(self._root)))
        self._next = time.monotonic() + WATCH_SECONDS

    def figures(self) -> dict[str, float]:
        """Return lowest clocks, highest temperatures and mean power, as far as the platform reports them."""
        figures = {}
        for name in {name: None for seen in self._seen for name in seen}:
            if name == "load":
                continue
            combine = min if "clock" in name else max if "temperature" in name else statistics.fmean
            figures[name] = combine([seen[name] for seen in self._seen if name in seen])
        joules = sum(
            now[1] - then[1]
            for then, now in itertools.pairwise(self._energy)
            if then[1] is not None and now[1] is not None and now[1] >= then[1]  # The counter wraps around.
        )
        seconds = self._energy[-1][0] - self._energy[0][0]
        if joules > 0 and seconds > 0:
            figures["power_w package"] = joules / seconds
        return figures

    def warnings(self) -> list[str]:
        """Return one warning for each clock that fell by more than `FELL`."""
        texts = []
        for name in ("clock_mhz", "gpu clocks.sm"):
            values = [seen[name] for seen in self._seen if name in seen]
            falls = [(high, now) for high, now in zip(itertools.accumulate(values, max), values, strict=True)]
            high, low = min(falls, key=lambda fall: fall[1] / max(fall[0], 1e-9), default=(0.0, 0.0))
            if low < (1 - FELL) * high:
                texts.append(
                    f"{name} fell from {high:.0f} to {low:.0f} while it was measured: fix the clocks, "
                    "or let it cool down"
                )
        return texts


def _figures(state: dict[str, object]) -> dict[str, float]:
    """Flatten a state into numbers by name."""
    figures = {name: value for name, value in state.items() if isinstance(value, float)}
    for part, sign in (("power_w", "power_w "), ("gpu", "gpu ")):
        inner = state.get(part)
        for name, value in inner.items() if isinstance(inner, dict) else ():
            with contextlib.suppress(ValueError):  # "[N/A]" where a GPU does not report it.
                figures[f"{sign}{name}"] = float(str(value).split()[0])
    return figures


def _energy(root: Path) -> float | None:
    """Return the energy counter of the processor's packages, joules; None where the system has none."""
    zones = [zone for zone in (root / "class/powercap").glob("intel-rapl:[0-9]") if _is_package(zone)]
    counters = [_number(zone / "energy_uj") for zone in zones]
    known = [joules / 1e6 for joules in counters if joules is not None]
    return sum(known) if known else None


def _is_package(zone: Path) -> bool:
    """Whether a RAPL zone is a processor package; "psys" is the whole board and includes the packages."""
    return _text(zone / "name").startswith("package")


class Others:
    """Measures the share of this process's cores that other processes used since this object was created.

    That is the busy time of these cores, including time stolen from a virtual machine, minus the processor time of
    this process and its finished children. The load average does not separate the two.

    Args:
        also: Returns the processor time of running children, seconds, which is subtracted too.
        root: Where procfs is mounted.
    """

    def __init__(self, also: Callable[[], float] = lambda: 0.0, root: Path = Path("/proc")) -> None:
        self._root, self._also = root, also
        self._begin = self._now()

    def share(self) -> float | None:
        """Return the share, 0 to 1; None where the system does not report it."""
        now = self._now()
        if now is None or self._begin is None:
            return None
        (begun, busy_then, own_then, cores), (at, busy, own, _) = self._begin, now
        spent = (busy - busy_then) - (own - own_then)
        return min(1.0, max(0.0, spent / max((at - begun) * cores, 1e-3)))

    def _now(self) -> tuple[float, float, float, int] | None:
        """Return time, busy time of the cores and processor time of this process, seconds; and the number of cores."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in _text(self._root / "stat").splitlines()]
        counts = [[int(part) for part in line[1:9]] for line in lines if line and line[0] in cores]
        if len(counts) != len(cores):
            return None
        ticks = sum(sum(count) - count[3] - count[4] for count in counts)  # All but idle and iowait.
        times = os.times()
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), sum(times[:4]) + self._also(), len(cores)


def _rails(root: Path) -> dict[str, float]:
    """Return a Jetson's power rails, W, from its INA3221: millivolts times milliamperes of each labelled channel."""
    rails = {}
    for label in root.glob("class/hwmon/hwmon*/in*_label"):
        channel = label.name.removeprefix("in").removesuffix("_label")
        volts = _number(label.with_name(f"in{channel}_input"))
        amperes = _number(label.with_name(f"curr{channel}_input"))
        if volts is not None and amperes is not None:
            rails[_text(label)] = volts * amperes / 1e6
    return rails


def _nvidia(query: str) -> str:
    """Query nvidia-smi for the first GPU visible to this process, in PCI order; empty without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    line = [program, f"--query-gpu={query}", "--format=csv,noheader"]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None and not shown.strip():
        return ""  # No GPU is visible to this process.
    line += ["-i", shown.split(",")[0]] if shown else []
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=20)  # noqa: S603 - our own command line
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""


def gpu_memory() -> int | None:
    """Return the used memory of the GPU, bytes, over all processes; None where the driver does not report it."""
    used = _nvidia("memory.used").split()
    return int(used[0]) * 2**20 if used and used[0].isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text.lstrip("-").isdigit() else None
