"""The proof, made again on the device that runs the artifact.

    for check in verify(Path("generator.onnx")):
        print(check)

The export stores inputs and the eager generator's outputs beside the artifact (`FILE.proof.npz`, arrays `input0`,
`input1`, …, `output`), and every installed engine must reach the gate that the export had to pass. Where that file was
not taken along, the engines are held against each other: each was proven to lie within the gate of the same reference,
so two of them may be apart by twice that.
"""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import numpy as np

from . import engine_file, ncnn_file
from .engines import installed, readers, start
from .errors import ArtifactError, EngineError, UsageError
from .fidelity import Difference, Gate, difference, gate_of, gates_of, read_gate
from .inputs import real_inputs, sides
from .manifest import read_artifact
from .tuning import refuse_failed
from .web_folder import NAME, read_web_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .engines import Engine
    from .manifest import Interface, Manifest

    Arrays = list[NDArray[np.generic]]

COUNT = 8
"""Items compared where no reference is stored."""
MAX_PROOF = 2**30
"""Bytes that a stored proof may unpack to."""


@dataclass(frozen=True)
class Check:
    """One engine beside a reference."""

    engine: str
    """What ran."""
    against: str
    """What it was compared with."""
    distance: Difference
    """How far apart they are."""
    gate: str
    """What it had to reach."""
    passed: bool
    """Whether it did, and all extra outputs too."""
    extras: Mapping[str, Difference] = field(default_factory=dict)
    """By name, how far apart the outputs beside the result are."""

    def __str__(self) -> str:
        """One line for people."""
        verdict = "passed" if self.passed else "FAILED"
        extras = "".join(f"; {name}: {distance}" for name, distance in self.extras.items())
        return f"{self.engine} beside {self.against}: {self.distance}{extras}, {verdict} {self.gate}"


def verify(path: Path) -> list[Check]:
    """Compare every installed engine, or the one that a file is made for, with the stored reference.

    Without a stored reference the engines that run an .onnx are compared with the first of them. Engines that failed
    the export's proof are left out: nothing takes them. Of a folder for the browser it is the artifact in it;
    `verify_in_browser` is for the browser.

    Raises:
        ArtifactError: no artifact, or a stored reference that does not belong to it.
        EngineError: an engine fails, or there is nothing to compare with.
    """
    if path.suffix == ".engine":
        manifest, identity = engine_file.read_sidecar(path)
        return [_of_engine(path, manifest, identity.tolerance)]
    param = ncnn_file.param_path(path)
    if param is not None:
        manifest, network = ncnn_file.read_sidecar(param)
        return [_of_engine(param, manifest, network.tolerance)]
    if (path / NAME).is_file():
        path = path / read_web_folder(path).artifact
    manifest, model = read_artifact(path)
    proof = path.with_name(path.name + ".proof.npz")
    if proof.is_file():
        inputs, reference = _stored(proof, manifest)
    else:
        port = manifest.interface.inputs[0]
        size = sides(port, manifest.source.size)[0] if port.role == "image" else None
        inputs, reference = real_inputs(manifest.interface, COUNT, side=size), []
    outputs = _outputs(model, manifest, inputs)
    slack, against = 1.0, proof.name
    if not reference:
        if len(outputs) < 2:
            raise EngineError(
                f"nothing to compare with: there is no {proof.name}, and {len(outputs)} engine(s) installed; "
                "take that file along from the export, or install a second engine"
            )
        slack, against = 2.0, next(iter(outputs))
        reference = outputs.pop(against)
    gate = _gate(manifest)
    return [_check(name, against, output, reference, manifest, gate, slack) for name, output in outputs.items()]


def verify_in_browser(folder: Path) -> tuple[list[Check], list[str]]:
    """Compare both engines of a browser, WASM and WebGPU, with the reference stored in a folder.

    Args:
        folder: What `gan-export --format web` wrote.

    Returns:
        The comparisons, and a line for each engine that was not compared: it did not pass at the export either, or
        this browser lacks something that it needs.

    Raises:
        ArtifactError: no such folder, or a file in it was exchanged or damaged.
        MissingExtra: playwright is not installed.
        EngineError: no Chromium is found, or an engine that has to run the artifact does not.
    """
    from .engines.browser import PROVIDERS, Browser, MissingFeature

    about = read_web_folder(folder)
    proof = folder / f"{about.artifact}.proof.npz"
    if not proof.is_file():
        raise EngineError(f"nothing to compare with: there is no {proof}; export the folder again")
    inputs, reference = _stored(proof, about.manifest)
    gate = _gate(about.manifest, next((proved.tolerance for proved in about.parity), ""))
    checks: list[Check] = []
    notes: list[str] = []
    again = "is not used, it did not pass at the export either"
    with Browser(folder) as browser:
        for provider in PROVIDERS:
            try:
                engine = browser.start(provider)
                output = _run(engine, about.manifest, inputs)
                engine.close()
            except MissingFeature as error:
                notes.append(f"{provider} cannot be verified here: {error.feature}")
                continue
            except EngineError as error:
                if provider not in about.refused:
                    raise
                notes.append(f"{provider} {again}: {error}")
                continue
            check = _check(str(engine.info), proof.name, output, reference, about.manifest, gate, 1.0)
            if check.passed or provider not in about.refused:
                checks.append(check)
            else:
                notes.append(f"{provider} {again}: {check}")
    if not checks:
        raise EngineError(f"no engine of this browser can run it: {'; '.join(notes)}")
    return checks, notes


def _outputs(model: bytes, manifest: Manifest, inputs: Arrays) -> dict[str, Arrays]:
    """What each installed engine returns, without those that failed at the export; some may refuse as there."""
    refuse_failed(manifest, "auto")
    outputs: dict[str, Arrays] = {}
    proven = set(manifest.proven)
    for name in filter(installed, readers(manifest.precision)):
        if name in manifest.failed:
            continue
        with suppress(EngineError) if proven and name not in proven else nullcontext():
            engine = start(model, manifest.precision, name, "auto", None)
            outputs[str(engine.info)] = _run(engine, manifest, inputs)
            engine.close()
    if not outputs:
        raise EngineError(f"no installed engine runs it: it was proven in {', '.join(sorted(proven))}")
    return outputs


def _of_engine(path: Path, manifest: Manifest, tolerance: str) -> Check:
    """Compare a file for one engine with the stored reference; no other engine can run the file."""
    from .generator import load

    proof = path.with_name(path.name + ".proof.npz")
    if not proof.is_file():
        raise EngineError(f"nothing to compare with: take {proof.name} along from the export")
    inputs, reference = _stored(proof, manifest)
    with load(path) as generator:
        items = [generator.compute_all(*(array[i : i + 1] for array in inputs)) for i in range(len(inputs[0]))]
        name = str(generator.engine)
    output = [np.concatenate(arrays) for arrays in zip(*items, strict=True)]
    return _check(name, proof.name, output, reference, manifest, _gate(manifest, tolerance), 1.0)


def _gate(manifest: Manifest, tolerance: str = "") -> Gate:
    """What the export had to pass, or what it has to where nothing was proven yet."""
    text = tolerance or next((proof.tolerance for proof in manifest.parity if proof.passed), None)
    try:
        return gate_of(manifest.precision, manifest.interface) if text is None else read_gate(text)
    except UsageError as error:
        raise ArtifactError(f"its description names a gate that is none: {error}") from error


def _check(
    name: str,
    against: str,
    output: Arrays,
    reference: Arrays,
    manifest: Manifest,
    gate: Gate,
    slack: float,
) -> Check:
    ports = manifest.interface.outputs
    # The range of values without a declared one is that of the proof, which saw more of them.
    spans = {extra.output: extra.span for proof in manifest.parity for extra in proof.extras}
    distances = [
        difference(given, expected, port, spans.get(port.name))
        for given, expected, port in zip(output, reference, ports, strict=True)
    ]
    gates = gates_of(gate, manifest.interface)
    passed = all(limit.holds(distance, slack) for limit, distance in zip(gates, distances, strict=True))
    shown = str(gate) if slack == 1 else f"{slack:g} × {gate}"
    extras = {port.name: distance for port, distance in zip(ports[1:], distances[1:], strict=True)}
    return Check(name, against, distances[0], shown, passed, extras)


def _run(engine: Engine, manifest: Manifest, inputs: Arrays) -> Arrays:
    """All outputs for one item at a time, or for as many as the artifact takes."""
    ports = manifest.interface.inputs
    batch = ports[0].shape[0] if isinstance(ports[0].shape[0], int) else 1
    parts = [
        engine.run({p.name: a[i : i + batch] for p, a in zip(ports, inputs, strict=True)})
        for i in range(0, len(inputs[0]), batch)
    ]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def output_keys(interface: Interface) -> list[str]:
    """The arrays of a stored proof that hold the outputs: `output`, and `output1`, … for those beside the result."""
    return [f"output{index or ''}" for index in range(len(interface.outputs))]


def io_signature(interface: Interface) -> str:
    """What an artifact takes and gives, as a stored proof names it: a kill between two files may leave an older one."""
    ports = (*interface.inputs, *interface.outputs)
    return json.dumps([[port.name, port.dtype, port.shape, port.layout, port.range] for port in ports])


def _stored(path: Path, manifest: Manifest) -> tuple[Arrays, Arrays]:
    """The inputs and the reference outputs that the export left beside the artifact."""
    try:
        with ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_PROOF:
            raise ArtifactError(f"{path} would unpack to {size / 1e9:.3g} GB: it is no stored proof, remove it")
        with np.load(path, allow_pickle=False) as stored:
            if "weights" in stored and str(stored["weights"]) != manifest.source.weights:
                raise ArtifactError(f"{path} was made for other weights than this artifact has: export again")
            if "interface" in stored and str(stored["interface"]) != io_signature(manifest.interface):
                raise ArtifactError(f"{path} was made for another form of this artifact: export again")
            inputs = [stored[f"input{index}"] for index in range(len(manifest.interface.inputs))]
            return inputs, [stored[key] for key in output_keys(manifest.interface)]
    except ArtifactError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise different errors for a damaged archive.
        raise ArtifactError(f"{path}: it is no stored proof of this artifact: remove it, or export again") from error
