"""Metrics of a server, in Prometheus' text format.

    requests = Counter("ganedge_requests_total", "Requests answered.")
    requests.add(path="/sample", status="200")
    print(requests.text())

See "Exposition formats" in Prometheus' documentation, text format 0.0.4.
"""

from __future__ import annotations

import bisect
import threading
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of the text."""


class Counter:
    """A number that only grows, for each set of labels. Safe to use from several threads."""

    def __init__(self, name: str, about: str) -> None:
        self._name = name
        self._about = about
        self._lock = threading.Lock()
        self._values: dict[tuple[tuple[str, str], ...], int] = {}

    def add(self, count: int = 1, **labels: str) -> None:
        """Add to the count."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + count

    def total(self) -> int:
        """The sum over all labels."""
        with self._lock:
            return sum(self._values.values())

    def text(self) -> str:
        """The lines for Prometheus."""
        with self._lock:
            values = dict(self._values)
        lines = [f"{self._name}{_labels(labels)} {value}" for labels, value in sorted(values.items())]
        return "\n".join([*_head(self._name, self._about, "counter"), *lines])


class Histogram:
    """How often a value lay below each of some bounds. Safe to use from several threads."""

    def __init__(self, name: str, about: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._about = about
        self._bounds = bounds
        self._lock = threading.Lock()
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        with self._lock:
            self._counts[bisect.bisect_left(self._bounds, value)] += 1
            self._sum += value

    def text(self) -> str:
        """The lines for Prometheus."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        edges = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        lines = [
            f'{self._name}_bucket{{le="{edge}"}} {count}' for edge, count in zip(edges, accumulate(counts), strict=True)
        ]
        lines += [f"{self._name}_sum {total:.9g}", f"{self._name}_count {sum(counts)}"]
        return "\n".join([*_head(self._name, self._about, "histogram"), *lines])


def gauge(name: str, about: str, value: float, **labels: str) -> str:
    """The lines of a value that goes up and down."""
    return "\n".join([*_head(name, about, "gauge"), f"{name}{_labels(tuple(sorted(labels.items())))} {value:.15g}"])


def _head(name: str, about: str, kind: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    escaped = ((name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels)
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
