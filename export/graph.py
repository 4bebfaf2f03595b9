"""Copy, rename and walk ONNX graphs, and count their multiply-accumulates. No torch here.

Tensors are known by name: a node reads the names in `node.input` and makes those in `node.output`.

    >>> from onnx import TensorProto, helper
    >>> ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")]
    >>> relu = helper.make_node("Relu", ["x"], ["y"], "relu")
    >>> model = helper.make_model(helper.make_graph([relu], "g", ports[:1], ports[1:]))
    >>> producers(model.graph)["y"].name, consumer_counts(model.graph)["x"]
    ('relu', 1)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose multiply-accumulates are counted; everything else is cheap beside them."""


SAME_SIDES = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "Tanh", "Clip", "Add", "Sub", "Mul", "Div", "Cast", "Identity"),
    *("InstanceNormalization", "BatchNormalization", "QuantizeLinear", "DequantizeLinear"),
)
"""Operators whose result is as high and wide as what they work on, where all of that is equally high and wide."""


def copied(model: ModelProto) -> ModelProto:
    """Return a deep copy of a model."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def set_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Replace the nodes of a graph; `nodes` may hold nodes of that same graph."""
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)  # Deleting a graph's nodes below empties the originals.
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def rename(nodes: Iterable[NodeProto], old: str, new: str) -> None:
    """Rename a tensor in the inputs and outputs of nodes, in place."""
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values; strings are bytes, as ONNX stores them."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Return the node that makes each tensor."""
    return {name: node for node in graph.node for name in node.output}


def consumer_counts(graph: GraphProto) -> Counter[str]:
    """Count how often each tensor is read, by nodes and as an output of the graph."""
    counts = Counter(name for node in graph.node for name in node.input)
    counts.update(output.name for output in graph.output)
    return counts


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Return the tensors that are known: initializers, and values of Constant nodes."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return tensors


def opset(model: ModelProto) -> int:
    """Return the version of ONNX's own operator set, 0 where a model names none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def size_remainders(graph: GraphProto) -> dict[str, tuple[int, int]]:
    """Return what the operators tell of every tensor's sides where these are dynamic: (m, r), a side is r modulo m.

    What is doubled is even, and a padding of 3 adds 6. (1, 0) says nothing; of height and width the same holds.
    """
    known: dict[str, tuple[int, int]] = {value.name: (1, 0) for value in graph.input}
    fixed = constants(graph)
    for node in graph.node:
        before = {known[name] for name in node.input if name in known}
        step = _side_step(node, fixed) if len(before) == 1 else None
        factor, offset = (1, 0) if step is None else step
        modulus, remainder = before.pop() if step is not None else (1, 0)
        modulus *= factor
        known.update(dict.fromkeys(node.output, (modulus, (factor * remainder + offset) % modulus)))
    return known


def _side_step(node: NodeProto, fixed: Mapping[str, TensorProto]) -> tuple[int, int] | None:
    """A node makes a side of n pixels one of factor · n + offset; None where that is not known."""
    options = attributes(node)
    if node.op_type in SAME_SIDES:
        return 1, 0
    if node.op_type == "DepthToSpace":
        return int(options["blocksize"]), 0
    if node.op_type == "Pad" and len(node.input) < 4 and node.input[1] in fixed:
        pads = numpy_helper.to_array(fixed[node.input[1]]).reshape(2, -1).sum(0)[2:]
        return (1, int(pads[0])) if len(set(pads.tolist())) == 1 else None
    if node.op_type == "Slice" and len(node.input) == 4 and {*node.input[1:]} <= {*fixed}:
        begin, end, axes = (numpy_helper.to_array(fixed[name]).tolist() for name in node.input[1:])
        cut = begin[0] - (end[0] if end[0] < 0 else 0)
        inner = axes == [2, 3] and len(set(begin)) == len(set(end)) == 1 and not 0 <= end[0] < 2**62
        return (1, -cut) if inner and begin[0] >= 0 else None
    if node.op_type == "Resize" and len(node.input) > 2 and node.input[2] in fixed:
        scales = numpy_helper.to_array(fixed[node.input[2]])[2:]
        return (int(scales[0]), 0) if len(set(scales.tolist())) == 1 and float(scales[0]).is_integer() else None
    if node.op_type not in ("Conv", "ConvTranspose") or options.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    kernel, pads = fixed[node.input[1]].dims[2:] if node.input[1] in fixed else [], options.get("pads", [0] * 4)
    extra, strides = options.get("output_padding", [0, 0]), options.get("strides", [1, 1])
    square = all(len(set(part)) == 1 for part in (kernel, pads, extra, strides)) and len(pads) == 4
    if not square or set(options.get("dilations", [1])) != {1} or "output_shape" in options:
        return None
    change = int(kernel[0] - 2 * pads[0])
    if node.op_type == "ConvTranspose":
        return int(strides[0]), int(change + extra[0] - strides[0])
    return (1, 1 - change) if strides[0] == 1 else None


MOST_SIZES = 4096
"""Values of the largest tensor of weights that may say a size or a scale."""
MOST_FOLDS = 64
"""How often what is computed from shapes is replaced by constants, one reshape after the other."""
OF_SIZES = frozenset(
    {"Add", "Cast", "Concat", "Div", "Gather", "Max", "Min", "Mul", "Neg", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)
"""Operators that compute with sizes."""


def shapes_for(model: ModelProto, inputs: Mapping[str, Sequence[int]]) -> tuple[GraphProto, dict[str, list[int]]]:
    """Infer the shape of every tensor for inputs of these shapes.

    Args:
        model: Any graph; it is not changed.
        inputs: The shape of each input by its name; an input that is missing keeps what the graph says.

    Returns:
        The inferred graph, and the shapes; 0 is a size that could not be inferred.

    Raises:
        onnx.shape_inference.InferenceError: the graph contradicts these shapes.
    """
    sized = copied(model)
    for value in sized.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs.get(value.name, ()), strict=False):
            dim.dim_value = int(size)
    del sized.graph.value_info[:]
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    weights = _take_weights(sized.graph)
    graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    shapes = _inferred(graph)
    for _ in range(MOST_FOLDS):
        if all(0 not in sizes for sizes in shapes.values()) or not _fold_sizes(sized.graph, shapes):
            break
        known = _inferred(onnx.shape_inference.infer_shapes(sized, data_prop=True).graph)
        shapes.update(known)
    if weights:
        del graph.input[-len(weights) :]
        graph.initializer.extend(weights)
    return graph, shapes


def _take_weights(graph: GraphProto) -> list[TensorProto]:
    """Make inputs of large weights, in place, and return the weights: inference writes and reads a whole model."""
    inputs = {value.name for value in graph.input}
    large = [
        tensor
        for tensor in graph.initializer
        if math.prod(tensor.dims) > MOST_SIZES and tensor.name not in inputs and tensor.data_type != TensorProto.INT64
    ]
    names = {tensor.name for tensor in large}
    kept = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.input.extend(helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in large)
    return large


def _inferred(graph: GraphProto) -> dict[str, list[int]]:
    """The shape of every tensor of an inferred graph; 0 is an unknown size."""
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    return shapes | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _fold_sizes(graph: GraphProto, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Replace what is computed from known shapes by constants: ONNX's own inference does not divide sizes.

    Returns:
        Whether anything was replaced, in place.
    """
    known = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in constants(graph).items()
        if tensor.data_type == TensorProto.INT64
    }
    folded: dict[str, NDArray[np.generic]] = {}
    kept = []
    for node in graph.node:
        value = _size_value(node, shapes, known)
        if value is None:
            kept.append(node)
        else:
            known[node.output[0]] = folded[node.output[0]] = value
    if folded:
        set_nodes(graph, kept)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in folded.items())
    return bool(folded)


def _size_value(
    node: NodeProto, shapes: Mapping[str, Sequence[int]], known: Mapping[str, NDArray[np.generic]]
) -> NDArray[np.generic] | None:
    """What a node that computes with sizes gives; None where that is not known."""
    if node.op_type == "Shape":
        sizes = shapes.get(node.input[0])
        if not sizes or 0 in sizes:
            return None
        span = attributes(node)
        begin, end = int(span.get("start", 0)), int(span.get("end", len(sizes)))
        return np.array(sizes[begin:end], np.int64)
    if node.op_type not in OF_SIZES or not all(name in known for name in node.input if name):
        return None
    single = helper.make_graph(
        [node], "sizes", [], [helper.make_tensor_value_info(node.output[0], TensorProto.INT64, None)]
    )
    single.initializer.extend(numpy_helper.from_array(known[name], name) for name in node.input if name)
    model = helper.make_model(single, opset_imports=[helper.make_opsetid("", 18)])
    (value,) = ReferenceEvaluator(model).run(None, {})
    return np.asarray(value)


def multiply_accumulates(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Count the multiply-accumulates of one node.

    Args:
        node: Of any operator.
        shapes: The shape of every tensor, as `shapes_for` returns them.

    Returns:
        The count; 0 for operators that are not `COUNTED`, None where a shape is unknown.
    """
    if node.op_type not in COUNTED:
        return 0
    data, weights, out = (shapes.get(name) for name in (*node.input[:2], node.output[0]))
    if not data or not weights or not out or 0 in (*data, *weights, *out):
        return None
    if node.op_type == "Conv":  # weights [out, in / groups, *kernel]: an output value sums over the rest.
        return math.prod(out) * math.prod(weights[1:])
    if node.op_type == "ConvTranspose":  # weights [in, out / groups, *kernel]: an input is spread over the rest.
        return math.prod(data) * math.prod(weights[1:])
    transposed = node.op_type == "Gemm" and attributes(node).get("transA", 0)
    return math.prod(out) * data[-2 if transposed else -1]


def total_multiply_accumulates(model: ModelProto, inputs: Mapping[str, Sequence[int]]) -> int | None:
    """Count a graph's multiply-accumulates for inputs of these shapes; None where a shape cannot be inferred.

    >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    >>> y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    >>> w = helper.make_tensor("w", TensorProto.FLOAT, [3, 2], [0.0] * 6)
    >>> graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    >>> total_multiply_accumulates(helper.make_model(graph), {"x": (5, 3)})
    30
    """
    try:
        graph, shapes = shapes_for(model, inputs)
    except onnx.shape_inference.InferenceError:
        return None
    counts = [multiply_accumulates(node, shapes) for node in graph.node]
    return None if None in counts else sum(count or 0 for count in counts)
