"""ONNX Runtime: the engine that is everywhere, on the CPU or on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ganedge.runtime.engines import EngineInfo, on_cpu
from ganedge.runtime.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
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


def start(model: bytes, precision: str, device: str, threads: int | None) -> OnnxRuntime:
    """Open a session. See `engines.start` for the arguments and errors."""
    import onnxruntime

    chosen = _choose(onnxruntime.get_available_providers(), device)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Errors reach the caller as exceptions; the library itself prints nothing.
    if threads is not None:
        options.intra_op_num_threads = threads
    providers = [PROVIDERS[chosen]] if chosen == "cpu" else [PROVIDERS[chosen], PROVIDERS["cpu"]]
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
    return OnnxRuntime(session, EngineInfo("onnxruntime", onnxruntime.__version__, active, chosen, computed))


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
