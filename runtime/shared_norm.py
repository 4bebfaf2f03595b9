"""Normalisation whose statistics come from elsewhere: tiles of one picture that look as if they had seen all of it.

A generator with InstanceNorm normalises over the picture it is given, so that tiles of a large picture come out each in
its own tone. Here the statistics of every normalisation are taken once, from the whole picture reduced to what the
memory allows, and then used for all its tiles:

    shared = SharedNorm(model, start)
    run = shared.of(reduced)                 # the statistics of this picture
    result = blend(picture, run, ...)        # every tile normalised with them

With m and v the mean and variance of a channel over the reduced picture, InstanceNormalization's s·(x - m)/√(v + ε) + b
(Ulyanov et al. 2016, arXiv:1607.08022, eq. 4) is x·α + β with α = s/√(v + ε) and β = b - m·α. The graph is rewritten to
take α and β as inputs. A reduced picture has less fine detail than the whole one, so that the result is close to that
of the whole picture and not equal to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import EngineError, MissingExtra, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .engines import Engine

NORM = "InstanceNormalization"
EPSILON = 1e-5
"""What InstanceNormalization adds to the variance unless it says otherwise."""


class SharedNorm:
    """Two engines made from one model: one that tells its statistics, and one that takes them.

    Args:
        model: An ONNX artifact with InstanceNormalization.
        start: Loads such a model into an engine.

    Raises:
        MissingExtra: the onnx package, which rewrites the graph, is not installed.
        UsageError: the model does not normalise over the picture.
        EngineError: the engine does not take the rewritten graph.
    """

    def __init__(self, model: bytes, start: Callable[[bytes], Engine]) -> None:
        try:
            import onnx
        except ImportError as error:
            raise MissingExtra("onnx", "tiles", "tiles that share their normalisation") from error
        told, taking, self._scales = _rewrite(onnx, model)
        self._input = told.graph.input[0].name
        self._telling = start(told.SerializeToString())
        self._taking = start(taking.SerializeToString())

    def of(self, reduced: NDArray[np.generic]) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
        """A run that normalises everything as this picture would be.

        Args:
            reduced: One item `[1, ...]` of the generator's input.

        Raises:
            EngineError: the picture is too small for statistics, or gives none.
        """
        found = self._telling.run({self._input: reduced})[1:]
        factors: dict[str, NDArray[np.generic]] = {}
        for place, (scale, bias, epsilon) in enumerate(self._scales):
            mean, square = (np.asarray(array, np.float64) for array in found[2 * place : 2 * place + 2])
            variance = np.maximum(square - mean**2, 0.0)
            alpha = scale[None, :, None, None] / np.sqrt(variance + epsilon)
            beta = bias[None, :, None, None] - mean * alpha
            if not (np.isfinite(alpha).all() and np.isfinite(beta).all()):
                raise EngineError("the reduced picture gives no finite statistics: take the picture whole")
            factors[f"alpha{place}"], factors[f"beta{place}"] = alpha.astype(np.float32), beta.astype(np.float32)
        return lambda tile: self._taking.run({self._input: tile, **factors})[0]

    def close(self) -> None:
        """Let both engines go."""
        self._telling.close()
        self._taking.close()


def _rewrite(onnx: Any, model: bytes) -> tuple[Any, Any, list[tuple[NDArray[np.float64], NDArray[np.float64], float]]]:
    """A graph that also gives means and mean squares, one that takes factors, and each normalisation's own scales."""
    from onnx import TensorProto, helper, numpy_helper

    telling, taking = onnx.load_model_from_string(model), onnx.load_model_from_string(model)
    weights = {tensor.name: tensor for tensor in telling.graph.initializer}
    scales = []
    norms = [node for node in telling.graph.node if node.op_type == NORM]
    if not norms or any(name not in weights for node in norms for name in node.input[1:3]):
        raise UsageError(
            "tiles 'shared': this generator has no InstanceNorm whose statistics could be shared: use auto"
        )
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "shared_axes")
    telling.graph.initializer.append(axes)
    opset = next(entry.version for entry in telling.opset_import if not entry.domain)
    for place, node in enumerate(norms):
        scale, bias = (numpy_helper.to_array(weights[name]).astype(np.float64) for name in node.input[1:3])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), EPSILON)
        scales.append((scale, bias, epsilon))
        mean, square, squared = f"shared_mean{place}", f"shared_square{place}", f"shared_squared{place}"
        telling.graph.node.append(helper.make_node("Mul", [node.input[0], node.input[0]], [squared]))
        for given, made in ((node.input[0], mean), (squared, square)):
            if opset >= 18:
                reduce = helper.make_node("ReduceMean", [given, axes.name], [made], keepdims=1)
            else:
                reduce = helper.make_node("ReduceMean", [given], [made], axes=[2, 3], keepdims=1)
            telling.graph.node.append(reduce)
            telling.graph.output.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, [1, len(scale), 1, 1]))
    nodes = []
    place = 0
    for node in taking.graph.node:
        if node.op_type != NORM:
            nodes.append(node)
            continue
        alpha, beta, scaled = f"alpha{place}", f"beta{place}", f"shared_scaled{place}"
        shape = [1, len(scales[place][0]), 1, 1]
        for name in (alpha, beta):
            taking.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        nodes.append(helper.make_node("Mul", [node.input[0], alpha], [scaled], f"{node.name}_scaled"))
        nodes.append(helper.make_node("Add", [scaled, beta], [node.output[0]], node.name))
        place += 1
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del taking.graph.node[:]
    taking.graph.node.extend(copies)
    return telling, taking, scales
