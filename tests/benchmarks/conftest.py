"""Shortens what every report begins with, and no test of the commands is about."""

from __future__ import annotations

import pytest

from ganedge.benchmarks import arithmetic, input_pool


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of small matrices, found in a moment, and inputs that caches hold."""
    monkeypatch.setattr(arithmetic, "SIDE", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(arithmetic, "ROOF_SECONDS", 0.01)
    monkeypatch.setattr(arithmetic, "COPIED", 2**16)
    monkeypatch.setattr(input_pool, "BEYOND", 0.01)
