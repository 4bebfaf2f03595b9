"""Export a plain network by tracing one call, which takes a tenth of the time that following its code takes.

model = traced(network, interface, example, 18)            # None: its code has to be followed

A trace holds for other inputs than its own where nothing was computed from their size or values in Python. That
shows: values that leave the trace are seen, and what is computed from sizes leaves operators that `PLAIN` lacks.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganedge.export.graph import attributes, set_nodes
from ganedge.runtime.manifest import Interface

PLAIN = frozenset(
    (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization"),
        *("Relu", "LeakyRelu", "PRelu", "Elu", "Tanh", "Sigmoid", "Clip", "Add", "Sub", "Mul", "Div"),
        *("Pad", "Resize", "DepthToSpace", "Concat", "Reshape"),
    )
)
"""Operators that do the same with inputs of every size, if what they take beside values is constant."""
VALUES = {"Concat": None, "Add": 2, "Sub": 2, "Mul": 2, "Div": 2, "MatMul": 2}
"""How many inputs of an operator may be values of the network; None: all; 1 where it is not listed."""
CHECKS = (Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.item)
NEVER = (Tensor.__len__, Tensor.__iter__, Tensor.__array__, Tensor.tolist, Tensor.numpy)
"""What makes Python values of tensors, sizes among them: PyTorch's own modules check sizes so."""
SMALL = 4096
"""Most elements of a constant that is computed here: pads, scales and shapes, and no weights."""


def traced(network: nn.Module, interface: Interface, example: tuple[Tensor, ...], version: int) -> ModelProto | None:
    """The graph of a network that computes the same way for every input.

    Args:
        network: In evaluation mode, FP32, on the CPU.
        interface: What it takes and gives; its port names become the graph's.
        example: Inputs.
        version: Operator set.

    Returns:
        A graph of the operators in `PLAIN`; None where a trace may not hold for others, or is not possible.
    """
    if isinstance(network, torch.jit.ScriptModule):
        return None
    try:
        with _Traced():
            # Normalisations are folded later, in FP64.
            options = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
            model = export_traced(network, interface, example, version, **options)
    except Exception:  # noqa: BLE001 - whatever it raises, following the code says it better
        return None
    _fold_constants(model)
    return model if _is_plain(model, interface) else None


def export_traced(
    network: nn.Module, interface: Interface, example: tuple[Tensor, ...], version: int, **options: Any
) -> ModelProto:
    """Run PyTorch's exporter of traces and of TorchScript (operator sets up to 20); `options` are its own."""
    written = io.BytesIO()
    ports = (*interface.inputs, *interface.outputs)
    axes = {p.name: {axis: size for axis, size in enumerate(p.shape) if isinstance(size, str)} for p in ports}
    torch._C._jit_set_onnx_log_enabled(False)  # On failure it would print the graph.
    with torch.no_grad():
        torch.onnx.export(
            network,
            example,
            written,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=min(version, 20),
            dynamic_axes={name: open_axes for name, open_axes in axes.items() if open_axes},
            input_names=[port.name for port in interface.inputs],
            output_names=[port.name for port in interface.outputs],
            **options,
        )
    return onnx.load_model_from_string(written.getvalue())


class _Traced(TorchFunctionMode):
    """Refuses what takes values out of a trace, except PyTorch's own checks, and turns vectors into maps by a reshape.

    The exporter would compute the shape of an `unflatten` in the graph.
    """

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        caller = str(sys._getframe(1).f_globals.get("__name__", ""))
        exporting = caller.startswith("torch.onnx.")
        if not exporting and (func in NEVER or (func in CHECKS and not caller.startswith("torch.nn."))):
            raise ValueError(f"{caller} takes a value out of the trace")
        if func is Tensor.unflatten and not kwargs and args[0].ndim == 2 and args[1] == 1:
            return args[0].reshape(-1, *args[2])
        return func(*args, **(kwargs or {}))


def _fold_constants(model: ModelProto) -> None:
    """Turn what is computed from small constants alone into constants, in place."""
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    alias: dict[str, str] = {}
    kept: list[NodeProto] = []
    made: list[TensorProto] = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = alias.get(name, name)
        if node.op_type == "Identity" and node.input[0] in known:
            alias[node.output[0]] = node.input[0]
            continue
        value = _constant(node, known, model.opset_import)
        if value is None:
            kept.append(node)
        else:
            known[value.name] = value
            made.append(value)
    graph.initializer.extend(made)
    set_nodes(graph, kept)


def _constant(node: NodeProto, known: Mapping[str, TensorProto], opsets: Sequence[Any]) -> TensorProto | None:
    """The result of a node that takes small constants alone; None of any other."""
    inputs = [name for name in node.input if name]
    small = all(name in known and np.prod(known[name].dims) <= SMALL for name in inputs)
    if not small or len(node.output) != 1 or node.op_type.startswith("Random"):
        return None
    graph = GraphProto(name="constant", node=[node], initializer=[known[name] for name in inputs])
    graph.output.append(helper.make_empty_tensor_value_info(node.output[0]))
    (value,) = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, {})
    return numpy_helper.from_array(np.asarray(value), node.output[0])


def _is_plain(model: ModelProto, interface: Interface) -> bool:
    """Whether a graph computes the same way for every input, and reads all inputs."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    read = {name for node in graph.node for name in node.input}
    fixed = all(isinstance(side, int) for port in interface.inputs for side in port.shape[1:])
    batch = interface.inputs[0].shape[0]

    def plain(node: NodeProto) -> bool:
        values = [name for name in node.input if name and name not in weights]
        most = VALUES.get(node.op_type, 1)
        if node.op_type not in PLAIN or node.domain or (most is not None and len(values) > most):
            return False
        if node.op_type == "Reshape":
            shape = numpy_helper.to_array(weights[node.input[1]]) if node.input[1] in weights else np.zeros(0)
            return fixed and shape.size > 0 and shape[0] in (-1, batch) and bool((shape[1:] > 0).all())
        if node.op_type == "BatchNormalization":
            return len(node.output) == 1 and not attributes(node).get("training_mode", 0)
        return node.op_type != "Resize" or len(node.input) < 4 or not node.input[3]

    reads_all = all(port.name in read for port in interface.inputs)
    return all(map(plain, graph.node)) and reads_all and len(graph.output) == len(interface.outputs)
