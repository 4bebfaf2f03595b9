"""From a run to a proven artifact: trace, rewrite, change precision, prove, and only then appear under the final name.

export_run(Path("runs/digits"), Path("generator.onnx"), precision="fp16")
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ganedge.export import parity, precision
from ganedge.export.to_onnx import norm_mode, to_onnx
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Manifest, Precision, write_artifact
from ganedge.train import run_folder


def export_run(run: Path, output: Path | None = None, kind: Precision = "fp32") -> tuple[Path, Manifest]:
    """Export the generator of a run to ONNX.

    Args:
        run: A folder that gan-train wrote.
        output: The file to write; `generator.onnx` or `generator-fp16.onnx` in the run by default.
        kind: fp32 or fp16.

    Returns:
        The file, and the manifest in it with the proofs.

    Raises:
        ArtifactError: no run, or weights that do not fit.
        GanEdgeError: it cannot be exported, or an engine gives other pictures than the generator; then no file is
            left under the final name.
    """
    opened = run_folder.read(run)
    network, source = opened.generator()
    interface = opened.variant(opened.config).generators()[source.generator]
    model = to_onnx(network, interface)
    if kind == "fp16":
        model = precision.to_fp16(model)
    manifest = Manifest(interface, kind, norm_mode(network), source)

    inputs = parity.real_inputs(interface)
    with torch.inference_mode():
        reference = network(*(torch.from_numpy(array) for array in inputs)).numpy()
    assert np.isfinite(reference).all(), "checked when the run was saved"
    data = model.SerializeToString()
    proofs = parity.prove(data, manifest, inputs, reference, parity.GATES[kind])
    failed = [proof for proof in proofs if not proof.passed]
    if failed:
        raise GanEdgeError(f"not exported, the artifact gives other pictures than the generator: {failed[0]}")
    unproven = "" if proofs else "no engine installed"
    path = output or run / ("generator.onnx" if kind == "fp32" else f"generator-{kind}.onnx")
    manifest = replace(manifest, parity=proofs, unproven=unproven)
    write_whole(path, write_artifact(data, manifest))
    return path, manifest
