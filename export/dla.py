"""Which layers a Jetson's DLA cannot run, and the arithmetic that falls back to the GPU. No torch here.

    print(report(model, {"z": (1, 100, 1, 1)}))
    # on a DLA 2 of 9 layers fall back to the GPU, with 31% of the multiply-accumulates: ConvTranspose with padding (2)

The rules are NVIDIA's, of TensorRT 10 (10.7 was the last release with a DLA before 11.4): `SOURCE`, and for explicit
quantisation `QUANTISATION`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from ganedge.export.graph import attributes, constants, multiply_accumulates, shapes_for

SOURCE = "docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/dla-layer-restrictions.html"
"""Where NVIDIA lists what a DLA runs."""
QUANTISATION = "github.com/NVIDIA/TensorRT/issues/2222"
"""Where NVIDIA says that a DLA takes no explicit quantisation."""
KERNEL, STRIDE, PADDING, DILATION, CHANNELS, SIDE = 32, 8, 31, 32, 8192, 8192
"""The largest of each that a DLA's convolution takes, and the largest side of any tensor."""
SCALE = 32
"""The largest factor of a resize, a whole number."""
RUNNABLE = frozenset(
    {
        *("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "PRelu", "BatchNormalization", "MaxPool", "AveragePool"),
        *("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Concat", "Conv", "ConvTranspose", "Resize", "Slice"),
        *("GlobalAveragePool", "Softmax"),
    }
)
"""Operators that it runs, within limits."""
FREE = frozenset({"Cast", "Constant", "Identity", "Shape"})
"""Operators that are no layers of an engine, or change types at its borders."""
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Fallback:
    """A layer that a DLA cannot run."""

    node: str
    """Its name."""
    reason: str
    """Why, beginning with the operator."""
    work: int
    """Its multiply-accumulates."""


def fallbacks(model: ModelProto, inputs: Mapping[str, Sequence[int]]) -> tuple[list[Fallback], int, int]:
    """The layers of a graph that a DLA cannot run.

    Args:
        model: A graph in FP16 or INT8, with inferred shapes.
        inputs: The shape of each input.

    Returns:
        Those layers in order; how many layers there are; and the multiply-accumulates of all.
    """
    graph, shapes = shapes_for(model, inputs)
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    fixed = constants(graph)
    expanded = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    floats = (TensorProto.FLOAT, *HALVES, TensorProto.INT8)
    layers = [node for node in graph.node if node.op_type not in FREE and types.get(node.output[0]) in floats]
    refused, total = [], 0
    for node in layers:
        work = multiply_accumulates(node, shapes) or 0
        total += work
        reason = _reason(node, shapes, types, fixed, expanded)
        if reason:
            refused.append(Fallback(node.name, reason, work))
    return refused, len(layers), total


def report(model: ModelProto, inputs: Mapping[str, Sequence[int]]) -> str:
    """One line on what a DLA cannot run, for people. Arguments as for `fallbacks`."""
    refused, count, total = fallbacks(model, inputs)
    if not refused:
        return f"a DLA runs all {count} layers, by {SOURCE}"
    share = sum(layer.work for layer in refused) / max(total, 1)
    reasons = Counter(layer.reason for layer in refused)
    shown = ", ".join(f"{reason} ({number})" for reason, number in reasons.most_common())
    sources = SOURCE + (f", {QUANTISATION}" if any("quantisation" in reason for reason in reasons) else "")
    return (
        f"on a DLA {len(refused)} of {count} layers fall back to the GPU, with {share:.0%} of the "
        f"multiply-accumulates: {shown}; by {sources}"
    )


def _reason(
    node: NodeProto,
    shapes: Mapping[str, Sequence[int]],
    types: Mapping[str, int],
    fixed: Mapping[str, TensorProto],
    expanded: set[str],
) -> str:
    """Why a DLA cannot run a node; empty where it can."""
    op = node.op_type
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return f"{op}, explicit quantisation"
    if node.input and node.input[0] in expanded:
        return f"{op} with explicit quantisation"
    if op not in RUNNABLE:
        return op
    if types.get(node.output[0]) == TensorProto.FLOAT:
        return f"{op} in FP32"
    sizes = [shapes.get(name, ()) for name in (node.input[0], node.output[0])]
    if any(len(shape) != 4 for shape in sizes):
        return f"{op} of other than 4 dimensions"
    if any(side > SIDE for shape in sizes for side in shape[1:]):
        return f"{op} beyond {SIDE} pixels or channels"
    return _limit(node, shapes, fixed)


def _limit(node: NodeProto, shapes: Mapping[str, Sequence[int]], fixed: Mapping[str, TensorProto]) -> str:
    """Which limit of its operator a node exceeds; empty where none."""
    op, options = node.op_type, attributes(node)
    if op in ("Conv", "ConvTranspose") and node.input[1] not in fixed:
        return f"{op} with weights that are computed"
    if op == "Conv":
        within = (
            max(shapes[node.input[1]][2:]) <= KERNEL
            and max(options.get("strides", [1])) <= STRIDE
            and max(options.get("pads", [0])) <= PADDING
            and max(options.get("dilations", [1])) <= DILATION
        )
        return "" if within else "Conv with a kernel, stride or padding beyond its limits"
    if op == "ConvTranspose":
        if any(options.get("pads", [0])) or any(options.get("output_padding", [0])):
            return "ConvTranspose with padding"
        plain = options.get("group", 1) == 1 and set(options.get("dilations", [1])) == {1}
        return "" if plain and max(shapes[node.input[1]][2:]) <= KERNEL else "ConvTranspose in groups or dilated"
    if op == "Concat":
        return "" if options["axis"] in (1, -3) else "Concat of other than channels"
    if op == "PRelu":
        return "" if node.input[1] in fixed else "PRelu with a slope that is computed"
    return _resize_limit(node, fixed) if op == "Resize" else ""


def _resize_limit(node: NodeProto, fixed: Mapping[str, TensorProto]) -> str:
    options = attributes(node)
    scales = numpy_helper.to_array(fixed[node.input[2]]) if node.input[2:3] and node.input[2] in fixed else np.ones(0)
    if len(scales) != 4 or (scales[:2] != 1).any() or (scales % 1).any() or scales.max() > SCALE:
        return "Resize by other than whole factors"
    mode, transform = options.get("mode", b"nearest"), options.get("coordinate_transformation_mode", b"half_pixel")
    if mode == b"nearest" or (mode == b"linear" and transform == b"half_pixel"):
        return ""
    return f"Resize, {mode.decode()} and {transform.decode()}"
