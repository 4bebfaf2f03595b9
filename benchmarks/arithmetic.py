"""How much there is to compute, and how much this machine can.

    macs = multiply_accumulates(model, {"latent": (1, 100)})        # of one call, from the ONNX graph
    peak = peak_flops(threads=2, device="cpu")                      # FLOP/s of a large FP32 matrix product

A multiply-accumulate is two floating-point operations. Only convolutions and matrix products are counted; what
normalisation, activations and padding cost shows as a lower share of the peak.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices that the peak is measured with."""
ROOF_SECONDS = 0.5
"""How long the peak is looked for."""


def multiply_accumulates(model: bytes, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Count a graph's multiply-accumulates for inputs of these shapes.

    Returns:
        The count, or None where the package onnx is not installed or a shape in the graph cannot be inferred.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        return None
    graph = onnx.load_from_string(model)
    for value in graph.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = int(size)
    for value in graph.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(graph, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return None
    known: dict[str, list[int]] = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        known[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    counts = [_of_node(node, known) for node in inferred.node]
    return None if any(count is None for count in counts) else sum(count or 0 for count in counts)


def _of_node(node: object, known: Mapping[str, list[int]]) -> int | None:
    """One node's count; 0 for what is not counted, None where a shape is missing."""
    kind, inputs = node.op_type, list(node.input)  # type: ignore[attr-defined]
    if kind not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    given, weights = known.get(inputs[0]), known.get(inputs[1])
    out = known.get(node.output[0])  # type: ignore[attr-defined]
    if not given or not weights or not out or 0 in (*given, *weights, *out):
        return None
    if kind == "Conv":  # weights [out, in / groups, *kernel]: each output value sums over the rest.
        return math.prod(out) * math.prod(weights[1:])
    if kind == "ConvTranspose":  # weights [in, out / groups, *kernel]: each input value is spread over the rest.
        return math.prod(given) * math.prod(weights[1:])
    transposed = kind == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)  # type: ignore[attr-defined]
    return math.prod(out) * given[-2 if transposed else -1]


def peak_flops(threads: int, device: str) -> tuple[float | None, str]:
    """The most FLOP/s that a square FP32 matrix product reaches here, and how that was found out.

    Returns:
        FLOP/s, or None with the reason where PyTorch, which pins the threads, is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        return None, "not measured: PyTorch is not installed"
    torch.set_num_threads(threads)
    side = SIDE[device]
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    times: list[float] = []
    end = time.perf_counter() + ROOF_SECONDS
    while time.perf_counter() < end or len(times) < 3:
        begin = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return 2 * side**3 / float(np.min(times)), f"FP32 matrix product {side} × {side}, PyTorch, best of {len(times)}"
