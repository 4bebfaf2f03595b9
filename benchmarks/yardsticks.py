"""Fixed reference work timed beside the competitors, the same in every report.

The machine may have been faster during one report than during another. `gan-bench compare` therefore needs reference
work that other load on the machine slows down as much as it slows the competitor. Other processes slow computation more
than memory access, and one library more than another, by several percent (benchmarks/LOG.md). The closest reference is
therefore another generator in the same engine on the same threads: a small DCGAN. It calls the engine directly, so that
a change in how this project's runtime starts an engine shows as a change of the ratio. Competitors whose engine has no
such network are compared with one general yardstick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks import isolated
from ganedge.benchmarks.competitor import Competitor
from ganedge.benchmarks.isolated import Pool, Recipe
from ganedge.runtime import timing
from ganedge.runtime.engines import ort, ov
from ganedge.runtime.errors import EngineError, GanEdgeError, MissingExtra

SORTED = 100_000
"""Length of the array that the general yardstick sorts, in one thread. A matrix product in NumPy would leave its
library's threads spinning, which slows the next competitor."""
PRODUCT = 2048
"""Rows and columns of the matrix that is multiplied instead on a GPU."""
LAYERS = ((100, 96, 4, 1, 0), (96, 48, 4, 2, 1), (48, 24, 4, 2, 1), (24, 3, 4, 2, 1))
"""Transposed convolutions of the network, from a latent to a 32 × 32 picture: channels in and out, kernel, stride and
padding. A call takes some hundred microseconds, so a turn contains many."""
SIDE = 32
"""Height and width of the network's picture."""
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Yardstick:
    """One piece of reference work."""

    run: Callable[[int], object]
    """Makes one call; the call number is ignored."""
    renew: Callable[[], None] | None = None
    """Restarts it at other memory addresses."""
    close: Callable[[], None] = lambda: None
    """Frees it."""

    def over(self, _pool: Pool) -> timing.Competitor:
        """Return the function to time; the pool of inputs is ignored."""
        return self.run


def recipes(competitors: Sequence[Competitor], device: str, threads: int) -> dict[str, Recipe]:
    """Return how to make the general yardstick, and the network in each engine that competitors use on the CPU.

    Args:
        competitors: Competitors whose engines get a network.
        device: "cpu": the general yardstick sorts numbers. "cuda": it multiplies matrices if PyTorch has CUDA.
        threads: Threads of each engine.

    Returns:
        The general yardstick under the name that `general` returns, networks under the competitors' `engine`, which
        includes the version. Making one raises MissingExtra if a package is missing, or the engine's own error.
    """
    name = general(device)
    recipes = {name: Recipe(GENERAL[name], name)}
    for competitor in competitors:
        engine = competitor.engine.partition(" ")[0]
        if competitor.device == "cpu" and engine in STARTS and competitor.engine not in recipes:
            # PyTorch takes long to import, and its number of threads is a setting of the whole process.
            host = (
                competitor.recipe.host
                if engine == "PyTorch" and competitor.recipe is not None
                else f"the network in {competitor.engine}"
            )
            recipes[competitor.engine] = Recipe(partial(network, engine, threads), host)
    return recipes


def general(device: str) -> str:
    """Return the name of the general yardstick, which serves every engine."""
    if device != "cuda" or find_spec("torch") is None:
        return "sort"
    import torch

    return "product" if torch.cuda.is_available() else "sort"  # PyTorch may be a CPU build.


def sort() -> Yardstick:
    """Sort numbers, in one thread."""
    values = np.random.default_rng(0).random(SORTED, np.float32)
    return Yardstick(lambda _: np.sort(values))


def product() -> Yardstick:
    """Multiply matrices on a GPU."""
    import torch

    matrix = torch.randn(PRODUCT, PRODUCT, device="cuda")

    def run(_: int) -> None:
        try:
            torch.mm(matrix, matrix)
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise EngineError(isolated.line(error)) from error

    return Yardstick(run)


def network(engine: str, threads: int) -> Yardstick:
    """Start the network in one engine and call it once.

    Args:
        engine: A key of `STARTS`.
        threads: Threads of the engine.
    """
    live: list[Callable[[], object]] = []

    def close() -> None:
        with ov.signal_stack_kept():
            live.clear()

    def renew() -> None:
        close()
        live.append(STARTS[engine](threads))

    def run(_: int) -> None:
        try:
            if not live:  # An earlier restart failed.
                renew()
            live[0]()
        except GanEdgeError:
            raise
        except Exception as error:
            raise EngineError(isolated.line(error)) from error

    renew()
    run(0)
    return Yardstick(run, renew, close)


def _numbers() -> tuple[Array, list[Array]]:
    """Return the network's latent and the weights of each layer, small enough that nothing overflows."""
    random = np.random.default_rng(0)
    latent = random.normal(0, 1, (1, LAYERS[0][0], 1, 1)).astype(np.float32)
    return latent, [random.normal(0, 0.05, (i, o, kernel, kernel)).astype(np.float32) for i, o, kernel, *_ in LAYERS]


def _model() -> bytes:
    """The network as ONNX."""
    if find_spec("onnx") is None:
        raise MissingExtra("onnx", "export", "a yardstick in each engine")
    from onnx import TensorProto, helper, numpy_helper

    latent, weights = _numbers()
    nodes = []
    for layer, (_, _, _, stride, padding) in enumerate(LAYERS):
        names = [f"picture{layer}", f"weights{layer}"]
        attributes: dict[str, Any] = {"strides": [stride] * 2, "pads": [padding] * 4}
        nodes.append(helper.make_node("ConvTranspose", names, [f"sum{layer}"], **attributes))
        last = layer == len(LAYERS) - 1
        nodes.append(helper.make_node("Tanh" if last else "Relu", [f"sum{layer}"], [f"picture{layer + 1}"]))
    shapes = {"picture0": list(latent.shape), f"picture{len(LAYERS)}": [1, LAYERS[-1][1], SIDE, SIDE]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    constants = [numpy_helper.from_array(array, f"weights{layer}") for layer, array in enumerate(weights)]
    graph = helper.make_graph(nodes, "yardstick", [x], [y], constants)
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return made


def _onnxruntime(threads: int) -> Callable[[], object]:
    onnxruntime = ort.package()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(_model(), options, providers=["CPUExecutionProvider"])
    feeds = {"picture0": _numbers()[0]}
    return lambda: session.run(None, feeds)


def _openvino(threads: int) -> Callable[[], object]:
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    with ov.signal_stack_kept():
        core = ov.package().Core()
        compiled = core.compile_model(core.read_model(_model()), "CPU", settings)
    request = compiled.create_infer_request()
    feeds = {"picture0": _numbers()[0]}
    return lambda: request.infer(feeds, share_inputs=True)


def _pytorch(threads: int) -> Callable[[], object]:
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    numbers, arrays = _numbers()
    latent, weights = torch.from_numpy(numbers), [torch.from_numpy(array) for array in arrays]

    def call() -> object:
        with torch.inference_mode():
            picture = latent
            for layer, (_, _, _, stride, padding) in enumerate(LAYERS):
                picture = functional.conv_transpose2d(picture, weights[layer], stride=stride, padding=padding)
                picture = picture.tanh() if layer == len(LAYERS) - 1 else picture.relu()
            return picture

    return call


STARTS: Mapping[str, Callable[[int], Callable[[], object]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "PyTorch": _pytorch,
}
"""Starts the network, by the first word of a competitor's `engine`."""
GENERAL: Mapping[str, Callable[[], Yardstick]] = {"sort": sort, "product": product}
"""General yardsticks, by the name that `general` returns."""
