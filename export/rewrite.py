"""Exact rewrites of an ONNX graph: the same function in a form that engines run better. No torch here.

fold_batch_norm(model)
model = tidy(model, {"batch"})
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.shape_inference import infer_shapes

from ganedge.runtime.errors import GanEdgeError

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
    maker = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
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
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    if index == len(node.input):
        node.input.append(name)
    else:
        node.input[index] = name


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
        raise GanEdgeError(f"the exported graph is not valid ONNX: {' '.join(str(error).split())[:300]}") from error
    inferred.producer_name, inferred.producer_version = "ganedge", ""
    return inferred
