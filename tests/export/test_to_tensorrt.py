"""Engines, really built where TensorRT for RTX is installed (it needs no GPU), and their descriptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganedge.export import to_tensorrt
from ganedge.export.to_tensorrt import Settings
from ganedge.runtime import engines
from ganedge.runtime.engine_file import check_engine, read_sidecar, sidecar_path
from ganedge.runtime.errors import ArtifactError, EngineError, UsageError

Command = Callable[..., Any]
needs_rtx = pytest.mark.skipif(not engines.installed("tensorrt_rtx"), reason="needs tensorrt-rtx-cu13: ganedge[rtx]")


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_and_what_it_says(command: Command, artifact: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / "g.engine"
    options = ["--fp16"] if precision == "fp16" else []
    done = command(
        "gan-export", artifact, "--format", "trt", *options, "--target", "sm86", "--batch", "1,4,8", "-o", out
    )
    assert done.code == 0, done.err
    manifest, identity = read_sidecar(out)
    assert manifest.precision == identity.precision == precision
    assert identity.flavour == "tensorrt_rtx"
    assert identity.targets == ("sm86",)
    assert identity.profiles == {"latent": ((1, 6), (4, 6), (8, 6))}
    assert identity.onnx == "g.onnx"
    assert "not run" in manifest.unproven
    assert not manifest.parity
    assert len(check_engine(out, identity)) == out.stat().st_size
    with np.load(tmp_path / "g.engine.proof.npz") as proof:
        assert len(proof["input0"]) == len(proof["output"]) == 16

    out.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="cut off"):
        check_engine(out, identity)
    said = json.loads(sidecar_path(out).read_text())
    for key, value in (("onnx", "../up.onnx"), ("flavour", "other"), ("profiles", {"latent": [[1], [2, 3], [4]]})):
        sidecar_path(out).write_text(json.dumps({**said, "engine": {**said["engine"], key: value}}))
        with pytest.raises(ArtifactError, match="cannot be right"):
            read_sidecar(out)


def test_a_description_that_is_none(tmp_path: Path) -> None:
    for text, said in (("{", "not JSON"), ("{}", "damaged"), ('{"schema": 99}', "newer")):
        sidecar_path(tmp_path / "g.engine").write_text(text)
        with pytest.raises(ArtifactError, match=said):
            read_sidecar(tmp_path / "g.engine")
    with pytest.raises(ArtifactError, match="beside the engine"):
        read_sidecar(tmp_path / "nowhere.engine")


def test_settings() -> None:
    assert Settings.read(batch="1,4,16", size="64,128,256").size == ((64, 64), (128, 128), (256, 256))
    for given in ({"batch": "4,1,16"}, {"batch": "4"}, {"size": "64,128"}, {"size": "256,128,64"}):
        with pytest.raises(UsageError, match="MIN,OPT,MAX"):
            Settings.read(**given)  # type: ignore[arg-type]


@needs_rtx
def test_mistakes(command: Command, artifact: Path, tmp_path: Path) -> None:
    done = command("gan-export", artifact, "--format", "trt", "--target", "sm12", "-o", tmp_path / "g.engine")
    assert done.code == 2
    assert "sm86" in done.err
    assert not (tmp_path / "g.engine").exists()
    done = command("gan-export", artifact, "-o", artifact)
    assert done.code == 2
    assert "source itself" in done.err


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_tensorrt.engines, "installed", lambda name: False)
    with pytest.raises(EngineError, match=r"ganedge\[rtx\].*the .onnx was written"):
        to_tensorrt.flavour()
    monkeypatch.setattr(to_tensorrt.platform, "machine", lambda: "aarch64")
    with pytest.raises(EngineError, match="Jetson has its own"):
        to_tensorrt.flavour()
