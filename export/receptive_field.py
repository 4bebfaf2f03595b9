"""Receptive field of an output pixel, computed from a graph alone. No torch here.

    reach = find_reach(model, interface)            # input pixels on each side, or None

Tiles that overlap by this many pixels give the whole picture's result. Element i of a tensor depends on the input
pixels `scale·i - before` to `scale·i + after`, and each operator's own window widens that (Araujo et al. 2019,
"Computing Receptive Fields of Convolutional Neural Networks", section 2). An operator that is not known here, or that
looks at the whole picture, makes the answer None: a wrong number would show as seams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from ganedge.export.graph import attributes, constants
from ganedge.runtime.manifest import Interface, relation_of
from ganedge.runtime.pictures.tiles import MAX_SIDE

NCHW, NHWC = (2, 3), (1, 2)
"""Axes of height and width."""
ONE_BY_ONE = frozenset(
    {
        *("Identity", "Cast", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Sigmoid", "HardSigmoid"),
        *("HardSwish", "Softplus", "Softsign", "Tanh", "Erf", "Clip", "Neg", "Abs", "Exp", "Log", "Sqrt", "Round"),
        *(
            "Floor",
            "Ceil",
            "Sin",
            "Cos",
            "Reciprocal",
            "Sign",
            "Swish",
            "Mish",
            "ThresholdedRelu",
            "BatchNormalization",
        ),
        *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mean", "Sum", "Where", "Less", "Greater", "Equal", "And"),
        *("LessOrEqual", "GreaterOrEqual", "Or", "Not", "QuantizeLinear", "DequantizeLinear", "Dropout", "Mod"),
    }
)
"""Operators of which an element depends on the elements at its own position alone."""
WHERE = "coordinate_transformation_mode"
MOST = MAX_SIDE // 4
"""Pixels by which tiles can overlap, at most."""
FAR = 2**31 - 1
"""Ends of slices from here on mean the end of the axis, as exporters write it."""


@dataclass(frozen=True)
class Span:
    """Which input pixels along one axis element i depends on: `scale·i - before` to `scale·i + after`."""

    scale: Fraction = Fraction(1)
    before: Fraction = Fraction(0)
    after: Fraction = Fraction(0)

    def seen(self, step: int | Fraction, before: int | Fraction, after: int | Fraction) -> Span:
        """The span of a result whose element o depends on the elements `step·o - before` to `step·o + after`."""
        scale = self.scale
        return Span(scale * step, self.before + scale * before, self.after + scale * after)


@dataclass(frozen=True)
class Window:
    """What an element of a tensor depends on, along height and width."""

    spans: tuple[Span, Span] = (Span(), Span())
    axes: tuple[int, int] = NCHW
    """Height and width among the tensor's axes."""

    def each(self, change: Callable[[Span, int], Span]) -> Window:
        """The window with each span changed by a function of it and its axis."""
        height, width = (change(span, axis) for span, axis in zip(self.spans, self.axes, strict=True))
        return replace(self, spans=(height, width))


class _UnknownError(Exception):
    """The window of a tensor is not known, or has no end."""


Fixed = Mapping[str, NDArray[Any]]
Rule = Callable[[NodeProto, Window, Fixed], Window]


def find_reach(model: ModelProto, interface: Interface) -> int | None:
    """Find how many input pixels on each side of its own position an output pixel depends on.

    Args:
        model: The graph of a generator.
        interface: What it takes and gives, its size multiple found.

    Returns:
        Input pixels, a bound that is exact for convolutions; None where the generator takes no pictures, where it has
        no bound or one above `MOST`, or where an operator is not known.
    """
    if interface.kind != "image-to-image":
        return None
    try:
        window = _walked(model, interface)
        _need(window.axes == (NCHW if interface.output.layout == "NCHW" else NHWC))
        sides = zip(window.spans, interface.output.sides, strict=True)
        reach = max(_distance(span, side) for span, side in sides)
    except _UnknownError:
        return None
    return reach if reach <= MOST else None


def _distance(span: Span, side: int | str) -> int:
    """Pixels from an output pixel's own position, in the middle of what a missing border leaves, to the furthest."""
    stated = relation_of(side)
    _need(stated is None or stated.scale * span.scale == 1)
    border = Fraction(0 if stated is None else stated.border, 2) * span.scale
    return max(math.floor(span.before + border), math.ceil(span.after - border), 0)


def _walked(model: ModelProto, interface: Interface) -> Window:
    """The window of the output. Raises _UnknownError."""
    graph, first = model.graph, interface.inputs[0]
    fixed = {name: numpy_helper.to_array(tensor) for name, tensor in constants(graph).items()}
    known: dict[str, Window | None] = {}
    for port in interface.inputs:  # None: the same for the whole picture.
        aligned = port is first or interface.is_aligned(port)
        known[port.name] = Window(axes=NCHW if port.layout == "NCHW" else NHWC) if aligned else None
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        window = _window(node, known, fixed)
        if window is not None:  # Otherwise a tile may begin in the middle of an element.
            _need(all(first.multiple % span.scale == 0 for span in window.spans))
        known.update(dict.fromkeys(node.output, window))
    result = known.get(graph.output[0].name)
    if result is None:
        raise _UnknownError
    return result


def _window(node: NodeProto, known: Mapping[str, Window | None], fixed: Fixed) -> Window | None:
    """The window of what a node makes; None where that is the same for the whole picture. Raises _UnknownError."""
    _need(node.domain in ("", "ai.onnx") and node.op_type != "Shape")
    _need(all(name in known or name in fixed for name in node.input if name))
    windows = [known[name] for name in node.input if name in known]
    pictures = [window for window in windows if window is not None]
    if not pictures:
        _check_uniform(node, fixed)
        return None
    if node.op_type in ONE_BY_ONE:
        return _joined(node, pictures, fixed)
    if node.op_type == "Concat":
        return _beside(node, pictures)
    _need(node.op_type in RULES and len(windows) == 1 and node.input[0] in known)
    return RULES[node.op_type](node, pictures[0], fixed)


def _check_uniform(node: NodeProto, fixed: Fixed) -> None:
    """Accept what is computed from vectors or labels alone, unless it becomes a map of many pixels."""
    if node.op_type == "Reshape":
        shape = fixed.get(node.input[1])
        _need(shape is not None and (shape.size <= 2 or set(shape[2:].tolist()) == {1}))
    _need(node.op_type not in ("Tile", "Resize", "ConvTranspose", "DepthToSpace", "Pad") and bool(node.input))


def _joined(node: NodeProto, windows: list[Window], fixed: Fixed) -> Window:
    """The window of an operator that works position by position."""
    by_channel = node.op_type == "BatchNormalization" or (node.op_type == "PRelu" and fixed[node.input[1]].ndim == 1)
    for name in node.input:
        if name in fixed and not by_channel:  # A constant with a height and a width depends on the position.
            shape = (1,) * (4 - fixed[name].ndim) + fixed[name].shape
            _need(len(shape) == 4 and all(shape[axis] == 1 for axis in windows[0].axes))
    return _merged(windows)


def _beside(node: NodeProto, windows: list[Window]) -> Window:
    """The window of channels side by side."""
    _need(len(windows) == len(node.input) and attributes(node)["axis"] % 4 not in windows[0].axes)
    return _merged(windows)


def _merged(windows: list[Window]) -> Window:
    """The least window that contains all."""
    first = windows[0]
    _need(all(each.axes == first.axes for each in windows))
    spans = []
    for along in zip(*(each.spans for each in windows), strict=True):
        _need(len({span.scale for span in along}) == 1)
        spans.append(Span(along[0].scale, max(s.before for s in along), max(s.after for s in along)))
    return replace(first, spans=(spans[0], spans[1]))


def _convolution(node: NodeProto, window: Window, fixed: Fixed) -> Window:
    """Element o depends on o·stride - pad to o·stride - pad + dilation·(kernel - 1)."""
    geometry = _geometry(node, window, fixed)

    def change(span: Span, axis: int) -> Span:
        kernel, stride, pad, dilation = geometry[axis]
        return span.seen(stride, pad, dilation * (kernel - 1) - pad)

    return window.each(change)


def _transposed(node: NodeProto, window: Window, fixed: Fixed) -> Window:
    """Element o depends on (o + pad - dilation·(kernel - 1)) / stride to (o + pad) / stride."""
    geometry = _geometry(node, window, fixed)
    _need("output_shape" not in attributes(node))

    def change(span: Span, axis: int) -> Span:
        kernel, stride, pad, dilation = geometry[axis]
        return span.seen(*(Fraction(each, stride) for each in (1, dilation * (kernel - 1) - pad, pad)))

    return window.each(change)


def _geometry(node: NodeProto, window: Window, fixed: Fixed) -> dict[int, tuple[int, int, int, int]]:
    """Kernel, stride, pad before and dilation of a convolution or pooling, by axis."""
    options = attributes(node)
    kernel = options.get("kernel_shape")
    if kernel is None and len(node.input) > 1 and node.input[1] in fixed:
        kernel = list(fixed[node.input[1]].shape[2:])
    usual = options.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and not options.get("ceil_mode", 0)
    _need(window.axes == NCHW and usual)
    if kernel is None or len(kernel) != 2:
        raise _UnknownError
    strides, dilations = (options.get(name, [1, 1]) for name in ("strides", "dilations"))
    pads = options.get("pads", [0] * 4)[:2]
    return dict(zip(NCHW, zip(kernel, strides, pads, dilations, strict=True), strict=True))


def _depth_to_space(node: NodeProto, window: Window, _fixed: Fixed) -> Window:
    """Element o depends on o // block."""
    block = int(attributes(node)["blocksize"])
    _need(window.axes == NCHW)
    return window.each(lambda span, _: span.seen(Fraction(1, block), Fraction(block - 1, block), 0))


def _space_to_depth(node: NodeProto, window: Window, _fixed: Fixed) -> Window:
    """Element o depends on o·block to o·block + block - 1."""
    block = int(attributes(node)["blocksize"])
    _need(window.axes == NCHW)
    return window.each(lambda span, _: span.seen(block, 0, block - 1))


def _pad(node: NodeProto, window: Window, fixed: Fixed) -> Window:
    """Element o depends on o - pad; at an edge on another that is not further away."""
    mode = attributes(node).get("mode", b"constant")
    axes_known = len(node.input) < 4 or not node.input[3]
    _need(mode in (b"constant", b"reflect", b"edge") and axes_known and node.input[1] in fixed)
    pads = fixed[node.input[1]].reshape(2, -1)[0].tolist()
    _need(all(size == 0 for axis, size in enumerate(pads) if axis not in window.axes))

    def change(span: Span, axis: int) -> Span:
        if mode == b"reflect":  # The mirror also turns the span round.
            span = Span(span.scale, *[max(span.before, span.after)] * 2)
        return span.seen(1, pads[axis], -pads[axis])

    return window.each(change)


def _slice(node: NodeProto, window: Window, fixed: Fixed) -> Window:
    """Element o depends on begin + o·step."""
    _need(all(name in fixed for name in node.input[1:] if name))
    begin, end = (fixed[name].tolist() for name in node.input[1:3])
    more = [fixed[name].tolist() if name else None for name in node.input[3:5]]
    axes, steps = ([*more, None, None][index] for index in (0, 1))
    parts = zip(axes or range(len(begin)), begin, end, steps or [1] * len(begin), strict=True)
    cuts = {axis % 4: (first, last, step) for axis, first, last, step in parts}

    def change(span: Span, axis: int) -> Span:
        first, last, step = cuts.get(axis, (0, FAR, 1))
        _need(first >= 0 and step >= 1 and (last < 0 or last >= FAR))
        return span.seen(step, -first, first)

    return window.each(change)


def _split(node: NodeProto, window: Window, _fixed: Fixed) -> Window:
    """Accept parts of the channels."""
    _need(attributes(node).get("axis", 0) % 4 not in window.axes)
    return window


def _over_channels(node: NodeProto, window: Window, fixed: Fixed) -> Window:
    """Accept a mean, sum or maximum over channels that keeps the axis, and softmax over channels."""
    options = attributes(node)
    if node.op_type in ("Softmax", "LpNormalization"):
        axes = [options.get("axis", -1)]
    else:
        axes = list(options.get("axes", []))
        axes = fixed[node.input[1]].reshape(-1).tolist() if len(node.input) > 1 and node.input[1] in fixed else axes
        _need(bool(axes) and bool(options.get("keepdims", 1)))
    _need(all(axis % 4 not in window.axes for axis in axes))
    return window


def _transpose(node: NodeProto, window: Window, _fixed: Fixed) -> Window:
    """Accept a change between the two layouts of pictures."""
    order = list(attributes(node)["perm"])
    _need(len(order) == 4)
    height, width = (order.index(axis) for axis in window.axes)
    _need((height, width) in (NCHW, NHWC))
    return replace(window, axes=(height, width))


def _resize(node: NodeProto, window: Window, fixed: Fixed) -> Window:
    """Nearest or linear resizing by a factor, whatever the size."""
    options = attributes(node)
    _need(len(node.input) > 2 and node.input[2] in fixed and not options.get("antialias", 0))
    scales = fixed[node.input[2]].tolist()
    mode, where = (options.get(name, default) for name, default in (("mode", b"nearest"), (WHERE, b"half_pixel")))
    _need(len(scales) == 4 and where in (b"half_pixel", b"pytorch_half_pixel", b"asymmetric"))

    def change(span: Span, axis: int) -> Span:
        factor = Fraction(scales[axis]).limit_denominator(64)
        _need(math.isclose(float(factor), scales[axis], rel_tol=1e-6))
        if mode == b"nearest" and factor.denominator == 1 and _repeats(options, where):
            return span.seen(1 / factor, 1 - 1 / factor, 0)
        _need(mode in (b"nearest", b"linear"))  # From the element below o / factor + centre to the one above.
        centre = (1 / factor - 1) / 2 if where != b"asymmetric" else 0
        return span.seen(1 / factor, 1 - centre, 1 + centre)

    return window.each(change)


def _repeats(options: Mapping[str, Any], where: bytes) -> bool:
    """Whether an upsampling by a whole factor repeats each element that often."""
    rounding = options.get("nearest_mode", b"round_prefer_floor")
    if where == b"asymmetric":
        return bool(rounding == b"floor")
    return bool(rounding.startswith(b"round"))


def _need(condition: bool) -> None:
    if not condition:
        raise _UnknownError


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool", "LpPool"), _convolution),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "Softmax", "LpNormalization"), _over_channels),
    "ConvTranspose": _transposed,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
    "Resize": _resize,
}
"""Windows of operators with one picture and constants as inputs."""
