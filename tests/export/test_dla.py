"""What a DLA cannot run is told before an engine for it is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ganedge.export import dla, quantize, rewrite, to_tensorrt
from ganedge.export.precision import to_half
from ganedge.runtime.errors import UsageError

SHAPES = {"x": (1, 4, 8, 8)}


def graph(nodes: Sequence[Any], weights: dict[str, np.ndarray] | None = None, last: str = "y") -> ModelProto:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ("batch", 4, 8, 8)), (last, None))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    made = helper.make_model(
        helper.make_graph(list(nodes), "g", ports[:1], ports[1:], tensors),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=10,
    )
    return rewrite.tidy(made, {"batch"})


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


def generator() -> ModelProto:
    """A convolution, a normalisation and two transposed convolutions, of which one is padded."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "conv", pads=[1] * 4),
        helper.make_node("InstanceNormalization", ["a", "ones", "ones"], ["b"], "norm"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("ConvTranspose", ["c", "w1"], ["d"], "whole", strides=[2, 2]),
        helper.make_node("ConvTranspose", ["d", "w2"], ["e"], "padded", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Tanh", ["e"], ["y"], "tanh"),
    ]
    weights = {"w0": weight(4, 4, 3, 3), "w1": weight(4, 4, 2, 2), "w2": weight(4, 3, 4, 4)}
    return graph(nodes, {**weights, "ones": np.ones(4, np.float32)})


def test_what_falls_back_is_counted_with_its_arithmetic() -> None:
    found, count, total = dla.fallbacks(to_half(generator(), "fp16"), SHAPES)
    assert [(layer.node, layer.reason) for layer in found] == [
        ("norm", "InstanceNormalization"),
        ("padded", "ConvTranspose with padding"),
    ]
    conv, whole, padded = 8 * 8 * 4 * 4 * 9, 8 * 8 * 4 * 4 * 4, 16 * 16 * 4 * 3 * 16
    assert (count, total, found[1].work) == (6, conv + whole + padded, padded)
    line = dla.report(to_half(generator(), "fp16"), SHAPES)
    assert "2 of 6 layers fall back" in line
    assert f"{padded / total:.0%}" in line
    assert dla.SOURCE in line
    assert dla.QUANTISATION not in line


def test_explicit_quantisation_stays_on_the_gpu() -> None:
    inputs = [[np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)]]
    low, _, _ = quantize.to_int8(generator(), inputs, "tensorrt")
    found, _, total = dla.fallbacks(to_half(low, "fp16"), SHAPES)
    assert {layer.node for layer in found} >= {"conv", "norm", "padded"}
    assert sum(layer.work for layer in found) == total
    assert dla.QUANTISATION in dla.report(to_half(low, "fp16"), SHAPES)


def conv(**options: Any) -> Any:
    return helper.make_node("Conv", ["x", "w"], ["y"], "n", **options)


def resize(mode: str, transform: str) -> Any:
    return helper.make_node("Resize", ["x", "", "s"], ["y"], "n", mode=mode, coordinate_transformation_mode=transform)


@pytest.mark.parametrize(
    ("node", "weights", "reason"),
    [
        (conv(pads=[1] * 4), {"w": weight(4, 4, 3, 3)}, ""),
        (conv(pads=[16] * 4), {"w": weight(4, 4, 33, 33)}, "beyond its limits"),
        (conv(strides=[9, 9]), {"w": weight(4, 4, 3, 3)}, "beyond its limits"),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], "n", group=2), {"w": weight(4, 2, 2, 2)}, "in groups"),
        (helper.make_node("LeakyRelu", ["x"], ["y"], "n"), {}, ""),
        (helper.make_node("Elu", ["x"], ["y"], "n"), {}, "Elu"),
        (helper.make_node("DepthToSpace", ["x"], ["y"], "n", blocksize=2), {}, "DepthToSpace"),
        (helper.make_node("Concat", ["x", "x"], ["y"], "n", axis=1), {}, ""),
        (helper.make_node("Concat", ["x", "x"], ["y"], "n", axis=2), {}, "other than channels"),
        (helper.make_node("PRelu", ["x", "s"], ["y"], "n"), {"s": np.ones((4, 1, 1), np.float32)}, ""),
        (resize("nearest", "asymmetric"), {"s": np.float32([1, 1, 2, 2])}, ""),
        (resize("linear", "half_pixel"), {"s": np.float32([1, 1, 2, 2])}, ""),
        (resize("linear", "align_corners"), {"s": np.float32([1, 1, 2, 2])}, "align_corners"),
        (resize("nearest", "asymmetric"), {"s": np.float32([1, 1, 1.5, 1.5])}, "whole factors"),
        (
            helper.make_node("Pad", ["x", "p"], ["y"], "n", mode="reflect"),
            {"p": np.array([0, 0, 1, 1] * 2, np.int64)},
            "Pad",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(getattr(value, "op_type", value)),
)
def test_the_limits_of_each_operator(node: Any, weights: dict[str, np.ndarray], reason: str) -> None:
    model = to_half(graph([node], weights), "fp16")
    found, count, _ = dla.fallbacks(model, SHAPES)
    assert count == 1
    assert [layer.node for layer in found] == (["n"] if reason else [])
    assert all(reason in layer.reason for layer in found)
    assert ("runs all 1 layers" in dla.report(model, SHAPES)) == (not reason)


def test_what_computes_in_fp32_falls_back() -> None:
    found, _, _ = dla.fallbacks(to_half(generator(), "fp16", frozenset({"conv"})), SHAPES)
    assert [layer.reason for layer in found][:2] == ["Conv in FP32", "InstanceNormalization"]


def test_a_dla_takes_one_shape() -> None:
    one = ((1, 4, 8, 8),) * 3
    assert to_tensorrt._one_shape(0, {"x": one}) == {"x": (1, 4, 8, 8)}
    with pytest.raises(UsageError, match=r"--dla 0: a DLA takes one shape, and x is 1 × 4 to 16 × 4: give --batch"):
        to_tensorrt._one_shape(0, {"x": ((1, 4), (1, 4), (16, 4))})
