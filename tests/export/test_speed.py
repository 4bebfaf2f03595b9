"""Speed of a new artifact beside FP32: in its manifest, in one line, remembered, and required."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ganedge.export import export, speed
from ganedge.runtime import load, tuning
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.tuning import Choice, Trial


@pytest.fixture(autouse=True)
def _measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANEDGE_TUNE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "SECONDS", 0.0)


def times(monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> None:
    """Let every way take these times: of the artifact by engine, of FP32 as fp32_ENGINE."""
    real = tuning.tune

    def timed(*arguments: Any) -> list[Trial]:
        trials = real(*arguments)
        return [
            replace(
                trial,
                milliseconds=milliseconds[
                    f"fp32_{trial.choice.engine}" if trial.choice.compute == "fp32" else trial.choice.engine
                ],
            )
            for trial in trials
            if trial.choice.compute in (None, "fp32")
        ]

    monkeypatch.setattr(tuning, "tune", timed)


def test_an_export_is_timed_and_auto_takes_the_fastest(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch, onnxruntime=3.0, openvino=1.0)
    artifact = export(tiny_run, output=tmp_path / "a.onnx")
    assert {item.engine: item.milliseconds for item in artifact.manifest.measured} == {
        "onnxruntime": 3.0,
        "openvino": 1.0,
    }
    assert load(artifact.path).engine.name == "openvino"
    tuning.cache_file().unlink()
    assert load(artifact.path).engine.name == "openvino", "the manifest says it as well"


def test_a_lower_precision_says_whether_it_pays(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganedge.export import export_all

    said: list[str] = []
    times(monkeypatch, onnxruntime=4.0, openvino=2.0, fp32_onnxruntime=2.0, fp32_openvino=5.0)
    export_all(tiny_run, precision="fp16", output=tmp_path / "a.onnx", progress=said.append)
    slow = next(line for line in said if "fp32 here" in line)
    assert slow.startswith("fp16 is NOT faster than fp32 here: 2.00 ms in openvino, fp32 takes 2.00 ms in onnxruntime")
    assert "0.50 × in onnxruntime (4.00 ms), 2.50 × in openvino (2.00 ms)" in slow

    with pytest.raises(GanEdgeError, match=r"fp16 is 1.00 × as fast.*asks for 1.05"):
        export(tiny_run, precision="fp16", output=tmp_path / "b.onnx", require_speedup=1.05)
    assert not (tmp_path / "b.onnx").exists()
    export(tiny_run, precision="fp16", output=tmp_path / "b.onnx", require_speedup=1.0)


def test_a_speedup_needs_something_to_compare_with(tiny_run: Path, tmp_path: Path) -> None:
    for settings in ({}, {"precision": "int8", "format": "trt"}):
        with pytest.raises(UsageError, match="--require-speedup compares a lower precision"):
            export(tiny_run, output=tmp_path / "a.engine", require_speedup=1.05, **settings)


def test_nothing_is_timed_where_that_is_turned_off(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GANEDGE_TUNE", "0")
    first, second = (export(tiny_run, output=tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert first.manifest.measured == ()
    assert first.path.read_bytes() == second.path.read_bytes(), "the same bytes each time"
    assert not tuning.cache_file().exists()


def test_ways_that_are_too_far_off_are_no_choice() -> None:
    near, far = (
        Trial(Choice("openvino", "1", "cpu", compute), 1.0, psnr) for compute, psnr in ((None, None), ("bf16", 20.0))
    )
    assert speed._figure(near).compute == ""
    assert not far.holds
