"""Folding normalisation into the layer before it: the same function, one operator less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from ganedge.export import rewrite
from ganedge.export.to_onnx import to_onnx
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.manifest import Interface, Port

IMAGE = Port("image", "image", "float32", ("batch", 4, 8, 8), "NCHW", (-1.0, 1.0))


def interface(channels: int, side: int) -> Interface:
    out = Port("result", "image", "float32", ("batch", channels, side, side), "NCHW", (-1.0, 1.0))
    return Interface("image-to-image", (IMAGE,), (out,))


def seasoned(network: nn.Module) -> nn.Module:
    """With weights and statistics that are not the neutral ones."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network.eval()


NETWORKS = {
    "conv": (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)), 4, 8, 0),
    "grouped conv": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, eps=0.8)), 4, 6, 0),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4)), 4, 16, 0),
    "grouped transposed": (nn.Sequential(nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2), nn.BatchNorm2d(4)), 4, 16, 0),
    "resized": (nn.Sequential(nn.Conv2d(4, 4, 3), nn.Upsample(scale_factor=2.0), nn.BatchNorm2d(4)), 4, 12, 0),
    "interpolated": (
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.BatchNorm2d(4)),
        *(4, 12, 0),
    ),
    "resized after the activation": (
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Upsample(scale_factor=2.0), nn.BatchNorm2d(4)),
        *(4, 16, 1),
    ),
    "no affine": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)), 4, 8, 0),
    "after the activation": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), 4, 8, 1),
    "linear": (
        nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.BatchNorm1d(16, eps=0.8), nn.Unflatten(1, (1, 4, 4))),
        1,
        4,
        0,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_keeps_the_function(name: str) -> None:
    network, channels, side, left = NETWORKS[name]
    model = to_onnx(seasoned(network), interface(channels, side))
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == left
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in (1, 5):
        x = torch.randn(batch, 4, 8, 8)
        with torch.inference_mode():
            wanted = network(x).numpy()
        np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], wanted, atol=1e-5, rtol=1e-5)


def test_a_result_that_others_read_is_not_folded() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(x)
            return y + torch.as_tensor(self.norm(y))

    model = to_onnx(seasoned(Branch()), interface(4, 8))
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 1


def graph_of(nodes: list[NodeProto], weights: dict[str, np.ndarray], shape: tuple[int, ...]) -> ModelProto:
    """A graph from x to y with these weights."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = {
    "Conv": ((2, 4, 6, 6), (6, 4, 3, 3), 6, {}),
    "Conv grouped": ((2, 4, 6, 6), (6, 2, 3, 3), 6, {"group": 2}),
    "ConvTranspose": ((2, 4, 6, 6), (4, 6, 3, 3), 6, {}),
    "ConvTranspose grouped": ((2, 4, 6, 6), (4, 3, 3, 3), 6, {"group": 2}),
    "ConvTranspose of one dimension": ((2, 4, 6), (4, 6, 3), 6, {}),
    "Gemm": ((2, 4), (4, 6), 6, {}),
    "Gemm transB": ((2, 4), (6, 4), 6, {"transB": 1}),
    "Gemm square": ((2, 4), (4, 4), 4, {"alpha": 1.0, "beta": 1.0, "transB": 0}),
}
"""By name: shapes of the input and the weights, output channels, and attributes."""


@pytest.mark.parametrize("epsilon", [None, 1e-5, 0.8])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_folding_into_every_kind_of_layer(name: str, bias: bool, epsilon: float | None) -> None:
    """Variances are small, so that an epsilon of 1e-5 in place of the layer's would show."""
    shape, weight, channels, attributes = LAYERS[name]
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=weight).astype(np.float32)}
    weights |= {part: random.normal(size=channels).astype(np.float32) for part in ("b", "gamma", "beta", "mean")}
    weights["variance"] = random.uniform(0.01, 0.1, channels).astype(np.float32)
    settings = {} if epsilon is None else {"epsilon": epsilon}
    nodes = [
        helper.make_node(name.split()[0], ["x", "w", *(["b"] if bias else [])], ["h"], **attributes),
        helper.make_node("BatchNormalization", ["h", "gamma", "beta", "mean", "variance"], ["y"], **settings),
    ]
    model = graph_of(nodes, weights, shape)
    x = {"x": random.normal(size=shape).astype(np.float32)}
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, x)
    assert rewrite.fold_batch_norm(model) == 1
    assert [node.op_type for node in model.graph.node] == [name.split()[0]]
    folded = {tensor.name: tensor for tensor in model.graph.initializer}
    assert all(folded[name].data_type == onnx.TensorProto.FLOAT for name in model.graph.node[0].input[1:])
    (result,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, x)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["training", "alpha", "beta", "other weight", "other statistics", "other layer"])
def test_what_is_not_foldable_stays(case: str) -> None:
    ones = np.ones(4, np.float32)
    weights = {"w": np.eye(4, dtype=np.float32), "b": ones, **dict.fromkeys(("gamma", "beta", "mean", "var"), ones)}
    scaled = {case: 0.5} if case in ("alpha", "beta") else {}
    layer = helper.make_node("Gemm", ["x", "w", "b"], ["h"], **scaled)
    if case == "other layer":
        layer = helper.make_node("MatMul", ["x", "w"], ["h"])
    statistics = ["gamma", "beta", "mean", "var"]
    nodes = []
    for made, old in (("other weight", "w"), ("other statistics", "mean")):
        if case == made:
            nodes.append(helper.make_node("Identity", [old], ["computed"]))
            layer.input[1] = "computed" if old == "w" else "w"
            statistics = ["computed" if name == old else name for name in statistics]
    training = {"training_mode": 1} if case == "training" else {}
    outputs = ["y", "m", "v"] if training else ["y"]
    norm = helper.make_node("BatchNormalization", ["h", *statistics], outputs, **training)
    model = graph_of([*nodes, layer, norm], weights, (2, 4))
    before = model.SerializeToString()
    assert rewrite.fold_batch_norm(model) == 0
    assert model.SerializeToString() == before


def test_two_layers_that_share_a_weight_get_their_own() -> None:
    random = np.random.default_rng(1)
    weights = {"w": random.normal(size=(4, 4)).astype(np.float32)}
    nodes = []
    for index, (source, target) in enumerate((("x", "a"), ("a", "b"), ("b", "y"))):
        names = [f"{part}{index}" for part in ("gamma", "beta", "mean", "var")]
        weights |= {name: random.uniform(0.5, 1, 4).astype(np.float32) for name in names}
        nodes += [
            helper.make_node("Gemm", [source, "w"], [f"h{index}"]),
            helper.make_node("BatchNormalization", [f"h{index}", *names], [target]),
        ]
    model = graph_of(nodes, weights, (2, 4))
    x = {"x": random.normal(size=(2, 4)).astype(np.float32)}
    (expected,) = ReferenceEvaluator(model).run(None, x)
    assert rewrite.fold_batch_norm(model) == 3
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(set(names)) == len(names)
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, x)[0], expected, rtol=1e-4, atol=1e-5)


def inferred(nodes: list[NodeProto], weights: dict[str, np.ndarray], shape: tuple[int, ...]) -> ModelProto:
    """The same with the shapes of its inner tensors and of its output."""
    return onnx.shape_inference.infer_shapes(graph_of(nodes, weights, shape), strict_mode=True, data_prop=True)


def assert_rewritten(model: ModelProto, change: Callable[[ModelProto], int], times: int) -> None:
    """So many layers are rewritten, and the function stays."""
    before, *names = model.SerializeToString(), *(node.name for node in model.graph.node)
    assert change(model) == times
    if not times:
        assert model.SerializeToString() == before
    after = [node.name for node in model.graph.node]
    assert len(set(after)) == len(after), "nodes have names of their own"
    assert all(name.startswith(tuple(names)) for name in after)
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    x = {"x": np.random.default_rng(3).normal(size=shape).astype(np.float32)}
    expected, result = (
        onnxruntime.InferenceSession(data).run(None, x)[0] for data in (before, model.SerializeToString())
    )
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(
    ("kernel", "times", "attributes"),
    [
        ((2, 2), 1, {"strides": [2, 2]}),
        ((3, 3), 1, {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}),
        ((4, 4), 0, {"strides": [2, 2]}),
        ((4, 4), 0, {"strides": [2, 2], "pads": [0, 0, 2, 2]}),
        ((4, 2), 0, {"strides": [2, 2], "pads": [1, 0, 1, 0]}),
        ((2, 3), 0, {"strides": [2, 3]}),
        ((4, 4), 0, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ((4, 4), 0, {"strides": [2, 2], "pads": [1] * 4, "group": 2}),
        ((4, 4), 0, {"strides": [2, 2], "output_shape": [12, 12]}),
        ((2, 2), 0, {"strides": [3, 3], "dilations": [2, 2]}),
        ((2, 2), 0, {"strides": [2, 2], "dilations": [2, 2], "pads": [1, 1, 0, 0]}),
    ],
)
def test_which_transposed_convolutions_become_shuffles(
    kernel: tuple[int, int], times: int, attributes: dict[str, Any], rows: bool
) -> None:
    group = attributes.get("group", 1)
    weights = {"w": np.random.default_rng(0).normal(size=(4, 4 // group, *kernel)).astype(np.float32)}
    model = inferred([helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", **attributes)], weights, (2, 4, 6, 6))
    assert_rewritten(model, lambda graph: rewrite.transposed_to_shuffle(graph, channels_last=rows), times)
    if times:
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        folded = {tensor.name: tensor for tensor in model.graph.initializer}[conv.input[1]]
        assert conv.name == "up"
        assert list(folded.dims[:2]) == [16, 4], "four phases of four channels, in no larger blocks"


@pytest.mark.parametrize(("kernel", "blocks"), [(1, [3, 1, 1]), (3, [48, 6, 6])])
def test_blocks_of_pixels_are_for_windows(kernel: int, blocks: list[int]) -> None:
    """A convolution of single pixels copies no window that blocks could share."""
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3, kernel, kernel)).astype(np.float32)}
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", pads=[kernel // 2] * 4)]
    model = inferred(nodes, weights, (2, 4, 8, 8))
    assert_rewritten(model, lambda graph: rewrite.transposed_to_shuffle(graph, channels_last=True), 1)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    dims = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}[conv.input[1]]
    assert [dims[0], *dims[2:]] == blocks


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("padded", "times"), [(False, 1), (True, 0)])
def test_the_first_layer_of_a_latent_becomes_one_shuffle(padded: bool, times: int, rows: bool) -> None:
    """Where one pixel goes in, the whole kernel stands for the stride."""
    pads = {"pads": [1] * 4} if padded else {}
    weights = {"w": np.random.default_rng(0).normal(size=(4, 5, 4, 4)).astype(np.float32)}
    model = inferred([helper.make_node("ConvTranspose", ["x", "w"], ["y"], "first", **pads)], weights, (2, 4, 1, 1))
    assert_rewritten(model, lambda graph: rewrite.transposed_to_shuffle(graph, channels_last=rows), times)


@pytest.mark.parametrize(
    ("times", "conv", "resize", "scales"),
    [
        (1, {"pads": [1] * 4}, {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, 2.0),
        (1, {"pads": [1] * 4}, {"mode": "nearest"}, 2.0),
        (1, {"pads": [1] * 4}, {"nearest_mode": "round_prefer_ceil"}, 2.0),
        (0, {"pads": [1] * 4}, {"nearest_mode": "floor"}, 2.0),
        (0, {"pads": [1] * 4}, {"coordinate_transformation_mode": "asymmetric"}, 2.0),
        (0, {"pads": [1] * 4}, {"mode": "linear"}, 2.0),
        (0, {"pads": [1] * 4}, {}, 3.0),
        (0, {}, {}, 2.0),
        (0, {"pads": [1, 1, 0, 0]}, {}, 2.0),
        (0, {"pads": [1] * 4, "strides": [2, 2]}, {}, 2.0),
        (0, {"pads": [2] * 4, "dilations": [2, 2]}, {}, 2.0),
        (0, {"pads": [1] * 4, "group": 2}, {}, 2.0),
        (0, {"auto_pad": "SAME_UPPER"}, {}, 2.0),
    ],
)
def test_which_doublings_become_shuffles(
    times: int, conv: dict[str, Any], resize: dict[str, Any], scales: float
) -> None:
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(4, 4 // conv.get("group", 1), 3, 3)),
        "scales": np.array([1, 1, scales, scales]),
    }
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["large"], "double", **resize),
        helper.make_node("Conv", ["large", "w"], ["y"], "conv", **conv),
    ]
    model = inferred(nodes, {name: value.astype(np.float32) for name, value in weights.items()}, (2, 4, 6, 6))
    assert_rewritten(model, rewrite.upsampled_to_shuffle, times)


@pytest.mark.parametrize(
    ("times", "channels", "conv"),
    [
        (1, 3, {}),
        (1, 12, {"pads": [1] * 4}),
        (0, 13, {"pads": [1] * 4}),
        (0, 3, {"pads": [1] * 4, "strides": [2, 2]}),
        (0, 3, {"pads": [2] * 4, "dilations": [2, 2]}),
        (0, 4, {"pads": [1] * 4, "group": 2}),
        (0, 3, {"auto_pad": "SAME_UPPER"}),
        (0, 3, {"pads": [0, 0, 1, 1]}),
    ],
)
def test_which_convolutions_compute_blocks(times: int, channels: int, conv: dict[str, Any]) -> None:
    weights = {
        "w": np.random.default_rng(0).normal(size=(channels, 4 // conv.get("group", 1), 3, 3)).astype(np.float32)
    }
    side = 8 if ("pads" in conv and conv["pads"][0] == conv["pads"][2]) or "auto_pad" in conv else 10
    model = inferred([helper.make_node("Conv", ["x", "w"], ["y"], "last", **conv)], weights, (2, 4, side, side))
    assert_rewritten(model, rewrite.few_channels_to_blocks, times)


def test_tidying_removes_what_does_not_compute() -> None:
    """And keeps weights that are outputs, the sizes that are named, and a batch under its name."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], doc_string="where it was written")]
    model = graph_of(nodes, {"unused": np.ones(3, np.float32), "kept": np.ones(2, np.float32)}, (1, 2))
    graph = model.graph
    graph.output.append(helper.make_tensor_value_info("kept", onnx.TensorProto.FLOAT, (2,)))
    for port in (graph.input[0], graph.output[0]):
        shape = ("s0", "height", "s1")
        port.CopyFrom(helper.make_tensor_value_info(port.name, onnx.TensorProto.FLOAT, shape, "a note"))
    model.doc_string = graph.doc_string = "a note"
    model.producer_name, model.producer_version = "another", "9"
    for part in (model, graph, graph.node[0], graph.initializer[0]):
        part.metadata_props.add(key="path", value="/home")
    tidied = rewrite.tidy(model, {"height"})
    data = tidied.SerializeToString()
    assert not any(word in data for word in (b"note", b"path", b"written", b"another", b"unused", b"s1"))
    assert [tensor.name for tensor in tidied.graph.initializer] == ["kept"]
    assert (tidied.producer_name, tidied.producer_version) == ("ganedge", "")
    for port in (tidied.graph.input[0], tidied.graph.output[0]):
        assert [size.dim_param for size in port.type.tensor_type.shape.dim] == ["batch", "height", ""]
    assert rewrite.symbols(tidied) == {"batch", "height"}
    broken = graph_of([helper.make_node("Relu", ["nothing"], ["y"])], {}, (1, 2))
    with pytest.raises(GanEdgeError, match="the exported graph is not valid ONNX"):
        rewrite.tidy(broken, set())


def test_nothing_of_the_exporting_machine_stays() -> None:
    model = to_onnx(seasoned(NETWORKS["conv"][0]), interface(4, 8))
    data = model.SerializeToString()
    assert b".py" not in data
    assert b"site-packages" not in data
    assert not model.metadata_props
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(model, full_check=True)
