"""ncnn: the small engine for ARM boards and phones, on the CPU or through Vulkan.

It has no batch, so the items of one go through the network one by one, and no integers, so a class label is a vector
with 1 at the class. Its default is to store and compute in FP16 where the processor can; here an FP32 network computes
in FP32, and a network says the same of each of its layers, for programs that do not use this module.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.errors import EngineError, MissingExtra, UsageError, one_line

from . import EngineInfo, on_cpu

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ganedge.runtime.manifest import Interface, Port
    from ganedge.runtime.ncnn_file import NcnnIdentity

DEVICES = ("auto", "cpu", "vulkan")
"""Where ncnn can compute."""
MAGIC = "7767517"
"""First line of every .param file."""


class Ncnn:
    """A network; each call has its own extractor, so that several threads may call it.

    Args:
        package: The module `ncnn`.
        net: The loaded network.
        weights: The memory that the network's weights lie in.
        identity: Names of inputs and output.
        interface: What the generator takes and gives.
        info: What really runs.
    """

    def __init__(
        self, package: Any, net: Any, weights: bytes, identity: NcnnIdentity, interface: Interface, info: EngineInfo
    ) -> None:
        self.info = info
        self._package, self._net, self._weights = package, net, weights
        self._identity, self._interface = identity, interface
        self._lock = threading.Lock()  # One queue of a GPU takes one call at a time.

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute the outputs, item by item."""
        arrays = [self._floats(feeds[port.name]) for port in self._interface.inputs]
        items = [self._item([array[index] for array in arrays]) for index in range(len(arrays[0]))]
        return [np.stack(values) for values in zip(*items, strict=True)]

    def blobs(self, feeds: Mapping[str, NDArray[np.generic]], names: Sequence[str]) -> dict[str, NDArray[np.generic]]:
        """Intermediate values of the first item, by the names that the .param file has."""
        items = [self._floats(feeds[port.name])[0] for port in self._interface.inputs]
        # Each in its own run: what a layer has read is freed; outputs, which none reads, can share one.
        return {name: self._extract(items, (name,))[0] for name in names}

    def close(self) -> None:
        """Free the network."""
        self._net = None

    def _item(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.generic]]:
        outputs = self._extract(inputs, (self._identity.output, *self._identity.extras))
        return [_shaped(output, port) for output, port in zip(outputs, self._interface.outputs, strict=True)]

    def _extract(self, inputs: Sequence[NDArray[np.float32]], names: Sequence[str]) -> list[NDArray[np.generic]]:
        kept = [np.ascontiguousarray(array) for array in inputs]  # A Mat does not keep the memory it was made from.
        if self.info.device == "vulkan":
            with self._lock:
                return self._compute(kept, names)
        return self._compute(kept, names)

    def _compute(self, inputs: Sequence[NDArray[np.float32]], names: Sequence[str]) -> list[NDArray[np.generic]]:
        outputs: list[NDArray[np.generic]] = []
        try:
            extractor = self._net.create_extractor()
            for blob, array in zip(self._identity.inputs, inputs, strict=True):
                extractor.input(blob, self._package.Mat(array))
            for name in names:
                status, output = extractor.extract(name)
                if status != 0:
                    raise EngineError(f"ncnn could not run this model: it stopped with status {status} before {name}")
                outputs.append(np.array(output, dtype=np.float32))
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"ncnn could not run this model: {one_line(error)}") from error
        return outputs

    def _floats(self, array: NDArray[np.generic]) -> NDArray[np.float32]:
        """The array as it is, or labels as vectors."""
        if array.dtype != np.int64:
            return np.asarray(array, np.float32)
        vectors = np.zeros((len(array), self._identity.classes), np.float32)
        vectors[np.arange(len(array)), array] = 1
        return vectors


def start(
    param: str, weights: bytes, identity: NcnnIdentity, interface: Interface, device: str, threads: int | None
) -> Ncnn:
    """Load a network whose digests were checked.

    Args:
        param: The text of the .param file.
        weights: The .bin file.
        identity: What the network says of itself.
        interface: What the generator takes and gives.
        device: auto, cpu or vulkan.
        threads: Threads of the CPU; None leaves the choice to ncnn.

    Raises:
        MissingExtra: ncnn is not installed.
        UsageError: a device that ncnn does not have.
        EngineError: no Vulkan device, a layer that this ncnn does not have, or a network that it refuses.
    """
    package = package_of_ncnn()
    if device not in DEVICES:
        raise UsageError(f"device {device!r}: ncnn has {', '.join(DEVICES)}")
    vulkan = device == "vulkan"
    if vulkan and not _gpus(package):
        raise EngineError("no Vulkan device: install its driver (vulkaninfo lists devices), or take --device cpu")
    lacking = unknown_layers(param)
    if lacking:
        raise EngineError(f"ncnn {package.__version__} has no layer {', '.join(lacking)}")
    net = package.Net()
    options = net.opt
    options.use_vulkan_compute = vulkan
    if threads is not None:
        options.num_threads = threads
    half = identity.precision == "fp16"
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = half
    options.use_bf16_storage = False
    if net.load_param_mem(param) != 0:
        raise EngineError(f"ncnn {package.__version__} cannot load this network: export it again")
    net.load_model_mem(weights)  # It reports nothing; a network whose weights do not fit fails at its first call.
    info = EngineInfo(
        "ncnn",
        package.__version__,
        "Vulkan" if vulkan else "CPU",
        "vulkan" if vulkan else "cpu",
        _computed(package, half, vulkan),
    )
    return Ncnn(package, net, weights, identity, interface, info)


def _shaped(output: NDArray[np.generic], port: Port) -> NDArray[np.generic]:
    """One item of an output in the shape that its port says; ncnn may add or drop dimensions of one."""
    sizes = port.shape[1:]
    if all(isinstance(size, int) for size in sizes):
        expected = tuple(int(size) for size in sizes)
    else:
        expected = ((1,) * len(sizes) + output.shape)[-len(sizes) :]
    if output.size != np.prod(expected):
        raise EngineError(f"ncnn could not run this model: {output.shape} came out, not {expected}")
    return output.reshape(expected)


def layers_of(param: str) -> list[list[str]]:
    """The layers of a .param file: each a list of type, name, number of inputs and outputs, their names, parameters.

    Raises:
        EngineError: it is no .param file.
    """
    lines = [line.split() for line in param.splitlines() if line.strip()]
    if len(lines) < 3 or lines[0] != [MAGIC]:
        raise EngineError("this is no .param file of ncnn in text form")
    return lines[2:]


def unknown_layers(param: str) -> list[str]:
    """Layers that the installed ncnn does not have: their type and name."""
    package = package_of_ncnn()
    return [f"{layer[0]} ({layer[1]})" for layer in layers_of(param) if package.layer_to_index(layer[0]) < 0]


def devices() -> tuple[list[str], str]:
    """The devices ncnn sees, and its version."""
    package = package_of_ncnn()
    return ["cpu", *(f"vulkan ({name})" for name in _gpus(package))], package.__version__


def _gpus(package: Any) -> list[str]:
    """Return the names of the Vulkan devices, without the lines that ncnn writes about each driver it does not find."""
    with _silent_stderr():
        return [package.get_gpu_info(index).device_name() for index in range(package.get_gpu_count())]


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what a library writes to stderr, past `sys.stderr`."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def package_of_ncnn() -> Any:
    """Import ncnn.

    Raises:
        MissingExtra: it is not installed.
        EngineError: it is installed and fails to import.
    """
    try:
        return importlib.import_module("ncnn")
    except Exception as error:  # A broken package fails in ways of its own.
        if isinstance(error, ModuleNotFoundError) and error.name == "ncnn":
            raise MissingExtra("ncnn", "ncnn", "an ncnn artifact") from error
        raise EngineError(f"ncnn is installed and does not start ({one_line(error)}): reinstall it") from error


def _computed(package: Any, half: bool, vulkan: bool) -> str:
    """Return the precision that a network is computed in on this device."""
    if not half:
        return "fp32"
    if vulkan or package.cpu_support_arm_asimdhp():
        return "fp16"
    return on_cpu("fp16")
