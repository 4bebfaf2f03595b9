"""What each layer's INT8 costs at the output, and which layers to leave out so that a gate holds. No torch here.

    effect = Sensitivity(prepared, low, "onnxruntime", cases, interface)
    keep = effect.kept(Gate(psnr=30.0), spare=1.0)          # names of layers that stay in floating point

A layer's own rounding says little: what the first layer of a deep network rounds may grow on its way, and what is
rounded at the end does not. So every layer is rounded by itself, and the whole network's output compared. All that is
one FP32 graph in which each layer has a switch between its values and the same values rounded as the INT8 graph rounds
them; any set of layers is then one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ganedge.export import layers, quantize
from ganedge.export.graph import copied, producers
from ganedge.export.spec import Target
from ganedge.runtime.fidelity import Difference, Gate, span_of, worst
from ganedge.runtime.fidelity import difference as compare
from ganedge.runtime.manifest import Interface

VALUES = 2**22
"""Values that latents are turned into, and compared, for each set of layers that is tried."""
GROUPS = 48
"""Neighbouring layers share a switch where there are more than these."""
SWITCHES = "int8_layers"
"""The graph's input that says which layers are rounded, bool `[layers]`."""


@dataclass(frozen=True)
class Group:
    """Layers that share a switch: one, unless there are very many."""

    nodes: tuple[str, ...]
    """Their names."""
    work: int
    """Their multiply-accumulates for the first case."""


class Sensitivity:
    """The generator with a switch at each layer.

    Args:
        prepared: The FP32 graph that was quantised, with inferred shapes.
        low: What became of it, every layer INT8.
        target: The engine it was made for.
        cases: Inputs of one shape each, batch first, others than those it was calibrated on: these may reach further.
            A few pictures of each are run, and as many latents as give outputs of `VALUES`.
        interface: Of the generator.

    Attributes:
        groups: What the switches are for, in the order of the graph.
        noise: What each adds to the output, alone: the mean square error of the worst call.
    """

    def __init__(
        self,
        prepared: ModelProto,
        low: ModelProto,
        target: Target,
        cases: Sequence[Sequence[NDArray[np.generic]]],
        interface: Interface,
    ) -> None:
        self.groups = _groups(prepared, low, [array.shape for array in cases[0]])
        self._port = port = interface.output
        self._known: dict[frozenset[int], Difference] = {}
        self._output = prepared.graph.output[0].name
        self._session = layers.open_session(_switched(prepared, low, target, self.groups), [])
        if interface.noise is None:
            self._items = list(layers.items(prepared, cases))[:: len(cases)]
        else:
            self._items = _batches(interface, cases[0])
        self._wanted = [self._run(item, ()) for item in self._items]
        self._span = span_of(port, *self._wanted)
        step = max(1, len(self._items) // len(cases))  # One item of each case is enough to rank the layers.
        self.noise = [
            max(self._error(item, index) for item in range(0, len(self._items), step))
            for index in range(len(self.groups))
        ]

    def kept(self, gate: Gate, spare: float = 0.0) -> frozenset[str]:
        """The layers to leave out: few multiply-accumulates, and enough that the rest passes the gate.

        Args:
            gate: What to pass.
            spare: By how much, dB.

        Returns:
            Names of nodes; all but the layer that costs least where not even that passes alone.
        """
        order = sorted(range(len(self.groups)), key=lambda index: -self.noise[index] / max(self.groups[index].work, 1))
        slack = 10 ** (-spare / 20)
        few, many = 0, len(order) - 1
        while few < many:  # The smallest number of layers to leave out, by halving.
            middle = (few + many) // 2
            if gate.holds(self.difference(order[middle:]), slack):
                many = middle
            else:
                few = middle + 1
        kept = set(order[:few])
        # Some of these layers turned out to be unnecessary: put the largest back first.
        able = gate.holds(self.difference(order[few:]), slack)
        for index in sorted(order[: few - 1] if few and able else [], key=lambda index: -self.groups[index].work):
            if gate.holds(self.difference([other for other in order if other not in kept - {index}]), slack):
                kept.remove(index)
        return frozenset(name for index in kept for name in self.groups[index].nodes)

    def worst(self, count: int = 3) -> str:
        """What the layers that cost most cost alone, for people."""
        order = sorted(range(len(self.groups)), key=lambda index: -self.noise[index])[:count]
        levels = [10 * np.log10(self._span**2 / max(self.noise[index], 1e-30)) for index in order]
        return ", ".join(
            f"{self.groups[index].nodes[0]} ({psnr:.0f} dB)" for index, psnr in zip(order, levels, strict=True)
        )

    def difference(self, rounded: Sequence[int]) -> Difference:
        """How far the output is off with these layers rounded."""
        key = frozenset(rounded)
        if key not in self._known:
            pairs = zip(self._items, self._wanted, strict=True)
            distances = [compare(self._run(item, rounded), wanted, self._port, self._span) for item, wanted in pairs]
            self._known[key] = worst(distances)
        return self._known[key]

    def _error(self, item: int, index: int) -> float:
        """The mean square error of one call's output with one layer rounded."""
        error = self._run(self._items[item], [index]).astype(np.float64) - self._wanted[item].astype(np.float64)
        return float((error**2).mean())

    def _run(self, item: Mapping[str, NDArray[np.generic]], rounded: Sequence[int]) -> NDArray[np.generic]:
        switches = np.isin(np.arange(len(self.groups)), rounded)
        output: NDArray[np.generic] = self._session.run([self._output], {**item, SWITCHES: switches})[0]
        return output


def _batches(interface: Interface, inputs: Sequence[NDArray[np.generic]]) -> list[dict[str, NDArray[np.generic]]]:
    """Latents in calls as large as they may be: the worst of many decides, and few miss the rare large values."""
    values = int(np.prod([size for size in interface.output.shape[1:] if isinstance(size, int)]))
    count = min(len(inputs[0]), max(layers.ITEMS, VALUES // values))
    batch = interface.inputs[0].shape[0]
    size = batch if isinstance(batch, int) else count
    names = [port.name for port in interface.inputs]
    return [
        {name: array[begin : begin + size] for name, array in zip(names, inputs, strict=True)}
        for begin in range(0, max(count - size, 0) + 1, size)
    ]


def _groups(prepared: ModelProto, low: ModelProto, shapes: Sequence[tuple[int, ...]]) -> list[Group]:
    """The layers that became INT8, in order, a few to a group where there are very many."""
    rounded = {layer.name for layer in quantize.work(low, shapes) if layer.int8}
    quantised = [layer for layer in quantize.work(prepared, shapes) if layer.name in rounded]
    size = max(1, -(-len(quantised) // GROUPS))
    parts = [quantised[begin : begin + size] for begin in range(0, len(quantised), size)]
    return [Group(tuple(layer.name for layer in part), sum(layer.count for layer in part)) for part in parts]


def _switched(prepared: ModelProto, low: ModelProto, target: Target, groups: Sequence[Group]) -> ModelProto:
    """The FP32 graph with switches: wherever the INT8 graph reads something rounded, that or the same as it was."""
    model = copied(prepared)
    graph = model.graph
    domains = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(entry for entry in low.opset_import if entry.domain not in domains)
    graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.BOOL, [len(groups)]))
    rounding = _Rounding(low)
    group_of = {name: index for index, group in enumerate(groups) for name in group.nodes}
    reasons = _reasons(prepared, target, group_of)
    nodes: list[NodeProto] = []
    switched: dict[tuple[str, str], str] = {}

    def switch(name: str, rounded: Rounded, places: frozenset[int]) -> str:
        """The name of a tensor behind its switch, made where it is first read."""
        key = (name, rounded.of)
        if key not in switched:
            stem = f"{name}_switch{len(switched)}"
            graph.initializer.append(numpy_helper.from_array(np.array(sorted(places)), f"{stem}_places"))
            nodes.extend(rounded.nodes(name, stem))
            nodes.append(helper.make_node("Gather", [SWITCHES, f"{stem}_places"], [f"{stem}_each"]))
            nodes.append(helper.make_node("Cast", [f"{stem}_each"], [f"{stem}_int"], to=TensorProto.INT32))
            nodes.append(helper.make_node("ReduceMax", [f"{stem}_int"], [f"{stem}_any"], keepdims=0))
            nodes.append(helper.make_node("Cast", [f"{stem}_any"], [f"{stem}_on"], to=TensorProto.BOOL))
            nodes.append(helper.make_node("Where", [f"{stem}_on", f"{stem}_rounded", name], [stem]))
            switched[key] = stem
        return switched[key]

    for node in graph.node:
        for slot, name in enumerate(node.input):
            rounded = rounding.read_by(node.name, slot)
            if rounded is not None and reasons[name]:
                node.input[slot] = switch(name, rounded, reasons[name])
        nodes.append(node)
    graph.initializer.extend(rounding.constants())
    ordered = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    return model


def _reasons(model: ModelProto, target: Target, group_of: Mapping[str, int]) -> dict[str, frozenset[int]]:
    """For each tensor, the switches that turn its rounding on: all that read it share what is rounded.

    Weights and values are rounded for the layers that read them. In the form for ONNX Runtime a layer's result is also
    rounded for the layer itself, unless it is a matrix product's that no activation follows.
    """
    reasons: dict[str, set[int]] = {name: set() for node in model.graph.node for name in node.input}
    shuffled = {name for node in model.graph.node if node.op_type in quantize.SHUFFLES for name in node.input[:1]}
    products = {name for node in model.graph.node if node.op_type in ("Gemm", "MatMul") for name in node.output}
    for node in model.graph.node:
        if node.name in group_of:
            for name in node.input:
                reasons[name].add(group_of[node.name])
    for name, layer in quantize.results(model).items() if target == "onnxruntime" else ():
        if layer in group_of and name in reasons and (name in shuffled or name not in products):
            reasons[name].add(group_of[layer])
    return {name: frozenset(places) for name, places in reasons.items()}


@dataclass(frozen=True)
class Rounded:
    """How an INT8 graph rounds one tensor."""

    of: str
    """What the rounded one is called there."""
    steps: tuple[NodeProto, ...]
    """DequantizeLinear, and QuantizeLinear before it where it is no constant."""

    @property
    def constant(self) -> bool:
        """Whether it was rounded beforehand."""
        return len(self.steps) == 1

    def nodes(self, name: str, stem: str) -> list[NodeProto]:
        """Copies of the nodes that round, from `name` to `STEM_rounded`."""
        made = []
        given = self.steps[0].input[0] if self.constant else name
        for index, step in enumerate(self.steps):
            copy = NodeProto()
            copy.CopyFrom(step)
            result = f"{stem}_rounded" if index == len(self.steps) - 1 else f"{stem}_whole"
            copy.name, copy.input[0], copy.output[0] = f"{result}_by", given, result
            made.append(copy)
            given = result
        return made


class _Rounding:
    """How an INT8 graph rounds."""

    def __init__(self, low: ModelProto) -> None:
        self._readers = {node.name: node for node in low.graph.node}
        self._makers = producers(low.graph)
        self._weights = {tensor.name: tensor for tensor in low.graph.initializer}
        self._used: set[str] = set()

    def read_by(self, node: str, slot: int) -> Rounded | None:
        """How what a node reads is rounded; None where it is not, or where the quantiser dropped the node."""
        reader = self._readers.get(node)
        expander = None if reader is None else self._makers.get(reader.input[slot])
        if expander is None or expander.op_type != "DequantizeLinear":
            return None
        steps = [expander]
        if expander.input[0] not in self._weights:
            steps.insert(0, self._makers[expander.input[0]])
        self._used.update(name for step in steps for name in step.input if name in self._weights)
        return Rounded(expander.output[0], tuple(steps))

    def constants(self) -> list[TensorProto]:
        """Scales, zero points and rounded weights of all that was asked for."""
        return [self._weights[name] for name in sorted(self._used)]
