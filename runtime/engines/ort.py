"""ONNX Runtime: the engine that is everywhere, on the CPU or on CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.errors import EngineError, one_line
from ganedge.runtime.files import cache_folder

from . import EngineInfo, Parts, import_package, on_cpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""What computes on each device; `tensorrt` is CUDA through TensorRT, which builds an engine of its own at load."""
HARDWARE_FEATURES, HALF_FEATURE = 16, 1 << 10
"""Linux's AT_HWCAP, and its bit for FP16 arithmetic on 64-bit ARM (HWCAP_ASIMDHP)."""
LANES = 8
"""Shapes that get a CUDA graph, and as many others whose buffers stay on the device."""
NO_GRAPH = "-1"
"""Graph number with which ONNX Runtime captures nothing."""
_ONE_AT_A_TIME = threading.Lock()
"""Held during a capture, which fails if another thread allocates or copies on the device meanwhile."""


class OnnxRuntime:
    """A session; ONNX Runtime lets several threads run one."""

    def __init__(self, session: Any, info: EngineInfo) -> None:
        self.info = info
        self._session = session

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute all outputs."""
        try:
            outputs: Sequence[NDArray[np.generic]] = self._session.run(None, dict(feeds))
        except Exception as error:
            raise EngineError(f"onnxruntime could not run this model: {one_line(error)}") from error
        return outputs

    def close(self) -> None:
        """Free the session."""
        self._session = None


class BoundOnnxRuntime:
    """A session on a device, with inputs and outputs there that stay as long as a shape is in use.

    Where the session can capture CUDA graphs, the second call of a shape records one and later calls replay it. A
    session keeps its graphs until it ends, so only the first `LANES` shapes get one, and keep their buffers; of the
    others, those used last keep theirs. All sessions take turns: while one captures, no other may touch the device.

    Args:
        session: Of ONNX Runtime.
        info: What really runs.
        graphs: Whether the session captures CUDA graphs.
        memory: Where the buffers lie.
    """

    def __init__(self, session: Any, info: EngineInfo, *, graphs: bool, memory: str = "cuda") -> None:
        self.info = info
        self._memory = memory
        self._session = session
        self._graphs = graphs
        self._captured: dict[tuple[tuple[int, ...], ...], _Lane] = {}
        self._lanes: dict[tuple[tuple[int, ...], ...], _Lane] = {}

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute all outputs."""
        shapes = tuple(array.shape for array in feeds.values())
        try:
            with _ONE_AT_A_TIME:
                return self._lane(shapes, feeds).run(feeds)
        except Exception as error:
            raise EngineError(f"onnxruntime could not run this model: {one_line(error)}") from error

    def parts(self, feeds: Mapping[str, NDArray[np.generic]]) -> Parts:
        """Where one call's time goes, by the host's clock: each part has ended before the next begins."""
        shapes = tuple(array.shape for array in feeds.values())
        try:
            with _ONE_AT_A_TIME:
                return self._lane(shapes, feeds).parts(feeds)
        except Exception as error:
            raise EngineError(f"onnxruntime could not run this model: {one_line(error)}") from error

    def close(self) -> None:
        """Free the session and its buffers."""
        with _ONE_AT_A_TIME:
            self._captured.clear()
            self._lanes.clear()
            self._session = None

    def _lane(self, shapes: tuple[tuple[int, ...], ...], feeds: Mapping[str, NDArray[np.generic]]) -> _Lane:
        """The buffers for these shapes."""
        if shapes in self._captured:
            return self._captured[shapes]
        if self._graphs and len(self._captured) < LANES:
            number = str(len(self._captured) + 1)
            self._captured[shapes] = _Lane(self._session, feeds, number, self._memory)
            return self._captured[shapes]
        lane = self._lanes.pop(shapes, None)
        if lane is None:
            while len(self._lanes) >= LANES:  # The first is the least recently used.
                del self._lanes[next(iter(self._lanes))]
            lane = _Lane(self._session, feeds, NO_GRAPH if self._graphs else None, self._memory)
        self._lanes[shapes] = lane
        return lane


class _Lane:
    """One shape's buffers on the device, and its graph.

    Args:
        session: Of ONNX Runtime.
        feeds: Inputs of that shape.
        graph: The number that ONNX Runtime shall know the graph by; `NO_GRAPH` to capture none, and None where the
            session captures none at all.
        memory: Where the buffers lie.
    """

    def __init__(self, session: Any, feeds: Mapping[str, NDArray[np.generic]], graph: str | None, memory: str) -> None:
        from onnxruntime import OrtValue

        self._session = session
        self._graph = graph
        self._memory = memory
        self._inputs = {
            name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), memory, 0) for name, array in feeds.items()
        }
        self._outputs: list[Any] = []
        self._binding: Any = None

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """Copy in, compute, copy out."""
        self._copy_in(feeds)
        self._compute()
        return [value.numpy() for value in self._outputs]

    def parts(self, feeds: Mapping[str, NDArray[np.generic]]) -> Parts:
        """The same, timed."""
        begin = time.perf_counter()
        self._copy_in(feeds)
        entered = time.perf_counter()
        self._compute()
        computed = time.perf_counter()
        for value in self._outputs:
            value.numpy()
        return entered - begin, computed - entered, time.perf_counter() - computed

    def _copy_in(self, feeds: Mapping[str, NDArray[np.generic]]) -> None:
        for name, array in feeds.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))

    def _compute(self) -> None:
        if self._binding is None:
            self._outputs = self._first()
        else:
            self._again()

    def _again(self) -> None:
        """Compute with the buffers there are; what cannot be captured after all runs without a graph from then on."""
        try:
            self._session.run_with_iobinding(self._binding, self._options(self._graph))
        except Exception:
            if self._graph in (None, NO_GRAPH):
                raise
            self._graph = NO_GRAPH
            self._session.run_with_iobinding(self._binding, self._options(self._graph))

    def _first(self) -> list[Any]:
        """Compute with outputs that the session allocates, which says their shapes, and keep these buffers."""
        binding = self._bound()
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self._memory, 0)
        self._session.run_with_iobinding(binding, self._options(NO_GRAPH if self._graph else None))
        values = list(binding.get_outputs())
        self._binding = self._bound()
        for output, value in zip(self._session.get_outputs(), values, strict=True):
            self._binding.bind_ortvalue_output(output.name, value)
        return values

    def _bound(self) -> Any:
        binding = self._session.io_binding()
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        return binding

    def _options(self, graph: str | None) -> Any:
        """Of one run: which graph it captures or replays."""
        if graph is None:
            return None
        from onnxruntime import RunOptions

        options = RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph)
        return options


def _computed_on_cpu(precision: str) -> str:
    """Return what ONNX Runtime computes in on this CPU: on ARM some layers have FP16 kernels."""
    if precision == "fp16" and platform.machine() in ("aarch64", "arm64") and _has_half():
        return "fp16 and fp32, by layer (fp16 weights)"
    return on_cpu(precision)


def _has_half() -> bool:
    """Whether an ARM processor has FP16 arithmetic: Linux tells, and every ARM Mac has it."""
    features = getattr(ctypes.CDLL(None), "getauxval", None)
    return features is None or bool(features(HARDWARE_FEATURES) & HALF_FEATURE)


def start(
    model: bytes, precision: str, device: str, threads: int | None, compute: str | None = None
) -> OnnxRuntime | BoundOnnxRuntime:
    """Open a session. See `engines.start` for the arguments and errors."""
    onnxruntime = package()

    if compute is not None:
        raise EngineError(f"onnxruntime computes in the model's own precision, not in {compute}: export it so")
    chosen = _choose(onnxruntime.get_available_providers(), device)
    if chosen == "cpu" and precision == "bf16":
        raise EngineError("onnxruntime has no bf16 on the CPU: pip install 'ganedge[openvino]', or export in FP32")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Errors reach the caller as exceptions; the library itself prints nothing.
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session, graphs = _open(onnxruntime, model, options, chosen)
    except EngineError:
        if device != "auto" or chosen == "cpu":
            raise
        session, graphs = _open(onnxruntime, model, options, "cpu")
    active = session.get_providers()[0]
    if active != PROVIDERS[chosen]:
        if device != "auto":
            raise EngineError(
                f"device {device!r}: onnxruntime could not start {PROVIDERS[chosen]}; "
                "check the NVIDIA driver and the CUDA libraries it was built for, or use --device cpu"
            )
        chosen = "cpu"
    if chosen == "cpu":
        return OnnxRuntime(
            session, EngineInfo("onnxruntime", onnxruntime.__version__, active, "cpu", _computed_on_cpu(precision))
        )
    # TensorRT's provider has no switch that keeps FP32 from being computed in TF32.
    computed = "fp32 (TF32 allowed)" if (chosen, precision) == ("tensorrt", "fp32") else precision
    how = f"{active}, CUDA graphs" if graphs else active
    info = EngineInfo("onnxruntime", onnxruntime.__version__, how, "cuda", computed)
    return BoundOnnxRuntime(session, info, graphs=graphs)


def _open(onnxruntime: Any, model: bytes, options: Any, chosen: str) -> tuple[Any, bool]:
    """A session, and whether it captures CUDA graphs: it does where every node runs on CUDA."""

    def session(graphs: bool) -> Any:
        # Its own fall-back prints on standard output and would compute on another device than requested.
        providers = _providers(model, chosen, graphs=graphs)
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)

    if chosen == "cuda":
        with contextlib.suppress(Exception):  # A graph that cannot be captured is loaded without it.
            return session(graphs=True), True
    try:
        return session(graphs=False), False
    except Exception as error:
        raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot load this model: {one_line(error)}") from error


def _providers(model: bytes, chosen: str, *, graphs: bool) -> list[Any]:
    """The providers to try in order, with their settings."""
    # TF32 is ONNX Runtime's default on CUDA; an FP32 artifact is computed in FP32.
    cuda = (PROVIDERS["cuda"], {"use_tf32": "0", "enable_cuda_graph": str(int(graphs))})
    if chosen == "cpu":
        return [PROVIDERS["cpu"]]
    if chosen == "cuda":
        return [cuda, PROVIDERS["cpu"]]
    # No precision is switched on, so that the network is strongly typed: it computes in what the graph says.
    settings: dict[str, str] = {}
    # The provider knows an engine by its model's names and shapes and not by its weights: one folder for each model.
    cache = cache_folder() / "ort-tensorrt" / hashlib.sha256(model).hexdigest()
    with contextlib.suppress(OSError):  # Without it the engine is built again each time.
        cache.mkdir(parents=True, exist_ok=True)
        settings = {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(cache)}
    return [(PROVIDERS["tensorrt"], settings), cuda, PROVIDERS["cpu"]]


def devices() -> tuple[list[str], str]:
    """The execution providers of this build, and its version."""
    onnxruntime = package()

    return onnxruntime.get_available_providers(), onnxruntime.__version__


def package() -> Any:
    """Import onnxruntime without its telemetry (since 1.31), which also complains where it has no network.

    ORT_DISABLE_TELEMETRY=0 turns it on. Raises as `import_package` does.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_package("onnxruntime", "InferenceSession")


def takes_cuda() -> bool:
    """Whether the device `auto` is CUDA here."""
    return _choose(package().get_available_providers(), "auto") == "cuda"


def _choose(available: Sequence[str], device: str) -> str:
    """The device to run on: CUDA where `auto` finds its provider."""
    if device == "auto":
        return "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[device] not in available:
        raise EngineError(
            f"device {device!r}: this onnxruntime has only {', '.join(available)}; "
            "pip uninstall onnxruntime, then pip install 'ganedge[gpu]'"
        )
    return device
