"""The training benchmark runs both loops and says what it found."""

from __future__ import annotations

from typing import Any

import pytest

from ganedge.benchmarks import training


@pytest.mark.parametrize("name", training.CASES)
def test_both_loops_run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    small: dict[str, Any] = {**training.CASES[name], "size": 16, "batch": 4}
    small |= {"width": 4} if "width" in small else {}
    monkeypatch.setitem(training.CASES, name, small)
    monkeypatch.setattr(training, "ITEMS", 16)
    result = training.compare(name, 0.01, "fp32")
    assert result["steps"]["plain"] == result["steps"]["ganedge"] >= 1
    rates = result["images_per_s"]
    assert result["speedup_low"] <= result["speedup"] <= result["speedup_high"]
    assert rates["plain"] > 0
    assert result["computes"] == {"plain": "fp32", "ganedge": "fp32"}
    assert all(parts["p50"] <= parts["p90"] <= parts["p99"] for parts in result["step_s"].values())
    assert f"{result['speedup']:.2f}x" in training.line(result)
