"""ONNX files of other programs: several outputs, half-precision ports, unknown dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ganedge.export.from_onnx import of_onnx

UNKNOWN: list[object] = [None] * 4


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[object]]],
    outputs: Sequence[tuple[str, int, Sequence[object]]],
    weights: dict[str, np.ndarray],
) -> Path:
    ports = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "g", *ports, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def filters(outputs: int, inputs: int, dtype: type = np.float32) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((outputs, inputs, 3, 3)) * 0.2).astype(dtype)


def test_outputs_that_are_dropped_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["mask"], pads=[1] * 4),
        helper.make_node("Tanh", ["mask"], ["image"]),
    ]
    shape = ["n", 3, 8, 8]
    ports = [(name, TensorProto.FLOAT, shape) for name in ("x", "mask", "image")]
    model = of_onnx(write(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], {"w": filters(3, 3)}), kind="image")
    assert "it has 2 outputs (mask, image): the first, mask, is taken" in model.notes
    assert [value.name for value in model.model.graph.output] == ["mask"]


@pytest.mark.parametrize("element", [TensorProto.FLOAT16])
def test_half_precision_ports_become_float32(element: int, tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)]
    ports = [(name, element, ["n", 3, "h", "w"]) for name in ("x", "y")]
    weights = filters(3, 3, np.float16)
    model = of_onnx(write(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], {"w": weights}), kind="image")
    assert (model.interface.inputs[0].dtype, model.interface.output.dtype, model.precision) == (
        "float32",
        "float32",
        "fp16",
    )
    assert model.reference is not None
    assert model.reference([np.ones((1, 3, 8, 8), np.float32)]).dtype == np.float32


def test_int32_labels_are_taken_as_int64(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "label"], ["e"]),
        helper.make_node("Add", ["z", "e"], ["s"]),
        helper.make_node("Reshape", ["s", "shape"], ["y"]),
    ]
    inputs = [("z", TensorProto.FLOAT, ["n", 12]), ("label", TensorProto.INT32, ["n"])]
    weights = {"table": np.eye(5, 12, dtype=np.float32), "shape": np.array([-1, 3, 2, 2])}
    path = write(tmp_path / "m.onnx", nodes, inputs, [("y", TensorProto.FLOAT, ["n", 3, 2, 2])], weights)
    model = of_onnx(path, kind="latent", classes=tuple("abcde"))
    assert model.interface.inputs[1].dtype == "int64"
    assert model.reference is not None
    output = model.reference([np.zeros((1, 12), np.float32), np.array([2], np.int64)])
    assert output.reshape(-1).tolist() == np.eye(5, 12)[2].tolist()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_unknown_dimensions_are_read_from_the_first_convolution(
    channels_last: bool, groups: int, tmp_path: Path
) -> None:
    conv = helper.make_node("Conv", ["b", "w"], ["c"], pads=[1] * 4, group=groups)
    half = numpy_helper.from_array(np.float32(0.5), "half")
    nodes = [helper.make_node("Mul", ["x", "half"], ["a"])]
    if channels_last:
        nodes += [helper.make_node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]), conv]
        nodes += [helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1])]
    else:
        nodes += [helper.make_node("Identity", ["a"], ["b"]), conv, helper.make_node("Tanh", ["c"], ["y"])]
    ports = [(name, TensorProto.FLOAT, UNKNOWN) for name in ("x", "y")]
    weights = {"w": filters(3, 3 // groups), "half": numpy_helper.to_array(half)}
    model = of_onnx(write(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], weights), kind="image")
    layout = "NHWC" if channels_last else "NCHW"
    shape = ("batch", "height", "width", 3) if channels_last else ("batch", 3, "height", "width")
    for port in (model.interface.inputs[0], model.interface.output):
        assert (port.layout, port.shape) == (layout, shape)
