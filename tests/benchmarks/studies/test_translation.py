"""The study of translations: a grid is seen, a blur is none, and figures are written for each artifact."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganedge.benchmarks.studies import translation


def _scenes(count: int) -> Tensor:
    """Smooth random pictures with fine noise, uint8 `[N, 3, 32, 32]`."""
    source = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=source) * 160 + 40
    fine = torch.randn(count, 3, 32, 32, generator=source) * 8
    return (F.interpolate(coarse, (32, 32), mode="bilinear") + fine).round().clamp(0, 255).to(torch.uint8)


def test_a_grid_is_seen_and_a_blur_is_none() -> None:
    scenes = _scenes(16)
    energy, peaks = translation.grid(scenes)
    assert 0.5 < peaks < 2
    for period in (2, 4):
        marked = scenes.int()
        marked[..., ::period, ::period] += 12
        own, own_peaks = translation.grid(marked.clamp(0, 255).to(torch.uint8))
        assert own > 1.1 * energy
        assert own_peaks > 1.5 * peaks
    blurred = F.avg_pool2d(F.pad(scenes.float(), (1, 1, 1, 1), "replicate"), 3, 1).round().to(torch.uint8)
    own, own_peaks = translation.grid(blurred)
    assert own < energy
    assert own_peaks < 1.5 * peaks


def _negative(picture: np.ndarray, label: str | None) -> np.ndarray:
    """Takes the place of a generator's `translate`."""
    assert label is None
    return 255 - picture


def test_each_artifact_gets_its_figures(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    folders = ["--inputs", str(pictures), "--real", str(pictures)]
    monkeypatch.setattr(translation, "load", lambda _: nullcontext(SimpleNamespace(translate=_negative)))
    monkeypatch.setattr(sys, "argv", ["translation", "run/a.onnx", *folders, "--size", "16", "--out", str(out)])
    translation.main()
    report = json.loads(out.read_text())
    assert report["pictures"] == [24, 24]
    assert report["run/a.onnx"]["small"]["fid"] > 0
    assert report["run/a.onnx"]["grid"] == pytest.approx(1, abs=0.01), "a negative has the same spectrum"
    assert "run/a.onnx" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["translation", "a.onnx", "--inputs", str(pictures), "--size", "16"])
    with pytest.raises(SystemExit):
        translation.main()
    assert "give --pairs, or --inputs and --real" in capsys.readouterr().err


@pytest.mark.parametrize(("folder", "named"), [("", "lacking.onnx"), ("lacking", "lacking")])
def test_what_is_not_there_is_one_line(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    named: str,
) -> None:
    inputs = str(tmp_path / folder) if folder else str(pictures)
    line = ["translation", str(tmp_path / "lacking.onnx"), "--inputs", inputs, "--real", str(pictures), "--size", "16"]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        translation.main()
    shown = capsys.readouterr().err
    assert ended.value.code in (1, 2)
    assert shown.startswith("translation: ")
    assert named in shown
    assert shown.count("\n") == 1
