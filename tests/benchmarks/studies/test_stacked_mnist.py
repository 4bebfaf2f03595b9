"""The study of modes: what it counts, and what it writes of a training that diverged."""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric", reason="it trains: the extra train is not installed")

from ganedge.benchmarks.studies import stacked_mnist  # noqa: E402 - needs torch


class Diverging:
    """A trainer whose loss is NaN after one step."""

    step = 0

    def __init__(self, *_: Any) -> None:
        pass

    def advance(self) -> dict[str, Any]:
        """Take a step."""
        self.step += 1
        return {"loss_d": torch.tensor(float("nan"))}


def test_a_diverged_training_is_valid_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_mnist, "Trainer", Diverging)
    pictures = torch.zeros(4, 3, stacked_mnist.SIZE, stacked_mnist.SIZE, dtype=torch.uint8)
    result = stacked_mnist.run_arm(stacked_mnist.ARMS["bce + R1"], pictures, torch.nn.Identity(), 4, 2)
    assert (result["modes"], result["kl"], len(result["evaluations"])) == (0, None, 1)
    json.dumps(result, allow_nan=False)


def test_modes_and_their_divergence() -> None:
    class Levels(torch.nn.Module):
        """Takes the level of a picture's first pixel, 0 to 9, for its class."""

        def forward(self, pictures: Any) -> Any:
            levels = ((pictures[:, 0, 0, 0] + 1) * 127.5).round().long()
            return torch.nn.functional.one_hot(levels, 10)

    pictures = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    pictures[2:, 2] = 5
    found = stacked_mnist.coverage(Levels(), pictures)
    assert found["modes"] == 2
    assert found["kl"] == pytest.approx(6.2146, abs=1e-3), "log 500"
