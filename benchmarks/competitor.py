"""What runs in a benchmark: an artifact in an engine, or PyTorch. Needs no torch.

found, absent = artifact_competitors([Path("generator.onnx")], "all", "cpu", threads=2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks.isolated import Pool, Recipe
from ganedge.runtime import engines, timing
from ganedge.runtime.engine_file import read_sidecar
from ganedge.runtime.engines import browser
from ganedge.runtime.errors import EngineError, InputError, MissingExtra, UsageError
from ganedge.runtime.generator import Generator, load
from ganedge.runtime.manifest import Manifest, read_artifact
from ganedge.runtime.ncnn_file import network_size, param_path
from ganedge.runtime.ncnn_file import read_sidecar as read_ncnn
from ganedge.runtime.web_folder import NAME as WEB
from ganedge.runtime.web_folder import read_web_folder

EAGER = "eager PyTorch"
TORCH = {
    "eager": EAGER,
    "channels-last": f"{EAGER}, channels last",
    "bf16": f"{EAGER}, bf16 autocast",
    "fp16": f"{EAGER}, fp16 autocast",
    "compile": "torch.compile",
    "reduce-overhead": "torch.compile, reduce-overhead",
    "cuda-graph": "eager PyTorch, CUDA graph",
}
"""The ways PyTorch runs a generator, as `--torch` takes them and as they are shown."""
NOT_ASKED, ALONE = "not asked for", "no generator to compare with"
"""Beginnings of the reason why a competitor is absent although this machine can run it."""
ENGINES = (*engines.MODULES, "ort-tensorrt")
"""What `--engine` may name beside auto and all."""

HELD = 16
"""Batches of a pool that a page keeps: it sends a copy of each to its worker in any case."""
SPLITS, WARM_SPLITS = 50, 3
"""Calls in which copies and computation are timed separately, and untimed calls before them."""

Inputs = Sequence[NDArray[np.generic]]


@dataclass(frozen=True)
class Split:
    """Parts of a call on a GPU, seconds: from CUDA events, or from the host's clock if the engine has no events."""

    to_device: float
    compute: float
    to_host: float


@dataclass(frozen=True)
class Competitor:
    """One way of running the generator that is measured."""

    name: str
    """Unique name."""
    engine: str
    """Engine, version and provider."""
    precision: str
    """The artifact's precision, whose gate applies to its pictures; for PyTorch, the requested precision."""
    run: Callable[[Inputs], NDArray[np.generic]]
    """Makes one call with arrays on the host, and returns when the result is on the host."""
    device: str = "cpu"
    """Device that it computes on."""
    file: Path | None = None
    """The artifact; None for PyTorch."""
    manifest: Manifest | None = None
    """The artifact's manifest."""
    compute: str | None = None
    """Precision requested of the engine, where it is not the artifact's."""
    computes: str = ""
    """Precision that the engine reports it computes in; empty where that is `precision`."""
    engine_device: tuple[str, str] = ("", "")
    """Engine and device, as `runtime.load` takes them; empty for PyTorch."""
    bytes: int = 0
    """Size of the file, or of the weights in PyTorch."""
    split: Callable[[Sequence[Inputs]], Split] | None = None
    """Times copies and computation separately; None on a CPU."""
    close: Callable[[], None] = field(default=lambda: None)
    """Frees it."""
    renew: Callable[[], None] | None = None
    """Restarts it at other memory addresses; None where that would take too long or change nothing."""
    clocked: Callable[[Pool], timing.Competitor] | None = None
    """Makes calls that time themselves; None where calls of `run` are timed."""
    processor_time: Callable[[], float] = field(default=lambda: 0.0)
    """Processor time of processes that belong to it and were not started by this process, seconds."""
    recipe: Recipe | None = None
    """Makes it in another process; None where it must run in this one."""

    @property
    def digest(self) -> str:
        """Digest of the artifact; empty for PyTorch."""
        return "" if self.manifest is None else self.manifest.digest

    def over(self, pool: Pool) -> timing.Competitor:
        """Return a function of the call number, which selects the inputs from the pool."""
        if self.clocked is not None:
            return self.clocked(pool)
        return lambda number: self.run(pool[number % len(pool)])


def common(files: Sequence[Path]) -> Manifest:
    """Return the manifest of the first artifact, after checking that all have the same inputs and outputs.

    Raises:
        ArtifactError: a file that is no artifact.
        InputError: their inputs or outputs differ.
    """
    manifests = [_manifest(file) for file in files]
    first = manifests[0].interface
    for file, other in zip(files, manifests, strict=True):
        if (other.interface.inputs, other.interface.outputs) != (first.inputs, first.outputs):
            raise InputError(f"{file} has other inputs or outputs than {files[0]}: measure them one at a time")
    return manifests[0]


def _manifest(file: Path) -> Manifest:
    """Read the manifest of an artifact in any format."""
    param = param_path(file)
    if param is not None:
        return read_ncnn(param)[0]
    if (file / WEB).is_file():
        return read_web_folder(file).manifest
    return read_sidecar(file)[0] if file.suffix == ".engine" else read_artifact(file)[0]


def artifact_competitors(
    files: Sequence[Path], engine: str, device: str, threads: int
) -> tuple[list[Competitor], dict[str, str]]:
    """Start every artifact in every requested engine.

    Args:
        files: `.onnx` artifacts, TensorRT `.engine` files, ncnn folders or `.param` files, and folders for the browser.
        engine: "auto", "all", or names from `ENGINES` with commas.
        device: "cpu" or "cuda".
        threads: Threads of each engine.

    Returns:
        The competitors, and the reason for each that is absent. An engine requested by name runs or raises; with "all",
        engines that this machine cannot run are absent. TensorRT `.engine` files and browser folders that cannot run
        are always absent.

    Raises:
        ArtifactError: a file that is no artifact.
        EngineError: an engine requested by name is not available.
        UsageError: an unknown engine.
    """
    requested = engine.split(",")
    unknown = [name for name in requested if name not in ("auto", "all", *ENGINES)]
    if unknown or (len(requested) > 1 and {"auto", "all"} & set(requested)):
        raise UsageError(f"engine {engine!r}: choose auto, all, or some of {','.join(ENGINES)} with commas")
    competitors: list[Competitor] = []
    absent: dict[str, str] = {}
    for file in files:
        if file.suffix == ".engine":
            try:
                if device == "cpu":
                    raise EngineError("TensorRT computes on a GPU: give --device cuda")
                competitors.append(_named(file, partial(load, file), None, ("auto", "auto"), competitors, files))
            except (EngineError, MissingExtra) as error:
                absent[_label(file, read_sidecar(file)[1].flavour, None, files)] = str(error)
            continue
        if (file / WEB).is_file():
            for provider in browser.PROVIDERS:
                label = _label(file, provider, None, files)
                try:
                    competitors.append(_in_browser(file, provider, device, threads, label))
                except (EngineError, MissingExtra) as error:
                    absent[label] = str(error)
            continue
        ways: Iterable[tuple[str, str | None, bool]] = _ways(requested)
        if param_path(file) is not None:
            ways = [("ncnn", None, requested != ["all"])]
        for name, compute, must in ways:
            label = _label(file, name, compute, files)
            try:
                competitor = _opened(file, name, compute, device, threads, competitors, files)
                make = partial(_again, file, name, compute, device, threads, competitor.digest)
                competitors.append(replace(competitor, recipe=Recipe(make, competitor.name)))
            except (EngineError, MissingExtra) as error:
                if must:
                    raise
                absent[label] = str(error)
                continue
    if requested == ["all"] and not any(file.suffix == ".engine" for file in files):
        absent["TensorRT and TensorRT for RTX"] = "no .engine file given (gan-export --format trt makes one)"
    return competitors, absent


def _opened(
    file: Path,
    engine: str,
    compute: str | None,
    device: str,
    threads: int,
    earlier: Sequence[Competitor] = (),
    files: Sequence[Path] = (),
) -> Competitor:
    """Start one artifact in one engine.

    Args:
        file: An `.onnx` artifact.
        engine: A name from `ENGINES`, or auto.
        compute: Precision requested of the engine, where it is not the artifact's.
        device: cpu or cuda.
        threads: Threads of the engine.
        earlier: Earlier competitors, whose names are taken.
        files: All measured files; where two have the same name, whole paths are shown.
    """
    start = partial(_start, file, engine, compute, device, threads)
    engine_device = ("onnxruntime", "tensorrt") if engine == "ort-tensorrt" else (engine, device)
    return _named(file, start, compute, engine_device, earlier, files or [file], "" if engine == "auto" else engine)


def _in_browser(folder: Path, provider: browser.Provider, device: str, threads: int, name: str) -> Competitor:
    """A folder for the browser in one engine of its own Chromium; calls are timed by the page's clock."""
    if device != "cpu":
        raise EngineError("the browser computes on the CPU here: leave out --device")
    chromium = browser.Browser(folder)
    try:
        engine = chromium.start(provider, threads)
    except EngineError:
        chromium.close()
        raise
    manifest = chromium.folder.manifest
    names = [port.name for port in manifest.interface.inputs]

    def clocked(pool: Pool) -> timing.Competitor:
        held = [dict(zip(names, arrays, strict=True)) for arrays in pool[:HELD]]
        engine.hold(held)
        return lambda number: timing.OwnTime(engine.seconds(number % len(held)))

    return Competitor(
        name=name,
        engine=str(engine.info),
        precision=manifest.precision,
        run=lambda arrays: engine.run(dict(zip(names, arrays, strict=True)))[0],
        file=folder,
        manifest=manifest,
        computes=engine.info.precision,
        bytes=(folder / chromium.folder.artifact).stat().st_size,
        close=chromium.close,
        clocked=clocked,
        processor_time=chromium.processor_time,
    )


def _again(file: Path, engine: str, compute: str | None, device: str, threads: int, digest: str) -> Competitor:
    """Start the same artifact in another process."""
    competitor = _opened(file, engine, compute, device, threads)
    if competitor.digest != digest:
        raise EngineError(f"{file} was changed while it was measured")
    return competitor


def _ways(requested: Sequence[str]) -> Iterator[tuple[str, str | None, bool]]:
    """Yield engine, precision to request, and whether it must be available."""
    if requested != ["all"]:
        yield from ((name, None, True) for name in requested)
        return
    for name in ENGINES:
        yield name, None, False
        if name == "openvino":
            yield name, "bf16", False


def _start(file: Path, name: str, compute: str | None, device: str, threads: int) -> Generator:
    if name == "ort-tensorrt":
        if device != "cuda":
            raise EngineError("ONNX Runtime's TensorRT provider needs --device cuda")
        return load(file, "onnxruntime", "tensorrt", threads)
    if compute is None:
        return load(file, name, device, threads)
    manifest, model = read_artifact(file)
    if manifest.precision != "fp32":
        raise EngineError(f"computing in {compute} is for FP32 artifacts; this one is {manifest.precision}")
    return Generator(manifest, engines.start(model, manifest.precision, name, device, threads, compute))


def _label(file: Path, engine: str, compute: str | None, files: Sequence[Path]) -> str:
    """Return the file's name, or its whole path where two files have the same name, and the engine."""
    shown = file.name if sum(other.name == file.name for other in files) == 1 else str(file)
    return f"{shown}, {engine}" + (f" {compute}" if compute else "")


def _named(
    file: Path,
    start: Callable[[], Generator],
    compute: str | None,
    engine_device: tuple[str, str],
    earlier: Sequence[Competitor],
    files: Sequence[Path],
    name: str = "",
) -> Competitor:
    """Make a competitor with a unique name; a file that is listed twice is measured twice."""
    generator = start()
    live = [generator]

    def close() -> None:
        for generator in live:
            generator.close()

    def renew() -> None:
        close()
        live.clear()
        live.append(start())
        if live[0].manifest.digest != generator.manifest.digest:
            raise EngineError(f"{file} was changed while it was measured")

    def run(arrays: Inputs) -> NDArray[np.generic]:
        if not live:  # An earlier restart failed, for example for lack of memory.
            renew()
        return live[0].run(*arrays)

    def split(pool: Sequence[Inputs]) -> Split:
        parts = [live[0].parts(*pool[turn % len(pool)]) for turn in range(WARM_SPLITS + SPLITS)][WARM_SPLITS:]
        return Split(*(float(part) for part in np.median([part for part in parts if part is not None], axis=0)))

    param = param_path(file)
    label = _label(file, name or generator.engine.name, compute, files)
    twins = sum(other.name.partition(" #")[0] == label for other in earlier)
    return Competitor(
        name=label + (f" #{twins + 1}" if twins else ""),
        engine=str(generator.engine),
        precision=compute or generator.manifest.precision,
        run=run,
        device=generator.engine.device,
        file=file,
        manifest=generator.manifest,
        compute=compute,
        computes=generator.engine.precision,
        engine_device=engine_device,
        bytes=file.stat().st_size if param is None else network_size(param),
        split=split if generator.engine.device != "cpu" else None,
        close=close,
        renew=renew if generator.engine.device == "cpu" else None,
    )
