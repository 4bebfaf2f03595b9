"""The training benchmark runs both loops and says what it found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganedge.benchmarks import training
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.train import compiling


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and data that train in a moment, after a short warm-up."""
    for name, case in training.CASES.items():
        translates = name.startswith(("pix2pix", "cyclegan"))
        small: dict[str, Any] = {"size": 32, "width": 4} if translates else {"size": 16}
        small |= {"batch": 2 if translates else 4} if "batch" in case else {}
        small |= {"width": 4} if "dcgan" in name else {"blocks": 1} if "cyclegan" in name else {}
        monkeypatch.setitem(training.CASES, name, {**case, **small})
    monkeypatch.setattr(training, "ITEMS", 16)
    monkeypatch.setattr(training.timing, "WARMUP_BLOCKS", 2)


@pytest.mark.parametrize("name", training.CASES)
def test_both_loops_run(name: str) -> None:
    result = training.compare(name, 0.01, "fp32")
    assert result["steps"]["plain"] == result["steps"]["ganedge"] >= 1
    rates = result["images_per_s"]
    assert result["speedup"] == pytest.approx(rates["ganedge"] / rates["plain"])
    assert result["speedup_low"] is None, "a moment has no six blocks"
    assert rates["plain"] > 0
    assert training.line(result).startswith(name)
    assert result["computes"] == {"plain": "fp32", "ganedge": "fp32, channels-last"}, "too short to measure another"
    assert all(parts["p50"] <= parts["p90"] <= parts["p99"] for parts in result["step_s"].values())
    assert f"{result['speedup']:.2f}x" in training.line(result)


def test_tf32_is_named_with_every_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert training._computed("fp32", "cuda") == "fp32 (TF32 in convolutions)"
    assert training._computed("fp32, contiguous", "cuda") == "fp32 (TF32 in convolutions), contiguous"
    assert training._computed("bf16, contiguous", "cuda") == "bf16, contiguous"
    assert training._computed("fp32, contiguous", "cpu") == "fp32, contiguous"


def test_rare_work_counts() -> None:
    """A loop that writes a checkpoint every tenth step is slower by what that takes, which a median would hide."""
    plain = np.full(100, 0.1)
    ours = np.where(np.arange(100) % 10 == 9, 0.55, 0.05)
    total, low, high = training._ratio_of_totals(plain, ours, 1)
    assert total == pytest.approx(1.0)
    assert low is not None
    assert high is not None
    assert low <= 1.0 <= high
    assert high - low < 0.5


def test_the_command(command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    out = tmp_path / "training.json"
    done = command(
        *("gan-bench", "train", "--cases", "mlp", "--seconds", 0.05, "--precision", "fp32", "--threads", 1),
        *("--compile", "--json", out),
    )
    assert done.code == 0, done.err
    report = json.loads(out.read_text())
    assert "{" not in done.out, "JSON is in its file"
    assert (report["schema"], report["kind"], report["partial"]) == (training.SCHEMA, "training", False)
    assert report["command"].startswith("gan-bench train --cases mlp --seconds 0.05")
    (case,) = report["results"]
    assert (case["compiled"], case["partial"], case["device"]) == (True, False, "cpu")
    assert case["steps"]["plain"] == case["steps"]["ganedge"] >= 2
    assert "ganedge" in done.out.splitlines()[0]
    assert "in fp32, channels-last, compiled," in done.out.splitlines()[0]


def _stops(error: BaseException, after: int) -> Callable[..., Iterator[str]]:
    def steps(*_given: Any) -> Iterator[str]:
        for _ in range(after):
            yield "fp32"
        raise error

    return steps


def test_an_interruption_keeps_the_turns_that_were_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "our_steps", _stops(KeyboardInterrupt(), 60))
    report = training.measure(1000.0, 1, "fp32", lambda _: None)
    assert report["partial"]
    assert [case["partial"] for case in report["results"]] == [True]
    monkeypatch.setattr(training, "our_steps", _stops(KeyboardInterrupt(), 2))
    with pytest.raises(KeyboardInterrupt):
        training.measure(1000.0, 1, "fp32", lambda _: None)


def test_memory_that_ends_costs_that_case_only(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = training.plain.steps

    def steps(name: str, *given: Any) -> Iterator[str]:
        return _stops(torch.OutOfMemoryError("too much"), 1)() if name == "dcgan" else plain(name, *given)

    monkeypatch.setattr(training.plain, "steps", steps)
    report = training.measure(0.01, 1, "fp32", lambda _: None, cases="mlp,dcgan,pix2pix,cyclegan-modern")
    assert [case["variant"] for case in report["results"]] == ["mlp", "pix2pix", "cyclegan-modern"]
    assert report["failed"] == [{"variant": "dcgan", "reason": "device cpu ran out of memory"}]
    monkeypatch.setattr(training.plain, "steps", lambda *_: _stops(torch.OutOfMemoryError("too much"), 1)())
    with pytest.raises(GanEdgeError, match="device cpu ran out of memory"):
        training.measure(0.01, 1, "fp32", lambda _: None)


def test_unknown_cases_are_refused() -> None:
    with pytest.raises(UsageError, match="cases is pix2pixel: give names out of mlp,dcgan"):
        training.measure(0.01, 1, "fp32", lambda _: None, cases="mlp,pix2pixel")
