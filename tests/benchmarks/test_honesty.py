"""A short form of `make honesty`: the true answers, in a process each, and the counting."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganedge.benchmarks.studies import honesty
from ganedge.runtime.errors import UsageError


def _finding(verdict: str) -> dict[str, Any]:
    return {"verdict": verdict, "slower": 1.0, "low": 0.9, "high": 1.1, "beside": "x"}


def _row(ratio: float, planted: str, unchanged: str) -> dict[str, Any]:
    names = [f"{name}, onnxruntime" for name in honesty.NAMES]
    return {
        "ratio": ratio, "low": ratio - 0.03, "high": ratio + 0.03, "others": None,
        "planted": {names[0]: _finding(planted), names[1]: _finding("same")},
        "unchanged": {name: _finding(unchanged) for name in names},
    }  # fmt: skip


def test_bars_count_what_they_say() -> None:
    rows = [_row(1.0, "slower", "same")] * 18 + [_row(1.05, "unclear", "faster"), _row(0.99, "slower", "unclear")]
    found = honesty.bars(rows, {"": False, "a": True, "b": False})
    assert [(bar["count"], bar["of"], bar["wanted"], bar["held"]) for bar in found] == [
        (19, 20, 20, False),  # One is 5 % off.
        (19, 20, 19, True),  # The same one's interval leaves 1 out, and one may.
        (19, 20, 20, False),  # "Unclear" has not found it.
        (19, 20, 20, False),  # A speed-up where nothing changed is a wrong finding too; "unclear" is none.
        (20, 20, 20, True),
        (1, 2, 2, False),
        (1, 1, 1, True),
    ]


def test_a_stretched_call_takes_longer() -> None:
    import time

    def work(arrays: Any) -> Any:
        time.sleep(0.01)
        return arrays

    stretched = honesty._stretched(work, 1.5)
    begin = time.perf_counter()
    assert stretched(3) == 3
    assert time.perf_counter() - begin >= 0.015


def test_mistakes_in_every_layer_are_found(artifact: Path, tiny_run: Path, tmp_path: Path) -> None:
    for name in honesty.NAMES:
        (tmp_path / name).write_bytes(artifact.read_bytes())
    (tmp_path / "run").symlink_to(tiny_run)
    found = honesty.planted_mistakes(tmp_path)
    assert len(found) >= 3
    assert found.pop("") is False
    assert all(found.values()), found


def test_reports_come_from_processes_of_their_own(artifact: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Twice the time has to be seen in a moment's run on a busy machine: the slowdown is known to be planted."""
    for name in honesty.NAMES:
        (tmp_path / name).write_bytes(artifact.read_bytes())
    (tmp_path / "run").symlink_to(tiny_run)
    out = tmp_path / "report.json"
    line = [sys.executable, "-c", honesty.SCRIPT, str(tmp_path), str(out), "0.3", "2.0"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    rounds = {row["competitor"]: row["rounds"] for row in report["results"]}
    first, second = (rounds[f"{name}, onnxruntime"] for name in honesty.NAMES)
    assert np.median(np.divide(first, second)) > 1.3
    reports = {"before": report, "after": report, "slowed": report}
    assert honesty.judged(reports)["unchanged"]["twin.onnx, onnxruntime"]["verdict"] in ("same", "unclear")


@pytest.mark.parametrize(("runs", "seconds"), [(0, 1.0), (3, 0.0), (3, float("nan")), (3, 1e9)])
def test_nonsense_is_refused(runs: int, seconds: float, capsys: pytest.CaptureFixture[str]) -> None:
    say: Callable[[str], object] = print
    with pytest.raises(UsageError, match="at least one run"):
        honesty.measure(runs, seconds, say)


def test_the_own_part_of_a_call_is_small(artifact: Path) -> None:
    found = honesty.overhead(artifact, 0.2)
    assert found["bare_s"] > 0
    assert abs(found["added_s"]) < 1e-3


def test_an_interruption_keeps_the_runs_that_were_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    turns = iter((_row(1.0, "slower", "same"), None))

    def judged(_reports: Any) -> dict[str, Any]:
        row = next(turns)
        if row is None:
            raise KeyboardInterrupt
        return row

    monkeypatch.setattr(honesty, "make", lambda _: None)
    monkeypatch.setattr(honesty, "planted_mistakes", lambda _: {"": False, "a": True})
    monkeypatch.setattr(honesty, "_reports", lambda *_: {})
    monkeypatch.setattr(honesty, "overhead", lambda *_: {"bare_s": 1e-4, "added_s": 1e-6})
    monkeypatch.setattr(honesty, "judged", judged)
    monkeypatch.setattr(honesty, "_line", str)
    found = honesty.measure(20, 1.0, lambda _: None)
    assert (found["partial"], len(found["runs"])) == (True, 1)
    assert found["bars"][0] == {
        "what": "the same artifact under two names has a ratio within 2% of 1", "count": 1, "of": 1, "wanted": 1,
        "held": True,
    }  # fmt: skip
