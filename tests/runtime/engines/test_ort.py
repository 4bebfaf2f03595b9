"""ONNX Runtime where it is broken, and on a device, which a stand-in plays: the order of calls and what is kept."""

from __future__ import annotations

import importlib.metadata
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ganedge.runtime.doctor import tiny_artifact
from ganedge.runtime.engines import ort
from ganedge.runtime.errors import EngineError


@pytest.mark.parametrize(
    ("wheels", "said"),
    [
        (("onnxruntime",), "reinstall it"),
        (("onnxruntime", "onnxruntime-gpu"), "pip uninstall onnxruntime onnxruntime-gpu"),
    ],
)
def test_one_wheel_over_another(monkeypatch: pytest.MonkeyPatch, wheels: tuple[str, ...], said: str) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [name] if name in wheels else [])
    with pytest.raises(EngineError, match=f"onnxruntime is installed and does not start.*{said}"):
        ort.start(tiny_artifact(), "fp32", "auto", None)


class Value:
    """An array on the device."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.copy()

    @staticmethod
    def ortvalue_from_numpy(array: np.ndarray, memory: str, number: int) -> Value:
        """Copy in."""
        assert (memory, number) == ("cuda", 0)
        return Value(array)

    def update_inplace(self, array: np.ndarray) -> None:
        """Copy in again: the address stays."""
        assert array.shape == self.array.shape
        self.array[...] = array

    def numpy(self) -> np.ndarray:
        """Copy out."""
        return self.array.copy()


class Session:
    """Doubles what goes in. A graph that was captured replays on the buffers of its capture, whatever is bound."""

    def __init__(self, model: bytes, options: Any, providers: list[Any], enable_fallback: int) -> None:
        assert not enable_fallback
        self.providers = [one[0] if isinstance(one, tuple) else one for one in providers]
        self.settings = dict(one for one in providers if isinstance(one, tuple))
        if self.settings.get("CUDAExecutionProvider", {}).get("enable_cuda_graph") == "1" and model == b"partly":
            raise RuntimeError("not all nodes have been partitioned to the CUDAExecutionProvider")
        self.graphs: dict[str, Any] = {}
        self.runs: list[str | None] = []

    def get_providers(self) -> list[str]:
        """What is active."""
        return self.providers

    def get_outputs(self) -> list[Any]:
        """One."""
        return [SimpleNamespace(name="y")]

    def io_binding(self) -> Any:
        """One input and one output."""
        binding = SimpleNamespace(x=None, y=None)
        binding.bind_ortvalue_input = lambda name, value: setattr(binding, "x", value)
        binding.bind_ortvalue_output = lambda name, value: setattr(binding, "y", value)
        binding.bind_output = lambda name, memory, number: None
        binding.get_outputs = lambda: [binding.y]
        return binding

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        """Compute, capture or replay."""
        number = options and options.entries.get("gpu_graph_id")
        self.runs.append(number)
        if number not in (None, "-1") and self.settings["CUDAExecutionProvider"].get("breaks"):
            raise RuntimeError("capture failed")
        if number in self.graphs:
            binding = self.graphs[number]
        elif number not in (None, "-1"):
            self.graphs[number] = binding
        if binding.y is None:
            binding.y = Value(np.zeros_like(binding.x.array))
        binding.y.array[...] = 2 * binding.x.array


class RunOptions:
    """What one run is told."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Keep it."""
        self.entries[key] = value


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An onnxruntime with CUDA and TensorRT."""
    package: Any = ModuleType("onnxruntime")
    package.InferenceSession, package.OrtValue, package.RunOptions = Session, Value, RunOptions
    package.SessionOptions, package.__version__ = SimpleNamespace, "1.99"
    package.get_available_providers = lambda: list(reversed(ort.PROVIDERS.values()))
    monkeypatch.setitem(sys.modules, "onnxruntime", package)
    return package


def test_a_graph_for_each_shape_from_the_second_call_on(device: Any) -> None:
    engine: Any = ort.start(b"model", "fp32", "cuda", None)
    assert engine.info.provider == "CUDAExecutionProvider, CUDA graphs"
    random = np.random.default_rng(0)
    for batch in (2, 2, 2, 3, 2, 3, 3):
        x = random.standard_normal((batch, 4)).astype(np.float32)
        np.testing.assert_array_equal(engine.run({"x": x})[0], 2 * x)
    assert engine._session.runs == ["-1", "1", "1", "-1", "1", "2", "2"]
    for turn in range(60):  # More shapes than are kept: a session never lets a graph go, so there may not be more.
        x = random.standard_normal((1 + turn % 20, 4)).astype(np.float32)
        for _ in range(3):
            np.testing.assert_array_equal(engine.run({"x": x})[0], 2 * x)
    assert len(engine._session.graphs) == len(engine._captured) == len(engine._lanes) == ort.LANES
    with ThreadPoolExecutor(4) as pool:
        xs = [np.full((1 + place % 5, 4), place, np.float32) for place in range(80)]
        for x, y in zip(xs, pool.map(lambda x: engine.run({"x": x})[0], xs), strict=True):
            np.testing.assert_array_equal(y, 2 * x)
    engine.close()


def test_a_model_that_cannot_be_captured_runs_without(device: Any) -> None:
    engine: Any = ort.start(b"partly", "fp32", "cuda", None)
    assert engine.info.provider == "CUDAExecutionProvider"
    for _ in range(3):
        np.testing.assert_array_equal(engine.run({"x": np.ones((2, 4), np.float32)})[0], 2.0)
    assert engine._session.runs == [None] * 3


def test_a_capture_that_fails_later_leaves_the_shape_usable(device: Any) -> None:
    engine: Any = ort.start(b"model", "fp32", "cuda", None)
    engine._session.settings["CUDAExecutionProvider"]["breaks"] = True
    for _ in range(4):
        np.testing.assert_array_equal(engine.run({"x": np.ones((2, 4), np.float32)})[0], 2.0)
    assert engine._session.runs == ["-1", "1", "-1", "-1", "-1"]


def test_tensorrts_provider_is_given_or_refused(device: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine: Any = ort.start(b"model", "fp16", "tensorrt", None)
    assert (engine.info.provider, engine.info.device) == ("TensorrtExecutionProvider", "cuda")
    paths = [
        ort.start(model, "fp16", "tensorrt", None)._session.settings["TensorrtExecutionProvider"][
            "trt_engine_cache_path"
        ]
        for model in (b"model", b"model of other weights")
    ]
    assert all(path.startswith(str(tmp_path)) and Path(path).is_dir() for path in paths)
    assert paths[0] != paths[1]
    assert ort.start(b"model", "fp32", "tensorrt", None).info.precision == "fp32 (TF32 allowed)"
    monkeypatch.setattr(Session, "get_providers", lambda self: ["CUDAExecutionProvider"])
    with pytest.raises(EngineError, match="could not start TensorrtExecutionProvider"):
        ort.start(b"model", "fp16", "tensorrt", None)
    device.get_available_providers = lambda: ["CPUExecutionProvider"]
    with pytest.raises(EngineError, match="device 'tensorrt': this onnxruntime has only"):
        ort.start(b"model", "fp16", "tensorrt", None)


@pytest.mark.parametrize(
    ("machine", "features", "computed"),
    [
        ("x86_64", ort.HALF_FEATURE, "fp32 (fp16 weights)"),
        ("aarch64", 0, "fp32 (fp16 weights)"),
        ("aarch64", ort.HALF_FEATURE | 1, "fp16 and fp32, by layer (fp16 weights)"),
        ("arm64", None, "fp16 and fp32, by layer (fp16 weights)"),
    ],
)
def test_fp16_is_computed_as_such_where_an_arm_processor_can(
    monkeypatch: pytest.MonkeyPatch, machine: str, features: int | None, computed: str
) -> None:
    library = SimpleNamespace() if features is None else SimpleNamespace(getauxval=lambda number: features)
    monkeypatch.setattr(ort.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(ort.platform, "machine", lambda: machine)
    assert ort._computed_on_cpu("fp16") == computed
    assert ort._computed_on_cpu("int8") == "int8"
