"""The TensorRT engine against stand-ins for TensorRT and CUDA that compute, remember the order of calls, and refuse."""

# ruff: noqa: D102, N802 - the stand-ins mirror the names of CUDA and TensorRT
from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ganedge.runtime import EngineError, MissingExtra
from ganedge.runtime.engine_file import EngineIdentity
from ganedge.runtime.engines import EngineInfo, trt

INFO = EngineInfo("tensorrt", "10.3", "CUDA", "cuda", "fp16")


class Cuda:
    """Host memory plays the device; what a stream is given is done at once, or recorded while it captures."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out")  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaDeviceAttr = SimpleNamespace(  # noqa: N815
        cudaDevAttrComputeCapabilityMajor=8, cudaDevAttrComputeCapabilityMinor=7
    )

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.capturing: dict[int, list[Any]] = {}
        self.lock = Lock()
        self.streams = 0
        self.recordable = True
        self.failing: dict[str, int] = {}
        self.devices = (0, 1)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            with self.lock:
                self.calls.append(name.removeprefix("cuda"))
                return getattr(self, name.replace("cuda", "_", 1))(*arguments)

        if not name.startswith("cuda"):
            raise AttributeError(name)
        return call

    def enqueue(self, stream: int, work: Any) -> None:
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            work()

    def _Malloc(self, size: int) -> tuple[int, int]:
        buffer = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    _MallocHost = _Malloc

    def _Free(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (0,)

    _FreeHost = _Free

    def _MemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[int]:
        assert size <= min(len(self.memory[to]), len(self.memory[source]))
        self.enqueue(stream, lambda: ctypes.memmove(to, source, size))
        return (0,)

    def _StreamCreate(self) -> tuple[int, int]:
        self.streams += 1
        return 0, self.streams

    def _StreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        self.capturing[stream] = []
        return (0,)

    def _StreamEndCapture(self, stream: int) -> tuple[int, Any]:
        graph, error = self.capturing.pop(stream), self.failing.get("StreamEndCapture", 0)
        return error, None if error else graph

    def _GraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:
        error = self.failing.get("GraphInstantiate", 0)
        return error, None if error else list(graph)

    def _GraphLaunch(self, graph: Any, stream: int) -> tuple[int]:
        for work in graph:
            work()
        return (0,)

    def _nothing(self, *arguments: Any) -> tuple[int]:
        return (0,)

    def _EventCreate(self) -> tuple[int, list[int]]:
        return 0, []

    def _EventRecord(self, event: list[int], stream: int) -> tuple[int]:
        event.append(len(self.calls))
        return (0,)

    def _EventElapsedTime(self, begin: list[int], end: list[int]) -> tuple[int, float]:
        return 0, 1000.0 * (end[0] - begin[0])  # A second for each call between the two.

    _EventDestroy = _nothing
    _GraphDestroy = _GraphExecDestroy = _GetLastError = _StreamSynchronize = _StreamDestroy = _SetDevice = _nothing

    def _GetDeviceCount(self) -> tuple[int, int]:
        return self.devices

    def _DeviceGetAttribute(self, which: int, device: int) -> tuple[int, int]:
        return 0, which


class Context:
    """Doubles float32 [batch, 3], batch 1 to 4."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.shape = (0, 0)
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.cuda.calls.append("shape")
        self.shape = shape
        return shape[0] <= 4 and shape[1:] == (3,)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.cuda.calls.append("address")
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.cuda.calls.append("execute")
        if stream in self.cuda.capturing and not self.cuda.recordable:
            return False
        count = int(np.prod(self.shape))
        source, target = (
            np.frombuffer(self.cuda.memory[self.addresses[name]], np.float32)[:count] for name in ("x", "y")
        )
        self.cuda.enqueue(stream, lambda: np.multiply(source, 2, out=target))
        return True


def modules() -> tuple[Any, Cuda, Any]:
    """An engine, CUDA and TensorRT."""
    cuda = Cuda()
    package = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="input"), nptype=lambda kind: np.float32)
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_mode=lambda name: "input" if name == "x" else "output",
        get_tensor_dtype=lambda name: "float",
        get_tensor_profile_shape=lambda name, profile: ((1, 3), (2, 3), (4, 3)),
        create_execution_context=lambda: Context(cuda),
    )
    return engine, cuda, package


def test_calls_in_order_and_a_graph_from_the_second_on() -> None:
    engine, cuda, package = modules()
    running = trt.TensorRt(engine, package, cuda, INFO)
    random = np.random.default_rng(0)
    seen = []
    for batch in (2, 2, 2, 4, 2):
        x = random.standard_normal((batch, 3)).astype(np.float32)
        cuda.calls.clear()
        np.testing.assert_array_equal(running.run({"x": x})[0], 2 * x)
        seen.append(list(cuda.calls))
    plain = ["shape", "address", "address", "MemcpyAsync", "execute", "MemcpyAsync", "StreamSynchronize"]
    assert seen[0][-7:] == plain
    assert seen[1][0] == "StreamBeginCapture"
    assert seen[1][-2:] == ["GraphLaunch", "StreamSynchronize"]
    assert seen[2] == ["GraphLaunch", "StreamSynchronize"]
    assert seen[3] == ["GraphExecDestroy", *plain]
    assert seen[4] == plain
    running.close()
    assert not cuda.memory, "everything is freed"


@pytest.mark.parametrize("fails", ["execute", "StreamEndCapture", "GraphInstantiate"])
def test_an_engine_that_cannot_be_recorded_runs_plainly(fails: str) -> None:
    engine, cuda, package = modules()
    running = trt.TensorRt(engine, package, cuda, INFO)
    cuda.recordable, cuda.failing = fails != "execute", {fails: 901}
    for batch in (2, 2, 2, 3, 3):
        x = np.full((batch, 3), batch, np.float32)
        np.testing.assert_array_equal(running.run({"x": x})[0], 2 * x)
    assert not cuda.capturing, "the capture was ended"
    assert "GraphLaunch" not in cuda.calls
    assert cuda.calls.count("StreamBeginCapture") == 1, "it is not tried again"
    assert cuda.calls.count("GetLastError") == 1, "the next kernel does not find an error that is not its own"
    assert cuda.calls.count("GraphDestroy") == (fails != "StreamEndCapture")
    running.close()
    assert not cuda.memory


def test_the_parts_of_a_call_are_timed_by_events() -> None:
    engine, cuda, package = modules()
    running = trt.TensorRt(engine, package, cuda, INFO)
    feeds = {"x": np.ones((2, 3), np.float32)}
    for _turn in range(2):
        cuda.calls.clear()
        assert running.parts(feeds) == (2.0, 2.0, 2.0), "one call, and the event behind it"
        begin = cuda.calls.index("EventRecord")
        assert cuda.calls[begin : begin + 8] == [
            "EventRecord", "MemcpyAsync", "EventRecord", "execute", "EventRecord", "MemcpyAsync", "EventRecord",
            "StreamSynchronize",
        ]  # fmt: skip
        assert "GraphLaunch" not in cuda.calls
        assert cuda.calls.count("EventDestroy") == 4


def test_results_stay_when_the_buffers_are_used_again() -> None:
    running = trt.TensorRt(*reorder(modules()), INFO)
    first = running.run({"x": np.ones((2, 3), np.float32)})[0]
    running.run({"x": np.zeros((2, 3), np.float32)})
    assert (first == 2).all()


def reorder(made: tuple[Any, Cuda, Any]) -> tuple[Any, Any, Any]:
    return made[0], made[2], made[1]


def test_threads_that_come_and_go_share_what_is_idle() -> None:
    """A pool per folder, a thread per request: what is held goes with the calls at once."""
    engine, cuda, package = modules()
    running = trt.TensorRt(engine, package, cuda, INFO)
    x = np.ones((2, 3), np.float32)
    for _ in range(5):
        with ThreadPoolExecutor(1) as pool:
            assert (pool.submit(running.run, {"x": x}).result()[0] == 2).all()
    assert (cuda.streams, len(cuda.memory)) == (1, 4)
    assert cuda.calls[-2:] == ["GraphLaunch", "StreamSynchronize"], "the graph is taken over too"
    assert cuda.calls.count("SetDevice") == 5, "each thread meets the device once"
    running.close()
    assert not cuda.memory


def test_a_lane_that_knows_the_shapes_is_taken_first() -> None:
    running = trt.TensorRt(*reorder(modules()), INFO)
    feeds = [{"x": np.ones((batch, 3), np.float32)} for batch in (1, 2, 3)]
    lanes = [running._take(one) for one in feeds]
    for lane, one in zip(lanes, feeds, strict=True):
        lane.run(one)
        running._give_back(lane)
    assert running._take(feeds[1]) is lanes[1]
    assert running._take(feeds[1]) is lanes[2], "the last one used, where none knows them"
    assert running._take(feeds[0]) is lanes[0]


def test_calls_at_once_have_contexts_of_their_own() -> None:
    engine, cuda, package = modules()
    running = trt.TensorRt(engine, package, cuda, INFO)

    def work(value: int) -> bool:
        x = np.full((1 + value % 4, 3), value, np.float32)
        return all((running.run({"x": x})[0] == 2 * x).all() for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))
    assert 1 <= cuda.streams <= 4
    running.close()
    assert not cuda.memory


def test_shapes_outside_the_profile_and_what_comes_after() -> None:
    running = trt.TensorRt(*reorder(modules()), INFO)
    with pytest.raises(EngineError, match=r"5 × 3 is outside.*from 1 × 3 to 4 × 3"):
        running.run({"x": np.ones((5, 3), np.float32)})
    assert (running.run({"x": np.ones((4, 3), np.float32)})[0] == 2).all()


def test_an_engine_of_another_place_is_refused_untouched() -> None:
    cuda = Cuda()
    trt.check(cuda, "10.3.0", "tensorrt", "10.3.5", ("sm87",))
    with pytest.raises(EngineError, match=r"built with tensorrt 10\.3\.0, and 11\.4\.0 is installed"):
        trt.check(cuda, "11.4.0", "tensorrt", "10.3.0", ("sm87",))
    with pytest.raises(EngineError, match=r"capability sm89, and this device has sm87"):
        trt.check(cuda, "10.3.0", "tensorrt", "10.3.0", ("sm89",))
    trt.check(cuda, "11.4.0", "tensorrt", "10.3.0", ("sm86",), portable=True)
    with pytest.raises(EngineError, match=r"10\.3\.0 is installed"):
        trt.check(cuda, "10.3.0", "tensorrt", "10.13.0", ("sm87",), portable=True)
    cuda.devices = (35, 0)
    with pytest.raises(EngineError, match="no CUDA device"):
        trt.check(cuda, "10.3.0", "tensorrt", "10.3.0", ("sm87",))


@pytest.mark.parametrize("portable", [True, False])
def test_only_a_portable_engine_may_bring_code_of_the_host(monkeypatch: pytest.MonkeyPatch, portable: bool) -> None:
    engine, cuda, package = modules()
    allowed: list[bool] = []

    class Runtime:
        """Loads a version-compatible engine only where its lean runtime may run, as TensorRT does."""

        def __init__(self, logger: object) -> None:
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            allowed.append(self.engine_host_code_allowed)
            return engine if self.engine_host_code_allowed or data != b"portable" else None

    package.__version__, package.Runtime = "10.3.0", Runtime
    package.Logger = type("Logger", (), {"ERROR": 3, "__init__": lambda self, level: None})
    monkeypatch.setattr(trt, "_packages", lambda flavour: (package, cuda))
    data = b"portable" if portable else b"plain"
    trt.start(data, EngineIdentity("tensorrt", "10.3.0", "sm87", (), portable=portable))
    assert allowed == [portable]


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(trt.importlib, "import_module", missing)
    monkeypatch.setattr(trt.platform, "machine", lambda: "x86_64")
    for flavour, extra in trt.EXTRAS.items():
        with pytest.raises(MissingExtra, match=rf"ganedge\[{extra}\]"):
            trt.start(b"", EngineIdentity(flavour, "1", "", ()))  # type: ignore[arg-type]
    monkeypatch.setattr(trt.platform, "machine", lambda: "aarch64")
    identity = EngineIdentity("tensorrt", "1", "", ())
    with pytest.raises(MissingExtra, match="JetPack brings it"):
        trt.start(b"", identity)
    monkeypatch.setattr(trt.importlib, "import_module", lambda name: None if name == "tensorrt" else missing(name))
    with pytest.raises(MissingExtra, match=r"needs cuda-python.*'cuda-python<13' on JetPack 6") as lacking:
        trt.start(b"", identity)
    assert "ganedge[trt]" not in str(lacking.value), "which would bring a second TensorRT"
