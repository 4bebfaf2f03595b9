"""INT8: weights per channel, values per tensor, scales found on real inputs. No torch here.

    model, share, target = to_int8(model, inputs, "tensorrt")        # share: of the multiply-accumulates that are INT8

Graph variants. For TensorRT and OpenVINO values and weights are signed and symmetric and the bias stays in floating
point, which is all that TensorRT's parser accepts and what OpenVINO runs fastest; only what goes into a layer is
rounded, not what comes out of it as well. TensorRT has no INT8 kernel for transposed convolutions with scales per
output channel (NVIDIA/TensorRT#2380): they become a convolution and a pixel shuffle, or stay in floating point. For
ONNX Runtime on the CPU values are unsigned and biases INT32, and transposed convolutions, for which it has no INT8
kernel, are rewritten first.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from ganedge.export import calibration, layers, phases, rewrite
from ganedge.export.calibration import Method, Way
from ganedge.export.graph import COUNTED, copied, multiply_accumulates, shapes_for
from ganedge.export.spec import Target
from ganedge.runtime import engines
from ganedge.runtime.engines import ort
from ganedge.runtime.errors import EngineError, GanEdgeError, one_line

LAYERS = COUNTED
"""Operators that can compute in INT8."""
SHUFFLES = ("Relu", "LeakyRelu", "DepthToSpace", "Transpose", "Reshape", "Slice")
"""What ONNX Runtime does with the result of an INT8 layer without leaving INT8."""
Ranges = Mapping[str, tuple[float, float]]
"""The smallest and the largest value of tensors, by name."""
MINMAX = Way()
"""The calibration that is tried first."""
FEW_PICTURES, MOST_CALLS, LATENT_VALUES = 4, 32, 2**14
"""Calls that percentiles, entropy and means are found on: with pictures, with latents, and the most values of one."""


def runnable_targets() -> list[Target]:
    """The forms that an engine installed here runs; TensorRT's is OpenVINO's."""
    targets: tuple[Target, ...] = ("onnxruntime", "openvino")
    return [target for target in targets if engines.installed(target)]


def to_int8(
    model: ModelProto,
    inputs: Sequence[Sequence[NDArray[np.generic]]],
    target: Target,
    keep: frozenset[str] = frozenset(),
) -> tuple[ModelProto, float, Target]:
    """Quantise a graph statically, once; `Quantiser` makes several graphs of the same calibration.

    Args:
        model: FP32, with inferred shapes.
        inputs: Calibration inputs, one group per shape, each with one array per input of the graph.
        target: The engine to make it for.
        keep: Nodes that stay in FP32; names of the graph before any rewrite.

    Returns:
        A new model, checked; the share of multiply-accumulates that is INT8; the target.

    Raises:
        MissingExtra: onnxruntime, whose quantiser this uses, is not installed.
        GanEdgeError: nothing in the graph could be quantised.
    """
    low, share = Quantiser(model, inputs, target).graph(keep)
    return low, share, target


def as_fast_as_int8(model: ModelProto, item: Sequence[NDArray[np.generic]], target: Target) -> ModelProto:
    """The INT8 graph for an engine with ranges of no meaning: as fast as a calibrated one, and made at once."""
    quantiser = Quantiser(model, [item], target)
    quantiser.ranges = dict.fromkeys(_rounded(quantiser.prepared, target), (-1.0, 1.0))
    return quantiser.graph()[0]


class Quantiser:
    """INT8 graphs of one generator for one engine: calibrated once, whichever layers are left out.

    Args:
        model: FP32, with inferred shapes.
        inputs: Calibration inputs, as `to_int8` takes them.
        target: The engine to make them for.

    Attributes:
        prepared: The graph as it is before it is quantised.
    """

    def __init__(self, model: ModelProto, inputs: Sequence[Sequence[NDArray[np.generic]]], target: Target) -> None:
        self.prepared = prepared(model, target)
        self._symbols = rewrite.symbols(model)
        self._inputs = inputs
        self._target = target
        self._errors: dict[Way, dict[str, NDArray[np.float32]]] = {}

    def graph(self, keep: frozenset[str] = frozenset(), way: Way = MINMAX) -> tuple[ModelProto, float]:
        """The graph in INT8 except for the nodes of `keep`, and the share of multiply-accumulates that is INT8.

        Raises as `to_int8` does.
        """
        return self.whole if not keep and way == MINMAX else self._quantised(keep, way)

    @cached_property
    def whole(self) -> tuple[ModelProto, float]:
        """The graph with every layer in INT8, by the ranges of MinMax."""
        return self._quantised(frozenset(), MINMAX)

    def errors(self, way: Way) -> dict[str, NDArray[np.float32]]:
        """By layer what its rounded weights add to the mean of each output channel; computed once for each way."""
        way = replace(way, corrected=False)
        if way not in self._errors:
            low, _ = self.graph(way=way)
            self._errors[way] = calibration.mean_errors(self.prepared, low, self._means)
        return self._errors[way]

    def _quantised(self, keep: frozenset[str], way: Way) -> tuple[ModelProto, float]:
        model = self.prepared
        if way.corrected:
            errors = self.errors(way)
            rounded = {name: error for name, error in errors.items() if name not in keep}
            model = rewrite.tidy(calibration.with_corrected_biases(model, rounded), self._symbols)
        low = rewrite.tidy(_quantise(model, self._ranges_by(way.method), self._target, keep, way.bits), self._symbols)
        share = int8_share(low, [array.shape for array in self._inputs[0]])
        if share == 0:
            raise GanEdgeError(
                "nothing in this generator became INT8: it has no convolution or matrix product with weights"
            )
        return low, share

    @cached_property
    def ranges(self) -> Ranges:
        """The smallest and the largest value of each tensor that may be rounded, over the calibration inputs."""
        return layers.value_ranges(self.prepared, _rounded(self.prepared, self._target), self._feeds())

    def _ranges_by(self, method: Method) -> Ranges:
        if method == "minmax":
            return self.ranges
        return calibration.narrowed(self._samples, self.ranges, method, symmetric=self._target != "onnxruntime")

    @cached_property
    def _samples(self) -> dict[str, NDArray[np.float32]]:
        """Some values of each tensor that may be rounded."""
        return calibration.samples(self.prepared, list(self.ranges), self._few_feeds())

    @cached_property
    def _means(self) -> dict[str, NDArray[np.float64]]:
        """The mean of each channel of what layers read."""
        read = dict.fromkeys(node.input[0] for node in self.prepared.graph.node if node.op_type in LAYERS)
        return calibration.channel_means(self.prepared, read, self._few_feeds())

    def _few_feeds(self) -> list[dict[str, NDArray[np.generic]]]:
        """A few calls of each group of calibration inputs: pictures have many values, and latents cost little."""
        calls = FEW_PICTURES if self._inputs[0][0][0].size > LATENT_VALUES else MOST_CALLS
        each = max(1, calls // len(self._inputs)) * self._batch
        return list(self._feeds([[array[:each] for array in case] for case in self._inputs]))

    @property
    def _batch(self) -> int:
        """The items of one call: 1, or the number that the graph is fixed to."""
        return self.prepared.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1

    def _feeds(
        self, inputs: Sequence[Sequence[NDArray[np.generic]]] | None = None
    ) -> Iterator[dict[str, NDArray[np.generic]]]:
        """The calibration inputs, one call at a time."""
        cases = self._inputs if inputs is None else inputs
        names = [value.name for value in self.prepared.graph.input]
        batch = self._batch
        done, total = 0, sum(len(case[0]) // batch for case in cases)
        for case in cases:
            for begin in range(0, len(case[0]) - batch + 1, batch):
                phases.report("calibrating", done, total)
                yield {name: array[begin : begin + batch] for name, array in zip(names, case, strict=True)}
                done += 1


def prepared(model: ModelProto, target: Target) -> ModelProto:
    """A copy of a graph, rewritten as it is before it is quantised; layers keep their names."""
    copy = copied(model)
    if target == "openvino":
        return copy
    if target == "tensorrt":
        rewrite.transposed_to_shuffle(copy)
        return rewrite.tidy(copy, rewrite.symbols(model))
    rewrite.upsampled_to_shuffle(copy, channels_last=True)
    rewrite.transposed_to_shuffle(copy, channels_last=True)
    copy = rewrite.tidy(copy, rewrite.symbols(model))
    rewrite.few_channels_to_blocks(copy)
    return rewrite.tidy(copy, rewrite.symbols(model))


def _rounded(model: ModelProto, target: Target) -> list[str]:
    """The tensors that may be rounded: what goes into a layer and, for ONNX Runtime, what comes out of it."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT} - weights
    names: dict[str, None] = {}
    for node in model.graph.node:
        if node.op_type in LAYERS or (target == "onnxruntime" and node.op_type in SHUFFLES):
            names.update(dict.fromkeys([*node.input, *(node.output if target == "onnxruntime" else ())]))
    return [name for name in names if name in floats]


def _quantise(model: ModelProto, ranges: Ranges, target: Target, keep: frozenset[str], bits: int = 8) -> ModelProto:
    ort.package()  # A missing or broken package becomes a one-line error.
    try:
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
        from onnxruntime.quantization.calibrate import TensorsData
    except ImportError as error:
        raise EngineError(
            f"--int8 needs onnxruntime's quantization, which does not import ({one_line(error)}): install the module "
            f"{error.name or 'that it needs'}, or the onnxruntime package again with all that it depends on"
        ) from error
    symmetric = target != "onnxruntime"
    of_layer = results(model)
    idle = {
        node.name
        for node in model.graph.node
        if node.op_type in SHUFFLES and of_layer.get(node.output[0], "") in {"", *keep}
    }
    if target == "tensorrt":  # It has no INT8 kernel for transposed convolutions with scales per output channel.
        idle |= {node.name for node in model.graph.node if node.op_type == "ConvTranspose"}
    copy = copied(model)  # The quantiser changes what it works on.
    copy.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")  # Shapes are inferred: no need to do it again.
    pairs = {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()}
    with quiet():
        quantizer = QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=bits < 8,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, pairs),
            nodes_to_quantize=[],
            nodes_to_exclude=sorted(keep | idle),
            op_types_to_quantize=[*LAYERS] if symmetric else [*LAYERS, *SHUFFLES],
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not symmetric,
                "OpTypesToExcludeOutputQuantization": [*LAYERS] if symmetric else ["Gemm", "MatMul"],
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    low: ModelProto = quantizer.model.model
    return low


def results(model: ModelProto) -> dict[str, str]:
    """The tensors that are a layer's result, as it is or shuffled, and the layers' names."""
    makers: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in LAYERS:
            makers[node.output[0]] = node.name
        elif node.op_type in SHUFFLES and node.input[0] in makers:
            makers[node.output[0]] = makers[node.input[0]]
    return makers


@dataclass(frozen=True)
class Layer:
    """The work of one layer."""

    name: str
    """Its node's."""
    count: int
    """Multiply-accumulates."""
    int8: bool
    """Whether its values and its weights both come out of INT8."""


def work(model: ModelProto, shapes: Sequence[tuple[int, ...]]) -> list[Layer]:
    """The layers of a graph that can become INT8, or are it, in order.

    Args:
        model: A graph, quantised or not.
        shapes: Of its inputs, to know the size of what is dynamic.
    """
    names = [value.name for value in model.graph.input]
    graph, sizes = shapes_for(model, dict(zip(names, shapes, strict=True)))
    eight = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return [
        Layer(node.name, multiply_accumulates(node, sizes) or 0, set(node.input[:2]) <= eight)
        for node in graph.node
        if node.op_type in LAYERS
    ]


def int8_share(model: ModelProto, shapes: Sequence[tuple[int, ...]]) -> float:
    """The share of multiply-accumulates whose values and weights both come out of INT8. Arguments as for `work`."""
    layers = work(model, shapes)
    low = sum(layer.count for layer in layers if layer.int8)
    return low / max(sum(layer.count for layer in layers), 1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the quantiser's advice in the root logger; its errors are exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
