"""Copying, renaming and walking graphs, and counting what they compute."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ganedge.export import graph


def model(node: NodeProto, weight: tuple[int, ...], input_shape: tuple[object, ...]) -> ModelProto:
    """One layer with weights."""
    weights = numpy_helper.from_array(np.zeros(weight, np.float32), "w")
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    return helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:], [weights]))


@pytest.mark.parametrize(
    ("node", "weight", "shape", "expected"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2), (6, 2, 3, 3), (5, 4, 8, 8), 5 * 6 * 36 * 2 * 9),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), (4, 6, 3, 3), (5, 4, 8, 8), 5 * 4 * 64 * 6 * 9),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), (7, 3), (7, 5), 5 * 3 * 7),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (3, 7), (5, 7), 5 * 3 * 7),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (7, 3), (2, 5, 7), 2 * 5 * 7 * 3),
        (helper.make_node("Add", ["x", "w"], ["y"]), (7,), (2, 5, 7), 0),
    ],
)
def test_multiply_accumulates(node: NodeProto, weight: tuple[int, ...], shape: tuple[int, ...], expected: int) -> None:
    dynamic = model(node, weight, ("n", *shape[1:]))
    assert graph.total_multiply_accumulates(dynamic, {"x": shape}) == expected
    assert dynamic.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n", "the model itself is not changed"


def test_an_unknown_or_contradicting_shape_gives_no_count() -> None:
    layer = model(helper.make_node("Conv", ["x", "w"], ["y"]), (6, 4, 3, 3), ("n", 4, "h", "w"))
    assert graph.total_multiply_accumulates(layer, {}) is None
    product = model(helper.make_node("MatMul", ["x", "w"], ["y"]), (7, 3), ("n", 7))
    assert graph.total_multiply_accumulates(product, {"x": (2, 8)}) is None


def test_nodes_are_replaced_by_copies_and_tensors_renamed_everywhere() -> None:
    relu, tanh = helper.make_node("Relu", ["x"], ["m"]), helper.make_node("Tanh", ["m"], ["y"])
    made = model(relu, (1,), (1,))
    graph.set_nodes(made.graph, [*made.graph.node, tanh])
    graph.rename(made.graph.node, "m", "inner")
    assert [(node.op_type, *node.input, *node.output) for node in made.graph.node] == [
        ("Relu", "x", "inner"),
        ("Tanh", "inner", "y"),
    ]
    assert graph.consumer_counts(made.graph) == {"x": 1, "inner": 1, "y": 1}, "the graph's output counts as read"


def test_examples_run() -> None:
    assert doctest.testmod(graph).failed == 0


def test_sizes_that_are_divided_are_known_too() -> None:
    """Of a pixel unshuffle at any size, which computes its reshapes by Shape and Div."""
    import torch
    from torch import nn

    from ganedge.export.from_torch import of_network
    from ganedge.export.graph import shapes_for
    from ganedge.runtime.manifest import Interface, Port, Source

    port, output = (
        Port(name, "image", "float32", ("batch", 3, "height", "width"), "NCHW", (0.0, 1.0))
        for name in ("input", "image")
    )
    network = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2))
    model = of_network(network, Interface("image-to-image", (port,), (output,)), Source()).model
    _, shapes = shapes_for(model, {"input": (2, 3, 64, 48)})
    assert shapes["image"] == [2, 3, 64, 48]
    assert [2, 12, 32, 24] in shapes.values()
    assert torch.is_tensor(network(torch.zeros(1, 3, 8, 8)))


def test_large_weights_are_left_out_of_the_inference_alone() -> None:
    from ganedge.export.graph import MOST_SIZES, shapes_for

    weights = numpy_helper.from_array(np.ones((4, MOST_SIZES), np.float32), "w")
    ports = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["n", 4]), ("y", None))]
    layer = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = helper.make_model(helper.make_graph([layer], "g", ports[:1], ports[1:], [weights]))
    inferred, shapes = shapes_for(model, {"x": (2, 4)})
    assert shapes == {"x": [2, 4], "y": [2, MOST_SIZES], "w": [4, MOST_SIZES]}
    assert [value.name for value in inferred.input] == ["x"]
    assert list(inferred.initializer) == [weights]
