"""gan-export --auto: all candidates proven and timed, the fastest within the constraints kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ganedge.export import best, export
from ganedge.export.artifact import make
from ganedge.runtime import load, timing
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.tuning import Choice, Trial


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_fastest_within_the_constraints_is_written(
    tiny_run: Path, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first way that is timed is FP32 in ONNX Runtime; let each further one be faster, the last of INT8.
    monkeypatch.setattr(timing, "median_seconds", lambda calls, _: [1.0 / (1 + index) for index in range(len(calls))])
    done = command("gan-export", tiny_run, "--auto", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    (path,) = (tmp_path / "out").glob("*.onnx")
    manifest, _ = read_artifact(path)
    assert (manifest.precision, manifest.made_for) == ("int8", "openvino")
    assert "int8 for openvino" in next(line for line in done.err.splitlines() if line.endswith("  best"))
    assert manifest.measured
    assert path.with_name(f"{path.name}.proof.npz").is_file()
    with load(path) as generator:
        assert generator.engine.name == manifest.measured[-1].engine

    exact = export(tiny_run, auto=True, psnr=125.0, output=tmp_path / "exact.onnx")
    assert exact.manifest.precision == "fp32"
    assert exact.path == tmp_path / "exact.onnx"
    done = command("gan-export", tiny_run, "--auto", "--max-mb", 0.001, "-o", tmp_path / "none")
    assert done.code == 1
    assert "nothing meets --max-mb 0.001" in done.err
    assert not (tmp_path / "none").exists()


def test_what_fails_is_named_and_time_ends_the_search(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(model: Any, spec: Any) -> Any:
        if spec.precision in ("fp32", "int8"):
            raise GanEdgeError("an engine gives other pictures")
        return make(model, spec)

    lines: list[str] = []
    monkeypatch.setattr(best, "make", failing)
    from ganedge.export import export_all

    (kept,) = export_all(tiny_run, auto=True, max_minutes=0, output=tmp_path / "a.onnx", progress=lines.append)
    assert kept.manifest.precision == "fp16"
    assert any("fp32: left out, an engine gives other pictures" in line for line in lines)
    assert sum("not tried, the 0 minutes are over" in line for line in lines) >= 2
    monkeypatch.setattr(best, "make", lambda *_: failing(None, type("Spec", (), {"precision": "fp32"})))
    with pytest.raises(GanEdgeError, match="no precision passes its proof"):
        export(tiny_run, auto=True, output=tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--auto", "--fp16"], "leave --fp16 out"),
        (["--auto", "--format", "trt"], "leave --format out"),
        (["--auto", "--tolerance", "psnr=20"], "leave --tolerance out"),
        (["--psnr", "30"], "--psnr is for --auto"),
        (["--max-minutes", "3"], "--max-minutes is for --auto"),
    ],
)
def test_settings_that_contradict_are_refused(tiny_run: Path, command: Any, arguments: list[str], reason: str) -> None:
    done = command("gan-export", tiny_run, *arguments)
    assert done.code == 2
    assert reason in done.err


def test_a_source_of_a_lower_precision_is_refused(half_artifact: Path, tmp_path: Path, command: Any) -> None:
    done = command("gan-export", half_artifact, "--auto", "-o", tmp_path / "a")
    assert done.code == 2
    assert "this source is fp16 already" in done.err


def test_a_row_that_another_beats_in_everything(tiny_run: Path, tmp_path: Path) -> None:
    artifact = export(tiny_run, output=tmp_path / "a.onnx")
    rows = [
        best.Row(artifact, Trial(Choice("openvino", "1", "cpu"), time, None), psnr)
        for time, psnr in ((1.0, 40.0), (2.0, 60.0), (2.0, 39.0))
    ]
    assert [row.is_beaten(rows) for row in rows] == [False, False, True]
