"""Change what a graph computes in, with its inputs and outputs as they were. No torch here.

half = to_half(model, "fp16")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from ganedge.export import rewrite
from ganedge.export.graph import copied, opset, rename, set_nodes
from ganedge.runtime.errors import GanEdgeError, MissingExtra
from ganedge.runtime.manifest import Precision

Half = Literal["fp16", "bf16"]
"""Floating point in two bytes."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
"""What gan-export writes."""
BF16_OPSET = 22
"""The first operator set whose convolutions take bf16."""
FP16_MAX = float(np.finfo(np.float16).max)
"""65504, the largest FP16 number: a larger weight would become infinite."""
HEADROOM = 4.0
"""Safety factor for values on inputs that were not examined."""
FP32_OPS = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"})
"""Operators whose statistics lose their meaning in 11 bits of mantissa, or 8."""
QUANTISATIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators between INT8 and floating point."""
SCALE_ERROR = 0.01
"""Largest relative error of a scale in half precision."""
FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that are float32 by the operator's definition, whatever it works on."""


def to_half(model: ModelProto, precision: Half, keep: frozenset[str] = frozenset()) -> ModelProto:
    """FP16 or bf16 weights and arithmetic, FP32 inputs and outputs.

    For bf16 the operator set is raised to the one that knows it, and transposed convolutions are rewritten first:
    TensorRT for RTX 1.7 builds none of them in bf16. An INT8 graph keeps its INT8; its scales and the rest become half
    precision.

    Args:
        model: An FP32 or INT8 model with inferred shapes; INT8 in operator set 19 or later.
        precision: Which of the two.
        keep: Names of nodes that stay in FP32, beside the normalisations; names of the graph before any rewrite.

    Returns:
        A new model, checked. Casts stand where the two precisions meet.

    Raises:
        GanEdgeError: a weight is too large for FP16.
        MissingExtra: ml_dtypes, which gives NumPy its bf16, is not installed.
    """
    half = copied(model)
    if precision == "bf16":
        half = _ready_for_bf16(half)
    element, dtype = _types(precision)
    graph = half.graph
    types = _float_tensors(half)
    wide = {
        index
        for index, node in enumerate(graph.node)
        if node.op_type in FP32_OPS or node.name in keep or not _takes(node, element, half)
    }
    wide = _with_quantisations(graph, wide, dtype)
    if precision == "fp16":
        _check_range([tensor for tensor in graph.initializer if _readers_half(tensor.name, graph.node, wide)])

    nodes: list[NodeProto] = []
    casts: dict[tuple[str, int], str] = {}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    narrow_weights: dict[str, TensorProto] = {}
    made_half: set[str] = set()

    def cast(name: str, to: int) -> str:
        """The name of this tensor in the wanted type, adding a Cast where there is none yet."""
        if (name, to) not in casts:
            casts[name, to] = f"{name}_{precision if to == element else 'fp32'}"
            nodes.append(helper.make_node("Cast", [name], [casts[name, to]], f"cast_{casts[name, to]}", to=to))
        return casts[name, to]

    for index, node in enumerate(graph.node):
        fixed = FP32_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name not in types or position in fixed:
                continue
            if name in weights:
                if index not in wide:
                    narrow = f"{name}_{precision}"
                    narrow_weights.setdefault(narrow, _narrow(weights[name], narrow, dtype))
                    node.input[position] = narrow
            elif index in wide and name in made_half:
                node.input[position] = cast(name, TensorProto.FLOAT)
            elif index not in wide and name not in made_half:
                node.input[position] = cast(name, element)
        nodes.append(node)
        if index not in wide:
            _narrow_attributes(node, element, dtype)
            made_half.update(name for name in node.output if name in types)

    for output in graph.output:
        if output.name in made_half:
            inner = f"{output.name}_{precision}"
            rename(nodes, output.name, inner)
            nodes.append(helper.make_node("Cast", [inner], [output.name], f"cast_{output.name}", to=TensorProto.FLOAT))

    set_nodes(graph, nodes)
    graph.initializer.extend(narrow_weights.values())
    return rewrite.tidy(half, rewrite.symbols(half))


def overflowing(model: ModelProto, peaks: Mapping[str, float]) -> frozenset[str]:
    """Names of the nodes that take or give values, or hold weights, beyond what FP16 keeps safely.

    Args:
        model: The FP32 graph.
        peaks: The largest absolute value of each tensor, seen on real inputs.
    """
    large = {name for name, peak in peaks.items() if not peak <= FP16_MAX / HEADROOM}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            top = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
            large |= {tensor.name} if not top <= FP16_MAX else set()
    return frozenset(node.name for node in model.graph.node if large & {*node.input, *node.output})


def _takes(node: NodeProto, element: int, model: ModelProto) -> bool:
    """Whether an operator is defined for a type, in the model's operator set."""
    if node.domain not in rewrite.ONNX_DOMAINS:
        return False
    schema = onnx.defs.get_schema(node.op_type, opset(model), "")
    name = f"tensor({'float16' if element == TensorProto.FLOAT16 else 'bfloat16'})"
    deciding = 1 if node.op_type == "DequantizeLinear" else 0  # Its result has the type of its scale.
    return not schema.inputs or name in schema.inputs[deciding].types


def _types(precision: Half) -> tuple[int, np.dtype[np.generic]]:
    """ONNX's and NumPy's types."""
    if precision == "fp16":
        return TensorProto.FLOAT16, np.dtype(np.float16)
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:  # onnx brings it since 1.19 only.
        raise MissingExtra("ml_dtypes", "export", "--bf16") from error
    return TensorProto.BFLOAT16, np.dtype(bfloat16)


def _ready_for_bf16(model: ModelProto) -> ModelProto:
    """The same graph in an operator set that knows bf16, without transposed convolutions."""
    symbols = rewrite.symbols(model)
    model = in_opset(model, BF16_OPSET)
    rewrite.transposed_to_shuffle(model)
    return rewrite.tidy(model, symbols)


def in_opset(model: ModelProto, version: int) -> ModelProto:
    """The same graph in at least this operator set; nodes keep their names."""
    symbols = rewrite.symbols(model)
    raised = version_converter.convert_version(model, version) if opset(model) < version else copied(model)
    return rewrite.tidy(raised, symbols)


def _with_quantisations(graph: GraphProto, wide: set[int], dtype: np.dtype[np.generic]) -> set[int]:
    """Those nodes that stay in FP32, and with them the quantisations that they alone read.

    Where half precision would change a scale by more than `SCALE_ERROR` its readers stay in FP32 as well: engines look
    for a dequantisation right before a layer, of the same type.
    """
    readers: dict[str, set[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, set()).add(index)
    scales = {tensor.name: tensor for tensor in graph.initializer}
    quantisations = [index for index, node in enumerate(graph.node) if node.op_type in QUANTISATIONS]
    wide = set(wide)
    for node in (graph.node[index] for index in quantisations):
        if node.op_type == "DequantizeLinear" and node.input[1] in scales and _coarse(scales[node.input[1]], dtype):
            wide |= readers.get(node.output[0], set())
    for index in reversed(quantisations):  # From a layer back to what it reads.
        reading = set().union(*(readers.get(name, set()) for name in graph.node[index].output))
        if reading and reading <= wide:
            wide.add(index)
    return wide


def _coarse(scale: TensorProto, dtype: np.dtype[np.generic]) -> bool:
    """Whether half precision changes a scale too much: FP16 keeps few digits of what is below 6e-5."""
    values = numpy_helper.to_array(scale).astype(np.float64)
    return bool((np.abs(values.astype(dtype).astype(np.float64) - values) > SCALE_ERROR * values).any())


def _float_tensors(model: ModelProto) -> set[str]:
    """Names of all float32 tensors of the graph."""
    graph = model.graph
    known = [*graph.input, *graph.output, *graph.value_info]
    floats = {value.name for value in known if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return floats | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _readers_half(name: str, nodes: Iterable[NodeProto], wide: set[int]) -> bool:
    return any(name in node.input for index, node in enumerate(nodes) if index not in wide)


def _check_range(tensors: list[TensorProto]) -> None:
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            top = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
            if not top <= FP16_MAX:
                raise GanEdgeError(
                    f"weight {tensor.name} reaches {top:.3g}, beyond FP16's {FP16_MAX:.0f}: export in FP32"
                )


def _narrow(tensor: TensorProto, name: str, dtype: np.dtype[np.generic]) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), name)


def _narrow_attributes(node: NodeProto, element: int, dtype: np.dtype[np.generic]) -> None:
    """Constants and casts inside a half-precision node become half precision too."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_narrow(attribute.t, attribute.t.name, dtype))
        elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = element
