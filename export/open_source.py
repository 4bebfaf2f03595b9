"""Open any source as a `SourceModel`: a run, an artifact, an .onnx file, a module or weights.

    model = open_source("nets.py:Generator", SourceSpec(input="100x1x1", kind="latent"), given={"input", "kind"})

PyTorch is imported only for sources that need it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from ganedge.export import phases
from ganedge.export.code_listing import refuse_code
from ganedge.export.foreign_files import near_names, refuse_foreign
from ganedge.export.sizes import read_size
from ganedge.export.source import SourceSpec, check_applies, kind_of
from ganedge.export.source_model import SourceModel
from ganedge.runtime.errors import ArtifactError, UsageError


def open_source(source: str, spec: SourceSpec, given: Collection[str] = ()) -> SourceModel:
    """Open whatever it is.

    Args:
        source: A run, an .onnx file, FILE.py:NAME or module:NAME, a pickled module, or a checkpoint with `spec.arch`.
        spec: What is known of it.
        given: Names of the fields that were given, so that those without effect are refused.

    Raises:
        UsageError: a field that has no effect on such a source, a value that cannot be, or code without :NAME.
        ArtifactError: it does not exist, is of another tool, is damaged, or its content does not fit.
        GanEdgeError: it cannot be exported.
    """
    phases.report(f"opening {source}")
    path = Path(source)
    check_format(path)
    kind = kind_of(source, spec.arch)
    check_applies(source, kind, spec, given)
    if kind in ("an artifact", "an .onnx file"):
        _check_exists(path)
        return _open_onnx(path, spec)
    if kind == "a run":
        from ganedge.export.from_torch import of_run

        _check_exists(path)
        return of_run(path, spec.which, spec.norm_mode, spec.size, spec.checkpoint)
    from ganedge.export.modules import of_source

    if kind != "a module":
        _check_exists(path)
    return of_source(source, spec)


def _check_exists(path: Path) -> None:
    """Refuse a path where nothing is, with the names that are near; an ArtifactError."""
    if not path.exists():
        raise ArtifactError(
            f"{path} does not exist{near_names(path)}; give a run, an .onnx file, FILE.py:NAME or module:NAME, or "
            "with --arch a file of weights"
        )


def check_format(path: Path) -> None:
    """Refuse code without the name of a network, and files and folders of other tools, each with its next step.

    Raises:
        UsageError: a Python file or a notebook.
        ArtifactError: a format that is not read here.
    """
    refuse_code(path)
    refuse_foreign(path)


def _open_onnx(path: Path, spec: SourceSpec) -> SourceModel:
    from ganedge.export.from_onnx import of_onnx, with_size

    size = spec.size
    dynamic = size is not None and ("," in size or size == "dynamic")
    model = of_onnx(path, spec, tried=size is None or dynamic)
    if size is None:
        return model
    if not dynamic:
        return with_size(model, *read_size(size))
    port = model.interface.inputs[0]
    if port.role != "image" or all(isinstance(side, int) for side in port.shape[1:]):
        raise UsageError(f"--size {size}: the input of {path} has one size; export it again from its source")
    return model if size == "dynamic" else replace(model, proof_size=max(read_size(size.split(",")[1])))
