"""The proof finds what is wrong: artifacts that were spoilt on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ganedge.export import artifact as exporting
from ganedge.export import from_torch, to_onnx
from ganedge.runtime.errors import GanEdgeError
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
        exporting.export_run(tiny_run, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())
