"""Tests of the study of Ray's workers: what it compares with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from ganedge.benchmarks.studies import workers
from ganedge.runtime.manifest import Interface, Manifest, Port, write_artifact
from ganedge.runtime.pictures import reader


def test_processes_that_share_nothing_translate_all_pictures(tmp_path: Path) -> None:
    shape = ("batch", 3, "height", "width")
    ports = [Port(name, "image", "float32", shape, "NCHW", (-1.0, 1.0)) for name in ("x", "y")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = Manifest(Interface("image-to-image", (ports[0],), (ports[1],)), "fp32", "none")
    (tmp_path / "g.onnx").write_bytes(write_artifact(model.SerializeToString(), manifest))
    source = workers.make_pictures(tmp_path / "in", 5, 16)
    assert workers.bare(tmp_path / "g.onnx", source, tmp_path / "out", 2) > 0
    for path in source.iterdir():
        assert np.array_equal(reader.read(tmp_path / "out" / path.name), 255 - reader.read(path))
