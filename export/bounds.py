"""Compute from the last operators of a graph the range of its result. No torch here.

    output_bounds(model, "image")           # (0.0, 1.0) behind a sigmoid; None where nothing bounds it

A generator that ends in a sigmoid has 0 and 1 for black and white; without --range they would be taken for -1 and 1.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from ganedge.export.graph import attributes, constants, producers
from ganedge.export.source import SourceSpec
from ganedge.export.source_model import SourceModel

Bounds = tuple[float, float]
"""The least and the largest value."""
BOUNDED: Mapping[str, Bounds] = {
    **dict.fromkeys(("Tanh", "Softsign", "Erf"), (-1.0, 1.0)),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), (0.0, 1.0)),
}
"""Operators with a bounded result, and its bounds."""
MOVING = frozenset(
    {
        *("Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile"),
        *("Slice", "Gather", "DepthToSpace", "SpaceToDepth", "AveragePool", "MaxPool"),
    }
)
"""Operators whose result consists of the values that go in, or of their averages."""
RANGES = "ranges"
"""Key in the manifest's source of the input's and the result's black and white, where they were found here."""
DEPTH = 40
"""Operators to follow from the result at most."""


def output_bounds(model: ModelProto, name: str) -> Bounds | None:
    """Return the range of a tensor, as its last operators bound it.

    Args:
        model: With the weights inside.
        name: A tensor's name.

    Returns:
        The least and the largest value, the same for each channel; None where they are not bounded.

    >>> from onnx import TensorProto, helper
    >>> ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", "y")]
    >>> sigmoid = helper.make_node("Sigmoid", ["x"], ["y"])
    >>> output_bounds(helper.make_model(helper.make_graph([sigmoid], "g", ports[:1], ports[1:])), "y")
    (0.0, 1.0)
    """
    bounds = _Walk(model).bounds(name)
    if bounds is None or not all(map(math.isfinite, bounds)) or bounds[0] >= bounds[1]:
        return None
    return round(bounds[0], 6) + 0.0, round(bounds[1], 6) + 0.0


def with_bounded_range(model: SourceModel, spec: SourceSpec) -> SourceModel:
    """Set black and white to the range that the last operators of a foreign graph have, unless the user stated one.

    The input is assumed to have the same range, unless `range`, or `mean` and `std`, are stated.
    """
    output = model.interface.output
    if output.role != "image" or output.dtype != "float32" or spec.range or spec.output_range:
        return model
    bounds = output_bounds(model.model, output.name)
    if bounds is None or bounds == output.range:
        return model
    inputs = tuple(
        replace(port, range=bounds) if port.range and port.dtype == "float32" and not (spec.mean or spec.std) else port
        for port in model.interface.inputs
    )
    scope = "" if inputs == model.interface.inputs else ", of its input too"
    note = (
        f"its last layers give values between {bounds[0]:g} and {bounds[1]:g}, which are taken for black and white"
        f"{scope}; --range states others"
    )
    extras = (
        replace(port, range=output_bounds(model.model, port.name) or bounds) if port.role == "image" else port
        for port in model.interface.extras
    )
    interface = replace(model.interface, inputs=inputs, outputs=(replace(output, range=bounds), *extras))
    ranges = {RANGES: [list(inputs[0].range or bounds), list(bounds)]}
    source = replace(model.source, config={**model.source.config, **ranges})
    return replace(model, interface=interface, source=source, notes=(*model.notes, note))


class _Walk:
    """A walk from a tensor back to the operator that bounds it."""

    def __init__(self, model: ModelProto) -> None:
        self._made_by, self._known = producers(model.graph), constants(model.graph)

    def bounds(self, name: str, depth: int = DEPTH) -> Bounds | None:
        """Return the bounds of a tensor, following at most `depth` operators."""
        node = self._made_by.get(name)
        if node is None or depth == 0:
            return None
        if node.op_type in BOUNDED:
            return BOUNDED[node.op_type]
        if node.op_type in MOVING or _is_interpolation(node):
            return self.bounds(node.input[0], depth - 1)
        if node.op_type == "Concat":
            parts = [self.bounds(item, depth - 1) for item in node.input]
            known = [part for part in parts if part is not None]
            return (min(p[0] for p in known), max(p[1] for p in known)) if len(known) == len(parts) else None
        if node.op_type in ("Clip", "Relu"):
            limits = (0.0, None) if node.op_type == "Relu" else self._limits(node)
            return _clipped(self.bounds(node.input[0], depth - 1), *limits)
        return self._computed(node, depth) if node.op_type in ("Add", "Sub", "Mul", "Div") else None

    def _limits(self, node: NodeProto) -> tuple[float | None, float | None]:
        """Return the least and the largest value that Clip leaves; None where there is no limit."""
        low, high = [self._number(item) for item in (*node.input[1:], "", "")[:2]]
        return low, high

    def _computed(self, node: NodeProto, depth: int) -> Bounds | None:
        """Return the bounds of a sum, difference, product or quotient with a number, or of a product of tensors."""
        numbers = [self._number(item) for item in node.input]
        left, right = [
            (number, number) if number is not None else self.bounds(item, depth - 1)
            for number, item in zip(numbers, node.input, strict=True)
        ]
        is_product = node.op_type == "Mul"
        if left is None or right is None or (None not in (*numbers,)) or (numbers == [None, None] and not is_product):
            return None
        if node.op_type == "Div" and (numbers[1] is None or numbers[1] == 0):
            return None
        compute = {"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": operator.truediv}[node.op_type]
        corners = [compute(a, b) for a in left for b in right]
        return min(corners), max(corners)

    def _number(self, name: str) -> float | None:
        """Return the value of a constant that is the same everywhere; None for others."""
        tensor = self._known.get(name)
        if tensor is None or math.prod(tensor.dims) not in range(1, 4096):
            return None
        values = numpy_helper.to_array(tensor)
        return float(values.flat[0]) if np.isreal(values).all() and (values == values.flat[0]).all() else None


def _clipped(inner: Bounds | None, low: float | None, high: float | None) -> Bounds:
    """Return what limits leave of bounds; infinite where there is none."""
    least, most = inner or (-math.inf, math.inf)
    least, most = (max(value, low if low is not None else -math.inf) for value in (least, most))
    return min(least, high if high is not None else math.inf), min(most, high if high is not None else math.inf)


def _is_interpolation(node: NodeProto) -> bool:
    """Does an operator make new pixels between others, which never leave their range?"""
    settings = attributes(node)
    if node.op_type == "Resize":
        return settings.get("mode", b"nearest") in (b"nearest", b"linear")
    return node.op_type == "Pad" and settings.get("mode", b"constant") != b"constant"
