"""The study of the judge: what its degradations do, and its report on few pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ganedge.benchmarks.studies import judging


def test_degradations_are_what_they_are_called() -> None:
    source = torch.Generator().manual_seed(0)
    grey = torch.full((4, 1, 16, 16), 128, dtype=torch.uint8)
    assert judging.add_noise(grey, 10, source).float().std() == pytest.approx(10, rel=0.1)
    assert judging.blur(grey, 1)[..., 6:-6, 6:-6].eq(128).all()
    point = torch.zeros(1, 1, 17, 17, dtype=torch.uint8)
    point[..., 8, 8] = 255
    assert int(judging.blur(point, 1)[0, 0, 8, 8]) == round(255 / (2 * torch.pi))


def _compare_means(real: Tensor, fake: Tensor) -> dict[str, float]:
    """The part of FID that the means have, in place of the whole, which takes a second each time."""
    distance = float((real.mean(0) - fake.mean(0)).square().sum())
    return {"fid": distance, "kid": distance, "precision": 1.0, "recall": 1.0}


def test_a_report_has_floors_and_every_degradation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "FLOORS", (20, 40))
    monkeypatch.setattr(judging, "compare", _compare_means)
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    pictures = torch.randint(0, 20, (200, 1, 8, 8), generator=source, dtype=torch.uint8)
    pictures += (labels * 50).byte()[:, None, None, None]
    report = judging.run(judging.Study(pictures, labels))
    assert [row["samples"] for row in report["floors"]] == [20, 40]
    assert report["floors"][0]["fid"] > report["floors"][1]["fid"], "fewer pictures are further apart"
    found = report["degradations"]
    assert set(found) == {"noise", "blur", "classes left out", "foreign classes"}
    assert all(found[name]["rows"][-1]["seen"] for name in ("noise", "classes left out", "foreign classes"))
    assert judging.table(report).count("\n|") == 2 + 2 + 2 + sum(len(each["rows"]) for each in found.values()) - 1
