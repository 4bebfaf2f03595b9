"""A long life: a generator that samples without end, and one that is loaded and let go again and again.

    python tests/hostile/soak.py generator.onnx --seconds 3600 --loads 500 --report tests/hostile/results/soak.json

Memory and descriptors must not grow once everything was used once: they are read in quarters, and the last quarter may
not hold more than the second did.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ganedge.runtime import load

SLACK_MIB = 8.0
"""Growth from the second to the last quarter that allocators may show."""


def resident_mib() -> float:
    """Memory that this process holds, after everything that can be given back was."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    """Open files, sockets and pipes of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def watched(act: Callable[[], None], more: Callable[[int], bool], readings: int = 40) -> dict[str, float]:
    """Do something again and again, and say how much memory and how many descriptors the quarters held at most."""
    held: list[tuple[float, int]] = []
    count = 0
    while more(count):
        act()
        count += 1
        held.append((resident_mib(), descriptors()))
        if len(held) > 4 * readings:  # Keep every second reading, so that an hour is as small as a minute.
            held = held[1::2]
    quarter = max(1, len(held) // 4)
    second, last = held[quarter : 2 * quarter] or held, held[-quarter:]
    return {
        "count": count,
        "mib": round(max(mib for mib, _ in last), 1),
        "grown_mib": round(max(mib for mib, _ in last) - max(mib for mib, _ in second), 1),
        "grown_descriptors": max(fds for _, fds in last) - max(fds for _, fds in second),
    }


def loading(path: Path, engine: str, times: int) -> dict[str, float]:
    """Load, sample and let go, again and again."""

    def act() -> None:
        with load(path, engine, threads=1) as generator:
            generator.sample(2, seed=0)

    return watched(act, lambda count: count < times)


def sampling(path: Path, engine: str, seconds: float, threads: int = 2) -> dict[str, float]:
    """Sample from several threads at once, with batches that change."""
    end = time.monotonic() + seconds
    with load(path, engine, threads=1) as generator:

        def work(first: int) -> None:
            for n in (1, 7, 16, 3):
                generator.sample(n, seed=first)

        def act() -> None:
            workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        return watched(act, lambda count: count < 8 or time.monotonic() < end)


def campaign(path: Path, seconds: float, loads: int, engines: tuple[str, ...]) -> dict[str, object]:
    """Both, with every engine; give the report."""
    begin = time.monotonic()
    done: dict[str, dict[str, float]] = {}
    for engine in engines:
        done[f"loaded with {engine}"] = loading(path, engine, loads)
        done[f"sampled with {engine}"] = sampling(path, engine, seconds / len(engines))
    found = [
        f"{name}: {figures['grown_mib']} MiB and {figures['grown_descriptors']} descriptors more"
        for name, figures in done.items()
        if figures["grown_mib"] > SLACK_MIB or figures["grown_descriptors"] > 0
    ]
    hours = round((time.monotonic() - begin) / 3600, 3)
    return {"hours": hours, "loads": loads * len(engines), "figures": done, "findings": found}


def main() -> None:
    """Soak, and exit with 1 if something grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--loads", type=int, default=500)
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--report", type=Path, help="write what was done here, as JSON")
    given = parser.parse_args()
    report = campaign(given.artifact, given.seconds, given.loads, tuple(given.engines.split(",")))
    if given.report:
        given.report.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report))
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
