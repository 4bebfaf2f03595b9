"""What the hostile tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from ganedge.runtime.manifest import Interface, Manifest, Port, write_artifact


@pytest.fixture
def inverter(tmp_path: Path) -> Path:
    """An artifact that gives every picture back inverted."""
    shape = ("batch", 3, "height", "width")
    ports = [Port(name, "image", "float32", shape, "NCHW", (-1.0, 1.0), 1) for name in ("x", "y")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "inverter.onnx"
    manifest = Manifest(Interface("image-to-image", (ports[0],), (ports[1],)), "fp32", "none")
    path.write_bytes(write_artifact(model.SerializeToString(), manifest))
    return path
