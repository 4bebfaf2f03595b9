"""What this machine has for running artifacts, what stands in the way, and a first picture.

for name, value in rows(examine()):
print(name, value)
"""

from __future__ import annotations

import importlib
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import onnx_file
from .engines import EXTRAS, MODULES, ONNXRUNTIME_WHEELS, cores, installed, start, trt, trt_builder
from .engines.trt_builder import FLAVOURS
from .errors import EngineError, GanEdgeError, one_line
from .generator import Generator
from .manifest import Interface, Manifest, Port, write_artifact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .engine_file import Flavour

SCHEMA = 1
"""Version of the report."""
PACKAGES = (
    "ganedge",
    "numpy",
    "pillow",
    "typer",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "ncnn",
)
"""What a bug report should name."""
TEGRA = Path("/etc/nv_tegra_release")
"""Where a Jetson tells its system release."""
BOARD = Path("/proc/device-tree/model")
"""Where a board tells its name."""
JETPACKS = {"R35": "JetPack 5", "R36": "JetPack 6", "R38": "JetPack 7", "R39": "JetPack 7"}
"""System releases and the JetPack they belong to."""


@dataclass(frozen=True)
class EngineReport:
    """One engine as this machine has it."""

    name: str
    version: str
    """Version of its package; empty if it is not installed."""
    devices: tuple[str, ...]
    """Devices that it reports."""
    problem: str
    """Why it cannot be used, and what to do; empty where it can."""


def examine() -> dict[str, Any]:
    """Examine this machine; the report is ready for JSON."""
    engines = [_engine(name) for name in (*MODULES, *filter(installed, ("ncnn",)))]
    engines += [_tensorrt(name) for name in filter(installed, FLAVOURS)]
    return {
        "schema": SCHEMA,
        "system": platform.platform(),
        "machine": platform.machine(),
        "board": _text(BOARD),
        "jetpack": jetpack(),
        "cores": cores(),
        "python": platform.python_version(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
        "engines": [vars(engine) for engine in engines],
        "problems": problems(),
    }


def rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Format the report as rows of text."""
    lines = [("system", f"{report['system']}, {report['cores']} cores, Python {report['python']}")]
    if report["board"]:
        lines.append(("board", report["board"]))
    if report["jetpack"]:
        lines.append(("jetpack", report["jetpack"]))
    lines.append(("packages", ", ".join(f"{name} {number}" for name, number in report["packages"].items())))
    for engine in report["engines"]:
        state = engine["problem"] or f"{engine['version']}: {', '.join(engine['devices'])}"
        lines.append(("engine", f"{engine['name']} {state}"))
    return lines + [("problem", text) for text in report["problems"]]


def jetpack() -> str:
    """The JetPack of a Jetson, and its system release; empty elsewhere."""
    release_text = _text(TEGRA).removeprefix("# ")
    release = release_text.split(" ", 1)[0]
    revision = release_text.partition("REVISION: ")[2].partition(",")[0]
    return f"{JETPACKS.get(release, 'unknown JetPack')} (L4T {release[1:]}.{revision})" if release_text else ""


def problems() -> list[str]:
    """Return the problems of this machine, each with what to do."""
    lines = []
    if all(map(_version, ONNXRUNTIME_WHEELS)):
        lines.append(
            "onnxruntime and onnxruntime-gpu are both installed, bring the same module and overwrite each other: "
            "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        )
    if jetpack() and _by_pip("tensorrt"):
        lines.append(
            "tensorrt was installed with pip beside the one of JetPack: pip uninstall tensorrt, and make the "
            "environment with --system-site-packages"
        )
    if not any(installed(name) for name in MODULES):
        lines.append("no engine is installed: pip install 'ganedge[cpu]'")
    if not _version("pillow"):
        lines.append("pillow is missing, without which no picture can be read or written: pip install 'ganedge[cpu]'")
    return lines


def selftest() -> dict[str, NDArray[np.uint8]]:
    """Make a picture with every installed engine, from a tiny generator that is made here.

    Returns:
        A grid of pictures per engine, uint8 `[H, W, 1]`.

    Raises:
        GanEdgeError: an engine cannot run it, no engine is there, or two give different pictures.
    """
    from .manifest import read_bytes
    from .pictures.images import grid

    manifest, model = read_bytes(tiny_artifact(), "the self-test")
    made = {}
    for name in filter(installed, MODULES):
        with Generator(manifest, start(model, manifest.precision, name, "auto", 1)) as generator:
            made[str(generator.engine)] = grid(np.asarray(generator.sample(16, seed=0), dtype=np.uint8))
    if not made:
        raise GanEdgeError("no engine is installed: pip install 'ganedge[cpu]'")
    first = next(iter(made.values())).astype(int)
    for engine, sheet in made.items():
        if np.abs(sheet - first).max() > 1 or sheet.std() < 1:
            raise GanEdgeError(f"{engine} gives other pictures than {next(iter(made))}: reinstall it")
    return made


def tiny_artifact(side: int = 16) -> bytes:
    """A generator of rings and waves: `image = tanh(latent · patterns)`, written field by field (onnx.proto3)."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    patterns = np.stack([np.cos(4 * np.hypot(x, y)), np.sin(3 * x), np.sin(3 * y), x * y]).reshape(4, -1)
    field = onnx_file.field
    nodes = (
        _node("MatMul", ("latent", "patterns"), "sum")
        + _node("Tanh", ("sum",), "flat")
        + _node("Reshape", ("flat", "shape"), "image")
    )
    weights = _tensor("patterns", patterns.astype("<f4"), 1) + _tensor("shape", np.array([-1, 1, side, side], "<i8"), 7)
    ports = field(11, _port("latent", ("batch", 4))) + field(12, _port("image", ("batch", 1, side, side)))
    graph = nodes + field(2, b"selftest") + weights + ports
    model = field(1, 8) + field(7, graph) + field(8, field(2, 13))
    latent = Port("latent", "latent", "float32", ("batch", 4), "NC")
    image = Port("image", "image", "float32", ("batch", 1, side, side), "NCHW", (-1.0, 1.0))
    return write_artifact(model, Manifest(Interface("latent-to-image", (latent,), (image,), "normal"), "fp32", "none"))


def _node(operator: str, inputs: tuple[str, ...], output: str) -> bytes:
    field = onnx_file.field
    message = (
        b"".join(field(1, name.encode()) for name in inputs) + field(2, output.encode()) + field(4, operator.encode())
    )
    return field(1, message)


def _tensor(name: str, array: NDArray[Any], element: int) -> bytes:
    field = onnx_file.field
    sizes = b"".join(field(1, size) for size in array.shape)
    return field(5, sizes + field(2, element) + field(8, name.encode()) + field(9, array.tobytes()))


def _port(name: str, shape: tuple[int | str, ...]) -> bytes:
    field = onnx_file.field
    sizes = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size.encode())) for size in shape)
    return field(1, name.encode()) + field(2, field(1, field(1, 1) + field(2, sizes)))


def _engine(name: str) -> EngineReport:
    if not installed(name):
        return EngineReport(name, "", (), f"is not installed: pip install 'ganedge[{EXTRAS[name]}]'")
    try:
        devices, number = importlib.import_module(f".engines.{MODULES.get(name, name)}", __package__).devices()
    except EngineError as error:
        return EngineReport(name, "", (), str(error).removeprefix(f"{name} "))
    except Exception as error:  # noqa: BLE001 - a broken package fails in ways of its own, and that is the result
        return EngineReport(name, "", (), f"is installed and does not start ({one_line(error)}): reinstall it")
    return EngineReport(name, number, tuple(devices), "")


def _tensorrt(name: Flavour) -> EngineReport:
    """A TensorRT that is installed: what it would run .engine files on, and what it lacks for that."""
    try:
        number = str(importlib.import_module(name).__version__)
    except Exception as error:  # noqa: BLE001 - a broken package fails at import in ways of its own, and is the finding
        return EngineReport(name, "", (), f"is installed and does not load ({one_line(error)}): reinstall it")
    device = trt_builder.compute_capability()
    missing = []
    if not device:
        missing.append("no NVIDIA GPU, or no driver for it")
    try:
        importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        missing.append("no cuda-python, " + (trt.advice(name, "cuda-python") or "pip install cuda-python"))
    if missing:
        builds = "" if trt_builder.hindrance(name) else ", but builds them"
        return EngineReport(name, number, (), f"{number} runs no .engine files here{builds}: {'; '.join(missing)}")
    return EngineReport(name, number, (device,), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _by_pip(package: str) -> bool:
    """Whether pip installed a package; what the system brought has a description too, but not pip's mark."""
    try:
        return (distribution(package).read_text("INSTALLER") or "").strip() == "pip"
    except PackageNotFoundError:
        return False


def _text(path: Path) -> str:
    """The first line of a file; empty where there is none."""
    try:
        return path.read_text("utf-8", errors="replace").partition("\n")[0].strip("\0 ")
    except OSError:
        return ""
