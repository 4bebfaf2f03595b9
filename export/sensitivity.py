"""What each layer's INT8 costs at the output, and which layers to leave out so that a gate holds. No torch here.

    effect = Sensitivity(prepared, low, "onnxruntime", cases, interface)
    keep = effect.kept(Gate(psnr=30.0), spare=1.0)          # names of layers that stay in floating point

A layer's own rounding says little: what the first layer of a deep network rounds may grow on its way, and what is
rounded at the end does not. So every layer is rounded by itself, and the whole network's output compared. All that is
one FP32 graph in which each layer has a switch between its values and the same values rounded as the INT8 graph rounds
them; any set of layers is then one call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ganedge.export import layers, phases, quantize
from ganedge.export.calibration import corrected_bias
from ganedge.export.graph import copied, producers
from ganedge.export.spec import Target
from ganedge.runtime import engines
from ganedge.runtime.errors import one_line
from ganedge.runtime.fidelity import Difference, Gate, span_of, worst
from ganedge.runtime.fidelity import difference as compare
from ganedge.runtime.manifest import Interface

VALUES = 2**22
"""Values that latents are turned into, and compared, for each set of layers that is tried."""
GROUPS = 48
"""Neighbouring layers share a switch where there are more than these."""
WORK, PROBES, FEWEST = 1e12, 6, 2
"""Multiply-accumulates that a search may take, the sets of layers that it tries about, and the pictures it is bounded
to, cut from those of the smallest size, where all would take more."""
SIDES = (128, 64)
"""Sides of those, pixels: of the ones that sets are tried on, and of the one that each layer is rounded alone for."""
NEARLY = 1.5
"""How many times the error that a gate allows the sum of the layers' own errors may be for a set to be tried."""
EXACT = 60.0
"""From how many dB on a difference does not matter."""
Item = Mapping[str, NDArray[np.generic]]
"""Inputs of one call, by name."""
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
        errors: By layer the mean error of its channels that its bias makes up for where it is rounded.
        noise: What each layer adds, where that is known from another calibration; it is measured otherwise.
        output: Which of the generator's outputs decides.

    Attributes:
        groups: What the switches are for, in the order of the graph.
        noise: What each adds to the output, alone: the mean square error of the worst call.
        work: Multiply-accumulates of a search with all pictures; 0 for latents, which cost little.
        note: What to say where a bounded search was not possible; empty otherwise.
    """

    def __init__(
        self,
        prepared: ModelProto,
        low: ModelProto,
        target: Target,
        cases: Sequence[Sequence[NDArray[np.generic]]],
        interface: Interface,
        errors: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
        noise: Sequence[float] = (),
        output: int = 0,
    ) -> None:
        self.groups = _groups(prepared, low, [array.shape for array in cases[0]])
        self._port = port = interface.outputs[output]
        self.work = 0
        self.note = ""
        self._known: dict[frozenset[int], Difference] = {}
        self._index, self._output = output, prepared.graph.output[output].name
        self._session = layers.open_session(_switched(prepared, low, target, self.groups, errors), [])
        if interface.noise is None:
            chosen: list[Item] = list(layers.items(prepared, cases))
            self._items, ranked = self._pictures(chosen[:: len(cases)], len(cases), interface)
        else:
            self._items = ranked = _batches(interface, cases[0])
        self._wanted = [self._run(item, ()) for item in self._items]
        self._span = span_of(port, *self._wanted)
        self.noise = list(noise)
        if noise:
            return
        alone = self._wanted if ranked is self._items else [self._run(item, ()) for item in ranked]
        for index in range(len(self.groups)):
            phases.report("measuring what INT8 costs in each layer", index, len(self.groups))
            self.noise.append(max(self._error(*pair, index) for pair in zip(ranked, alone, strict=True)))

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
        few = self._fewest(order, gate, slack)
        kept = set(order[:few])
        # Some of these layers turned out to be unnecessary: put the largest back first.
        able = gate.holds(self.difference(order[few:]), slack)
        for index in sorted(order[: few - 1] if few and able else [], key=lambda index: -self.groups[index].work):
            rounded = [other for other in order if other not in kept - {index}]
            if self._may_hold(rounded, gate, spare) and gate.holds(self.difference(rounded), slack):
                kept.remove(index)
        return frozenset(name for index in kept for name in self.groups[index].nodes)

    def _fewest(self, order: Sequence[int], gate: Gate, slack: float) -> int:
        """The smallest number of layers of an order to leave out, at most all but one.

        The search begins where the sum of the layers' errors says, and goes on in steps that double.
        """
        few, many, step = 0, len(order) - 1, 1
        spare = -20 * math.log10(slack)
        guess = next((count for count in range(many) if self._may_hold(order[count:], gate, spare, 1.0)), many)
        while few < many:
            phases.report("looking for the layers to take back")
            middle = min(max(guess, few), many - 1)
            if gate.holds(self.difference(order[middle:]), slack):
                many, guess = middle, middle - step
            else:
                few, guess = middle + 1, middle + step
            step *= 2
        return few

    def _may_hold(self, rounded: Sequence[int], gate: Gate, spare: float, nearly: float = NEARLY) -> bool:
        """Whether a gate's PSNR is in reach with these layers rounded, if errors add up; True where it has none."""
        limit = np.inf if gate.psnr is None else self._span**2 / 10 ** ((gate.psnr + spare) / 10)
        return sum(self.noise[index] for index in rounded) <= nearly * limit

    @property
    def every(self) -> frozenset[str]:
        """The nodes of all groups."""
        return frozenset(name for group in self.groups for name in group.nodes)

    def predicted(self, names: frozenset[str]) -> float:
        """The PSNR, dB, with these nodes left out; infinite where nothing is lost."""
        psnr = self.difference([i for i, group in enumerate(self.groups) if not names & {*group.nodes}]).psnr
        return math.inf if psnr is None else psnr

    def lost_in(self, engine: engines.Engine, index: int) -> float:
        """How many dB an engine loses beyond rounding, with one layer INT8; 0 or less where it computes correctly.

        Args:
            engine: Runs the graph in which only that group's layers are INT8.
            index: Of the group.
        """
        item, wanted = self._items[0], self._wanted[0]
        levels = []
        for output in (self._run(item, [index]), engine.run(item)[self._index]):
            psnr = compare(output, wanted, self._port, self._span).psnr
            levels.append(math.inf if psnr is None else psnr)
        return min(levels[0], EXACT) - levels[1]

    def share(self, names: frozenset[str]) -> float:
        """The share of the layers' arithmetic that some of them have."""
        some = sum(group.work for group in self.groups if names & {*group.nodes})
        return some / max(sum(group.work for group in self.groups), 1)

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

    def _pictures(self, chosen: list[Item], cases: int, interface: Interface) -> tuple[list[Item], list[Item]]:
        """The calls that sets of layers are tried on, and those that each layer is rounded alone for, one of each case.

        Where that would be much work they are parts of few pictures, if the graph runs on smaller ones.
        """
        work = sum(group.work for group in self.groups) * (len(self.groups) * cases + len(chosen) * PROBES)
        self.work = work
        if work > WORK:
            smallest = sorted(chosen, key=lambda item: sum(array.size for array in item.values()))[:FEWEST]
            tried, ranked = ([_cropped(item, interface, side) for item in smallest] for side in SIDES)
            try:
                self._run(ranked[0], ())
                return tried, ranked[:1]
            except layers.run_errors() as error:
                self.note = f"layers were tried on whole pictures, as it does not run on parts: {one_line(error)}"
        return chosen, chosen[:: max(1, len(chosen) // cases)]

    def _error(self, item: Item, wanted: NDArray[np.generic], index: int) -> float:
        """The mean square error of one call's output with one layer rounded."""
        error = self._run(item, [index]).astype(np.float64) - wanted.astype(np.float64)
        return float((error**2).mean())

    def _run(self, item: Item, rounded: Sequence[int]) -> NDArray[np.generic]:
        switches = np.isin(np.arange(len(self.groups)), rounded)
        output: NDArray[np.generic] = self._session.run([self._output], {**item, SWITCHES: switches})[0]
        return output


def _batches(interface: Interface, inputs: Sequence[NDArray[np.generic]]) -> list[Item]:
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


def _switched(
    prepared: ModelProto,
    low: ModelProto,
    target: Target,
    groups: Sequence[Group],
    errors: Mapping[str, NDArray[np.float32]],
) -> ModelProto:
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

    def choose(stem: str, name: str, groups: frozenset[int]) -> None:
        indices, chosen = _choice(stem, name, groups)
        graph.initializer.append(indices)
        nodes.extend(chosen)

    def switch(name: str, rounded: Rounded, groups: frozenset[int]) -> str:
        """The name of a tensor behind its switch, made where it is first read."""
        key = (name, rounded.of)
        if key not in switched:
            stem = f"{name}_switch{len(switched)}"
            nodes.extend(rounded.nodes(name, stem))
            choose(stem, name, groups)
            switched[key] = stem
        return switched[key]

    def correct(node: NodeProto) -> None:
        """Give a layer its corrected bias where it is rounded."""
        error, stem = errors[node.name], f"{node.name}_bias_switch"
        bias, plain = (corrected_bias(prepared, node, values) for values in (error, np.zeros_like(error)))
        graph.initializer.append(numpy_helper.from_array(bias, f"{stem}_rounded"))
        graph.initializer.append(numpy_helper.from_array(plain, f"{stem}_plain"))
        choose(stem, f"{stem}_plain", frozenset({group_of[node.name]}))
        del node.input[2:]
        node.input.append(stem)

    for node in graph.node:
        for slot, name in enumerate(node.input):
            rounded = rounding.read_by(node.name, slot)
            if rounded is not None and reasons[name]:
                node.input[slot] = switch(name, rounded, reasons[name])
        if node.name in errors and node.name in group_of:
            correct(node)
        nodes.append(node)
    graph.initializer.extend(rounding.constants())
    ordered = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    open_sides(graph)
    return model


def _choice(stem: str, name: str, groups: frozenset[int]) -> tuple[TensorProto, list[NodeProto]]:
    """Nodes that give as `STEM` the tensor `STEM_rounded` where a switch of a group is on, and `name` otherwise."""
    return numpy_helper.from_array(np.array(sorted(groups)), f"{stem}_groups"), [
        helper.make_node("Gather", [SWITCHES, f"{stem}_groups"], [f"{stem}_each"]),
        helper.make_node("Cast", [f"{stem}_each"], [f"{stem}_int"], to=TensorProto.INT32),
        helper.make_node("ReduceMax", [f"{stem}_int"], [f"{stem}_any"], keepdims=0),
        helper.make_node("Cast", [f"{stem}_any"], [f"{stem}_on"], to=TensorProto.BOOL),
        helper.make_node("Where", [f"{stem}_on", f"{stem}_rounded", name], [stem]),
    ]


def open_sides(graph: GraphProto) -> None:
    """Let pictures of any size in, where the nodes do: what they were inferred to give goes."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim[1:]:
            dim.ClearField("dim_value")


def _cropped(item: Item, interface: Interface, side: int) -> Item:
    """The middle of each picture, about so high and wide at most, pixels."""
    parts = dict(item)
    for port in interface.inputs:
        if port.is_picture:
            most = -(-side // port.multiple) * port.multiple
            for axis in (2, 3) if port.layout == "NCHW" else (1, 2):
                begin = max(0, (parts[port.name].shape[axis] - most) // 2)
                indices = np.arange(begin, min(begin + most, parts[port.name].shape[axis]))
                parts[port.name] = parts[port.name].take(indices, axis)
    return parts


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
    return {name: frozenset(layers) for name, layers in reasons.items()}


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
