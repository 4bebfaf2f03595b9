"""Start a narrower copy of a network from the most important channels of the original.

    state = important_channels(teacher, student, example)       # weights of the teacher, in the shapes of the student
    student.load_state_dict(state)

The teacher runs once, and each channel of each tensor on the way gets a label; what has to be kept or dropped together
(the two sides of a sum, the features that depth-to-space lays out as one channel) shares one. The importance of a label
is the sum of the squared weights that read or write its channels (Li et al. 2017, arXiv:1608.08710, with the L2 norm
over all coupled layers as in Fang et al. 2023, arXiv:2301.12900, eq. 6).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganedge.runtime.errors import GanEdgeError

Labels = list[int]


class _Trace(TorchFunctionMode):
    """Labels the channels of every tensor that is computed, and the rows and columns of every weight."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in network.state_dict(keep_vars=True).items()}
        self.weights: dict[str, dict[int, Labels]] = {}
        """By name and axis of a weight."""
        self._parents: list[int] = []
        self._tensors: dict[int, tuple[Tensor, Labels]] = {}

    def root(self, label: int) -> int:
        """The label that stands for all that were joined with this one."""
        while self._parents[label] != label:
            label = self._parents[label]
        return label

    def new(self, count: int) -> Labels:
        """Labels that nothing shares."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        return list(range(first, first + count))

    def join(self, *labels: int) -> None:
        """Keep or drop these together."""
        roots = {self.root(label) for label in labels}
        for each in roots:
            self._parents[each] = min(roots)

    def mark(self, weight: Tensor | None, axis: int, labels: Labels) -> None:
        """Say what an axis of a weight stands for; labels of a weight that is used twice are joined."""
        if weight is None or id(weight) not in self.names:
            return
        known = self.weights.setdefault(self.names[id(weight)], {}).setdefault(axis, labels)
        for own, other in zip(known, labels, strict=True):
            self.join(own, other)

    def of(self, tensor: Tensor) -> Labels:
        """The labels of a tensor's channels; an input of the network has its own."""
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = (tensor, self.new(tensor.shape[1] if tensor.ndim > 1 else 1))
        return self._tensors[id(tensor)][1]

    def __torch_function__(self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if isinstance(result, Tensor) and result.ndim > 1 and result.is_floating_point():
            rule = RULES.get(name, _same)
            self._tensors[id(result)] = (result, rule(self, _Call(name, result, args, kwargs or {})))
        return result


@dataclass(frozen=True)
class _Call:
    """A function that was called."""

    name: str
    result: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def values(self, *names: str) -> list[Any]:
        """Arguments by position or name."""
        return [self.args[i] if i < len(self.args) else self.kwargs.get(name) for i, name in enumerate(names)]

    @property
    def tensors(self) -> list[Tensor]:
        """Arguments that are tensors of real numbers."""
        values = (*self.args, *self.kwargs.values())
        return [each for each in values if isinstance(each, Tensor) and each.is_floating_point()]


Rule = Callable[[_Trace, _Call], Labels]


def _layer(trace: _Trace, call: _Call) -> Labels:
    """A convolution, transposed or not, or a linear layer."""
    taken, weight, bias = call.values("input", "weight", "bias")
    written, read = trace.new(call.result.shape[1]), trace.of(taken)
    rows, columns = (1, 0) if call.name == "conv_transpose2d" else (0, 1)
    if weight.shape[rows] != len(written) or weight.shape[columns] != len(read):
        raise GanEdgeError("it has convolutions in groups")
    trace.mark(weight, rows, written)
    trace.mark(weight, columns, read)
    trace.mark(bias, 0, written)
    return written


def _norm(trace: _Trace, call: _Call) -> Labels:
    """BatchNorm or InstanceNorm."""
    labels = trace.of(call.args[0])
    for weight in call.tensors[1:]:
        trace.mark(weight, 0, labels)
    return labels


def _embedding(trace: _Trace, call: _Call) -> Labels:
    """Rows of a table."""
    labels = trace.new(call.result.shape[1])
    trace.mark(call.tensors[0], 1, labels)
    return labels


def _cat(trace: _Trace, call: _Call) -> Labels:
    """Channels side by side."""
    parts, axis = call.values("tensors", "dim")
    if axis != 1:
        raise GanEdgeError("it joins tensors along another axis than the channels")
    return [label for part in parts for label in trace.of(part)]


def _shuffle(trace: _Trace, call: _Call) -> Labels:
    """Features that become one channel stay together."""
    labels = trace.of(call.args[0])
    count = len(labels) // call.result.shape[1]
    for first in range(0, len(labels), count):
        trace.join(*labels[first : first + count])
    return labels[::count]


def _reshape(trace: _Trace, call: _Call) -> Labels:
    """A vector becomes maps, or maps become a vector; both with the channel first."""
    labels, channels = trace.of(call.args[0]), call.result.shape[1]
    if len(labels) == channels:
        return labels
    if len(labels) % channels == 0:
        return _shuffle(trace, call)
    if channels % len(labels) == 0:
        return [label for label in labels for _ in range(channels // len(labels))]
    raise GanEdgeError("it changes the order of its features")


def _same(trace: _Trace, call: _Call) -> Labels:
    """Any other function leaves the channels what they are; two tensors are joined channel by channel."""
    tensors = [each for each in call.tensors if each.ndim > 1]
    if not tensors or any(each.shape[1] != call.result.shape[1] for each in tensors):
        raise GanEdgeError(f"it computes {call.name or 'a function'} across channels")
    first, *others = (trace.of(each) for each in tensors)
    for other in others:
        for own, joined in zip(first, other, strict=True):
            trace.join(own, joined)
    return first


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv2d", "conv_transpose2d", "linear"), _layer),
    **dict.fromkeys(("batch_norm", "instance_norm"), _norm),
    **dict.fromkeys(("unflatten", "flatten", "reshape", "view"), _reshape),
    "embedding": _embedding,
    "cat": _cat,
    "concat": _cat,
    "pixel_shuffle": _shuffle,
}


def important_channels(teacher: nn.Module, student: nn.Module, example: Sequence[Tensor]) -> dict[str, Tensor]:
    """Weights of the teacher's most important channels, in the shapes of a narrower network of the same class.

    Args:
        teacher: A network, in evaluation mode.
        student: The same network with fewer channels, and perhaps fewer blocks: those of equal name are copied.
        example: Inputs of the teacher.

    Returns:
        A state of the student.

    Raises:
        GanEdgeError: the teacher does what cannot be followed channel by channel; the message says what.
    """
    trace = _Trace(teacher)
    with torch.no_grad(), trace:
        teacher(*example)
    known, own = teacher.state_dict(), student.state_dict()
    origins = _origins(teacher, student)
    kept = _kept(trace, known, {origins(name): tensor.shape for name, tensor in own.items()})
    state = {}
    for name, shape in ((name, tensor.shape) for name, tensor in own.items()):
        tensor = known[origins(name)]
        for axis, labels in trace.weights.get(origins(name), {}).items():
            chosen = [index for index, label in enumerate(labels) if trace.root(label) in kept]
            tensor = tensor.index_select(axis, torch.tensor(chosen))
        if tensor.shape != shape:
            raise GanEdgeError(
                f"{name} is {tuple(shape)} in the smaller network, {tuple(tensor.shape)} in a part of it"
            )
        state[name] = tensor.clone()
    return state


def _origins(teacher: nn.Module, student: nn.Module) -> Callable[[str], str]:
    """From the names of the student's weights to the teacher's, of which some blocks in a row may be missing."""
    before, after = ([type(child) for child in network.children()] for network in (teacher, student))
    missing = len(before) - len(after)
    if missing <= 0:
        return lambda name: name
    begin = next((at for at in range(len(after), -1, -1) if before[:at] + before[at + missing :] == after), None)
    if begin is None or not isinstance(teacher, nn.Sequential):
        raise GanEdgeError("its layers differ in more than their number of blocks")

    def origin(name: str) -> str:
        index, _, rest = name.partition(".")
        return f"{int(index) + missing if int(index) >= begin else index}.{rest}"

    return origin


def _kept(trace: _Trace, known: dict[str, Tensor], shapes: dict[str, torch.Size]) -> set[int]:
    """The labels to keep: of each set of channels the most important ones, as many as the student has."""
    scores: dict[int, float] = {}
    for name, axes in trace.weights.items():
        for axis, labels in axes.items():
            others = [each for each in range(known[name].ndim) if each != axis]
            squares = known[name].float().square()
            for label, value in zip(labels, (squares.sum(others) if others else squares).tolist(), strict=True):
                scores[trace.root(label)] = scores.get(trace.root(label), 0.0) + value
    kept: set[int] = set()
    settled: set[int] = set()
    for name, axes in trace.weights.items():
        for axis, labels in axes.items():
            roots = list(dict.fromkeys(trace.root(label) for label in labels))
            if name not in shapes or settled.issuperset(roots):
                continue
            open_ = [root for root in roots if root not in settled]
            share = len(labels) // len(roots)
            count = shapes[name][axis] // share - sum(root in kept for root in roots)
            kept.update(sorted(open_, key=lambda root: (-scores[root], root))[: max(count, 0)])
            settled.update(open_)
    return kept
