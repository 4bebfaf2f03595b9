"""OpenVINO: the fast engine on Intel processors."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import TYPE_CHECKING, Any

from ganedge.runtime.errors import EngineError, one_line

from . import EngineInfo, import_package, on_cpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


CONVOLUTIONS = ("Convolution", "ConvolutionBackpropData")
"""How the names of its convolutions end."""
LAYERS = (*CONVOLUTIONS, "MatMul")
"""How the names of what it computes in lower precision end."""
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Our names of precisions and OpenVINO's."""


class OpenVino:
    """A compiled model; each call has its own inference request, so several threads may call it."""

    def __init__(self, compiled: Any, info: EngineInfo) -> None:
        self.info = info
        self._compiled = compiled

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute all outputs."""
        try:
            result = self._compiled.create_infer_request().infer(dict(feeds), share_inputs=True)
        except Exception as error:
            raise EngineError(f"openvino could not run this model: {one_line(error)}") from error
        return [result[index] for index in range(len(self._compiled.outputs))]

    def close(self) -> None:
        """Free the model."""
        with signal_stack_kept():
            self._compiled = None


def start(model: bytes, precision: str, device: str, threads: int | None, compute: str | None = None) -> OpenVino:
    """Compile the model. See `engines.start` for the arguments and errors."""
    openvino = package()

    if device in ("cuda", "tensorrt"):
        raise EngineError(
            f"device {device!r}: OpenVINO runs on Intel processors, not on CUDA; use --engine onnxruntime"
        )
    if compute is not None and compute not in HINTS:
        raise EngineError(f"openvino cannot compute in {compute}: choose {', '.join(HINTS)}")
    if compute is not None and compute not in precisions():
        raise EngineError(f"this processor cannot compute in {compute} with openvino: leave the precision as it is")
    # On a CPU with AMX OpenVINO computes FP32 models in bf16 unless told otherwise: what is asked for is given.
    # A bf16 model is computed in bf16 where the processor can.
    natural = "bf16" if precision == "bf16" and "bf16" in precisions() else "fp32"
    hint = HINTS[compute or natural]
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        with signal_stack_kept():
            core = openvino.Core()
            graph = core.read_model(model)
            if compute is not None and _has_computed_weights(graph):
                raise EngineError(
                    f"openvino is not asked to compute in {compute} where convolutions have computed weights, as those "
                    "of StyleGAN: it may never finish preparing them"
                )
            if compute is None and natural == "bf16" and _has_fp32_layers(graph):
                hint = HINTS["fp32"]  # Each layer in its own type: with bf16, OpenVINO computes these in bf16 too.
            compiled = core.compile_model(graph, "CPU", {**settings, "INFERENCE_PRECISION_HINT": hint})
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"openvino {openvino.__version__} cannot load this model: {one_line(error)}") from error
    actual = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if actual != hint:
        raise EngineError(f"asked to compute in {hint}, openvino computes in {actual}: use --engine onnxruntime")
    version = openvino.__version__.partition("-")[0]
    used = compute or natural
    computed = used if used == precision else f"{used} ({precision} weights)" if compute else on_cpu(precision)
    return OpenVino(compiled, EngineInfo("openvino", version, "CPU", "cpu", computed))


def _has_fp32_layers(graph: Any) -> bool:
    """Does a convolution or matrix product give FP32?"""
    layers = [node for node in graph.get_ordered_ops() if node.get_type_name().endswith(LAYERS)]
    return any(node.get_output_element_type(0).get_type_name() == "f32" for node in layers)


def _has_computed_weights(graph: Any) -> bool:
    """Do weights of a convolution depend on the inputs?

    OpenVINO 2026.4 did not finish preparing a StyleGAN3 in bf16 nor in fp16 on a processor with AMX.
    """
    computed = set[str]()  # Names of nodes that depend on the inputs.
    for node in graph.get_ordered_ops():
        sources = [value.get_source_output().get_node() for value in node.inputs()]
        is_convolution = node.get_type_name().endswith(CONVOLUTIONS)
        if is_convolution and len(sources) > 1 and sources[1].get_friendly_name() in computed:
            return True
        if node.get_type_name() == "Parameter" or any(each.get_friendly_name() in computed for each in sources):
            computed.add(node.get_friendly_name())
    return False


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux: where a thread handles signals."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Leave the calling thread's signal stack as it was.

    The plugin (seen with 2026.4) gives the thread that loads a model an alternate signal stack and frees it with the
    model, also when another model has come since. Python handles signals on that stack, so the next Ctrl-C would
    crash the process instead of raising KeyboardInterrupt.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


def devices() -> tuple[list[str], str]:
    """The devices OpenVINO sees, by their full names, and its version."""
    openvino = package()
    core = openvino.Core()
    names = [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME')})" for name in core.available_devices]
    return names, openvino.__version__.partition("-")[0]


def package() -> Any:
    """Import openvino. Raises as `import_package` does."""
    return import_package("openvino", "Core")


def precisions() -> list[str]:
    """Lower precisions that this processor computes in."""
    able = package().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name in ("bf16", "fp16") if name.upper() in able]
