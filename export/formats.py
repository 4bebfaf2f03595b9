"""Where each format goes, and writing them all: .onnx, TensorRT engine, Triton, ncnn, web folder. No torch here.

files = plan(source, model, spec)
artifacts = write(source, model, make(model, spec), files, spec, settings, print)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ganedge.export.artifact import VerifiedArtifact, default_path, is_unchanged, write_artifact_file
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import FORMATS, ExportSpec
from ganedge.export.to_ncnn import check_convertible, write_ncnn
from ganedge.export.to_tensorrt import BATCH, Settings, write_engine
from ganedge.export.to_triton import write_repository
from ganedge.export.to_web import check_folder, check_web, write_web
from ganedge.runtime.errors import ArtifactError, UsageError
from ganedge.runtime.manifest import read_artifact, read_bytes
from ganedge.runtime.ncnn_file import PARAM, network_size


def plan(source: Path, model: SourceModel, spec: ExportSpec) -> dict[str, Path]:
    """Where each format goes. An engine's .onnx lies beside it, whether it was asked for or not.

    An artifact that an engine is built from unchanged may be that .onnx itself.

    Raises:
        UsageError: an output that does not fit the format, that is the source itself, or whose .onnx would replace
            an unrelated file.
    """
    precision, output = spec.precision or model.precision, spec.output
    check_web(spec.format, precision, None)
    if "ncnn" in spec.format:
        check_convertible(model, precision, spec.io)
    if output is not None and len(spec.format) > 1 and output.suffix in (".onnx", ".engine"):
        raise UsageError(f"-o {output}: several formats go into a folder")
    files = {}
    for fmt in spec.format:
        path = default_path(model, precision, FORMATS[fmt], spec.engine)
        if output is not None:
            path = output / path.name if len(spec.format) > 1 else output
        files[fmt] = path
    if "ncnn" in files and (files["ncnn"].suffix in (".onnx", ".engine", ".param") or files["ncnn"].is_file()):
        raise UsageError(f"-o {output}: an ncnn artifact is a folder; name one")
    if "trt" in files:
        if files["trt"].suffix != ".engine":
            raise UsageError(f"-o {output}: gan-run knows an engine by its ending, .engine")
        if "onnx" not in files:
            files["onnx"] = files["trt"].with_suffix(".onnx")
            _check_companion(source, files["onnx"], precision)
    if "onnx" in files and files["onnx"].suffix == ".engine":
        raise UsageError(f"-o {output}: gan-run takes that ending for a TensorRT engine; give .onnx")
    if "web" in files:
        check_folder(files["web"])
    keeps_source = "onnx" not in spec.format and is_unchanged(model, spec)
    if "onnx" in files and _is_source(source, files["onnx"]) and not keeps_source:
        raise UsageError(f"{files['onnx']} is the source itself: name another file with -o")
    return files


def write(
    source: Path,
    model: SourceModel,
    artifact: VerifiedArtifact,
    files: dict[str, Path],
    spec: ExportSpec,
    settings: Settings,
    say: Callable[[str], None],
) -> list[VerifiedArtifact]:
    """Write a proven artifact in every format.

    Args:
        source: What it was made from.
        model: The same, opened.
        artifact: The artifact in memory.
        files: By format, as `plan` gives them.
        spec: What was asked for.
        settings: How an engine is built.
        say: Takes lines for the user.

    Returns:
        One artifact for each format that was asked for, with its path.

    Raises:
        EngineError: no TensorRT, or it refuses the model or the settings.
        GanEdgeError: the engine gives other images; then no engine is written.
    """
    written: dict[str, Path] = {}
    if "onnx" in files and _is_source(source, files["onnx"]):  # Not rewritten: an engine refers to its digest.
        artifact = replace(artifact, data=source.read_bytes())
    elif "onnx" in files:
        write_artifact_file(files["onnx"], artifact)
        written["onnx"] = files["onnx"]
    if "trt" in files:
        written["trt"] = write_engine(files["onnx"], files["trt"], artifact, settings, say)
    if "triton" in files:
        written["triton"] = _write_repository(source, artifact, files, spec, settings)
    if "ncnn" in files:
        written["ncnn"] = write_ncnn(files["ncnn"], model, artifact, say)
        size = network_size(written["ncnn"] / PARAM) / 1e6
        say(f"{written['ncnn']}: {size:.1f} MB, {artifact.manifest.precision}, for ncnn")
    if "web" in files:
        written["web"] = write_web(files["web"], artifact, spec.gate, spec.vendor, say)
    for fmt in ("onnx", "trt"):
        if fmt in written:
            size = written[fmt].stat().st_size / 1e6
            say(f"{written[fmt]}: {size:.1f} MB, {artifact.manifest.precision}")
    if "triton" in written:
        say(f"{written['triton']}: tritonserver --model-repository {files['triton']}")
    if "web" in written:
        say(f"{written['web']}: python3 -m http.server --directory {written['web']}")
    return [replace(artifact, path=written[fmt]) for fmt in spec.format]


def _write_repository(
    source: Path, artifact: VerifiedArtifact, files: dict[str, Path], spec: ExportSpec, settings: Settings
) -> Path:
    backend = spec.triton_backend
    model = files["trt"].read_bytes() if backend == "tensorrt" else artifact.data
    manifest, _ = read_bytes(artifact.data, str(source))
    batch = settings.batches(manifest.interface) if backend == "tensorrt" else settings.batch or BATCH
    name = spec.triton_name or artifact.name
    return write_repository(files["triton"], name, model, manifest, backend, batch, spec.instances)


def _check_companion(source: Path, path: Path, precision: str) -> None:
    """Refuse to replace an .onnx that the user did not name, unless it is an artifact of the same precision."""
    if not path.exists() or _is_source(source, path):
        return
    try:
        existing = str(read_artifact(path)[0].precision)
    except ArtifactError:
        existing = "not an artifact of ours"
    if existing != precision:
        raise UsageError(
            f"{path} exists and is {existing}: the engine needs its {precision} .onnx beside it under that name; "
            "choose another -o"
        )


def _is_source(source: Path, path: Path) -> bool:
    return source.suffix == ".onnx" and source.resolve() == path.resolve()
