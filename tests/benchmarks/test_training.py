"""The training benchmark runs both loops and says what it found."""

from __future__ import annotations

import math
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
    assert math.isclose(result["speedup"], rates["ganedge"] / rates["plain"])
