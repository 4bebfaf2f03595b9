"""Exact rewrites of an ONNX graph: the same function in a form that engines run better. No torch here.

fold_batch_norm(model)
model = tidy(model, {"batch"})
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.shape_inference import infer_shapes

from ganedge.export.graph import attributes, consumer_counts, producers, size_remainders
from ganedge.runtime.errors import GanEdgeError, one_line

ONNX_DOMAINS = ("", "ai.onnx")
BLOCKS = (4, 2)
"""Sides of the blocks of pixels that a convolution with few output channels may compute at once."""
BLOCK_CHANNELS = 48
"""The most output channels that such a convolution may have afterwards: 3 × 4 × 4, or 12 × 2 × 2."""


@dataclass(frozen=True)
class Phases:
    """A convolution whose channels are the phases of a larger result, which a pixel shuffle puts in order."""

    weight: np.ndarray
    """`[factor²·C, Cin, D, D]`, rows as (C, a, b)."""
    factor: int
    """How often the shuffle enlarges."""
    pads: list[int]
    """Of the convolution."""
    stride: int = 1
    """Of the convolution."""
    crop: tuple[int, int] = (0, 0)
    """Rows to cut from the top and the bottom after the shuffle; columns alike."""

    def work(self, height: int, width: int) -> int:
        """Multiply-accumulates for one input of this size."""
        more = self.pads[0] + self.pads[2] + 1 - self.weight.shape[2]
        return int((height + more) * (width + more) * self.weight.size)


def fold_batch_norm(model: ModelProto) -> int:
    """Fold each BatchNormalization into the Conv, ConvTranspose or Gemm before it, in place.

    y = s·(W x + b - m) + t with s = γ/√(σ² + ε) becomes (s·W) x + s·(b - m) + β. It is done where nothing else reads
    the inner result, also through a nearest or linear Resize, whose weights have the sum 1; a normalisation that
    follows an activation stays.

    Returns:
        How many were folded.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    maker, readers = producers(graph), consumer_counts(graph)
    folded: list[NodeProto] = []
    for norm in graph.node:
        before = maker.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if before is None or readers[norm.input[0]] != 1:
            continue
        layer: NodeProto | None = before
        if _resizes_pictures(before, weights) and readers[before.input[0]] == 1:
            layer = maker.get(before.input[0])
        if layer is None or not _foldable(layer, norm, weights):
            continue
        _fold(layer, norm, weights, graph)
        before.output[0] = norm.output[0]
        folded.append(norm)
    for norm in folded:
        graph.node.remove(norm)
    return len(folded)


def _resizes_pictures(node: NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node makes each new pixel from others of its channel, with weights whose sum is 1."""
    if node.op_type != "Resize" or len(node.input) < 3 or node.input[2] not in weights:
        return False
    settings, scales = attributes(node), numpy_helper.to_array(weights[node.input[2]])
    inside = settings.get("coordinate_transformation_mode", b"half_pixel") != b"tf_crop_and_resize"
    averages = settings.get("mode", b"nearest") in (b"nearest", b"linear") and "axes" not in settings
    return inside and averages and len(scales) == 4 and bool((scales[:2] == 1).all())


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
        channels_last: For an engine whose convolutions are channels-last: shuffle in rows of channels, see
            `_as_shuffle`, and take the windows that cost it least, see `_for_channels_last`.

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
        transposed = _transposed(layer, weights, layer.input[0] in pixels)
        if transposed is not None:
            plan = _for_channels_last(graph, layer, *transposed) if channels_last else _phases(*transposed)
            _as_shuffle(model, layer, plan, channels_last)
            done += 1
    return done


def upsampled_to_shuffle(model: ModelProto, *, channels_last: bool = False) -> int:
    """Turn each nearest-neighbour doubling followed by a Conv into a Conv on the small picture and a pixel shuffle.

    A convolution with kernel K = 2·p + 1 over a doubled picture is a transposed convolution of stride 2 and padding p
    with K + 1 weights: two weights that meet one pixel add up, w'[m] = w[K - 1 - m] + w[K - m]. In place.

    Args:
        model: With inferred shapes.
        channels_last: As for `transposed_to_shuffle`.

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
        transposed = _doubled(layer, weights)
        if transposed is not None:
            layer.input[0] = resize.input[0]
            graph.node.remove(resize)
            plan = _for_channels_last(graph, layer, *transposed) if channels_last else _phases(*transposed)
            _as_shuffle(model, layer, plan, channels_last)
            done += 1
    return done


def few_channels_to_blocks(model: ModelProto) -> int:
    """Turn each Conv with few output channels into one that computes blocks of pixels, and a pixel shuffle, in place.

    ONNX Runtime's INT8 convolution first copies the window of each result pixel; with three output channels nearly all
    of its time goes there. One window that is g - 1 wider serves g² pixels: result row o = g·i + j takes row
    g·i + (j + k) of the window's start, so weight row k moves to row j + k of a kernel of K + g - 1 rows and stride g.
    The extra weights are zero. A Conv that a pixel shuffle follows already keeps that one, and the two stay apart.

    It is done where the result's sides are multiples of g, known from the sizes or from the layers before.

    Args:
        model: With inferred shapes.

    Returns:
        How many were rewritten.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    remainders = size_remainders(graph)
    done = 0
    for layer in [node for node in graph.node if node.op_type == "Conv"]:
        weight = _plain_weight(layer, weights)
        if weight is None or weight.shape[2] == 1:
            continue
        sides, (modulus, remainder) = _sides(graph, layer.output[0]), remainders[layer.output[0]]
        for block in BLOCKS:
            fits = not any(side % block for side in sides) if sides else modulus % block == remainder % block == 0
            if fits and len(weight) * block**2 <= BLOCK_CHANNELS:
                pads = [int(value) for value in attributes(layer).get("pads", [0] * 4)]
                _as_shuffle(model, layer, _in_blocks(Phases(weight, 1, pads), block), True)
                done += 1
                break
    return done


def _plain_weight(layer: NodeProto, weights: dict[str, onnx.TensorProto]) -> np.ndarray | None:
    """Weights `[C, Cin, K, K]` of a Conv of stride 1 in one group; None of another one."""
    options = attributes(layer)
    unit = all(set(options.get(name, [1])) == {1} for name in ("strides", "dilations"))
    explicit = options.get("auto_pad", b"NOTSET") == b"NOTSET" and options.get("group", 1) == 1
    if layer.input[1] not in weights or not unit or not explicit:
        return None
    weight = numpy_helper.to_array(weights[layer.input[1]])
    return weight if weight.ndim == 4 and weight.shape[2] == weight.shape[3] else None


def _in_blocks(plan: Phases, block: int) -> Phases:
    """The same in blocks of pixels: the window moved to each pixel of a block, one set of channels for each."""
    s, (inputs, side) = plan.factor, plan.weight.shape[1:3]
    weight = plan.weight.reshape(-1, s, s, inputs, side, side)
    wide = np.zeros((len(weight), block, s, block, s, inputs, *[side + block - 1] * 2), weight.dtype)
    for j, i in np.ndindex(block, block):
        wide[:, j, :, i, :, :, j : j + side, i : i + side] = weight
    return Phases(wide.reshape(-1, *wide.shape[5:]), block * s, plan.pads, stride=block)


def _transposed(
    layer: NodeProto, weights: dict[str, onnx.TensorProto], pixel: bool
) -> tuple[np.ndarray, int, int] | None:
    """Weights `[Cin, C, K, K]`, stride and padding of a ConvTranspose; None where the layer is of another kind.

    Where one pixel goes in (`pixel`) the stride is of no account, and the whole kernel may stand for it.
    """
    options = attributes(layer)
    if layer.input[1] not in weights or options.get("group", 1) != 1 or options.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    weight = numpy_helper.to_array(weights[layer.input[1]])
    stride, extra = set(options.get("strides", [1, 1])), set(options.get("output_padding", [0, 0]))
    pads, kernel = set(options.get("pads", [0] * 4)), set(weight.shape[2:])
    square = weight.ndim == 4 and all(len(part) == 1 for part in (stride, extra, pads, kernel))
    if not square or "output_shape" in options or set(options.get("dilations", [1])) != {1}:
        return None
    s, p, k, more = stride.pop(), pads.pop(), kernel.pop(), extra.pop()
    if pixel and p == more == 0:
        s = k
    return (weight, s, p) if k + more - 2 * p == s else None


def _doubled(layer: NodeProto, weights: dict[str, onnx.TensorProto]) -> tuple[np.ndarray, int, int] | None:
    """The same of a Conv over a doubled picture, see `upsampled_to_shuffle`."""
    weight = _plain_weight(layer, weights)
    pads = set(attributes(layer).get("pads", [0] * 4))
    if weight is None or len(pads) != 1 or weight.shape[2] != 2 * max(pads) + 1:
        return None
    outputs, inputs, k, _ = weight.shape
    wide = np.zeros((inputs, outputs, k + 1, k + 1), np.float64)
    for j, i in np.ndindex(2, 2):  # Of two rows that meet one pixel, and of two columns.
        wide[:, :, j : j + k, i : i + k] += weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return wide.astype(weight.dtype), 2, int(max(pads))


def _phases(weight: np.ndarray, s: int, p: int) -> Phases:
    """All phases over one window that is wide enough for each of them."""
    inputs, outputs, k, _ = weight.shape
    taps = {(a, d): a + p - s * d for a in range(s) for d in range(-k, k + 1) if 0 <= a + p - s * d < k}
    low, high = min(d for _, d in taps), max(d for _, d in taps)
    side = high - low + 1
    phases = np.zeros((outputs, s, s, inputs, side, side), weight.dtype)
    for (a, dy), ky in taps.items():
        for (b, dx), kx in taps.items():
            phases[:, a, b, :, dy - low, dx - low] = weight[:, :, ky, kx].T
    return Phases(phases.reshape(outputs * s * s, inputs, side, side), s, [-low, -low, high, high])


def _cropped_phases(weight: np.ndarray, s: int, p: int) -> Phases:
    """All phases over the smallest window, with the transposed convolution's padding cut off after the shuffle.

    Without padding, result row o = s·i + a takes input row i - t with weight row a + s·t, for t from 0 to ⌈K/s⌉ - 1
    whatever the phase. For a kernel of 4 and a stride of 2 these are 2 × 2 weights instead of 3 × 3.
    """
    inputs, outputs, k, _ = weight.shape
    side = -(-k // s)
    phases = np.zeros((outputs, s, s, inputs, side, side), weight.dtype)
    for ky, kx in np.ndindex(k, k):
        (ty, a), (tx, b) = divmod(ky, s), divmod(kx, s)
        phases[:, a, b, :, side - 1 - ty, side - 1 - tx] = weight[:, :, ky, kx].T
    flat = phases.reshape(outputs * s * s, inputs, side, side)
    return Phases(flat, s, [side - 1] * 4, crop=(p, s * (side - 1) - p))


def _for_channels_last(graph: onnx.GraphProto, layer: NodeProto, weight: np.ndarray, s: int, p: int) -> Phases:
    """The phases that cost ONNX Runtime's INT8 convolution least, which copies the window of each result pixel.

    Blocks of pixels where channels are few, else whichever has fewer multiply-accumulates.
    """
    plan = _phases(weight, s, p)
    sides = _sides(graph, layer.input[0])
    for block in BLOCKS if sides is not None and plan.stride == 1 < plan.weight.shape[2] else ():
        if not any(side % block for side in sides or ()) and len(plan.weight) * block**2 <= BLOCK_CHANNELS:
            return _in_blocks(plan, block)
    cropped = _cropped_phases(weight, s, p)
    height, width = sides or (64, 64)
    return min(plan, cropped, key=lambda each: each.work(height, width))


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


def _as_shuffle(model: ModelProto, layer: NodeProto, plan: Phases, channels_last: bool) -> None:
    """Make the layer a Conv that computes phases, and put the shuffle (and an activation before it) behind it.

    With `channels_last` the shuffle is one of whole rows of channels, [N, H, W, s, s, C] to [N, H, s, W, s, C], between
    two transpositions to and from that order. An engine that keeps its INT8 convolutions in that order, as ONNX Runtime
    does, drops those two, and copies rows where DepthToSpace moves single bytes. It takes a size that is known.
    """
    graph = model.graph
    weight, factor = plan.weight, plan.factor
    sides = _sides(graph, layer.output[0]) if channels_last and factor > 1 else None
    if sides is not None:  # Rows of the weights in the order (s, s, C) instead of (C, s, s).
        sides = (sides[0] + sum(plan.crop)) // factor, (sides[1] + sum(plan.crop)) // factor
        weight = np.moveaxis(weight.reshape(-1, factor, factor, *weight.shape[1:]), 0, 2).reshape(weight.shape)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    last = layer
    if factor > 1:
        readers = [node for node in graph.node if layer.output[0] in node.input]
        is_output = layer.output[0] in {output.name for output in graph.output}
        if len(readers) == 1 and readers[0].op_type in ("Relu", "LeakyRelu") and not is_output:
            last = readers[0]
    stem = layer.input[1]
    if len(layer.input) > 2 and layer.input[2]:
        bias = numpy_helper.to_array(weights[layer.input[2]])
        phases = np.repeat(bias, factor * factor) if sides is None else np.tile(bias, factor * factor)
        _replace_input(layer, 2, f"{layer.input[2]}_phases", phases, graph)
    _replace_input(layer, 1, f"{stem}_phases", weight, graph)
    layer.op_type = "Conv"
    del layer.attribute[:]
    settings = {"kernel_shape": list(weight.shape[2:]), "pads": plan.pads, "strides": [plan.stride] * 2}
    layer.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in settings.items())
    if factor == 1:
        return
    result = last.output[0]
    inner = f"{result}_phases"
    last.output[0] = inner
    if last is not layer:
        layer.output[0] = f"{layer.output[0]}_phases"
        last.input[0] = layer.output[0]
    nodes = _shuffle_and_crop(graph, inner, result, f"{layer.name}_shuffle", plan, sides)
    index = list(graph.node).index(last) + 1
    for node in reversed(nodes):
        graph.node.insert(index, node)


def _shuffle_and_crop(
    graph: onnx.GraphProto, given: str, result: str, name: str, plan: Phases, sides: tuple[int, int] | None
) -> list[NodeProto]:
    """The nodes from the phases to the result; `sides` are those of the phases, None: shuffle with DepthToSpace."""
    crop = None
    if any(plan.crop):
        crop = [f"{name}_{part}" for part in ("begin", "end", "axes")]
        axes = [2, 3] if sides is None else [1, 2]
        values = ([plan.crop[0]] * 2, [-plan.crop[1] or 2**62] * 2, axes)
        graph.initializer.extend(
            numpy_helper.from_array(np.array(value, np.int64), key) for key, value in zip(crop, values, strict=True)
        )
    if sides is not None:
        return _row_shuffle(graph, given, result, name, plan, sides, crop)
    inner = result if crop is None else f"{name}_whole"
    nodes = [onnx.helper.make_node("DepthToSpace", [given], [inner], name, blocksize=plan.factor, mode="CRD")]
    if crop is not None:
        nodes.append(onnx.helper.make_node("Slice", [inner, *crop], [result], f"{name}_crop"))
    return nodes


def _row_shuffle(
    graph: onnx.GraphProto,
    given: str,
    result: str,
    name: str,
    plan: Phases,
    sides: tuple[int, int],
    crop: list[str] | None,
) -> list[NodeProto]:
    """The nodes of a pixel shuffle in rows of channels."""
    (height, width), factor = sides, plan.factor
    channels = len(plan.weight) // factor**2
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
        *([] if crop is None else [("Slice", crop, {})]),
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
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.name == name:
            sizes = [size.dim_value for size in value.type.tensor_type.shape.dim[2:]]
            return (sizes[0], sizes[1]) if len(sizes) == 2 and all(sizes) else None
    return None
