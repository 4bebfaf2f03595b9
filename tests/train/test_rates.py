"""Learning rates that fall: linearly to 0 over the epochs that --decay leaves, and the same across a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ganedge.models.circles import Circles
from ganedge.models.latent import LatentGAN
from ganedge.runtime.errors import UsageError
from ganedge.train.loop import train
from ganedge.train.settings import Settings

SMALL: dict[str, Any] = {"epochs": 2, "decay": 0.5, "batch": 250, "sample_every": 100}
"""Eight steps over the 1000 points of the circle; the rates fall over the last four, the second epoch."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Any]]:
    """Trains into the folder of that name, and gives the two rates of each step."""
    rates: list[Any] = []

    def look(gan: Any, batch: Any, step: int, update: Any) -> dict[str, torch.Tensor]:
        rates.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in gan.optimizers.values()))
        return LatentGAN.step(gan, batch, step, update)

    def run(out: str, given: dict[str, Any], **more: Any) -> list[Any]:
        rates.clear()
        train(Circles, given, Settings(data="circles", out=tmp_path / out, device="cpu", **more))
        return [*rates]

    monkeypatch.setattr(Circles, "step", look, raising=False)
    return run


def test_rates_fall_linearly_and_go_on_where_they_were(seen: Callable[..., list[Any]]) -> None:
    wanted = [pytest.approx((1e-3 * factor, 5e-3 * factor)) for factor in (1, 1, 1, 1, 1, 0.75, 0.5, 0.25)]
    assert seen("whole", SMALL) == wanted
    parts = seen("parts", SMALL, steps=6)
    assert [*parts, *seen("parts", {}, steps=8, resume=True)] == wanted
    assert seen("kept", {**SMALL, "decay": 1.0}) == [wanted[0]] * 8


def test_there_are_no_steps_without_a_rate(seen: Callable[..., list[Any]]) -> None:
    with pytest.raises(UsageError, match="steps is 9, but the learning rates reach 0 after 8"):
        seen("run", SMALL, steps=9)
