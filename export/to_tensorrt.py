"""From a proven ONNX artifact to a TensorRT engine: one builder over `tensorrt` 10 and 11 and `tensorrt_rtx`. No torch.

    write_engine(Path("g.onnx"), Path("g.engine"), proven, Settings.read(batch="1,4,16"), print)

The network is strongly typed: precision is what the ONNX says, and what was built is checked against it, because a
flag that is quietly ignored is the classic failure. TensorRT for RTX builds on a machine without a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from ganedge.export import parity
from ganedge.export.artifact import Proven, write_proof
from ganedge.export.quantize import LAYERS
from ganedge.export.sizes import read_size
from ganedge.runtime import engines
from ganedge.runtime.engine_file import EngineIdentity, Flavour, Shapes, write_sidecar
from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.runtime.files import whole_file, write_whole
from ganedge.runtime.manifest import Interface, Manifest

FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
"""Modules that build engines, in the order they are tried."""


@dataclass(frozen=True)
class Settings:
    """How to build an engine."""

    batch: tuple[int, int, int] = (1, 1, 16)
    """Smallest, most usual and largest batch."""
    size: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None
    """The same for height and width, where they are dynamic, pixels."""
    workspace: int | None = None
    """MiB that the builder may use; its own choice by default."""
    level: int | None = None
    """The builder's optimisation level, 0 to 5."""
    portable: bool = False
    """Whether newer versions and related GPUs must run it."""
    targets: tuple[str, ...] = ()
    """GPUs that TensorRT for RTX builds for: sm86."""
    timing_cache: Path | None = None
    """Folder of timing caches."""
    dla: int | None = None
    """The DLA core to build for, where the device has such; what it cannot run stays on the GPU."""

    @classmethod
    def read(
        cls,
        batch: str = "1,1,16",
        size: str | None = None,
        workspace: int | None = None,
        level: int | None = None,
        portable: bool = False,
        targets: str | None = None,
        timing_cache: Path | None = None,
        dla: int | None = None,
    ) -> Settings:
        """Settings as people write them.

        Raises:
            UsageError: figures that are no MIN,OPT,MAX.
        """
        try:
            least, usual, most = (int(part) for part in batch.split(","))
        except ValueError:
            least, usual, most = 1, 0, 0
        if not 1 <= least <= usual <= most <= 65_536:
            raise UsageError(f"--batch {batch}: give MIN,OPT,MAX, such as 1,4,16")
        sizes = None
        if size is not None and "," in size:
            parts = [read_size(part) for part in size.split(",")]
            if len(parts) != 3 or sorted(parts) != parts:
                raise UsageError(f"--size {size}: give MIN,OPT,MAX, such as 256,512,1024")
            sizes = (parts[0], parts[1], parts[2])
        names = tuple(targets.lower().split(",")) if targets else ()
        return cls((least, usual, most), sizes, workspace, level, portable, names, timing_cache, dla)


def flavour() -> tuple[Flavour, Any]:
    """The TensorRT of this machine.

    Raises:
        EngineError: there is none; the message says which one belongs here.
    """
    for name in FLAVOURS:
        if engines.installed(name):
            try:
                return name, importlib.import_module(name)
            except (ImportError, OSError) as error:
                raise EngineError(
                    f"{name} is installed and does not load: {' '.join(str(error).split())[:200]}"
                ) from error
    if platform.machine() == "aarch64":
        advice = (
            "a Jetson has its own from JetPack (python3 -m venv --system-site-packages); do not pip-install another"
        )
    else:
        advice = "pip install 'ganedge[rtx]' for GeForce RTX GPUs, also on a machine without one, or 'ganedge[trt]'"
    raise EngineError(f"no TensorRT is installed here: {advice}; the .onnx was written and can be taken to the device")


def write_engine(onnx_path: Path, path: Path, proven: Proven, settings: Settings, say: Callable[[str], None]) -> Path:
    """Build an engine from an artifact, check it, and write it with its description.

    Args:
        onnx_path: The artifact, written already; it stays beside the engine.
        path: The engine.
        proven: The same artifact in memory.
        settings: How.
        say: Takes lines for people.

    Raises:
        EngineError: no TensorRT, or it refuses the model or the settings.
        GanEdgeError: the types it built are not those asked for.
    """
    name, trt = flavour()
    manifest = proven.manifest
    profiles = _profiles(manifest.interface, settings)
    if settings.dla is not None and name == "tensorrt_rtx":
        raise UsageError(f"--dla {settings.dla}: TensorRT for RTX has no DLA; a Jetson's own TensorRT does")
    if settings.dla is not None and manifest.precision == "fp32":
        raise UsageError(f"--dla {settings.dla}: a DLA computes in FP16 or INT8; add --fp16 or --int8")
    if onnx_path.parent.resolve() != path.parent.resolve():
        raise UsageError(f"{path}: the .onnx is kept beside the engine, in one folder")
    engine, targets, capability = _build(name, trt, proven.data, manifest, profiles, settings, say)
    unproven = "no GPU" if not capability else "gan-run verify does it on this device"
    described = replace(manifest, parity=(), unproven=f"engine not run here: {unproven}")
    identity = EngineIdentity(
        flavour=name,
        version=str(trt.__version__),
        compute_capability=capability,
        targets=targets,
        profiles=profiles,
        precision=manifest.precision,
        portable=settings.portable,
        onnx=onnx_path.name,
        onnx_digest=hashlib.sha256(proven.data).hexdigest(),
        engine_digest=hashlib.sha256(engine).hexdigest(),
    )
    write_whole(path, engine)
    write_sidecar(path, described, identity)
    write_proof(path, proven)
    say(f"parity of the engine: not run ({unproven}); the .onnx it was built from is proven, see above")
    return path


def _profiles(interface: Interface, settings: Settings) -> dict[str, Shapes]:
    """Smallest, most usual and largest shape of every input."""
    shapes: dict[str, Shapes] = {}
    for port in interface.inputs:
        sides = settings.size
        dynamic = any(isinstance(size, str) for size in port.shape[1:])
        if dynamic and sides is None:
            first = parity.sides(port)[0]
            least = tuple(-(-max(size // 2, port.multiple) // port.multiple) * port.multiple for size in first)
            sides = ((least[0], least[1]), (256, 256), (1024, 1024))
            sides = (sides[0], *[_rounded(pair, port.multiple) for pair in sides[1:]])  # type: ignore[assignment]
        if sides is not None and any(size % port.multiple for pair in sides for size in pair):
            raise UsageError(f"--size: heights and widths must be multiples of {port.multiple}")
        made = []
        for place in range(3):
            height, width = sides[place] if sides is not None else (0, 0)
            values = {"batch": settings.batch[place], "height": height, "width": width}
            made.append(tuple(size if isinstance(size, int) else values.get(size, 1) for size in port.shape))
        shapes[port.name] = (made[0], made[1], made[2])
    return shapes


def _rounded(pair: tuple[int, int], multiple: int) -> tuple[int, int]:
    return -(-pair[0] // multiple) * multiple, -(-pair[1] // multiple) * multiple


def _build(
    name: Flavour,
    trt: Any,
    model: bytes,
    manifest: Manifest,
    profiles: dict[str, Shapes],
    settings: Settings,
    say: Callable[[str], None],
) -> tuple[bytes, tuple[str, ...], str]:
    """The engine's bytes, the GPUs it is for, and the GPU it was built on."""
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise EngineError(f"{name} {trt.__version__} does not read this model: {' '.join(reason.split())[:300]}")
    _check_types(trt, network, onnx.load_model_from_string(model), manifest)
    capability = compute_capability()
    targets = _targets(name, trt, settings, capability)
    if targets and not settings.targets:
        say(f"no GPU and no --target: built for every one that {name} can name, {', '.join(targets)}")
    while True:
        config = _config(name, trt, builder, profiles, settings, targets)
        cache = _open_cache(name, trt, config, settings, capability)
        engine = builder.build_serialized_network(network, config)
        if engine is not None:
            break
        reason = log.last or "no reason given"
        unable = () if settings.targets else _unable(reason, targets)
        if not unable or len(unable) == len(targets):
            raise EngineError(f"{name} {trt.__version__} could not build this model: {reason}")
        say(f"not for {', '.join(unable)}, which cannot run it: {reason}")
        targets = tuple(target for target in targets if target not in unable)
    if cache is not None:
        with whole_file(cache) as part:
            part.write_bytes(memoryview(config.get_timing_cache().serialize()))
    return bytes(engine), targets, capability


def _unable(reason: str, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The GPUs among those built for that an error names, such as "not supported for Turing (SM75)"."""
    named = {found.lower() for found in re.findall(r"\bsm\d+\b", reason, re.IGNORECASE)}
    return tuple(target for target in targets if target in named)


def _config(
    name: Flavour,
    trt: Any,
    builder: Any,
    profiles: dict[str, Shapes],
    settings: Settings,
    targets: tuple[str, ...],
) -> Any:
    """How to build, as TensorRT takes it."""
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for port, shapes in profiles.items():
        profile.set_shape(port, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{name} refuses the shapes {profiles}")
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace << 20)
    if settings.level is not None:
        config.builder_optimization_level = settings.level
    if settings.dla is not None:
        _use_dla(trt, builder, config, settings.dla)
    if targets:
        config.num_compute_capabilities = len(targets)
        for place, target in enumerate(targets):
            config.set_compute_capability(_nameable(trt)[target], place)
    if settings.portable:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if name == "tensorrt":
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    config.progress_monitor = _monitor(trt)
    return config


def _strongly_typed(trt: Any) -> int:
    """Networks of TensorRT 11 always are; before, a flag says so."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _check_types(trt: Any, network: Any, model: onnx.ModelProto, manifest: Manifest) -> None:
    """Every convolution and matrix product of the network computes in the type that the graph gives it.

    INT8 is arithmetic between a quantised input and its layer: such a layer still names a floating-point type, so the
    quantisations are counted as well.

    Raises:
        GanEdgeError: other types, fewer layers, or none in the precision that was asked for.
    """
    heavy = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    names = {trt.float32: "fp32", trt.float16: "fp16", trt.bfloat16: "bf16"}
    found = Counter(names.get(one.get_output(0).dtype, "another type") for one in layers if one.type in heavy)
    wanted = Counter(_computed_in(model))
    steps = sum(one.type == trt.LayerType.QUANTIZE for one in layers)
    asked = steps > 0 if manifest.precision == "int8" else not wanted or wanted[manifest.precision] > 0
    if found != wanted or not asked:
        shown = ", ".join(f"{count} in {name}" for name, count in sorted(found.items())) or "nothing"
        given = ", ".join(f"{count} in {name}" for name, count in sorted(wanted.items())) or "nothing"
        raise GanEdgeError(
            f"the network TensorRT read computes {shown} (quantisations: {steps}), where the "
            f"{manifest.precision} graph has {given}"
        )


def _computed_in(model: onnx.ModelProto) -> Iterator[str]:
    """The type of what each convolution and matrix product of a graph gives."""
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    known = (*model.graph.value_info, *model.graph.output)
    types = {value.name: names.get(value.type.tensor_type.elem_type, "another type") for value in known}
    for node in model.graph.node:
        if node.op_type in LAYERS:
            yield types[node.output[0]]


def _targets(name: Flavour, trt: Any, settings: Settings, capability: str) -> tuple[str, ...]:
    """The GPUs to build for; without a GPU and without --target, all that this flavour can name."""
    if name == "tensorrt":
        if settings.targets:
            raise UsageError(
                "--target: this TensorRT builds for its own GPU alone; TensorRT for RTX (ganedge[rtx]) for others"
            )
        return ()
    known = _nameable(trt)
    for target in settings.targets:
        if target not in known:
            raise UsageError(f"--target {target}: this {name} builds for {', '.join(sorted(known))}")
    return settings.targets or (() if capability else tuple(sorted(known)))


def _nameable(trt: Any) -> dict[str, Any]:
    """The GPUs that TensorRT for RTX can build for, by our names of them: sm86."""
    return {
        one.lower(): getattr(trt.ComputeCapability, one) for one in dir(trt.ComputeCapability) if one.startswith("SM")
    }


def compute_capability() -> str:
    """The first GPU's compute capability, sm86; empty where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return ""
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return f"sm{major.value}{minor.value}"


def _use_dla(trt: Any, builder: Any, config: Any, core: int) -> None:
    """Put what a DLA can run onto it, and the rest onto the GPU."""
    cores = int(builder.num_DLA_cores)
    if core >= cores:
        has = f"has DLA cores 0 to {cores - 1}" if cores else "has no DLA: leave --dla out"
        raise UsageError(f"--dla {core}: this device {has}")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _open_cache(name: Flavour, trt: Any, config: Any, settings: Settings, capability: str) -> Path | None:
    """Use the timing cache of this device and version; timings of others would mislead."""
    if settings.timing_cache is None:
        return None
    path = settings.timing_cache / f"{name}-{trt.__version__}-{capability or 'no-gpu'}.timing"
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(f"{path} is no timing cache of this {name} and device: delete it")
    return path


def _logger(trt: Any) -> Any:
    """A logger that keeps the last error for our own message and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps what went wrong."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            """Take one line."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())[:300]

    return Logger()


def _monitor(trt: Any) -> Any:
    """The builder's own progress, shown on a terminal and nowhere else."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """One line that is rewritten."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.shown = sys.stderr.isatty()

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            """A phase begins."""
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            """A step is done; go on."""
            if self.shown:
                sys.stderr.write(f"\r\x1b[K{phase[:60]}: {step + 1} of {self.steps.get(phase, 0)}")
                sys.stderr.flush()
            return True

        def phase_finish(self, phase: str) -> None:
            """A phase ends."""
            self.steps.pop(phase, None)
            if self.shown and not self.steps:
                sys.stderr.write("\r\x1b[K")

    return Monitor()
