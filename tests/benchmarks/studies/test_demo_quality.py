"""The judge of the demo's digits knows real ones, one picture repeated, and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganedge.benchmarks.studies import demo_quality

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is part of the extra train")


class Generator:
    """Draws pictures of a label by a function."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sample(self, count: int, seed: int, label: int) -> np.ndarray:
        """As `ganedge.runtime.Generator.sample` does."""
        return np.asarray(self._draw(count, seed, label), np.uint8)[..., None]


def judged(monkeypatch: pytest.MonkeyPatch, draw: Any) -> tuple[float, float]:
    monkeypatch.setattr(demo_quality, "load", lambda _: Generator(draw))
    return demo_quality.measure(Path("any.onnx"))


def test_real_digits_pass_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = datasets.load_digits()
    real = demo_quality._resized((digits.images * (255 / 16)).round().astype(np.uint8), 32)

    def some(count: int, _seed: int, label: int) -> np.ndarray:
        return real[digits.target == label][:count]

    agreement, distance = judged(monkeypatch, some)
    assert agreement > 0.99
    assert distance == pytest.approx(1.0)
    agreement, distance = judged(monkeypatch, lambda count, _, label: np.repeat(some(1, 0, label), count, 0))
    assert agreement > 0.9
    assert distance == 0.0
    noise = np.random.default_rng(0)
    agreement, _ = judged(monkeypatch, lambda count, *_: noise.integers(0, 256, (count, 32, 32)))
    assert agreement < 0.5
