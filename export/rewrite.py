"""Exact rewrites of an ONNX graph: the same function in a form that engines run better. No torch here.

fold_batch_norm(model)
model = tidy(model, {"batch"})
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.shape_inference import infer_shapes

from ganedge.export.graph import attributes, consumer_counts, producers
from ganedge.runtime.errors import GanEdgeError, one_line

ONNX_DOMAINS = ("", "ai.onnx")


def fold_batch_norm(model: ModelProto) -> int:
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm right before it, in place.

    y = s·(W x + b - m) + t with s = γ/√(σ² + ε) becomes (s·W) x + s·(b - m) + β. It is done where nothing else reads
    the inner result; a normalisation that follows an activation stays.

    Returns:
        How many were folded.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    maker, readers = producers(graph), consumer_counts(graph)
    folded: list[NodeProto] = []
    for norm in graph.node:
        layer = maker.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if layer is None or readers[norm.input[0]] != 1 or not _foldable(layer, norm, weights):
            continue
        _fold(layer, norm, weights, graph)
        folded.append(norm)
    for norm in folded:
        graph.node.remove(norm)
    return len(folded)


def _foldable(layer: NodeProto, norm: NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether the layer is linear per output channel and all that is needed is constant."""
    training = any(a.name == "training_mode" and a.i for a in norm.attribute)
    constant = all(name in weights for name in [*norm.input[1:], *layer.input[1:]] if name)
    plain = layer.op_type != "Gemm" or all(
        a.name == "transB" or a.f == 1.0 for a in layer.attribute if a.name != "transA"
    )
    return layer.op_type in ("Conv", "ConvTranspose", "Gemm") and constant and plain and not training


def _fold(layer: NodeProto, norm: NodeProto, weights: dict[str, onnx.TensorProto], graph: onnx.GraphProto) -> None:
    """Put one normalisation into one layer; the arithmetic in double precision."""
    gamma, beta, mean, variance = (numpy_helper.to_array(weights[name]).astype(np.float64) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    weight = numpy_helper.to_array(weights[layer.input[1]])
    group = next((a.i for a in layer.attribute if a.name == "group"), 1)
    if layer.op_type == "Conv" or (
        layer.op_type == "Gemm" and any(a.name == "transB" and a.i for a in layer.attribute)
    ):
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    elif layer.op_type == "ConvTranspose":
        parts = np.split(weight.astype(np.float64), group, axis=0)  # [in/groups, out/groups, kH, kW] each
        scales = np.split(scale, group)
        ones = [1] * (weight.ndim - 2)
        scaled = np.concatenate([p * s.reshape(1, -1, *ones) for p, s in zip(parts, scales, strict=True)])
    else:
        scaled = weight * scale
    bias = numpy_helper.to_array(weights[layer.input[2]]) if len(layer.input) > 2 and layer.input[2] else 0.0
    shifted = (bias - mean) * scale + beta
    stem = layer.input[1]
    _replace_input(layer, 1, f"{stem}_folded", scaled.astype(weight.dtype), graph)
    _replace_input(layer, 2, f"{stem}_folded_bias", shifted.astype(weight.dtype), graph)
    layer.output[0] = norm.output[0]


def _replace_input(node: NodeProto, index: int, name: str, value: np.ndarray, graph: onnx.GraphProto) -> None:
    """Give a node a weight of its own; two layers may have shared the one that it had, so its name may be taken."""
    taken, stem = {tensor.name for tensor in graph.initializer}, name
    for number in itertools.count(2):
        if name not in taken:
            break
        name = f"{stem}_{number}"
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    if index == len(node.input):
        node.input.append(name)
    else:
        node.input[index] = name


def symbols(model: ModelProto) -> set[str]:
    """The names of the inputs' and outputs' dynamic sizes."""
    ports = (*model.graph.input, *model.graph.output)
    return {size.dim_param for port in ports for size in port.type.tensor_type.shape.dim if size.dim_param}


def tidy(model: ModelProto, dynamic: set[str]) -> ModelProto:
    """Remove what does not compute, infer shapes and check.

    Unused weights, descriptions, and the exporter's notes (which hold paths of the machine that exported) go; so do
    symbolic dimensions other than `dynamic`.

    Raises:
        GanEdgeError: the result is no valid ONNX model, which is the rewriter's mistake or the source's.
    """
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for port in (*graph.input, *graph.output):
        for size in port.type.tensor_type.shape.dim:
            if size.dim_param and size.dim_param not in dynamic:
                size.dim_param = "batch" if size is port.type.tensor_type.shape.dim[0] else ""
    try:
        inferred = infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GanEdgeError(f"the exported graph is not valid ONNX: {one_line(error)}") from error
    inferred.producer_name, inferred.producer_version = "ganedge", ""
    return inferred


def transposed_to_shuffle(model: ModelProto, *, channels_last: bool = False) -> int:
    """Turn each ConvTranspose into a Conv that computes all phases of the result, and a pixel shuffle, in place.

    With stride s, padding p and kernel K, result row o = s·i + a takes input row i + d with weight row k = a + p - s·d,
    where 0 ≤ k < K (the definition of the transposed convolution, solved for the input; the same idea as the sub-pixel
    convolution of Shi et al. 2016, arXiv:1609.05158). So each of the s² phases (a, b) is a plain convolution over the
    same window, and one Conv with s²·C channels computes them all. It is done where the result is s times as large as
    the input, in one group, without dilation; a following Relu or LeakyRelu moves before the shuffle, which changes
    nothing and lets engines fuse it.

    Args:
        model: With inferred shapes.
        channels_last: Shuffle in rows of channels, see `_as_shuffle`.

    Returns:
        How many were rewritten.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    pixels = {
        value.name
        for value in (*graph.input, *graph.value_info)
        if [size.dim_value for size in value.type.tensor_type.shape.dim[2:]] == [1, 1]
    }
    done = 0
    for layer in [node for node in graph.node if node.op_type == "ConvTranspose"]:
        plan = _phases(layer, weights, layer.input[0] in pixels)
        if plan is not None:
            _as_shuffle(model, layer, *plan, channels_last)
            done += 1
    return done


def upsampled_to_shuffle(model: ModelProto, *, channels_last: bool = False) -> int:
    """Turn each nearest-neighbour doubling followed by a Conv into a Conv on the small picture and a pixel shuffle.

    Result row o = 2·i + a of a convolution with padding p takes row o + k - p of the doubled picture, which is row
    i + ⌊(a + k - p) / 2⌋ of the small one: weights that fall on one row add up. In place.

    Args:
        model: With inferred shapes.
        channels_last: Shuffle in rows of channels, see `_as_shuffle`.

    Returns:
        How many were rewritten.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    maker, readers = producers(graph), consumer_counts(graph)
    done = 0
    for layer in [node for node in graph.node if node.op_type == "Conv"]:
        resize = maker.get(layer.input[0])
        if resize is None or readers[layer.input[0]] != 1 or not _doubles(resize, weights):
            continue
        plan = _doubled_phases(layer, weights)
        if plan is not None:
            layer.input[0] = resize.input[0]
            graph.node.remove(resize)
            _as_shuffle(model, layer, *plan, channels_last)
            done += 1
    return done


def _phases(
    layer: NodeProto, weights: dict[str, onnx.TensorProto], pixel: bool
) -> tuple[np.ndarray, int, list[int]] | None:
    """Weights `[s²·C, Cin, D, D]` of all phases, s, and the padding; None where the layer is of another kind.

    Where one pixel goes in (`pixel`) the stride is of no account, and the whole kernel may stand for it.
    """
    options = attributes(layer)
    if layer.input[1] not in weights or options.get("group", 1) != 1 or options.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    weight = numpy_helper.to_array(weights[layer.input[1]])  # [Cin, C, K, K]
    stride, extra = set(options.get("strides", [1, 1])), set(options.get("output_padding", [0, 0]))
    pads, kernel = set(options.get("pads", [0] * 4)), set(weight.shape[2:])
    square = weight.ndim == 4 and all(len(part) == 1 for part in (stride, extra, pads, kernel))
    if not square or "output_shape" in options or set(options.get("dilations", [1])) != {1}:
        return None
    s, p, k, more = stride.pop(), pads.pop(), kernel.pop(), extra.pop()
    if pixel and p == more == 0:
        s = k
    if k + more - 2 * p != s:
        return None
    taps = {(a, d): a + p - s * d for a in range(s) for d in range(-k, k + 1) if 0 <= a + p - s * d < k}
    low, high = min(d for _, d in taps), max(d for _, d in taps)
    side = high - low + 1
    inputs, outputs = weight.shape[:2]
    phases = np.zeros((outputs, s, s, inputs, side, side), weight.dtype)
    for (a, dy), ky in taps.items():
        for (b, dx), kx in taps.items():
            phases[:, a, b, :, dy - low, dx - low] = weight[:, :, ky, kx].T
    return phases.reshape(outputs * s * s, inputs, side, side), s, [-low, -low, high, high]


def _doubled_phases(layer: NodeProto, weights: dict[str, onnx.TensorProto]) -> tuple[np.ndarray, int, list[int]] | None:
    """The same for a Conv over a doubled picture."""
    options = attributes(layer)
    if layer.input[1] not in weights or options.get("group", 1) != 1 or options.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    weight = numpy_helper.to_array(weights[layer.input[1]])  # [C, Cin, K, K]
    pads, kernel = set(options.get("pads", [0] * 4)), set(weight.shape[2:])
    plain = set(options.get("strides", [1])) == {1} and set(options.get("dilations", [1])) == {1}
    if not plain or weight.ndim != 4 or len(pads) != 1 or len(kernel) != 1:
        return None
    p, k = pads.pop(), kernel.pop()
    if k != 2 * p + 1:
        return None
    low, high = -((p + 1) // 2), (1 + k - 1 - p) // 2
    side = high - low + 1
    outputs, inputs = weight.shape[:2]
    phases = np.zeros((outputs, 2, 2, inputs, side, side), np.float64)
    for a, b, ky, kx in np.ndindex(2, 2, k, k):
        phases[:, a, b, :, (a + ky - p) // 2 - low, (b + kx - p) // 2 - low] += weight[:, :, ky, kx]
    return phases.reshape(outputs * 4, inputs, side, side).astype(weight.dtype), 2, [-low, -low, high, high]


def _doubles(node: NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node repeats every pixel in both directions, as torch's nearest does."""
    if node.op_type != "Resize" or len(node.input) < 3 or node.input[2] not in weights:
        return False
    options = attributes(node)
    nearest = options.get("mode", b"nearest") == b"nearest"
    how = (
        options.get("coordinate_transformation_mode", b"half_pixel"),
        options.get("nearest_mode", b"round_prefer_floor"),
    )
    # For a factor of two both give ⌊o/2⌋: asymmetric rounded down, and half a pixel to the nearest.
    same = (how[0] == b"asymmetric" and how[1] == b"floor") or (how[0] == b"half_pixel" and how[1].startswith(b"round"))
    scales = numpy_helper.to_array(weights[node.input[2]])
    return nearest and same and np.array_equal(scales, [1, 1, 2, 2])


def _as_shuffle(
    model: ModelProto, layer: NodeProto, weight: np.ndarray, factor: int, pads: list[int], channels_last: bool
) -> None:
    """Make the layer a Conv with these weights, and put the shuffle (and an activation before it) behind it.

    With `channels_last` the shuffle is one of whole rows of channels, [N, H, W, s, s, C] to [N, H, s, W, s, C], between
    two transpositions to and from that order. An engine that keeps its INT8 convolutions in that order, as ONNX Runtime
    does, drops those two, and copies rows where DepthToSpace moves single bytes. It takes a size that is known.
    """
    graph = model.graph
    sides = _sides(graph, layer.input[0]) if channels_last and factor > 1 else None
    if sides is not None:  # Rows of the weights in the order (s, s, C) instead of (C, s, s).
        weight = np.moveaxis(weight.reshape(-1, factor, factor, *weight.shape[1:]), 0, 2).reshape(weight.shape)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    last = layer
    if factor > 1:
        readers = [node for node in graph.node if layer.output[0] in node.input]
        if len(readers) == 1 and readers[0].op_type in ("Relu", "LeakyRelu"):
            last = readers[0]
    stem = layer.input[1]
    if len(layer.input) > 2 and layer.input[2]:
        bias = numpy_helper.to_array(weights[layer.input[2]])
        _replace_input(
            layer,
            2,
            f"{layer.input[2]}_phases",
            np.repeat(bias, factor * factor) if sides is None else np.tile(bias, factor * factor),
            graph,
        )
    _replace_input(layer, 1, f"{stem}_phases", weight, graph)
    layer.op_type = "Conv"
    del layer.attribute[:]
    layer.attribute.extend(
        [onnx.helper.make_attribute("kernel_shape", list(weight.shape[2:])), onnx.helper.make_attribute("pads", pads)]
    )
    if factor == 1:
        return
    result = last.output[0]
    inner = f"{result}_phases"
    last.output[0] = inner
    if last is not layer:
        layer.output[0] = f"{layer.output[0]}_phases"
        last.input[0] = layer.output[0]
    name = f"{layer.name}_shuffle"
    if sides is None:
        nodes = [onnx.helper.make_node("DepthToSpace", [inner], [result], name, blocksize=factor, mode="CRD")]
    else:
        nodes = _row_shuffle(graph, inner, result, name, factor, sides, len(weight) // factor**2)
    index = list(graph.node).index(last) + 1
    for node in reversed(nodes):
        graph.node.insert(index, node)


def _row_shuffle(
    graph: onnx.GraphProto, given: str, result: str, name: str, factor: int, sides: tuple[int, int], channels: int
) -> list[NodeProto]:
    """The nodes of a pixel shuffle in rows of channels."""
    height, width = sides
    apart, together = f"{name}_apart", f"{name}_together"
    shapes = {
        apart: [0, height, width, factor, factor, channels],
        together: [0, factor * height, factor * width, channels],
    }
    graph.initializer.extend(numpy_helper.from_array(np.array(shape), key) for key, shape in shapes.items())
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Reshape", [apart], {}),
        ("Transpose", [], {"perm": [0, 1, 3, 2, 4, 5]}),
        ("Reshape", [together], {}),
        ("Transpose", [], {"perm": [0, 3, 1, 2]}),
    ]
    nodes = []
    for index, (kind, more, settings) in enumerate(steps):
        made = result if index == len(steps) - 1 else f"{name}_{index}"
        nodes.append(onnx.helper.make_node(kind, [given, *more], [made], f"{name}_step{index}", **settings))
        given = made
    return nodes


def _sides(graph: onnx.GraphProto, name: str) -> tuple[int, int] | None:
    """Height and width of a tensor; None where they are not known."""
    for value in (*graph.value_info, *graph.input):
        if value.name == name:
            sizes = [size.dim_value for size in value.type.tensor_type.shape.dim[2:]]
            return (sizes[0], sizes[1]) if len(sizes) == 2 and all(sizes) else None
    return None
