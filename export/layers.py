"""Look inside a graph while it runs: how large its values get, and which layer loses most. No torch here.

peaks = largest_values(model, inputs)               # tensor name → largest absolute value
for layer in losses(model, low, inputs)[:3]: print(layer)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from ganedge.export.graph import copied, producers
from ganedge.runtime.engines import ort

ITEMS = 4
"""Inputs looked at of each case, one by one."""
AT_ONCE = 8
"""Tensors taken out of a graph in one run: all values of all layers may not fit into memory."""


@dataclass(frozen=True)
class Loss:
    """What one layer loses in a lower precision."""

    node: str
    """Its name in the graph."""
    op: str
    """What it is."""
    noise: float
    """Its own part of the noise, as a share of its signal: the root of what it has more than its inputs have."""

    def __str__(self) -> str:
        return f"{self.op} {self.node} ({-20 * np.log10(max(self.noise, 1e-12)):.0f} dB)"


def largest_values(model: ModelProto, cases: Sequence[Sequence[NDArray[np.generic]]]) -> dict[str, float]:
    """The largest absolute value of every floating-point tensor that a node makes, over real inputs.

    Args:
        model: With inferred shapes.
        cases: Inputs of one shape each, batch first; a few of each are run.

    Raises:
        MissingExtra: onnxruntime, which runs them, is not installed.
    """
    ranges = value_ranges(model, _made(model), items(model, cases))
    return {name: max(-low, high) if np.isfinite(high - low) else float("inf") for name, (low, high) in ranges.items()}


def value_ranges(
    model: ModelProto, names: Sequence[str], feeds: Iterable[Mapping[str, NDArray[np.generic]]]
) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each of these floating-point tensors, over all calls.

    Args:
        model: With inferred shapes.
        names: Tensors of it, also its inputs.
        feeds: Inputs of each call, by name; without any there are no ranges.
    """
    if not names:
        return {}
    kinds = _kinds(model)
    probed = copied(model)
    for name in names:  # The graph finds both itself, so that no more is kept than it needs to go on.
        for op, end in (("ReduceMin", "smallest"), ("ReduceMax", "largest")):
            probed.graph.node.append(helper.make_node(op, [name], [f"{name}_{end}"], keepdims=0))
            probed.graph.output.append(helper.make_tensor_value_info(f"{name}_{end}", kinds[name], []))
    session = open_session(probed, [])
    wanted = [f"{name}_{end}" for name in names for end in ("smallest", "largest")]
    calls = [session.run(wanted, feed) for feed in feeds]
    if not calls:
        return {}
    values = np.array(calls, np.float64).reshape(-1, len(names), 2)
    lows, highs = values[..., 0].min(0), values[..., 1].max(0)
    return {name: (float(low), float(high)) for name, low, high in zip(names, lows, highs, strict=True)}


def losses(full: ModelProto, low: ModelProto, cases: Sequence[Sequence[NDArray[np.generic]]]) -> list[Loss]:
    """What each layer of `low` adds to the noise, worst first; layers are known by the names of their outputs.

    Args:
        full: The FP32 graph.
        low: The same graph in a lower precision; tensors that have no partner in `full` are passed over.
        cases: Inputs, as for `largest_values`.
    """
    inner = set(_made(low))
    names = [name for name in _made(full) if name in inner]
    sessions = open_session(full, names), open_session(low, names)
    noise = dict.fromkeys(names, 0.0)
    for item in items(full, cases):
        for begin in range(0, len(names), AT_ONCE):
            few = names[begin : begin + AT_ONCE]
            expected, actual = (session.run(few, item) for session in sessions)
            for name, a, b in zip(few, expected, actual, strict=True):
                noise[name] = max(noise[name], _noise(a, b))
    found_losses = []
    for node in full.graph.node:
        outputs = [noise[name] for name in node.output if name in noise]
        before = max((noise.get(name, 0.0) for name in node.input), default=0.0)
        if outputs and outputs[0] > before:
            found_losses.append(Loss(node.name, node.op_type, float(np.sqrt(outputs[0] - before))))
    return sorted(found_losses, key=lambda loss: -loss.noise)


def with_makers(model: ModelProto, names: Sequence[str]) -> frozenset[str]:
    """These nodes, and the node that makes what each works on: an activation and its layer are one to a quantiser."""
    maker = producers(model.graph)
    chosen = {node.name: node for node in model.graph.node if node.name in names}
    inputs = {maker[node.input[0]].name for node in chosen.values() if node.input and node.input[0] in maker}
    return frozenset(inputs | set(chosen))


def _noise(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """Power of the difference over power of the signal; infinite where a value is not finite."""
    difference = actual.astype(np.float64) - expected
    power = float((expected.astype(np.float64) ** 2).mean())
    share = float((difference**2).mean()) / max(power, 1e-30)
    return share if np.isfinite(share) else float("inf")


def _made(model: ModelProto) -> list[str]:
    """Floating-point tensors that nodes make."""
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    known = {name for name, kind in _kinds(model).items() if kind in floats}
    return [name for node in model.graph.node for name in node.output if name in known and node.op_type != "Constant"]


def _kinds(model: ModelProto) -> dict[str, int]:
    """The element type of every tensor that is known."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def open_session(model: ModelProto, names: Sequence[str]) -> Any:
    """An ONNX Runtime session that gives these tensors."""
    onnxruntime = ort.package()
    probed = copied(model)
    given = {output.name for output in probed.graph.output}
    kinds = _kinds(model)
    probed.graph.output.extend(
        helper.make_tensor_value_info(name, kinds[name], None) for name in names if name not in given
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_errors() -> tuple[type[Exception], ...]:
    """What a session raises for inputs that its graph cannot compute."""
    ort.package()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return state.Fail, state.InvalidArgument, state.RuntimeException


def items(
    model: ModelProto, cases: Sequence[Sequence[NDArray[np.generic]]]
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Single inputs by name, a few of each case, spread over it."""
    names = [value.name for value in model.graph.input]
    size = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    for case in cases:
        count = len(case[0])
        for begin in range(0, count - size + 1, max(size, count // ITEMS)):
            yield {name: array[begin : begin + size] for name, array in zip(names, case, strict=True)}
