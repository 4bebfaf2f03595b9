"""Fixed work that is timed beside the competitors, the same in every report.

Two reports were made at two times, and the machine may have gone faster at one of them. What `gan-bench compare` needs
is something beside each competitor that was slowed down as it was. Neighbours on a shared processor hit what computes
more than what waits for memory, and one library harder than another, by several percent (benchmarks/LOG.md), so that
what comes nearest is another generator in the same engine on the same threads: a small DCGAN. It goes straight to the
engine: an engine that this project's runtime starts badly is slower beside it, not as slow. One general yardstick
stands for those without.
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
"""Numbers that the general one sorts, in one thread. NumPy's matrix product would leave the threads of its own library
spinning, and slow down whoever comes next."""
PRODUCT = 2048
"""Rows and columns of the matrix that stands in for that on a GPU."""
LAYERS = ((100, 96, 4, 1, 0), (96, 48, 4, 2, 1), (48, 24, 4, 2, 1), (24, 3, 4, 2, 1))
"""Of the network, from a latent to a picture of 32 × 32: channels in and out, kernel, stride and padding of transposed
convolutions. Some hundred microseconds: a turn holds many calls of it."""
SIDE = 32
"""Height and width of that picture."""
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Yardstick:
    """One piece of work."""

    run: Callable[[int], object]
    """One call, whatever the number."""
    renew: Callable[[], None] | None = None
    """Start it anew, elsewhere in memory."""
    close: Callable[[], None] = lambda: None
    """Let it go."""

    def over(self, _pool: Pool) -> timing.Competitor:
        """The same for any inputs."""
        return self.run


def wanted(competitors: Sequence[Competitor], device: str, threads: int) -> dict[str, Recipe]:
    """The general one, and the network in the engine of each competitor that computes on the CPU.

    Args:
        competitors: Whose engines are meant.
        device: cpu, where numbers are sorted, or cuda, where matrices are multiplied if there is PyTorch to ask.
        threads: Of each engine.

    Returns:
        The general one by the name that `general` gives, networks by what competitors say of their engine, version
        and all. Each raises what its engine does where it cannot be made, MissingExtra where a package is missing.
    """
    name = general(device)
    found = {name: Recipe(GENERAL[name], name)}
    for one in competitors:
        kind = one.engine.partition(" ")[0]
        if one.device == "cpu" and kind in STARTS and one.engine not in found:
            # PyTorch takes long to load, and its threads are the same for all of a process.
            host = one.recipe.host if kind == "PyTorch" and one.recipe is not None else f"the network in {one.engine}"
            found[one.engine] = Recipe(partial(network, kind, threads), host)
    return found


def general(device: str) -> str:
    """The name of the yardstick that is for every engine."""
    if device != "cuda" or find_spec("torch") is None:
        return "sort"
    import torch

    return "product" if torch.cuda.is_available() else "sort"  # It may be a build for CPUs beside engines for the GPU.


def sort() -> Yardstick:
    """Numbers to sort, in one thread."""
    values = np.random.default_rng(0).random(SORTED, np.float32)
    return Yardstick(lambda _: np.sort(values))


def product() -> Yardstick:
    """Matrices to multiply on a GPU."""
    import torch

    matrix = torch.randn(PRODUCT, PRODUCT, device="cuda")

    def run(_: int) -> None:
        try:
            torch.mm(matrix, matrix)
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise EngineError(isolated.line(error)) from error

    return Yardstick(run)


def network(kind: str, threads: int) -> Yardstick:
    """The network in one engine, after one call of it.

    Args:
        kind: Of `STARTS`.
        threads: Of the engine.
    """
    live: list[Callable[[], object]] = []

    def close() -> None:
        with ov.signal_stack_kept():
            live.clear()

    def renew() -> None:
        close()
        live.append(STARTS[kind](threads))

    def run(_: int) -> None:
        try:
            if not live:  # It could not be started anew a while ago.
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
    """What goes in, and the weights of each layer; small, so that nothing overflows."""
    random = np.random.default_rng(0)
    given = random.normal(0, 1, (1, LAYERS[0][0], 1, 1)).astype(np.float32)
    return given, [random.normal(0, 0.05, (i, o, kernel, kernel)).astype(np.float32) for i, o, kernel, *_ in LAYERS]


def _model() -> bytes:
    """The network as ONNX."""
    if find_spec("onnx") is None:
        raise MissingExtra("onnx", "export", "a yardstick in each engine")
    from onnx import TensorProto, helper, numpy_helper

    given, weights = _numbers()
    nodes = []
    for layer, (_, _, _, stride, padding) in enumerate(LAYERS):
        names = [f"picture{layer}", f"weights{layer}"]
        form: dict[str, Any] = {"strides": [stride] * 2, "pads": [padding] * 4}
        nodes.append(helper.make_node("ConvTranspose", names, [f"sum{layer}"], **form))
        last = layer == len(LAYERS) - 1
        nodes.append(helper.make_node("Tanh" if last else "Relu", [f"sum{layer}"], [f"picture{layer + 1}"]))
    shapes = {"picture0": list(given.shape), f"picture{len(LAYERS)}": [1, LAYERS[-1][1], SIDE, SIDE]}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    held = [numpy_helper.from_array(array, f"weights{layer}") for layer, array in enumerate(weights)]
    graph = helper.make_graph(nodes, "yardstick", [x], [y], held)
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
    given, weights = torch.from_numpy(numbers), [torch.from_numpy(array) for array in arrays]

    def call() -> object:
        with torch.inference_mode():
            picture = given
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
"""By the first word of what a competitor says of its engine."""
GENERAL: Mapping[str, Callable[[], Yardstick]] = {"sort": sort, "product": product}
"""By the name that `general` gives."""
