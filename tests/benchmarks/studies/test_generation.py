"""The study of trainings that draw from latents: its share of pairs, and the figures of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from ganedge.benchmarks.studies import generation
from ganedge.runtime.errors import UsageError
from ganedge.train import run_folder, train
from ganedge.train.data import Data, open_data


def test_pairs_are_counted_both_ways() -> None:
    low, high = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0, 4.0])
    assert generation.share_of_pairs(high, low) == 1
    assert generation.share_of_pairs(low, high) == 0
    assert generation.share_of_pairs(low, low) == 0.5
    assert generation.share_of_pairs(torch.tensor([1.0, 3.0]), torch.tensor([2.0])) == 0.5


@pytest.mark.parametrize("variant", ["dcgan", "wgan"])
def test_a_run_gets_its_figures(
    variant: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "report.json"
    train(variant, data=str(pictures), out=run, size=16, width=4, batch=8, steps=2)
    command = ["generation", str(run), "--data", str(pictures), "--held-out", str(pictures), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*command, "--features", "small", "efficientnet"])
    generation.main()
    report = json.loads(out.read_text())
    assert report["run"]["variant"] == variant
    assert report["run"]["step"] == 2
    assert {name: figures["fid"] > 0 for name, figures in report["run"].items() if isinstance(figures, dict)} == {
        "small": True,
        "efficientnet": True,
    }
    assert 0 <= report["run"]["pairs"] <= 1
    assert "recorded" not in report["run"]
    assert "run: {" in capsys.readouterr().out


def test_the_course_of_a_runs_fid_is_compared_with_its_best(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss_d": 1.0}, {"step": 2, "fid": 30.0}, {"step": 4, "fid": 20.0}, {"step": 6, "fid": 25.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert generation.recorded(tmp_path) == {"recorded": {"2": 30.0, "4": 20.0, "6": 25.0}, "last / best": 1.25}


def _open(run: Path, data: str) -> Data:
    """Data as a run was trained on."""
    opened = run_folder.read(run)
    return open_data(data, opened.variant.wants(opened.config))


@pytest.mark.parametrize("variant", ["dcgan", "wgan"])
def test_a_discriminator_that_has_won_is_seen(variant: str, pictures: Path, tmp_path: Path) -> None:
    run = train(variant, data=str(pictures), out=tmp_path / "run", size=16, width=8, batch=24, steps=60, lr=1e-3).path
    assert generation.pairs(run, _open(run, str(pictures))) > 0.9


def test_runs_of_points_are_refused(tmp_path: Path) -> None:
    run = train("circles", data="circles", out=tmp_path / "run", steps=1).path
    with pytest.raises(UsageError, match="does not draw pictures from latents alone"):
        generation.pairs(run, _open(run, "circles"))
