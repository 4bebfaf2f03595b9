"""Ranges for INT8 that leave out rare values, and biases that make up for rounded weights. No torch here.

    ranges = narrowed(samples, minmax, "percentile", symmetric=True)       # tensor → (smallest, largest)
    deltas = mean_errors(prepared, low, means)                             # layer → mean error of each output channel

MinMax gives every value a step, and a single large one makes all steps coarse. A percentile leaves out the rarest;
entropy takes the range at which the rounded values are distributed most like the values (Migacz 2017, "8-bit inference
with TensorRT"); `each` takes for every tensor whichever of these rounds it with the least mean square error. What
rounded weights change in the mean is known from the mean of what they are multiplied with, and can be subtracted from
the bias (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ganedge.export import layers
from ganedge.export.graph import attributes, copied, producers

Range = tuple[float, float]
"""The smallest and the largest value of a tensor."""
Method = Literal["minmax", "percentile", "entropy", "each"]
METHODS: tuple[Method, ...] = get_args(Method)
"""Ways to find a range, in the order of what they cost."""


@dataclass(frozen=True)
class Way:
    """How INT8 is calibrated."""

    method: Method = "minmax"
    """How ranges are found."""
    corrected: bool = False
    """Whether biases make up for the mean error of rounded weights."""
    bits: Literal[7, 8] = 8
    """Of the weights. With 8 the sums of two products overflow 16 bits on x86-64 processors without VNNI, whose engines
    then clip them; with 7 they cannot."""

    def __str__(self) -> str:
        """As people read it.

        >>> str(Way()), str(Way("each", corrected=True)), str(Way(bits=7))
        ('minmax', 'each with bias correction', 'minmax with weights of 7 bits')
        """
        return (
            self.method
            + (" with bias correction" if self.corrected else "")
            + (f" with weights of {self.bits} bits" if self.bits < 8 else "")
        )


PERCENTILE = 99.99
"""Share of the values that the range holds, percent."""
BINS, LEVELS, STEP = 2048, 128, 16
"""Bins of the histogram that entropy looks at, levels of INT8 on one side of 0, and bins between two tried ranges."""
SAMPLES, EVERY = 2**14, 3
"""Values of one tensor that are kept of one call, evenly spread over it, and the rows and columns that they are taken
from: every third, as shuffles of pixels repeat with the second or fourth."""


def samples(
    model: ModelProto, names: Iterable[str], feeds: Iterable[Mapping[str, NDArray[np.generic]]]
) -> dict[str, NDArray[np.float32]]:
    """Some values of each of these tensors. Arguments as for `layers.value_ranges`."""
    wanted = list(names)
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    probed = copied(model)
    cut = {"first": [0, 0], "last": [2**31] * 2, "axes": [2, 3], "steps": [EVERY] * 2}
    probed.graph.initializer.extend(numpy_helper.from_array(np.array(cut[key], np.int64), f"few_{key}") for key in cut)
    for name in wanted:  # The graph itself leaves most pixels out, so that all tensors fit into memory at once.
        picture = ranks.get(name) == 4
        inputs = [name, *(f"few_{key}" for key in cut)] if picture else [name]
        probed.graph.node.append(helper.make_node("Slice" if picture else "Identity", inputs, [f"{name}_few"]))
        probed.graph.output.append(helper.make_tensor_value_info(f"{name}_few", TensorProto.FLOAT, None))
    session = layers.open_session(probed, [])
    taken: dict[str, list[NDArray[np.float32]]] = {name: [] for name in wanted}
    for feed in feeds if wanted else ():
        for name, array in zip(wanted, session.run([f"{name}_few" for name in wanted], feed), strict=True):
            flat = array.ravel()
            taken[name].append(flat[:: max(1, len(flat) // SAMPLES)].copy())
    return {name: np.concatenate(parts) for name, parts in taken.items() if parts}


def narrowed(
    values: Mapping[str, NDArray[np.float32]], whole: Mapping[str, Range], method: Method, *, symmetric: bool
) -> dict[str, Range]:
    """The range of each tensor by a method.

    Args:
        values: As `samples` gives them.
        whole: The smallest and the largest value of each tensor.
        method: How.
        symmetric: Whether the rounding is.
    """
    return {name: _range(values.get(name), bounds, method, symmetric) for name, bounds in whole.items()}


def _range(values: NDArray[np.float32] | None, whole: Range, method: Method, symmetric: bool) -> Range:
    if method == "minmax" or values is None or not np.isfinite(values).all() or not values.any():
        return whole
    if method == "each":
        tried = [_range(values, whole, other, symmetric) for other in METHODS if other != "each"]
        return min(tried, key=lambda bounds: rounding_error(values, bounds, symmetric))
    if method == "entropy":
        top = _entropy_top(np.abs(values))
        return max(whole[0], -top), min(whole[1], top)
    if symmetric:
        top = float(np.percentile(np.abs(values), PERCENTILE))
        return max(whole[0], -top), min(whole[1], top)
    low, high = np.percentile(values, ((100 - PERCENTILE) / 2, (100 + PERCENTILE) / 2))
    return max(whole[0], float(low)), min(whole[1], float(high))


def rounding_error(values: NDArray[np.float32], bounds: Range, symmetric: bool) -> float:
    """The mean square error of values that are rounded to 8 bits of a range, and clipped to it."""
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    step = max((high - low) / (254 if symmetric else 255), 1e-30)
    rounded = np.clip(np.round(values / step), np.round(low / step), np.round(high / step)) * step
    return float(((rounded - values) ** 2).mean())


def _entropy_top(sizes: NDArray[np.float32]) -> float:
    """The largest absolute value at which 128 levels keep the distribution best, by Kullback and Leibler."""
    counts, edges = np.histogram(sizes, BINS, (0.0, float(sizes.max())))
    divergences = {top: _divergence(counts, top) for top in range(LEVELS, BINS + 1, STEP)}
    return float(edges[min(divergences, key=lambda top: divergences[top])])


def _divergence(counts: NDArray[np.int64], top: int) -> float:
    """How far the first bins, the rest clipped into the last of them, are from the same in `LEVELS` levels."""
    inside = counts[:top].astype(np.float64)
    starts = np.arange(LEVELS) * top // LEVELS
    filled = (inside > 0).astype(np.float64)
    each = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled, starts), 1)
    levels = np.repeat(each, np.diff(np.append(starts, top))) * filled
    reference = inside.copy()
    reference[-1] += counts[top:].sum()
    reference, levels = reference / reference.sum(), levels / max(levels.sum(), 1.0)
    known = reference > 0
    return float((reference[known] * np.log(reference[known] / np.maximum(levels[known], 1e-9))).sum())


def channel_means(
    model: ModelProto, names: Iterable[str], feeds: Iterable[Mapping[str, NDArray[np.generic]]]
) -> dict[str, NDArray[np.float64]]:
    """The mean of each channel, the second axis, of tensors. Arguments as for `layers.value_ranges`."""
    shapes = {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*model.graph.input, *model.graph.value_info)
    }
    wanted = [name for name in names if shapes.get(name) in (2, 4)]
    probed = copied(model)
    for name in wanted:  # The graph finds the means of pictures itself, so that no more is kept than is needed.
        op = "GlobalAveragePool" if shapes[name] == 4 else "Identity"
        probed.graph.node.append(helper.make_node(op, [name], [f"{name}_mean"]))
        probed.graph.output.append(helper.make_tensor_value_info(f"{name}_mean", TensorProto.FLOAT, None))
    session = layers.open_session(probed, [])
    sums = {name: np.zeros(1) for name in wanted}
    calls = 0
    for feed in feeds if wanted else ():
        results = session.run([f"{name}_mean" for name in wanted], feed)
        for name, result in zip(wanted, results, strict=True):
            sums[name] = sums[name] + result.reshape(*result.shape[:2]).astype(np.float64).mean(0)
        calls += 1
    return {name: total / calls for name, total in sums.items()} if calls else {}


def mean_errors(
    prepared: ModelProto, low: ModelProto, means: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float32]]:
    """What rounded weights add to the mean of each output channel: E[(W' - W) x] = (W' - W) E[x].

    Args:
        prepared: The FP32 graph.
        low: What became of it.
        means: The mean of each channel of what layers read, as `channel_means` gives them.

    Returns:
        By layer, for those with weights, a bias and a mean; pictures' borders are taken for their inside.
    """
    weights = {tensor.name: tensor for tensor in prepared.graph.initializer}
    rounded = _rounded_weights(low)
    errors = {}
    for node in prepared.graph.node:
        computed = any(node.input[2:3]) and node.input[2] not in weights
        known = node.name in rounded and node.input[0] in means and node.input[1] in weights and not computed
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and known:
            whole = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64)
            errors[node.name] = _mean_of(node, rounded[node.name] - whole, means[node.input[0]])
    return {name: error.astype(np.float32) for name, error in errors.items()}


def _rounded_weights(low: ModelProto) -> dict[str, NDArray[np.float64]]:
    """The weights of each INT8 layer as it computes with them."""
    makers, tensors = producers(low.graph), {tensor.name: tensor for tensor in low.graph.initializer}
    rounded = {}
    for node in low.graph.node:
        maker = makers.get(node.input[1]) if len(node.input) > 1 else None
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in tensors:
            continue
        whole, scale = (numpy_helper.to_array(tensors[name]).astype(np.float64) for name in maker.input[:2])
        if scale.ndim:
            scale = scale.reshape([-1 if axis == attributes(maker).get("axis", 1) else 1 for axis in range(whole.ndim)])
        rounded[node.name] = whole * scale
    return rounded


def _mean_of(node: NodeProto, change: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of a layer's result with these weights, for inputs of these means."""
    options: dict[str, Any] = attributes(node)
    if node.op_type == "Gemm":
        return np.asarray(options.get("alpha", 1.0) * (means @ (change.T if options.get("transB", 0) else change)))
    groups, taps = options.get("group", 1), change.sum(axis=tuple(range(2, change.ndim)))
    parts = means.reshape(groups, -1)
    if node.op_type == "Conv":  # [out, in / groups]
        return np.asarray(np.einsum("goc,gc->go", taps.reshape(groups, -1, taps.shape[1]), parts)).ravel()
    each: NDArray[np.float64] = np.einsum(
        "gco,gc->go", taps.reshape(groups, -1, taps.shape[1]), parts
    ).ravel()  # [in, out / groups]
    return each / float(math.prod(options.get("strides", [1])))  # A pixel is reached by so many of the kernel's taps.


def with_corrected_biases(prepared: ModelProto, errors: Mapping[str, NDArray[np.float32]]) -> ModelProto:
    """The FP32 graph with each layer's mean error subtracted from its bias."""
    model = copied(prepared)
    for node in model.graph.node:
        if node.name in errors:
            bias = corrected_bias(prepared, node, errors[node.name])
            name = f"{node.name}_corrected_bias"
            model.graph.initializer.append(numpy_helper.from_array(bias, name))
            del node.input[2:]
            node.input.append(name)
    return model


def corrected_bias(prepared: ModelProto, node: NodeProto, error: NDArray[np.float32]) -> NDArray[np.float32]:
    """A layer's bias less its mean error, of the shape that the bias has."""
    own = node.input[2] if len(node.input) > 2 and node.input[2] else ""
    bias = next((numpy_helper.to_array(tensor) for tensor in prepared.graph.initializer if tensor.name == own), None)
    beta = attributes(node).get("beta", 1.0) if node.op_type == "Gemm" else 1.0
    return np.asarray((np.zeros(1) if bias is None else bias) - error / (beta or 1.0), np.float32)
