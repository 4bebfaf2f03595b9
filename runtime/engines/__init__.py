"""The engines that can run an artifact, each in a module of its own that is imported when it is chosen.

Every such module has one function, `start(model, precision, device, threads, compute) -> Engine`. An engine asked for
by name and not to be had is an error that says how to get it; nothing falls back in silence.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ganedge.runtime.cli.options import option
from ganedge.runtime.errors import EngineError, MissingExtra, UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

MODULES = {"onnxruntime": "ort", "openvino": "ov"}
"""Engine names, in the order that `auto` tries them, and the modules that hold them."""
EXTRAS = {"onnxruntime": "cpu", "openvino": "openvino", "ncnn": "ncnn"}
"""The extra that installs each engine."""
ALIASES = {"ort": "onnxruntime", "ov": "openvino", "trt": "tensorrt"}
"""Other names that people use for the engines."""
ONNXRUNTIME_WHEELS = ("onnxruntime", "onnxruntime-gpu")
"""Packages that bring the module `onnxruntime`; only one may be installed."""
DEVICES = ("auto", "cpu", "cuda", "tensorrt", "vulkan")
"""What `device` may be; `tensorrt` is ONNX Runtime's provider of that name, on CUDA; `vulkan` is for ncnn."""


@dataclass(frozen=True)
class EngineInfo:
    """The engine and device in use, as reported by the engine, not as requested."""

    name: str
    """onnxruntime, openvino, ncnn, tensorrt or tensorrt_rtx."""
    version: str
    """Of the engine's package."""
    provider: str
    """The part of the engine that computes: an execution provider or a plugin."""
    device: str
    """cpu, cuda or vulkan."""
    precision: str
    """What it computes in, and what the weights are where that differs."""

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.name} {self.version} ({self.provider})"


def canonical(name: str) -> str:
    """The name of an engine as manifests and reports have it, from a name that a user gave.

    Args:
        name: onnxruntime, openvino, ncnn or tensorrt, one of their aliases (ort, ov, trt), or "auto", which stays.

    Raises:
        UsageError: no engine has this name.

    >>> canonical("ort")
    'onnxruntime'
    """
    engine = ALIASES.get(name.lower(), name.lower())
    if engine not in ("auto", *MODULES, "ncnn", "tensorrt", "tensorrt_rtx"):
        raise UsageError(f"unknown engine {name!r}: choose auto, {', '.join(MODULES)}, ncnn or tensorrt")
    return engine


@dataclass(frozen=True)
class EngineOptions:
    """Which engine runs an artifact, and where."""

    engine: str = "auto"
    """auto, onnxruntime, openvino, ncnn or tensorrt (or ort, ov, trt); auto takes what was measured as fastest here."""
    device: str = "auto"
    """auto, cpu, cuda, tensorrt (ONNX Runtime's provider), or vulkan (ncnn)."""
    threads: int | None = None
    """Threads of the engine; the engine chooses by default."""
    tune: bool = field(default=True, metadata=option(flag="--tune/--no-tune"))
    """Measure the installed engines where auto knows nothing of this file here, and remember the fastest."""

    def __post_init__(self) -> None:
        """Use the engine's own name, and check the rest."""
        object.__setattr__(self, "engine", canonical(self.engine))
        if self.device not in DEVICES:
            raise UsageError(f"unknown device {self.device!r}: choose {', '.join(DEVICES)}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}: give 1 or more, or leave it out")


Parts = tuple[float, float, float]
"""Where a call's time goes on a device of its own: copying in, computing, copying out, seconds."""


class Engine(Protocol):
    """A loaded model. `run` may be called from several threads at once."""

    info: EngineInfo

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute the outputs, in the graph's order, from inputs by name."""

    def close(self) -> None:
        """Free what it holds; no call may follow."""


def package_version(module: str) -> str:
    """The version of the package that brings a module: `onnxruntime` may come from `onnxruntime-gpu`."""
    from importlib.metadata import PackageNotFoundError, version  # Only reports need it.

    try:
        return version(_distributions().get(module, [module])[0])
    except PackageNotFoundError:
        return "of unknown version"


@functools.cache
def _distributions() -> Mapping[str, Sequence[str]]:
    """Return which packages contain which modules; cached, because it reads the metadata of every installed package."""
    from importlib.metadata import packages_distributions

    return packages_distributions()


def import_package(name: str, attribute: str) -> Any:
    """Import the package of an engine.

    Args:
        name: The package.
        attribute: What it must have; part of a package is missing where another was installed over it.

    Raises:
        MissingExtra: it is not installed.
        EngineError: it is installed and fails to import.
    """
    try:
        package = importlib.import_module(name)
        getattr(package, attribute)
    except Exception as error:  # A broken package may raise anything.
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise MissingExtra(name, EXTRAS[name], f"engine {name}") from error
        raise EngineError(f"{name} is installed and does not start ({one_line(error)}): {_repair(name)}") from error
    return package


def overwritten_wheels() -> tuple[str, ...]:
    """The packages that bring `onnxruntime` and overwrite each other's files, where more than one is installed."""
    from importlib.metadata import distributions

    wheels = tuple(wheel for wheel in ONNXRUNTIME_WHEELS if any(distributions(name=wheel)))
    return wheels if len(wheels) > 1 else ()


def _repair(name: str) -> str:
    """What to do about an engine that does not import."""
    wheels = overwritten_wheels() if name == "onnxruntime" else ()
    if not wheels:
        return "reinstall it"
    return f"{' and '.join(wheels)} overwrite each other: pip uninstall {' '.join(wheels)}, then install one of them"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(name: str) -> bool:
    """Whether the package of an engine is there, without importing it."""
    return importlib.util.find_spec(name) is not None


def readers(precision: str) -> tuple[str, ...]:
    """The engines that compute an .onnx of this precision on a CPU: ONNX Runtime has no bf16 there."""
    return tuple(name for name in MODULES if (name, precision) != ("onnxruntime", "bf16"))


def on_cpu(precision: str) -> str:
    """Return what an engine computes in on a CPU: FP16 weights are converted to FP32 and computed in FP32."""
    return f"fp32 ({precision} weights)" if precision in ("fp16", "bf16") else precision


def start(
    model: bytes,
    precision: str,
    name: str,
    device: str,
    threads: int | None,
    compute: str | None = None,
    proven: Collection[str] = (),
    failed: Collection[str] = (),
) -> Engine:
    """Load a model into an engine.

    Args:
        model: A serialised ONNX model.
        precision: What the manifest says the model computes in.
        name: An engine or an alias of it, or "auto" for the first installed one among those proven, or among all if
            none of them is.
        device: "auto", "cpu", "cuda", or "tensorrt" for ONNX Runtime's TensorRT provider.
        threads: Threads of the engine's own pool; None leaves the choice to the engine.
        compute: Compute in another precision than the model's, such as "bf16"; only what was proven to be close enough
            is asked for.
        proven: Engines whose results were proven for this model.
        failed: Engines that compute this model wrongly: "auto" never takes them.

    Raises:
        UsageError: an unknown engine or device, an engine that runs no .onnx, or a thread count below one.
        MissingExtra: the engine is not installed.
        EngineError: the engine is there and cannot run this model on this device.
    """
    name = EngineOptions(name, device, threads).engine
    if name in ("tensorrt", "tensorrt_rtx"):
        raise UsageError(
            f"engine {name!r} runs .engine files, not .onnx: make one with gan-export --format trt, "
            "or choose device tensorrt"
        )
    if name == "ncnn" or device == "vulkan":
        raise UsageError("ncnn and vulkan run ncnn artifacts, not .onnx: make one with gan-export --format ncnn")
    able = readers(precision) if device in ("auto", "cpu") else ("onnxruntime",)
    order = sorted(MODULES, key=lambda known: (known not in able, known not in proven)) if name == "auto" else [name]
    for candidate in order:
        if installed(candidate) and not (name == "auto" and candidate in failed):
            module = importlib.import_module(f".{MODULES[candidate]}", __name__)
            engine: Engine = module.start(model, precision, device, threads, compute)
            return engine
    if name == "auto":
        raise EngineError("no engine is installed: pip install 'ganedge[cpu]' (onnxruntime) or 'ganedge[openvino]'")
    raise MissingExtra(name, EXTRAS[name], f"engine {name}")
