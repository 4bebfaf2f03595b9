"""Build TensorRT engines: one builder over `tensorrt` 10 and 11 and `tensorrt_rtx`, without the onnx package.

    name, trt = flavour()
    built = build(name, trt, model, profiles, Recipe(), print)

The network is strongly typed: precision is what the ONNX says, because a flag that is quietly ignored is the classic
failure. TensorRT for RTX builds on a machine without a GPU. gan-export builds with this, and a device that meets an
engine of another version or GPU builds it again with `rebuild`.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import platform
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ganedge.runtime import engines
from ganedge.runtime.engine_file import EngineIdentity, Flavour, Shapes, write_sidecar
from ganedge.runtime.errors import ArtifactError, EngineError, UsageError, one_line
from ganedge.runtime.files import whole_file, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ganedge.runtime.manifest import Manifest

FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
"""Modules that build engines, in the order they are tried."""


@dataclass(frozen=True)
class Recipe:
    """Further settings of the builder the model and its shapes."""

    workspace: int | None = None
    """MiB that the builder may use; its own choice by default."""
    level: int | None = None
    """The builder's optimisation level, 0 to 5."""
    portable: bool = False
    """Whether newer versions and related GPUs must run it; `tensorrt` alone can do that."""
    targets: tuple[str, ...] = ()
    """GPUs that TensorRT for RTX builds for: sm86."""
    timing_cache: Path | None = None
    """Folder of timing caches."""
    dla: int | None = None
    """The DLA core to build for, where the device has such; what it cannot run stays on the GPU."""


@dataclass(frozen=True)
class Built:
    """An engine, and what it is for."""

    engine: bytes
    """As it is written."""
    targets: tuple[str, ...]
    """The GPUs it was built for; empty: the one here."""
    capability: str
    """The GPU it was built on, sm86; empty without one."""


def flavour(targets: bool = False) -> tuple[Flavour, Any]:
    """The TensorRT of this machine.

    Args:
        targets: Whether GPUs are named to build for, which TensorRT for RTX alone can do: where it is there, it is it.

    Raises:
        EngineError: there is none; the message says which one belongs here.
    """
    for name in reversed(FLAVOURS) if targets else FLAVOURS:
        if engines.installed(name):
            try:
                return name, importlib.import_module(name)
            except (ImportError, OSError) as error:
                raise EngineError(f"{name} is installed and does not load: {one_line(error)}") from error
    if platform.machine() == "aarch64":
        advice = (
            "a Jetson has its own from JetPack (python3 -m venv --system-site-packages); do not pip-install another"
        )
    else:
        advice = "pip install 'ganedge[rtx]' for GeForce RTX GPUs, also on a machine without one, or 'ganedge[trt]'"
    raise EngineError(f"no TensorRT is installed here: {advice}; the .onnx was written and can be taken to the device")


def build(
    name: Flavour,
    trt: Any,
    model: bytes,
    profiles: Mapping[str, Shapes],
    recipe: Recipe,
    say: Callable[[str], None],
    check: Callable[[Any], None] | None = None,
) -> Built:
    """Build an engine.

    Args:
        name: Which TensorRT.
        trt: Its module.
        model: An ONNX model.
        profiles: Smallest, most usual and largest shape of every input.
        recipe: Further settings of the builder.
        say: Takes lines for people.
        check: Looks at the network before it is built, and raises where it does not like it.

    Raises:
        EngineError: TensorRT refuses the model or the recipe.
        UsageError: a GPU or DLA that is none, or portability that this flavour has not.
    """
    if recipe.portable and name == "tensorrt_rtx":  # The flag is there, and the builder then misses libnvinfer_lean.
        raise UsageError(
            "--portable: TensorRT for RTX has no lean runtime to put into an engine; name the GPUs with --target, and "
            "build again for another version (gan-run rebuild)"
        )
    if reason := hindrance(name):
        raise EngineError(f"{name} {trt.__version__} {reason}")
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise EngineError(f"{name} {trt.__version__} does not read this model: {' '.join(reason.split())[:300]}")
    if check is not None:
        check(network)
    capability = compute_capability()
    targets = _targets(name, trt, recipe, capability)
    if targets and not recipe.targets:
        say(f"no GPU and no --target: built for every one that {name} can name, {', '.join(targets)}")
    while True:
        config = _config(name, trt, builder, profiles, recipe, targets)
        cache = _open_cache(name, trt, config, recipe, capability)
        engine = builder.build_serialized_network(network, config)
        if engine is not None:
            break
        reason = log.last or "no reason given"
        unable = () if recipe.targets else _unable(reason, targets)
        if not unable or len(unable) == len(targets):
            raise EngineError(f"{name} {trt.__version__} could not build this model: {reason}")
        say(f"not for {', '.join(unable)}, which cannot run it: {reason}")
        targets = tuple(target for target in targets if target not in unable)
    if cache is not None:
        with whole_file(cache) as part:
            part.write_bytes(memoryview(config.get_timing_cache().serialize()))
    return Built(bytes(engine), targets, capability)


def hindrance(name: Flavour) -> str:
    """Why an installed flavour can build nothing here; empty where it can."""
    if name == "tensorrt" and not compute_capability():  # Its builder would raise a TypeError without naming the cause.
        return "needs a GPU to build, and there is none here or no driver for it; ganedge[rtx] builds without one"
    return ""


def _unable(reason: str, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The GPUs among those built for that an error names, such as "not supported for Turing (SM75)"."""
    named = {name.lower() for name in re.findall(r"\bsm\d+\b", reason, re.IGNORECASE)}
    return tuple(target for target in targets if target in named)


def _config(
    name: Flavour,
    trt: Any,
    builder: Any,
    profiles: Mapping[str, Shapes],
    recipe: Recipe,
    targets: tuple[str, ...],
) -> Any:
    """How to build, as TensorRT takes it."""
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for port, shapes in profiles.items():
        profile.set_shape(port, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"{name} refuses the shapes {profiles}")
    if recipe.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace << 20)
    if recipe.level is not None:
        config.builder_optimization_level = recipe.level
    config.clear_flag(trt.BuilderFlag.TF32)  # It is on by default, and keeps 10 bits of what the graph says is FP32.
    if recipe.dla is not None:
        _use_dla(trt, builder, config, recipe.dla)
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(_nameable(trt)[target], index)
    if recipe.portable:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # So that the engine can say what its layers run in.
    config.progress_monitor = _monitor(trt)
    return config


def _strongly_typed(trt: Any) -> int:
    """Networks of TensorRT 11 always are; before, a flag says so."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def rebuild(
    path: Path, manifest: Manifest, identity: EngineIdentity, say: Callable[[str], None] = lambda _: None
) -> tuple[EngineIdentity, bytes]:
    """Build an engine again, for this machine's GPU and TensorRT, from the ONNX file beside it, and replace it.

    Args:
        path: The engine.
        manifest: What the file beside it says of the generator.
        identity: What it says of the engine; shapes, precision and portability stay as they are. How long the builder
            may try, and a DLA, are not kept there: export again for those.
        say: Takes lines for people.

    Returns:
        The new engine's identity and bytes.

    Raises:
        ArtifactError: the ONNX file is gone, or is not the one that the engine was built from.
        EngineError: no TensorRT, or it cannot build the model here.
    """
    if not identity.onnx:
        raise ArtifactError(f"{path} does not say which ONNX file it was built from: export again")
    if identity.precision != manifest.precision:
        raise ArtifactError(f"{path} is said to be {identity.precision} and {manifest.precision}: export again")
    source = path.with_name(identity.onnx)
    try:
        model = source.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot build {path} again: {source}: {error.strerror}") from error
    if hashlib.sha256(model).hexdigest() != identity.onnx_digest:
        raise ArtifactError(f"{source} is not the file that {path} was built from: export again")
    name, trt = flavour(identity.flavour == "tensorrt_rtx")
    # Without a GPU here it keeps its targets; with one it is built for that GPU.
    known = _nameable(trt) if name == "tensorrt_rtx" and not compute_capability() else {}
    targets = tuple(target for target in identity.targets if target in known)
    portable = identity.portable and name == "tensorrt"  # TensorRT for RTX has no such engines.
    recipe = Recipe(portable=portable, targets=targets)
    built = build(name, trt, model, identity.profiles, recipe, say)
    renewed = replace(
        identity,
        flavour=name,
        version=str(trt.__version__),
        compute_capability=built.capability,
        targets=built.targets,
        portable=portable,
        engine_digest=hashlib.sha256(built.engine).hexdigest(),
        layers={},
    )
    write_whole(path, built.engine)
    # The proofs of the old engine do not apply to the new one.
    write_sidecar(path, replace(manifest, parity=(), unproven="engine built again: gan-run verify proves it"), renewed)
    return renewed, built.engine


def _targets(name: Flavour, trt: Any, recipe: Recipe, capability: str) -> tuple[str, ...]:
    """The GPUs to build for; without a GPU and without --target, all that this flavour can name."""
    if name == "tensorrt":
        if recipe.targets:
            raise UsageError(
                "--target: this TensorRT builds for its own GPU alone; TensorRT for RTX (ganedge[rtx]) for others"
            )
        return ()
    known = _nameable(trt)
    for target in recipe.targets:
        if target not in known:
            raise UsageError(f"--target {target}: this {name} builds for {', '.join(sorted(known))}")
    return recipe.targets or (() if capability else tuple(sorted(known)))


def _nameable(trt: Any) -> dict[str, Any]:
    """The GPUs that TensorRT for RTX can build for, by our names of them: sm86."""
    return {
        one.lower(): getattr(trt.ComputeCapability, one) for one in dir(trt.ComputeCapability) if one.startswith("SM")
    }


def compute_capability() -> str:
    """The first GPU's compute capability, sm86; empty where there is none."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
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


def _open_cache(name: Flavour, trt: Any, config: Any, recipe: Recipe, capability: str) -> Path | None:
    """Use the timing cache of this device and version; timings of others would mislead."""
    if recipe.timing_cache is None:
        return None
    path = recipe.timing_cache / f"{name}-{trt.__version__}-{capability or 'no-gpu'}.timing"
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(f"{path} is no timing cache of this {name} and device: delete it")
    return path


def _logger(trt: Any) -> Any:
    """A logger that keeps the last error for our own message and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Store an error."""

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
