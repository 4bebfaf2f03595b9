"""Measure several competitors so that they can be compared: interleaved, warmed up, nothing dropped.

    times = interleaved({"a": run_a, "b": run_b}, seconds=3.0, iterations=50)

Each competitor is a function of an iteration number, which it uses to take a fresh input from its pool. They take
turns in short blocks, in an order that rotates, so that a drifting clock or a busy neighbour hits all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

BLOCK_SECONDS = 0.1
"""Length of one competitor's turn."""
PAUSE_SECONDS = 0.005
"""Between two turns: thread pools that spin while they wait for work go to sleep."""
SETTLED = 0.05
"""Warm-up ends when the median of its last block is within this share of the one before."""
WARMUP_BLOCKS = 20
"""Warm-up ends here at the latest."""

Competitor = Callable[[int], object]


@dataclass(frozen=True)
class Figures:
    """What one competitor's times come to; seconds unless said otherwise."""

    iterations: int
    """Timed calls."""
    mean: float
    p50: float
    p90: float
    p99: float
    longest: float
    spread: float
    """Distance of the quartiles of the turns' medians, as a share of the median over all: above 0.2 the machine was
    not quiet."""


def interleaved(competitors: Mapping[str, Competitor], seconds: float, iterations: int) -> dict[str, list[np.ndarray]]:
    """Time every competitor until each has run for `seconds` and `iterations` times.

    Returns:
        For each, the times of its turns in seconds, one array a turn. Every call after the warm-up is in them.
    """
    for run in competitors.values():
        _warm_up(run)
    turns: dict[str, list[np.ndarray]] = {name: [] for name in competitors}
    names = list(competitors)
    while any(_short(turns[name], seconds, iterations) for name in names):
        for name in names:
            time.sleep(PAUSE_SECONDS)
            done = sum(map(len, turns[name]))
            turns[name].append(_turn(competitors[name], done))
        names.append(names.pop(0))
    return turns


def figures(turns: list[np.ndarray]) -> Figures:
    """Summarise one competitor's times."""
    times = np.concatenate(turns)
    p50, p90, p99 = (float(value) for value in np.percentile(times, (50, 90, 99)))
    low, high = np.percentile([float(np.median(turn)) for turn in turns], (25, 75))
    return Figures(len(times), float(times.mean()), p50, p90, p99, float(times.max()), float(high - low) / p50)


def _turn(run: Competitor, first: int) -> np.ndarray:
    """Call for one block's time, and at least once."""
    times: list[float] = []
    end = time.perf_counter() + BLOCK_SECONDS
    before = time.perf_counter()
    while before < end:
        run(first + len(times))
        after = time.perf_counter()
        times.append(after - before)
        before = after
    return np.array(times)


def _warm_up(run: Competitor) -> None:
    """Run until the median settles: allocators, caches and just-in-time compilers have then done their work."""
    last = float("inf")
    for _ in range(WARMUP_BLOCKS):
        median = float(np.median(_turn(run, 0)))
        if abs(median / last - 1) < SETTLED:
            return
        last = median


def _short(turns: list[np.ndarray], seconds: float, iterations: int) -> bool:
    return sum(float(turn.sum()) for turn in turns) < seconds or sum(map(len, turns)) < iterations
