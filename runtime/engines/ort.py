"""ONNX Runtime: the engine that is everywhere, on the CPU or on CUDA."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.engines import EngineInfo, on_cpu
from ganedge.runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


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
            raise EngineError(f"onnxruntime could not run this model: {_first_line(error)}") from error
        return outputs

    def close(self) -> None:
        """Let the session go."""
        self._session = None


class BoundOnnxRuntime:
    """A session on a device, each thread with an I/O binding and input buffers there of its own.

    Inputs are copied into buffers that stay as long as a thread's shapes do; outputs are allocated by the session on
    the device and come back in one copy.
    """

    def __init__(self, session: Any, info: EngineInfo, memory: str) -> None:
        self.info = info
        self._session = session
        self._memory = memory
        self._outputs = [output.name for output in session.get_outputs()]
        self._local = threading.local()

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute all outputs."""
        try:
            binding = self._bound(feeds)
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding)
            return [value.numpy() for value in binding.get_outputs()]
        except Exception as error:
            raise EngineError(f"onnxruntime could not run this model: {_first_line(error)}") from error

    def close(self) -> None:
        """Let the session and this thread's buffers go."""
        self._session = None
        self._local = threading.local()

    def _bound(self, feeds: Mapping[str, NDArray[np.generic]]) -> Any:
        """This thread's binding, with the inputs in its buffers; both are made anew when a shape changes."""
        from onnxruntime import OrtValue

        shapes = {name: array.shape for name, array in feeds.items()}
        if getattr(self._local, "shapes", None) != shapes:
            binding = self._session.io_binding()
            self._local.values = {
                name: OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._memory, 0)
                for name, array in feeds.items()
            }
            for name, value in self._local.values.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._outputs:
                binding.bind_output(name, self._memory, 0)
            self._local.binding, self._local.shapes = binding, shapes
        else:
            for name, array in feeds.items():
                self._local.values[name].update_inplace(np.ascontiguousarray(array))
        return self._local.binding


def start(
    model: bytes, precision: str, device: str, threads: int | None, compute: str | None = None
) -> OnnxRuntime | BoundOnnxRuntime:
    """Open a session. See `engines.start` for the arguments and errors."""
    onnxruntime = _package()

    if compute is not None:
        raise EngineError(f"onnxruntime computes in the model's own precision, not in {compute}: export it so")
    chosen = _choose(onnxruntime.get_available_providers(), device)
    if chosen == "cpu" and precision == "bf16":
        raise EngineError("onnxruntime has no bf16 on the CPU: pip install 'ganedge[openvino]', or export in FP32")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Errors reach the caller as exceptions; the library itself prints nothing.
    if threads is not None:
        options.intra_op_num_threads = threads
    # TF32 is ONNX Runtime's default on CUDA: FP32 is asked for, so FP32 is computed.
    cuda = (PROVIDERS["cuda"], {"use_tf32": "0"})
    providers = [PROVIDERS["cpu"]] if chosen == "cpu" else [cuda, PROVIDERS["cpu"]]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} cannot load this model: {_first_line(error)}"
        ) from error
    active = session.get_providers()[0]
    if active != PROVIDERS[chosen]:
        if device != "auto":
            raise EngineError(
                f"device {device!r}: onnxruntime could not start {PROVIDERS[chosen]}; "
                "check the NVIDIA driver and the CUDA libraries it was built for, or use --device cpu"
            )
        chosen = "cpu"
    computed = precision if chosen == "cuda" else on_cpu(precision)
    info = EngineInfo("onnxruntime", onnxruntime.__version__, active, chosen, computed)
    return BoundOnnxRuntime(session, info, "cuda") if chosen == "cuda" else OnnxRuntime(session, info)


def devices() -> tuple[list[str], str]:
    """The execution providers of this build, and its version."""
    onnxruntime = _package()

    return onnxruntime.get_available_providers(), onnxruntime.__version__


def _package() -> Any:
    """Import onnxruntime, quietly: since 1.31 it reports its use to its makers, and complains where it cannot.

    A device that sends nothing unasked is what people expect; who wants it sets ORT_DISABLE_TELEMETRY=0.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018 - half of it is missing where one wheel overwrote another
    except (ImportError, AttributeError) as error:
        raise EngineError(f"onnxruntime is installed and does not start ({error}): {_mending()}") from error
    return onnxruntime


def _mending() -> str:
    """What to do about a broken onnxruntime."""
    from importlib.metadata import distributions

    wheels = ("onnxruntime", "onnxruntime-gpu")
    if not all(any(distributions(name=wheel)) for wheel in wheels):
        return "reinstall it"
    return f"{' and '.join(wheels)} overwrite each other: pip uninstall {' '.join(wheels)}, then install one of them"


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
