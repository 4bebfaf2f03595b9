"""TensorRT engines, of TensorRT 10 and 11 and of TensorRT for RTX, with cuda-python alone.

    manifest, identity = read_sidecar(path)
    engine = start(check_engine(path, identity), identity)

An engine fits the version and the devices it was built for and nothing else; that is checked before one byte of it is
deserialised, because TensorRT's own answer may be a crash. Each call under way has an execution context of its own with
buffers at the profile's largest shapes, pinned on the host, which the next call takes over; from the second call with
the same shapes on, the copies and the kernels are one CUDA graph that is replayed.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import itertools
import math
import platform
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.errors import EngineError, EngineMismatch, MissingExtra

from . import EngineInfo, Parts, trt_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ganedge.runtime.engine_file import EngineIdentity

EXTRAS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
"""The flavours, as their modules are called, and the extras that install them."""
ON_JETSON = {
    "tensorrt": "JetPack brings it, make the environment with python3 -m venv --system-site-packages",
    "cuda-python": "pip install 'cuda-python<13' on JetPack 6, cuda-python on JetPack 7",
}
"""What to do on a Jetson, where the extra would bring a second TensorRT."""


class TensorRt:
    """A deserialised engine; each call under way has a lane of its own, so memory goes with how many are at once.

    Args:
        engine: An `ICudaEngine`.
        trt: The module it comes from.
        cuda: `cuda.bindings.runtime`.
        info: What really runs.
    """

    def __init__(self, engine: Any, trt: Any, cuda: Any, info: EngineInfo) -> None:
        self.info = info
        self._engine = engine
        self._trt = trt
        self._cuda = cuda
        self._met = threading.local()
        self._lock = threading.Lock()
        self._lanes: list[_Lane] = []
        self._idle: list[_Lane] = []

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute all outputs."""
        with self._lane(feeds) as lane:
            return lane.run(feeds)

    def parts(self, feeds: Mapping[str, NDArray[np.generic]]) -> Parts:
        """Where one call's time goes, by CUDA events; without the graph, whose parts cannot be told apart."""
        with self._lane(feeds) as lane:
            return lane.parts(feeds)

    @contextlib.contextmanager
    def _lane(self, feeds: Mapping[str, NDArray[np.generic]]) -> Iterator[_Lane]:
        """A lane for one call, idle again after it."""
        lane = self._take(feeds)
        try:
            yield lane
        finally:
            self._give_back(lane)

    def _take(self, feeds: Mapping[str, NDArray[np.generic]]) -> _Lane:
        """Return an idle lane, or a new one; a lane whose last call had these shapes has a graph for them."""
        if not getattr(self._met, "device", False):
            _call(self._cuda.cudaSetDevice(0))  # The primary context, which may not be current in this thread yet.
            self._met.device = True
        with self._lock:
            if self._idle:
                lane = next((lane for lane in reversed(self._idle) if lane.knows(feeds)), self._idle[-1])
                self._idle.remove(lane)
                return lane
        lane = _Lane(self._engine, self._trt, self._cuda)
        with self._lock:
            self._lanes.append(lane)
        return lane

    def _give_back(self, lane: _Lane) -> None:
        with self._lock:
            self._idle.append(lane)

    def layers(self) -> dict[str, int]:
        """Its layers by the precision that they run in; empty where the engine does not say."""
        return trt_layers.read(self._trt, self._engine)

    def close(self) -> None:
        """Free every lane's buffers; no call may be under way."""
        with self._lock:
            for lane in self._lanes:
                lane.close()
            self._lanes.clear()
            self._idle.clear()
        self._engine = None


class _Buffer:
    """One tensor at its largest: pinned memory on the host and as much on the device."""

    def __init__(self, cuda: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.name = name
        self.dtype = dtype
        self.bytes = math.prod(shape) * dtype.itemsize
        self.shape = shape
        self.host = int(_call(cuda.cudaMallocHost(self.bytes)))
        self.device = int(_call(cuda.cudaMalloc(self.bytes)))

    def view(self, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """The host memory as an array of this shape, which is not larger than the largest."""
        size = math.prod(shape) * self.dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.host)
        return np.frombuffer(memoryview(memory), self.dtype).reshape(shape)


class _Lane:
    """One call's context, stream, buffers and graph; the next call takes it over."""

    def __init__(self, engine: Any, trt: Any, cuda: Any) -> None:
        self._cuda = cuda
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError("TensorRT could not make an execution context: the device's memory may be used up")
        self._stream = _call(cuda.cudaStreamCreate())
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        entering = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        for name in entering:
            self._context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[2]))
        self._least = {name: tuple(engine.get_tensor_profile_shape(name, 0)[0]) for name in entering}
        self._inputs = {name: self._buffer(engine, trt, name) for name in entering}
        self._outputs = {name: self._buffer(engine, trt, name) for name in names if name not in self._inputs}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._given: dict[str, tuple[int, ...]] = {}
        self._graph: Any = None
        self._recordable = True

    def knows(self, feeds: Mapping[str, NDArray[np.generic]]) -> bool:
        """Whether the call before had these shapes."""
        return self._shapes == {name: array.shape for name, array in feeds.items()}

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        """Copy in, compute, copy out."""
        known = self._put(feeds)
        if known and self._graph is None and self._recordable:
            self._graph = self._capture()
        if self._graph is not None:
            _call(self._cuda.cudaGraphLaunch(self._graph, self._stream))
        else:
            self._enqueue()
        _call(self._cuda.cudaStreamSynchronize(self._stream))
        return [self._outputs[name].view(shape).copy() for name, shape in self._given.items()]

    def parts(self, feeds: Mapping[str, NDArray[np.generic]]) -> Parts:
        """Run a call without a graph, and time its parts."""
        self._put(feeds)
        events = [_call(self._cuda.cudaEventCreate()) for _ in range(4)]
        try:
            _call(self._cuda.cudaEventRecord(events[0], self._stream))
            for event, part in zip(events[1:], (self._copy_in, self._compute, self._copy_out), strict=True):
                part()
                _call(self._cuda.cudaEventRecord(event, self._stream))
            _call(self._cuda.cudaStreamSynchronize(self._stream))
            entered, computed, left = (
                float(_call(self._cuda.cudaEventElapsedTime(*pair))) / 1000 for pair in itertools.pairwise(events)
            )
        finally:
            for event in events:
                _call(self._cuda.cudaEventDestroy(event))
        return entered, computed, left

    def _put(self, feeds: Mapping[str, NDArray[np.generic]]) -> bool:
        """Put the inputs into the pinned memory; whether their shapes are those of the call before."""
        known = self.knows(feeds)
        if not known:
            self._reshape({name: array.shape for name, array in feeds.items()})
        for name, array in feeds.items():
            np.copyto(self._inputs[name].view(array.shape), array, casting="no")
        return known

    def close(self) -> None:
        """Free everything."""
        self._drop_graph()
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            _call(self._cuda.cudaFreeHost(buffer.host))
            _call(self._cuda.cudaFree(buffer.device))
        _call(self._cuda.cudaStreamDestroy(self._stream))
        self._context = None

    def _buffer(self, engine: Any, trt: Any, name: str) -> _Buffer:
        shape = tuple(self._context.get_tensor_shape(name))
        return _Buffer(self._cuda, name, shape, np.dtype(trt.nptype(engine.get_tensor_dtype(name))))

    def _reshape(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Prepare for other shapes; a graph belongs to one set of them."""
        self._drop_graph()
        self._shapes = {}
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                least, most = (" × ".join(map(str, one)) for one in (self._least[name], self._inputs[name].shape))
                raise EngineError(
                    f"{name} of shape {' × '.join(map(str, shape))} is outside the engine's profile, from "
                    f"{least} to {most}: give a batch and a size between, or build the engine with a wider profile"
                )
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            self._context.set_tensor_address(buffer.name, buffer.device)
        self._given = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
        self._shapes = shapes

    def _enqueue(self) -> None:
        """Put the copies and the computation on the stream, at the present shapes."""
        self._copy_in()
        self._compute()
        self._copy_out()

    def _copy_in(self) -> None:
        kinds = self._cuda.cudaMemcpyKind
        for name, shape in self._shapes.items():
            buffer = self._inputs[name]
            size = math.prod(shape) * buffer.dtype.itemsize
            _call(
                self._cuda.cudaMemcpyAsync(buffer.device, buffer.host, size, kinds.cudaMemcpyHostToDevice, self._stream)
            )

    def _compute(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            self._shapes = {}
            raise EngineError("TensorRT could not run this engine: the device's memory may be used up")

    def _copy_out(self) -> None:
        kinds = self._cuda.cudaMemcpyKind
        for name, shape in self._given.items():
            buffer = self._outputs[name]
            size = math.prod(shape) * buffer.dtype.itemsize
            _call(
                self._cuda.cudaMemcpyAsync(buffer.host, buffer.device, size, kinds.cudaMemcpyDeviceToHost, self._stream)
            )

    def _capture(self) -> Any:
        """Record what `_enqueue` does, to be replayed in one call; None, now and from then on, where that cannot be.

        Some engines do what a capture forbids. What such a lane then enqueues call by call gives the same values.
        """
        shapes, cuda = self._shapes, self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(cuda.cudaStreamBeginCapture(self._stream, mode))
        try:
            self._enqueue()
            whole = True
        except EngineError:
            whole = False
        finally:  # A stream that is still capturing accepts nothing else.
            error, *graph = cuda.cudaStreamEndCapture(self._stream)
        ready = None
        if int(error) == 0:
            failed, *made = cuda.cudaGraphInstantiate(graph[0], 0) if whole else (1,)
            ready = made[0] if int(failed) == 0 else None
            _call(cuda.cudaGraphDestroy(graph[0]))
        if ready is None:
            cuda.cudaGetLastError()  # Otherwise TensorRT would report the capture's error for its next kernel.
            self._recordable = False
            self._reshape(shapes)
        return ready

    def _drop_graph(self) -> None:
        if self._graph is not None:
            _call(self._cuda.cudaGraphExecDestroy(self._graph))
            self._graph = None


def start(data: bytes, identity: EngineIdentity) -> TensorRt:
    """Check that an engine belongs here, and load it.

    Args:
        data: The engine.
        identity: What it is tied to.

    Raises:
        MissingExtra: TensorRT of that flavour, or cuda-python, is not installed.
        EngineMismatch: the engine was built for another version or device.
        EngineError: no device.
    """
    flavour = identity.flavour
    trt, cuda = _packages(flavour)
    capabilities = identity.targets or ((identity.compute_capability,) if identity.compute_capability else ())
    check(cuda, trt.__version__, flavour, identity.version, capabilities, portable=identity.portable)
    logger = trt.Logger(trt.Logger.ERROR)
    runtime = trt.Runtime(logger)
    if identity.portable:  # Such an engine brings a lean runtime as code of the host, which is refused otherwise.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise EngineMismatch(f"{flavour} {trt.__version__} cannot load this engine: build it again on this device")
    info = EngineInfo(flavour, trt.__version__, "CUDA", "cuda", identity.precision)
    return TensorRt(engine, trt, cuda, info)


def check(
    cuda: Any, installed: str, flavour: str, built_with: str, capabilities: Sequence[str], *, portable: bool = False
) -> None:
    """Refuse an engine of another version or for other devices, without touching it."""
    error, count = cuda.cudaGetDeviceCount()
    if int(error) != 0 or not count:
        raise EngineError(f"no CUDA device can be used here ({_name(error)}): check the NVIDIA driver")
    here, there = _release(installed), _release(built_with)
    if here != there and not (portable and here > there):
        raise EngineMismatch(
            f"this engine was built with {flavour} {built_with}, and {installed} is installed: "
            "build it again from its ONNX file on this device, gan-run rebuild"
        )
    device = capability(cuda)
    if capabilities and device not in capabilities and not portable:
        raise EngineMismatch(
            f"this engine was built for compute capability {', '.join(capabilities)}, and this device has {device}: "
            "build it again from its ONNX file on this device, gan-run rebuild"
        )


def capability(cuda: Any) -> str:
    """The compute capability of the first device, such as "sm87"."""
    names = cuda.cudaDeviceAttr
    parts = (names.cudaDevAttrComputeCapabilityMajor, names.cudaDevAttrComputeCapabilityMinor)
    return "sm" + "".join(str(_call(cuda.cudaDeviceGetAttribute(part, 0))) for part in parts)


def _packages(flavour: str) -> tuple[Any, Any]:
    return _module(flavour, flavour, flavour), _module("cuda.bindings.runtime", "cuda-python", flavour)


def _module(name: str, package: str, flavour: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(package, EXTRAS[flavour], f"a {flavour} engine", advice(flavour, package)) from error


def advice(flavour: str, package: str) -> str:
    """How a Jetson gets a package; empty elsewhere, where the extra brings it."""
    return ON_JETSON[package] if flavour == "tensorrt" and platform.machine() == "aarch64" else ""


def _release(version: str) -> tuple[int, ...]:
    """Major and minor: an engine of another minor release is not promised to load."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])


def _call(result: tuple[Any, ...]) -> Any:
    """Unpack what a CUDA call gives: an error code and at most one value."""
    error, *values = result
    if int(error) != 0:
        raise EngineError(f"CUDA failed: {_name(error)}")
    return values[0] if values else None


def _name(error: Any) -> str:
    return str(getattr(error, "name", error))
