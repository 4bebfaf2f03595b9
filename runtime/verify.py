"""The proof, made again on the device that runs the artifact.

    for check in verify(Path("generator.onnx")):
        print(check)

Where the export stored its inputs and the eager generator's outputs beside the artifact (`FILE.proof.npz`, arrays
`input0`, `input1`, …, `output`), every installed engine must reach the gate that the export had to pass. Where it did
not, the engines are held against each other: each was proven to lie within the gate of the same reference, so two of
them may be apart by twice that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import numpy as np

from .engines import installed, readers, start
from .errors import ArtifactError, EngineError
from .images import from_uint8
from .latents import LatentStream, class_numbers
from .manifest import read_artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .manifest import Interface, Manifest, Port

COUNT = 8
"""Items compared where no reference is stored."""
SIDE = 64
"""Height and width of the pictures made for it where the generator takes any, before rounding up, pixels."""
MAX_PROOF = 2**30
"""Bytes that a stored proof may unpack to."""
GATES = {"fp32": "maxabs=0.0001", "fp16": "psnr=45", "bf16": "psnr=40", "int8": "psnr=30"}
"""What to reach where the artifact has no proof that says it."""


@dataclass(frozen=True)
class Difference:
    """How far two outputs are apart; the worst item decides."""

    span: float
    """The range of the output."""
    max_abs: float
    """Largest absolute difference, in units of the output; infinite where a value is not finite."""
    psnr: float | None
    """Peak signal-to-noise ratio of the worst item, dB, peak = span; None: identical."""


@dataclass(frozen=True)
class Check:
    """One engine beside a reference."""

    engine: str
    """What ran."""
    against: str
    """What it was compared with."""
    found: Difference
    """How far apart they are."""
    gate: str
    """What it had to reach."""
    passed: bool
    """Whether it did."""

    def __str__(self) -> str:
        """One line for people."""
        psnr = "identical" if self.found.psnr is None else f"PSNR {self.found.psnr:.1f} dB"
        verdict = "passed" if self.passed else "FAILED"
        return f"{self.engine} beside {self.against}: max error {self.found.max_abs:.2g}, {psnr}, {verdict} {self.gate}"


def verify(path: Path) -> list[Check]:
    """Compare every installed engine, or the one that a TensorRT engine needs, with the stored reference.

    Without a stored reference the engines that run an .onnx are compared with the first of them.

    Raises:
        ArtifactError: no artifact, or a stored reference that does not belong to it.
        EngineError: an engine fails, or there is nothing to compare with.
    """
    if path.suffix == ".engine":
        return [_of_engine(path)]
    manifest, model = read_artifact(path)
    proof = path.with_name(path.name + ".proof.npz")
    inputs, reference = _stored(proof, manifest) if proof.is_file() else (real_inputs(manifest.interface), None)
    outputs = {}
    for name in filter(installed, readers(manifest.precision)):
        engine = start(model, manifest.precision, name, "auto", None)
        outputs[str(engine.info)] = _run(engine, manifest, inputs)
        engine.close()
    slack, against = 1.0, proof.name
    if reference is None:
        if len(outputs) < 2:
            raise EngineError(
                f"nothing to compare with: there is no {proof.name}, and {len(outputs)} engine(s) installed; "
                "take that file along from the export, or install a second engine"
            )
        slack, against = 2.0, next(iter(outputs))
        reference = outputs.pop(against)
    gate = next((proof.tolerance for proof in manifest.parity if proof.passed), GATES[manifest.precision])
    return [_check(name, against, output, reference, manifest, gate, slack) for name, output in outputs.items()]


def _of_engine(path: Path) -> Check:
    """A TensorRT engine beside the stored reference: there is no second engine that could run the file."""
    from .engine_file import read_sidecar
    from .generator import load

    manifest, _ = read_sidecar(path)
    proof = path.with_name(path.name + ".proof.npz")
    if not proof.is_file():
        raise EngineError(f"nothing to compare with: take {proof.name} along from the export")
    inputs, reference = _stored(proof, manifest)
    with load(path) as generator:
        items = [generator.compute(*(array[i : i + 1] for array in inputs)) for i in range(len(reference))]
        name = str(generator.engine)
    return _check(name, proof.name, np.concatenate(items), reference, manifest, GATES[manifest.precision], 1.0)


def real_inputs(interface: Interface, count: int = COUNT) -> list[NDArray[np.generic]]:
    """Inputs like those in use: latents of its own distribution and every class in turn, or pictures made up.

    The pictures have smooth shades, edges and grain.
    """
    port = interface.inputs[0]
    batch = port.shape[0] if isinstance(port.shape[0], int) else 1
    count = -(-count // batch) * batch
    if interface.noise is not None:
        inputs: list[NDArray[np.generic]] = [LatentStream(interface.noise, port.item_shape, 0).take(count)]
    else:
        inputs = [np.concatenate([from_uint8(_picture(port, seed), port) for seed in range(count)])]
    if interface.classes:
        inputs.append(class_numbers(count, len(interface.classes)))
    return inputs


def compare(output: NDArray[np.generic], reference: NDArray[np.generic], port: Port) -> Difference:
    """How far an output is from what it should be.

    Raises:
        ArtifactError: the shapes differ.
    """
    if output.shape != reference.shape:
        raise ArtifactError(f"one gives shape {output.shape}, the other {reference.shape}: not the same generator")
    wanted = reference.astype(np.float64)
    low, high = port.range if port.range is not None else (float(wanted.min()), float(wanted.max()))
    span = max(high - low, 1e-12)
    if not np.isfinite(output).all():
        return Difference(span, math.inf, -math.inf)
    error = np.abs(output.astype(np.float64) - wanted)
    noise = float((error**2).reshape(len(error), -1).mean(1).max())
    return Difference(span, float(error.max()), 10 * math.log10(span**2 / noise) if noise else None)


def holds(found: Difference, gate: str, slack: float = 1.0) -> bool:
    """Whether a difference passes a gate such as "maxabs=0.0001,psnr=45", errors `slack` times as large allowed."""
    limits = dict(part.split("=") for part in gate.split(",") if "=" in part)
    close = found.max_abs <= slack * float(limits.get("maxabs", "inf")) * found.span
    least = float(limits.get("psnr", "-inf")) - 20 * math.log10(slack)
    return math.isfinite(found.max_abs) and close and (found.psnr is None or found.psnr >= least)


def _check(
    name: str,
    against: str,
    output: NDArray[np.generic],
    reference: NDArray[np.generic],
    manifest: Manifest,
    gate: str,
    slack: float,
) -> Check:
    found = compare(output, reference, manifest.interface.output)
    shown = gate if slack == 1 else f"{slack:g} × {gate}"
    return Check(name, against, found, shown, holds(found, gate, slack))


def _run(engine: object, manifest: Manifest, inputs: list[NDArray[np.generic]]) -> NDArray[np.generic]:
    """One item at a time, or as many as the artifact takes."""
    ports = manifest.interface.inputs
    batch = ports[0].shape[0] if isinstance(ports[0].shape[0], int) else 1
    return np.concatenate(
        [
            engine.run({p.name: a[i : i + batch] for p, a in zip(ports, inputs, strict=True)})[0]  # type: ignore[attr-defined]
            for i in range(0, len(inputs[0]), batch)
        ]
    )


def _stored(path: Path, manifest: Manifest) -> tuple[list[NDArray[np.generic]], NDArray[np.generic]]:
    """The inputs and the reference that the export left beside the artifact."""
    try:
        with ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_PROOF:
            raise ArtifactError(f"{path} would unpack to {size / 1e9:.3g} GB: it is no stored proof, remove it")
        with np.load(path, allow_pickle=False) as stored:
            if "weights" in stored and str(stored["weights"]) != manifest.source.weights:
                raise ArtifactError(f"{path} was made for other weights than this artifact has: export again")
            inputs = [stored[f"input{index}"] for index in range(len(manifest.interface.inputs))]
            return inputs, stored["output"]
    except ArtifactError:
        raise
    except Exception as error:  # A damaged archive meets zipfile, zlib or NumPy's parser of headers, each with its own.
        raise ArtifactError(f"{path}: it is no stored proof of this artifact: remove it, or export again") from error


def _picture(port: Port, seed: int) -> NDArray[np.uint8]:
    """A made-up picture that fits a port."""
    sizes = port.shape[2:] if port.layout == "NCHW" else port.shape[1:3]
    height, width = (size if isinstance(size, int) else -(-SIDE // port.multiple) * port.multiple for size in sizes)
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j][..., None]
    waves = np.sin(random.uniform(2, 12, port.channels) * x + random.uniform(2, 12, port.channels) * y)
    edge = np.where(x + y > random.uniform(0.5, 1.5), 40.0, 0.0)
    levels = 110 + 60 * waves + edge + 8 * random.standard_normal((height, width, port.channels))
    return np.asarray(np.clip(np.rint(levels), 0, 255), dtype=np.uint8)
