"""The overhead bench measures what it says, and threads agree."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganedge.benchmarks.studies import overhead


def test_what_is_added_is_found() -> None:
    found = overhead.overhead(lambda: time.sleep(0.002), lambda: time.sleep(0.003), 0.3)
    assert 0.0005 < found["added"] < 0.002
    assert 0.25 < found["share"] < 1.0


def test_a_leak_is_found() -> None:
    kept: list[np.ndarray] = []
    assert overhead.growth(lambda: kept.append(np.ones(100_000)), 400) > 0.02
    assert abs(overhead.growth(lambda: np.ones(100_000).sum(), 400)) < 0.02


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_threads_agree_and_memory_stays(artifact: Path, engine: str) -> None:
    pytest.importorskip(engine, reason=f"the extra of engine {engine} is not installed")
    assert overhead.threads_agree(artifact, engine, 0, calls=25)
    _, api = overhead.pair(artifact, engine, 2, 0, 1)
    assert overhead.growth(api, 500) < 0.01


def test_threads_that_disagree_are_found(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item: Callable[..., np.ndarray] = overhead._item
    monkeypatch.setattr(overhead, "_item", lambda g, seed, size: item(g, None if seed == 3 else seed, size))
    assert not overhead.threads_agree(artifact, "onnxruntime", 0, threads=2, calls=5)


def test_the_command(artifact: Path) -> None:
    line = [sys.executable, "-m", "ganedge.benchmarks.studies.overhead", artifact, "--seconds", "0.1", "--calls", "20"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "added" in done.stdout
    assert "memory over 20 calls" in done.stdout
