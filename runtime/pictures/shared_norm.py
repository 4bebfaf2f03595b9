"""Normalise the tiles of a picture with statistics of the whole picture.

A generator with InstanceNorm normalises over the picture it is given, so that tiles of a large picture come out each in
its own tone. Here the statistics of every normalisation are taken once, from the whole picture reduced to the size of a
tile, and then used for all its tiles:

    shared = SharedNorm(model, start)
    run = shared.of(reduced)                 # the statistics of this picture
    result = blend(picture, run, ...)        # every tile normalised with them

With m and v the mean and variance of a channel over the reduced picture, InstanceNormalization's s·(x - m)/√(v + ε) + b
(Ulyanov et al. 2016, arXiv:1607.08022, eq. 4) is x·α + β with α = s/√(v + ε) and β = b - m·α. The graph is rewritten to
take α and β as inputs. A reduced picture has less fine detail than the whole one, so that the result is close to that
of the whole picture and not equal to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.errors import EngineError, MissingExtra, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ganedge.runtime.engines import Engine

NORM = "InstanceNormalization"
EPSILON = 1e-5
"""What InstanceNormalization adds to the variance unless it says otherwise."""
WHOLE_PICTURE = frozenset({NORM, "GroupNormalization", "GlobalAveragePool", "GlobalMaxPool"})
"""Operators whose result at each pixel depends on all others."""
INSTEAD = "allow more memory, or accept tiles that differ (tiles always)"
"""Advice where no statistics can be shared."""


@dataclass(frozen=True)
class _Norm:
    """What one normalisation does besides normalising."""

    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    epsilon: float
    half: bool
    """Whether it works in FP16: its statistics are taken, and used, in FP32."""


class SharedNorm:
    """A model that takes its statistics as inputs, and another, loaded when it is needed, that tells them.

    Args:
        model: An ONNX artifact with InstanceNormalization.
        start: Loads such a model into an engine.

    Raises:
        MissingExtra: the onnx package, which rewrites the graph, is not installed.
        UsageError: the model's normalisation cannot be shared.
        EngineError: the engine does not take the rewritten graph.
    """

    def __init__(self, model: bytes, start: Callable[[bytes], Engine]) -> None:
        try:
            import onnx
        except ImportError as error:
            raise MissingExtra("onnx", "tiles", "tiles that share their normalisation") from error
        graph, telling = onnx.load_model_from_string(model), onnx.load_model_from_string(model)
        for each in (graph, telling):
            del each.graph.output[1:]  # Tiles make the result alone.
        self._norms = _norms(graph)
        self._input = graph.graph.input[0].name
        self._start = start
        self._telling = _telling(telling, self._norms).SerializeToString()
        self._taking = start(_taking(graph, self._norms).SerializeToString())

    def of(self, reduced: NDArray[np.generic]) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
        """A run that normalises everything as this picture would be.

        Args:
            reduced: One item `[1, ...]` of the generator's input.

        Raises:
            EngineError: the engine fails, or the picture gives no finite statistics.
        """
        engine = self._start(self._telling)  # Freed at once, because the tiles need its memory.
        try:
            statistics = engine.run({self._input: reduced})[1:]
        finally:
            engine.close()
        factors: dict[str, NDArray[np.generic]] = {}
        for index, norm in enumerate(self._norms):
            mean, variance = (np.asarray(array, np.float64) for array in statistics[2 * index : 2 * index + 2])
            alpha = norm.scale[None, :, None, None] / np.sqrt(variance + norm.epsilon)
            beta = norm.bias[None, :, None, None] - mean * alpha
            if not (np.isfinite(alpha).all() and np.isfinite(beta).all()):
                raise EngineError("the reduced picture gives no finite statistics: take the picture whole")
            factors[f"alpha{index}"], factors[f"beta{index}"] = alpha.astype(np.float32), beta.astype(np.float32)
        return lambda tile: self._taking.run({self._input: tile, **factors})[0]

    def close(self) -> None:
        """Free the engine."""
        self._taking.close()


def _norms(model: Any) -> list[_Norm]:
    """Every normalisation of a graph, in its order.

    Raises:
        UsageError: there is none, or one whose statistics cannot be shared.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info, *graph.output)
    }
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if batch > 1:
        raise UsageError(f"tiles 'shared': this generator takes {batch} pictures at a time; {INSTEAD}")
    norms = []
    for node in graph.node:
        if node.op_type in WHOLE_PICTURE and node.op_type != NORM:
            raise UsageError(f"tiles 'shared': this generator has {node.op_type} over the whole picture; {INSTEAD}")
        if node.op_type != NORM:
            continue
        if any(name not in weights for name in node.input[1:3]):
            raise UsageError(f"tiles 'shared': this generator computes the scale of its InstanceNorm; {INSTEAD}")
        if ranks.get(node.input[0], 4) != 4:
            raise UsageError(f"tiles 'shared': this generator normalises groups of channels; {INSTEAD}")
        scale, bias = (numpy_helper.to_array(weights[name]).astype(np.float64) for name in node.input[1:3])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), EPSILON)
        half = weights[node.input[1]].data_type == TensorProto.FLOAT16
        norms.append(_Norm(scale, bias, float(epsilon), half))
    if not norms:
        raise UsageError(f"tiles 'shared': this generator has no InstanceNorm to share statistics of; {INSTEAD}")
    return norms


def _telling(model: Any, norms: list[_Norm]) -> Any:
    """The graph with the mean and the variance before each normalisation as further outputs, by two passes."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset >= 18:
        graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "shared_axes"))

    def mean_of(source: str, made: str) -> Any:
        if opset >= 18:
            return helper.make_node("ReduceMean", [source, "shared_axes"], [made], keepdims=1)
        return helper.make_node("ReduceMean", [source], [made], axes=[2, 3], keepdims=1)

    for index, (node, norm) in enumerate(zip(_nodes(graph), norms, strict=True)):
        source, mean, variance = node.input[0], f"shared_mean{index}", f"shared_variance{index}"
        centred, squared = f"shared_centred{index}", f"shared_squared{index}"
        if norm.half:
            source = f"shared_wide{index}"
            graph.node.append(helper.make_node("Cast", [node.input[0]], [source], to=TensorProto.FLOAT))
        graph.node.append(mean_of(source, mean))
        graph.node.append(helper.make_node("Sub", [source, mean], [centred]))
        graph.node.append(helper.make_node("Mul", [centred, centred], [squared]))
        graph.node.append(mean_of(squared, variance))
        for name in (mean, variance):
            shape = [1, len(norm.scale), 1, 1]
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return model


def _taking(model: Any, norms: list[_Norm]) -> Any:
    """The graph with each normalisation replaced by factors that are inputs."""
    from onnx import NodeProto, TensorProto, helper

    graph = model.graph
    nodes = []
    index = 0
    for node in graph.node:
        if node.op_type != NORM:
            copy = NodeProto()
            copy.CopyFrom(node)
            nodes.append(copy)
            continue
        norm, source, made = norms[index], node.input[0], node.output[0]
        alpha, beta, scaled = f"alpha{index}", f"beta{index}", f"shared_scaled{index}"
        for name in (alpha, beta):
            shape = [1, len(norm.scale), 1, 1]
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        if norm.half:
            source, made = f"shared_wide{index}", f"shared_moved{index}"
            nodes.append(helper.make_node("Cast", [node.input[0]], [source], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [source, alpha], [scaled], f"{node.name}_scaled"))
        nodes.append(helper.make_node("Add", [scaled, beta], [made], node.name))
        if norm.half:
            nodes.append(helper.make_node("Cast", [made], [node.output[0]], to=TensorProto.FLOAT16))
        index += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _nodes(graph: Any) -> list[Any]:
    """The normalisations, as they are before anything is added."""
    return [node for node in graph.node if node.op_type == NORM]
