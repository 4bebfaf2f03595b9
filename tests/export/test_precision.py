"""FP16: half the weights, FP32 at both ends, normalisation untouched."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from ganedge.export import rewrite
from ganedge.export.precision import overflowing, to_half
from ganedge.export.to_onnx import to_onnx
from ganedge.runtime import engines
from ganedge.runtime.engines import ov
from ganedge.runtime.errors import GanEdgeError, MissingExtra
from ganedge.runtime.manifest import Interface, Port

IMAGE = Port("image", "image", "float32", ("batch", 3, 8, 8), "NCHW", (-1.0, 1.0))
RESULT = replace(IMAGE, name="result")


class Mixed(nn.Module):
    """Everything at once: normalisation in the middle, a skip around it, resizing, padding, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.InstanceNorm2d(8)
        self.pad = nn.ReflectionPad2d(1)
        self.last = nn.Conv2d(8, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute."""
        y = self.first(x)
        y = torch.relu(self.norm(y)) + y * 0.5
        y = nn.functional.interpolate(y, scale_factor=2.0)[:, :, ::2, ::2]
        return torch.tanh(self.last(self.pad(y)))


def mixed() -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(Mixed().eval(), Interface("image-to-image", (IMAGE,), (RESULT,)))


def test_types() -> None:
    half = to_half(mixed(), "fp16")
    kinds = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    for node in half.graph.node:
        if node.op_type in ("Conv", "Relu", "Tanh", "Add", "Mul", "Pad"):
            assert all(kinds.get(name, TensorProto.FLOAT16) == TensorProto.FLOAT16 for name in node.output), (
                node.op_type
            )
        if node.op_type == "InstanceNormalization":
            assert kinds[node.output[0]] == TensorProto.FLOAT
    ports = (*half.graph.input, *half.graph.output)
    assert all(port.type.tensor_type.elem_type == TensorProto.FLOAT for port in ports)


def test_close_to_full_precision() -> None:
    full = mixed()
    x = np.random.default_rng(0).uniform(-1, 1, (3, 3, 8, 8)).astype(np.float32)
    wanted, found = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {m.graph.input[0].name: x})[0]
        for m in (full, to_half(full, "fp16"))
    )
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 1e-2


def test_named_nodes_stay_wide() -> None:
    full = mixed()
    conv = next(node for node in full.graph.node if node.op_type == "Conv")
    half = to_half(full, "fp16", frozenset({conv.name}))
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    kept = next(node for node in half.graph.node if node.name == conv.name)
    assert kinds[kept.input[1]] == TensorProto.FLOAT


def test_half_the_size(artifact: Path, half_artifact: Path) -> None:
    assert half_artifact.stat().st_size < 0.75 * artifact.stat().st_size  # The manifest weighs in a model this small.


def test_a_weight_beyond_half_precision_is_refused() -> None:
    network = nn.Conv2d(3, 3, 1).eval()
    with torch.no_grad():
        network.weight.fill_(1e6)
    with pytest.raises(GanEdgeError, match="beyond FP16's 65504"):
        to_half(to_onnx(network, Interface("image-to-image", (IMAGE,), (RESULT,))), "fp16")


def test_bf16_keeps_what_fp16_cannot() -> None:
    """bf16 reaches as far as FP32; its boundary stays FP32, and normalisation as well."""
    network = nn.Sequential(nn.ConvTranspose2d(3, 3, 4, 2, 1), nn.InstanceNorm2d(3), nn.Tanh())
    with torch.no_grad():
        network[0].weight.mul_(1e6)  # type: ignore[operator]
    full = to_onnx(
        network.eval(), Interface("image-to-image", (IMAGE,), (replace(RESULT, shape=("batch", 3, 16, 16)),))
    )
    with pytest.raises(GanEdgeError, match="beyond FP16"):
        to_half(full, "fp16")
    half = to_half(full, "bf16")
    assert {tensor.data_type for tensor in half.graph.initializer} >= {TensorProto.BFLOAT16}
    assert not [node for node in half.graph.node if node.op_type == "ConvTranspose"]
    ports = (*half.graph.input, *half.graph.output)
    assert all(port.type.tensor_type.elem_type == TensorProto.FLOAT for port in ports)
    kinds = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    norm = next(node for node in half.graph.node if node.op_type == "InstanceNormalization")
    assert kinds[norm.output[0]] == TensorProto.FLOAT


def test_what_bf16_is_not_defined_for_stays_wide() -> None:
    class Attending(nn.Module):
        """An operator without bf16 between two convolutions."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Compute."""
            y = self.first(x)
            return torch.tanh(self.last(torch.einsum("nchw,ncwv->nchv", y, y)))

    full = to_onnx(Attending().eval(), Interface("image-to-image", (IMAGE,), (RESULT,)))
    half = to_half(full, "bf16")
    kinds = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    found = {node.op_type: kinds[node.output[0]] for node in half.graph.node if node.output[0] in kinds}
    assert found["Conv"] == TensorProto.BFLOAT16
    assert found.get("Einsum", TensorProto.FLOAT) == TensorProto.FLOAT


def graph(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], domains: tuple[str, ...] = ("",)) -> ModelProto:
    """From pictures `x` to `image`, in the newest operator set that everything here runs."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 4, 4]) for name in ("x", "image")]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    sets = [helper.make_opsetid(domain, 18) for domain in domains]
    return rewrite.tidy(helper.make_model(made, opset_imports=sets, ir_version=10), {"batch"})


def casts(model: ModelProto) -> list[tuple[str, str, int]]:
    """What is cast, what that is called, and to which type."""
    nodes = [node for node in model.graph.node if node.op_type == "Cast"]
    return [(node.input[0], node.output[0], node.attribute[0].i) for node in nodes]


ONES = np.ones((3, 3, 1, 1), np.float32)
HALF, FULL = TensorProto.FLOAT16, TensorProto.FLOAT


def test_one_cast_where_the_precisions_meet() -> None:
    """Each tensor once for all that read it, and an output that nodes read too in both precisions."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Conv", ["x", "w"], ["b"], "second"),
        helper.make_node("Add", ["a", "b"], ["image"], "sum"),
        helper.make_node("Tanh", ["image"], ["c"], "wide"),
        helper.make_node("Abs", ["image"], ["d"], "wide too"),
    ]
    half = to_half(graph(nodes, {"w": ONES}), "fp16", frozenset({"wide", "wide too"}))
    assert casts(half) == [
        ("x", "x_fp16", HALF),
        ("image_fp16", "image_fp32", FULL),
        ("image_fp16", "image", FULL),
    ]
    assert [node.name for node in half.graph.node if node.op_type == "Cast"] == [
        "cast_x_fp16",
        "cast_image_fp32",
        "cast_image",
    ]
    inputs = {node.name: list(node.input) for node in half.graph.node}
    assert inputs["first"] == inputs["second"] == ["x_fp16", "w_fp16"]
    assert inputs["wide"] == inputs["wide too"] == ["image_fp32"]
    assert [tensor.name for tensor in half.graph.initializer] == ["w_fp16"], "no copy that nothing reads"
    assert {value.name for value in half.graph.output} == {"image"}


def test_a_weight_of_both_precisions_is_kept_in_both() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "half"),
        helper.make_node("Conv", ["a", "w"], ["image"], "full"),
    ]
    made = to_half(graph(nodes, {"w": ONES}), "fp16", frozenset({"full"}))
    assert {tensor.name: tensor.data_type for tensor in made.graph.initializer} == {"w": FULL, "w_fp16": HALF}
    assert casts(made) == [("x", "x_fp16", HALF), ("a", "a_fp32", FULL)]
    with pytest.raises(GanEdgeError, match="weight w reaches 7e\\+04, beyond FP16's 65504: export in FP32"):
        to_half(graph(nodes, {"w": -70000 * ONES}), "fp16", frozenset({"full"}))
    large = graph(nodes, {"w": 70000 * ONES})
    to_half(large, "fp16", frozenset({"half", "full"}))
    to_half(graph(nodes, {"w": 65504 * ONES}), "fp16")
    with pytest.raises(GanEdgeError, match="weight w reaches nan"):
        to_half(graph(nodes, {"w": np.nan * ONES}), "fp16")


@pytest.mark.parametrize(("kind", "element"), [("fp16", HALF), ("bf16", TensorProto.BFLOAT16)])
def test_constants_and_casts_within_become_half_too(kind: Any, element: int) -> None:
    """And what is whole numbers stays so."""
    halves = numpy_helper.from_array(np.full(1, 0.5, np.float32), "value")
    nodes = [
        helper.make_node("Constant", [], ["k"], "constant", value=halves),
        helper.make_node("Constant", [], ["s"], "sizes", value=numpy_helper.from_array(np.array([0, 3, 4, 4]))),
        helper.make_node("Shape", ["x"], ["whole"], "shape", start=1, end=2),
        helper.make_node("Cast", ["whole"], ["channels"], "narrow", to=FULL),
        helper.make_node("Cast", ["x"], ["z"], "rounded", to=TensorProto.INT32),
        helper.make_node("Cast", ["z"], ["y"], "back", to=FULL),
        helper.make_node("Mul", ["y", "k"], ["a"], "times"),
        helper.make_node("Div", ["a", "channels"], ["b"], "over"),
        helper.make_node("Reshape", ["b", "s"], ["image"], "flat"),
    ]
    half = to_half(graph(nodes, {}), kind)
    node = {node.name: node for node in half.graph.node}
    assert {name: node[name].attribute[0].i for name in ("narrow", "rounded", "back")} == {
        "narrow": element,
        "rounded": TensorProto.INT32,
        "back": element,
    }
    stored = [attribute.t for each in half.graph.node if each.op_type == "Constant" for attribute in each.attribute]
    assert sorted(tensor.data_type for tensor in stored) == sorted([element, TensorProto.INT64])
    values = {tensor.data_type: numpy_helper.to_array(tensor).tolist() for tensor in stored}
    assert values == {element: [0.5], TensorProto.INT64: [0, 3, 4, 4]}


def test_inputs_that_are_float32_by_definition_stay_so() -> None:
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["y"], "larger", mode="nearest"),
        helper.make_node("AveragePool", ["y"], ["image"], "smaller", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    half = to_half(graph(nodes, {"scales": np.float32([1, 1, 2, 2])}), "fp16")
    assert {tensor.name: tensor.data_type for tensor in half.graph.initializer} == {"scales": FULL}
    assert list(half.graph.node[1].input) == ["x_fp16", "", "scales"]
    assert casts(half) == [("x", "x_fp16", HALF), ("image_fp16", "image", FULL)]


@pytest.mark.parametrize("kind", ["InstanceNormalization", "BatchNormalization"])
def test_normalisations_and_operators_of_others_stay_wide(kind: str) -> None:
    weights = {name: np.ones(3, np.float32) for name in ("g", "b", "m", "v")}
    names = list(weights)[: 2 if kind.startswith("Instance") else 4]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "bent"),
        helper.make_node(kind, ["a", *names], ["y"], "norm"),
        helper.make_node("Swish", ["y"], ["z"], "theirs", domain="com.theirs"),
        helper.make_node("Relu", ["z"], ["image"], "bent again"),
    ]
    model = graph(nodes, {name: weights[name] for name in names}, ("", "com.theirs"))
    del model.graph.value_info[:]
    shape = ["batch", 3, 4, 4]
    model.graph.value_info.extend(helper.make_tensor_value_info(name, FULL, shape) for name in ("a", "y", "z"))
    half = to_half(model, "fp16")
    assert {tensor.data_type for tensor in half.graph.initializer} == {FULL}
    assert casts(half)[:3] == [("x", "x_fp16", HALF), ("a", "a_fp32", FULL), ("z", "z_fp16", HALF)]


def test_values_and_weights_beyond_half_precision() -> None:
    """Weights up to 65504 itself, values only up to a quarter of it, since other inputs may reach further."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w2"], ["b"], "second"),
        helper.make_node("Conv", ["b", "w3"], ["c"], "third"),
        helper.make_node("Reshape", ["c", "shape"], ["d"], "flat"),
        helper.make_node("Concat", ["d", "none"], ["image"], "joined", axis=0),
    ]
    weights = {
        "w1": -65505 * ONES * 2,
        "w2": 65504 * ONES,
        "w3": 70000 * ONES,
        "shape": np.array([-1, 3, 4, 4]),
        "none": np.zeros((0, 3, 4, 4), np.float32),
    }
    model = graph(nodes, weights)
    assert overflowing(model, {}) == {"first", "third"}
    assert overflowing(model, {"a": 65504 / 4, "image": 1.0}) == {"first", "third"}
    assert overflowing(model, {"a": 65504 / 4 + 1}) == {"first", "second", "third"}
    assert overflowing(model, {"image": float("nan"), "x": float("inf")}) == {"first", "third", "joined"}
    weights["w3"] = np.full_like(ONES, np.nan)
    assert overflowing(graph(nodes, {**weights, "w1": ONES}), {}) == {"third"}, "no number passes for a small one"


def test_bf16_is_written_in_an_operator_set_that_knows_it() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["image"], "conv")]
    model = graph(nodes, {"w": ONES})
    before = model.SerializeToString()
    half = to_half(model, "bf16")
    assert [entry.version for entry in half.opset_import] == [22]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in half.graph.output} == {"batch"}
    assert [entry.version for entry in to_half(model, "fp16").opset_import] == [18]
    assert model.SerializeToString() == before, "what was given stays as it was"
    newer = graph(nodes, {"w": ONES})
    newer.opset_import[0].version = 23
    assert [entry.version for entry in to_half(newer, "bf16").opset_import] == [23]


def test_layers_kept_in_fp32_are_computed_in_it_by_openvino() -> None:
    """Its hint bf16 would compute them in bf16 too, where the processor can."""
    if "bf16" not in ov.precisions():
        pytest.skip("this processor does not compute in bf16")
    torch.manual_seed(0)
    layers = [layer for _ in range(8) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())]
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers, nn.Conv2d(8, 3, 3, padding=1)).eval()
    full = to_onnx(network, Interface("image-to-image", (IMAGE,), (RESULT,)))
    pictures = torch.rand(16, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        exact = network(pictures).numpy()
    names = [node.name for node in full.graph.node]
    errors = []
    for keep in ([], names[1:]):  # What the first layer rounds becomes less from layer to layer.
        engine = engines.start(to_half(full, "bf16", frozenset(keep)).SerializeToString(), "bf16", "openvino", "cpu", 1)
        with contextlib.closing(engine):
            errors.append(float(np.square(engine.run({"image": pictures.numpy()})[0] - exact).mean()))
            assert engine.info.precision == "bf16"
    assert errors[1] < errors[0] / 4


def test_bf16_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(MissingExtra, match=r"--bf16 needs.*ml_dtypes"):
        to_half(graph([helper.make_node("Conv", ["x", "w"], ["image"])], {"w": ONES}), "bf16")
