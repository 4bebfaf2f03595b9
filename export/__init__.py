"""How a generator becomes an artifact, and the proof that it is still the same generator.

from ganedge.export import export
artifact = export("runs/digits", precision="int8", engine="openvino")
print(artifact.path, artifact.parity)
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganedge.export.artifact import VerifiedArtifact
    from ganedge.export.phases import Phase
    from ganedge.train.trained_run import TrainedRun

__all__ = ["compress", "export", "export_all"]


def export(source: str | os.PathLike[str], **settings: Any) -> VerifiedArtifact:
    """Export a generator in one format, prove it, and write it only if the proof holds.

        artifact = export("runs/digits", precision="fp16")
        artifact = export("nets.py:Generator", weights="netG.pth", input="100x1x1", kind="latent")

    Args:
        source: A run that `train` wrote, an .onnx file, `FILE.py:NAME` or `module:NAME` of a torch module, or with
            `arch` a file of weights.
        settings: Fields of `SourceSpec` and `ExportSpec`, named as the long options of gan-export; `precision`,
            `engine` and `gpus` stand for --fp16/--bf16/--int8, --for and --target.

    Returns:
        The artifact: its `path`, `manifest` and `parity`, one figure for each engine that was tried.

    Raises:
        UsageError: an unknown setting, one that has no effect on this source or format, or a value that cannot be.
        ArtifactError: the source does not exist, is damaged, or its weights do not fit.
        MissingExtra: a package is not installed; the message says how to install it.
        GanEdgeError: it cannot be exported, or an engine gives other images than the generator; no file is left then.
    """
    artifacts = export_all(source, **settings)
    if len(artifacts) != 1:
        from ganedge.runtime.errors import UsageError

        raise UsageError("export writes one format: call export_all for several")
    return artifacts[0]


def export_all(
    source: str | os.PathLike[str],
    *,
    progress: Callable[[str], None] | None = None,
    phase: Callable[[Phase], None] | None = None,
    **settings: Any,
) -> list[VerifiedArtifact]:
    """Export a generator in several formats: `export_all("runs/digits", format=["onnx", "trt"])`.

    Args:
        source: As `export` takes it.
        progress: Takes a line of text for each step: notes, parity figures, files.
        phase: Called with each phase as it begins, and with its progress.
        settings: As `export` takes them.

    Returns:
        One artifact for each format, in the order that was asked for. Raises as `export` does.
    """
    from ganedge.export import phases

    with phases.reported_to(phase):
        return _export_all(os.fspath(source), progress or (lambda _: None), settings)


def _export_all(path: str, say: Callable[[str], None], settings: dict[str, Any]) -> list[VerifiedArtifact]:
    from ganedge.export.artifact import default_path, make
    from ganedge.export.formats import plan, write
    from ganedge.export.open_source import open_source
    from ganedge.export.parity import Running
    from ganedge.export.source import SourceSpec
    from ganedge.export.spec import ExportSpec, check_formats
    from ganedge.export.speed import measured
    from ganedge.export.to_tensorrt import Settings
    from ganedge.export.to_triton import check_backend
    from ganedge.export.to_web import check_web

    # Check all settings before anything that takes time.
    source_names, spec_names = ({item.name for item in fields(cls)} for cls in (SourceSpec, ExportSpec))
    _check_names(settings, source_names | spec_names)
    about = SourceSpec(**{name: value for name, value in settings.items() if name in source_names})
    spec = ExportSpec(**{name: value for name, value in settings.items() if name in spec_names})
    check_formats(spec, settings, about.size)
    check_backend(spec.triton_backend, spec.format, spec.precision or "", spec.triton_name, spec.gpus)
    check_web(spec.format, spec.precision or "", spec.vendor)
    build = Settings.read(
        spec.batch, about.size, spec.workspace, spec.level, spec.portable, spec.gpus, spec.timing_cache, spec.dla
    )

    # Open the source, and decide where the files go before the proof, which may take minutes.
    model = open_source(path, about, settings)
    _check_model(settings, spec, model)
    if spec.auto:
        from ganedge.export.best import best_of

        best = best_of(model, spec, say)
        precision, target, output = best.manifest.precision, best.manifest.made_for or None, spec.output
        if output is not None and output.suffix != ".onnx":
            output = output / default_path(model, precision, "onnx", target).name
        spec = replace(spec, precision=precision, engine=target, output=output)
        return write(Path(path), model, best, plan(Path(path), model, spec), spec, build, say)
    files = plan(Path(path), model, spec)

    # Change the precision, prove, measure, write.
    name = default_path(model, spec.precision or model.precision, "onnx", spec.engine).stem
    with Running() as running:
        artifact = replace(make(model, spec, running), name=name)
        for line in artifact.lines():
            say(line)
        if spec.target != "tensorrt":  # Its graph is not meant for the engines that could be timed here.
            artifact, lines = measured(artifact, model, spec.require_speedup, running)
            for line in lines:
                say(line)
    return write(Path(path), model, artifact, files, spec, build, say)


def compress(
    source: str | os.PathLike[str], *, progress: Callable[[str], None] | None = None, **settings: Any
) -> TrainedRun:
    """Teach a generator several times smaller to draw what a large one draws, and export it.

        run = compress("runs/mnist", out="runs/mnist-small", macs=0.1)
        run = compress("theirs.onnx", kind="image", data="pictures/", out="runs/small", target_ms=30)

    Args:
        source: The teacher, as `export` takes it.
        progress: Takes a line of text for each step: the size that was chosen, proofs, and the table at the end.
        settings: `out` and other options of gan-compress, named as its long options.

    Returns:
        The student's run: it can be exported and resumed as any other, and holds `generator.onnx` and `compression.md`.

    Raises:
        UsageError: an unknown setting, a teacher that no student can follow, data that do not fit it, or a size that
            cannot be.
        ArtifactError: the teacher does not exist, is damaged, or needs `trust`.
        GanEdgeError: it gives NaN, or training failed.
        Interrupted: SIGINT or SIGTERM; the student that was reached is exported.
    """
    from ganedge.export import compression

    return compression.compress(source, progress or (lambda _: None), **settings)


def _check_names(settings: dict[str, Any], known: set[str]) -> None:
    from ganedge.runtime.errors import UsageError

    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(sorted(known))}"
            raise UsageError(f"export has no setting {name}: {hint}")


def _check_model(given: dict[str, Any], spec: Any, model: Any) -> None:
    """Refuse settings that the source itself leaves without effect."""
    from ganedge.runtime.errors import UsageError

    interface = model.interface
    if model.precision != "fp32" and ("engine" in given or "remainder" in given or spec.count is not None):
        raise UsageError(
            f"this artifact is {model.precision} already: --for, --remainder and --calibrate make one from FP32"
        )
    if "io" in given and interface.output.role != "image":
        raise UsageError("--io: this generator returns points, which have no bytes")
    if "batch" in given and isinstance(interface.inputs[0].shape[0], int):
        raise UsageError(f"--batch: this model takes {interface.inputs[0].shape[0]} at a time and nothing else")
