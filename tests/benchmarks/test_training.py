"""The training benchmark runs both loops and says what it found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ganedge.benchmarks import training
from ganedge.models.objectives import OBJECTIVES
from ganedge.runtime.errors import GanEdgeError
from ganedge.train import compiling


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks and data that train in a moment, after a short warm-up."""
    for name, case in training.CASES.items():
        small: dict[str, Any] = {**case, "size": 16, "batch": 4, **({"width": 4} if "dcgan" in name else {})}
        monkeypatch.setitem(training.CASES, name, small)
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
    assert result["computes"] == {"plain": "fp32", "ganedge": "fp32"}
    assert all(parts["p50"] <= parts["p90"] <= parts["p99"] for parts in result["step_s"].values())
    assert f"{result['speedup']:.2f}x" in training.line(result)


def test_the_plain_loop_of_pairs_has_the_losses_of_the_preset() -> None:
    """By a discriminator whose output is the sum of a picture: both its gradients are one everywhere."""

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, items: torch.Tensor) -> torch.Tensor:
            return self.factor * items.sum((1, 2, 3))[:, None]

    generator = nn.Sequential(nn.Linear(100, 12), nn.Unflatten(1, (3, 2, 2)))
    nn.init.zeros_(generator[0].weight)
    nn.init.constant_(generator[0].bias, 0.25)
    discriminator, real = Summed(), torch.full((5, 3, 2, 2), 0.5)
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.0) for network in (generator, discriminator)]
    loss_d, loss_g = training._paired_step(real, generator, discriminator, optimizers, r1=0.5, r2=0.25)
    pair = OBJECTIVES["rpgan"]
    logits = torch.full((5, 1), 6.0), torch.full((5, 1), 3.0)
    assert loss_g == pytest.approx(float(pair.generator(logits[1], logits[0])))
    assert loss_d == pytest.approx(float(pair.discriminator(*logits)) + 0.25 * 12 + 0.125 * 12)


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
    for name in ("dcgan", "dcgan-modern"):
        monkeypatch.delitem(training.CASES, name)
    out = tmp_path / "training.json"
    done = command(
        "gan-bench", "train", "--seconds", 0.05, "--precision", "fp32", "--threads", 1, "--compile", "--json", out
    )
    assert done.code == 0, done.err
    report = json.loads(out.read_text())
    assert "{" not in done.out, "JSON is in its file"
    assert (report["schema"], report["kind"], report["partial"]) == (training.SCHEMA, "training", False)
    assert report["command"].startswith("gan-bench train --seconds 0.05")
    (case,) = report["results"]
    assert (case["compiled"], case["partial"], case["device"]) == (True, False, "cpu")
    assert case["steps"]["plain"] == case["steps"]["ganedge"] >= 2
    assert "ganedge" in done.out.splitlines()[0]
    assert "in fp32, compiled," in done.out.splitlines()[0]


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
    plain = training.plain_steps

    def steps(name: str, *given: Any) -> Iterator[str]:
        return _stops(torch.OutOfMemoryError("too much"), 1)() if name == "dcgan" else plain(name, *given)

    monkeypatch.setattr(training, "plain_steps", steps)
    report = training.measure(0.01, 1, "fp32", lambda _: None)
    assert [case["variant"] for case in report["results"]] == ["mlp", "dcgan-modern"]
    assert report["failed"] == [{"variant": "dcgan", "reason": "device cpu ran out of memory"}]
    monkeypatch.setattr(training, "plain_steps", lambda *_: _stops(torch.OutOfMemoryError("too much"), 1)())
    with pytest.raises(GanEdgeError, match="device cpu ran out of memory"):
        training.measure(0.01, 1, "fp32", lambda _: None)
