"""The study of what `auto` takes: a slow choice is found, and the fastest of a real artifact is no false alarm."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ganedge.runtime import tuning

pytest.importorskip("torch", reason="it makes its artifacts: the extra export is not installed")
pytest.importorskip("onnxruntime", reason="it needs an engine")
auto_choice = pytest.importorskip("ganedge.benchmarks.studies.auto_choice")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(tuning.SWITCH, "1")


def test_a_slow_choice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_choice, "TURN", 0.0)
    slow, fast = (partial(time.sleep, seconds) for seconds in (0.003, 0.002))
    ways = {"slow": slow, "fast": fast, "hopeless": partial(time.sleep, 0.02)}
    found = auto_choice.compared(slow, "slow", ways, 0.05)
    assert (found["fastest"], found["within"]) == ("fast", False)
    assert found["ratio"] > 1.2
    assert found["ms"]["hopeless"] >= 20, "it was called once"
    assert auto_choice.compared(fast, "fast", ways, 0.05)["within"]


def test_the_study_of_a_small_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(auto_choice, "CALLS", 1)
    monkeypatch.setattr(auto_choice, "TURN", 0.0)
    line = ["auto_choice", "--systems", "circles", "--precisions", "fp32,int8", "--seconds", "0", "--out"]
    monkeypatch.setattr(sys, "argv", [*line, str(tmp_path / "auto.json")])
    with pytest.raises(SystemExit):
        auto_choice.main()
    rows = json.loads((tmp_path / "auto.json").read_text())["rows"]
    assert [(row["system"], row["precision"]) for row in rows] == [("circles", "fp32"), ("circles", "int8")]
    assert all({row["chosen"], row["fastest"]} <= set(row["ms"]) for row in rows)
    assert "of 2 artifacts" in capsys.readouterr().out
