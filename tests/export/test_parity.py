"""The proof finds what is wrong: artifacts that were spoilt on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ganedge.export import export, export_all, from_torch, to_onnx
from ganedge.export.spec import ExportSpec
from ganedge.runtime import engines
from ganedge.runtime import verify as verification
from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.runtime.manifest import read_artifact


def test_every_installed_engine_is_asked(artifact: Path) -> None:
    proofs = read_artifact(artifact)[0].parity
    assert [proof.engine.split()[0] for proof in proofs] == ["onnxruntime", "openvino"]
    assert all(proof.batches == (1, 4, 5, 16) for proof in proofs)


def test_a_wrong_artifact_is_not_written(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*arguments: object) -> onnx.ModelProto:
        model = to_onnx.to_onnx(*arguments)  # type: ignore[arg-type]
        weights = model.graph.initializer[0]
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.1), weights.name))
        return model

    monkeypatch.setattr(from_torch, "to_onnx", spoilt)
    with pytest.raises(GanEdgeError, match="other pictures than the generator"):
        export(tiny_run, output=tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO cannot load anything."""
    start = engines.start

    def refuse(model: bytes, precision: str, name: str, *more: Any, **options: Any) -> Any:
        if name == "openvino":
            raise EngineError("OpenVINO cannot load this model: no such operation")
        return start(model, precision, name, *more, **options)

    monkeypatch.setattr(engines, "start", refuse)
    monkeypatch.setattr(verification, "start", refuse)


@pytest.mark.usefixtures("refusing")
def test_one_engine_does_not_veto_the_others(artifact: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    (made,) = export_all(artifact, precision="fp16", output=tmp_path / "g.onnx", progress=lines.append)
    assert [proof.engine.split()[0] for proof in made.parity] == ["onnxruntime"]
    assert "openvino cannot run it, and auto will not choose it: OpenVINO cannot load this model" in "\n".join(lines)
    assert [check.engine.split()[0] for check in verification.verify(made.path)] == ["onnxruntime"]
    with pytest.raises(EngineError, match="no such operation"):
        export_all(artifact, precision="fp16", engines="onnxruntime,openvino", output=tmp_path / "h.onnx")
    with pytest.raises(EngineError, match="no such operation"):
        export_all(artifact, precision="int8", engine="openvino", output=tmp_path / "i.onnx")
    assert not list(tmp_path.glob("[hi]*"))


@pytest.mark.usefixtures("refusing")
def test_an_engine_that_is_proven_has_to_run(artifact: Path) -> None:
    with pytest.raises(EngineError, match="no such operation"):
        verification.verify(artifact)


def test_engines_are_checked() -> None:
    with pytest.raises(UsageError, match="unknown engine"):
        ExportSpec(engines="tensorflow")
    assert ExportSpec(engines="ort").engines == ("onnxruntime",)
