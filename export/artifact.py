"""From a generator to a proven artifact: change precision, prove, and only then write the final file. No torch.

artifact = make(of_onnx(Path("generator.onnx"), SourceSpec()), ExportSpec(precision="int8", engine="tensorrt"))
write_artifact_file(Path("generator-int8.onnx"), artifact)
"""

from __future__ import annotations

import contextlib
import html
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ganedge.export import parity, phases, quantize, uint8_io
from ganedge.export.conversion import Conversion
from ganedge.export.fallback import Losses, losses_of
from ganedge.export.proof_inputs import LATENTS, MORE_LATENTS, calibration, proof_cases, too_few
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import ExportSpec, Target
from ganedge.runtime import engines, fidelity
from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.runtime.files import whole_file, write_whole
from ganedge.runtime.manifest import Manifest, Parity, Precision, write_artifact
from ganedge.runtime.verify import MAX_PROOF, io_signature, output_keys

ROUNDS = 7
"""How often a graph is converted before giving up: INT8 once each with more latents, with weights of 7 bits and without
the layers that an engine computes wrongly, otherwise with fewer layers in the lower precision than before."""
TIMED, TIMED_SECONDS, FEW = 20, 1.5, 3
"""Most calls of each engine where the one to quantise for is chosen, of which the first quarter is warm-up; seconds
after which no further ones are made; and calls that are always made."""
DECIDED = 2.0
"""How many times as fast an engine has to be for the choice to need no further calls."""
CLEARLY = 1.15
"""How many times as fast another engine has to be to be taken before the first: the choice must not flip."""
EXACT_ITEMS = 2
"""Items of each size that are computed in FP64 where the gate of FP32 is missed."""
ROUNDINGS, ROUNDING_DB, LEAST_ROUNDING, LEAST_EXACT = 17.0, 20.0, 100.0, 95.0
"""An engine may be so many times the largest error, and so many dB, farther from eager FP32 than that is from FP64; its
PSNR never needs to be above 100 dB; and nothing is widened where eager FP32 is below 95 dB."""
PROOF_LATENTS, PROOF_PICTURES = 16, 4
"""Inputs and outputs stored beside every artifact."""


@dataclass(frozen=True)
class VerifiedArtifact:
    """A proven artifact in memory."""

    data: bytes
    """The ONNX file, manifest and all."""
    manifest: Manifest
    """Its manifest."""
    cases: Sequence[parity.Case]
    """Inputs and reference outputs of the proof; empty if no engine could run the source."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
    path: Path = Path()
    """The file or folder that was written; the current folder before that."""
    name: str = "generator"
    """Default name."""
    recorded: bool = False
    """Whether the proofs are those that the source artifact recorded, because nothing of it was changed."""

    @property
    def parity(self) -> tuple[Parity, ...]:
        """How close it is to the FP32 generator, in each engine that was tried."""
        return self.manifest.parity

    def lines(self) -> list[str]:
        """Notes and parity figures, for the user."""
        lines = [*self.notes]
        if self.recorded:
            lines.append("nothing was changed: these proofs are recorded in the source artifact and were not run again")
        lines += map(str, self.parity)
        if self.manifest.unproven:
            lines.append(f"parity: not run ({self.manifest.unproven})")
        return lines

    def _repr_html_(self) -> str:
        """Return HTML for a notebook."""
        rows = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines())
        return f"<b>{html.escape(str(self.path))}</b> ({html.escape(self.manifest.precision)})<ul>{rows}</ul>"


def write_artifact_file(path: Path, proven: VerifiedArtifact) -> None:
    """Write the .onnx, and a stored proof beside it, with which a device can repeat the proof in its own engine."""
    write_whole(path, proven.data)
    write_proof(path, proven)


def write_proof(path: Path, proven: VerifiedArtifact) -> None:
    """Keep some inputs and outputs beside an artifact, so that `gan-run verify` can prove it on the device.

    Where nothing could run the source there are none, and an older artifact's are removed with it.
    """
    proof_path = path.with_name(f"{path.name}.proof.npz")
    if not proven.cases:
        proof_path.unlink(missing_ok=True)
        return
    case, interface = proven.cases[0], proven.manifest.interface
    count = PROOF_LATENTS if interface.noise else PROOF_PICTURES
    batch = interface.inputs[0].shape[0]
    references = dict(zip(output_keys(interface), (case.reference, *case.extras), strict=True))
    each = sum(array[0].nbytes for array in case.inputs) + sum(4 * array[0].size for array in references.values())
    count = max(1, min(count, MAX_PROOF // each))
    count = -(-count // batch) * batch if isinstance(batch, int) else count
    arrays = {f"input{index}": array[:count] for index, array in enumerate(case.inputs)}
    arrays |= {name: array[:count].astype(np.float32) for name, array in references.items()}
    arrays["weights"] = np.array(proven.manifest.source.weights)
    arrays["interface"] = np.array(io_signature(interface))
    with whole_file(proof_path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def default_path(original: SourceModel, precision: Precision, ending: str, target: str | None = None) -> Path:
    """Where an artifact goes by default: `generator.onnx`, `generator-a2b-fp16.engine`.

    An INT8 graph that was asked for one engine names it: `generator-int8-onnxruntime.onnx`.
    """
    stem = re.sub(rf"-{original.precision}(-(ort|trt|onnxruntime|openvino|tensorrt))?$", "", original.stem)
    if precision == original.precision and stem != original.stem:
        return original.folder / f"{original.stem}.{ending}"
    suffix = f"-{target}" if precision == "int8" and target is not None else ""
    return original.folder / f"{stem}{'' if precision == 'fp32' else f'-{precision}'}{suffix}.{ending}"


def is_unchanged(original: SourceModel, spec: ExportSpec) -> bool:
    """Whether the source is an artifact of which nothing changes, so that its recorded proofs still apply."""
    same = spec.precision in (None, original.precision) and spec.io == "float"
    return same and bool(original.parity) and spec.gate is None


@dataclass(frozen=True)
class _Task:
    """Inputs that all attempts at an artifact share."""

    original: SourceModel
    precision: Precision
    """Precision of the artifact."""
    cases: Sequence[parity.Case]
    """Inputs and reference outputs of the proof."""
    calibrated: Sequence[Sequence[NDArray[np.generic]]]
    """Calibration inputs."""
    required: tuple[str, ...]
    """The engines that have to pass: those of --engines, and the one of --for."""
    notes: tuple[str, ...] = ()
    """Notes for the user, whatever the result."""
    running: parity.Running | None = None
    """Takes the engines of the last proof, open."""

    @property
    def changed(self) -> bool:
        """Whether the artifact computes in another precision than its source."""
        return self.precision != self.original.precision


@dataclass(frozen=True)
class _Attempt:
    """An artifact, and the reasons not to write it."""

    made: VerifiedArtifact
    missed: Sequence[Parity]
    """The failed proofs that forbid it."""
    lost: str = ""
    """The layers that lose most."""

    @property
    def rank(self) -> tuple[bool, int]:
        """Better ones compare greater: whether it may be written, and how many engines passed."""
        return not self.missed, len(self.made.manifest.proven)


def make(original: SourceModel, spec: ExportSpec, running: parity.Running | None = None) -> VerifiedArtifact:
    """Change what the graph computes in and what crosses its boundary, and prove that it is still the same generator.

    Args:
        original: The source.
        spec: What to make of it.
        running: Takes the engines of the last proof, open; they are closed by default.

    Raises:
        UsageError: a precision that this source cannot be turned into.
        GanEdgeError: no engine gives the generator's pictures, or one that has to does not.
    """
    precision = spec.precision or original.precision
    _check_change(original, precision, spec)

    # Compute what the FP32 generator returns for real inputs.
    cases = proof_cases(original, spec)
    if is_unchanged(original, spec):
        return _unchanged(original, spec, cases)
    doubt = _doubtful_range(original, spec, cases)

    # Calibrate, and choose the engine that an INT8 graph is made for.
    changed = precision != original.precision
    calibrated = calibration(original, spec) if changed and precision != "bf16" else []
    few = too_few(spec.folder) if calibrated and spec.folder is not None else ()
    variants: list[tuple[ExportSpec, tuple[str, ...]]] = [(spec, ())]
    if changed and precision == "int8" and spec.target is None:
        variants = _targets(original, spec, calibrated)

    # Convert and prove, for each engine that it may be made for until one passes.
    required = (*spec.engines, *((spec.target,) if precision == "int8" and spec.target is not None else ()))
    task = _Task(original, precision, cases, calibrated, required, (*original.notes, *doubt, *few), running)
    attempts: list[_Attempt] = []
    for variant, notes in variants:
        attempts.append(_attempt(replace(task, notes=(*task.notes, *notes)), variant))
        if _for_target(attempts[-1].made, variant):
            break
    best = max(attempts, key=lambda attempt: attempt.rank)
    if best.missed:
        raise GanEdgeError(parity.explain(best.made.manifest.parity, precision, best.lost))
    return best.made


def _check_change(original: SourceModel, precision: Precision, spec: ExportSpec) -> None:
    """Raise UsageError for a precision or option that this source cannot have."""
    if original.precision != "fp32" and precision != original.precision:
        raise UsageError(f"this artifact is {original.precision} already: make {precision} from the FP32 one")
    if original.precision != "fp32" and spec.io == "uint8":
        raise UsageError(f"--io uint8: this artifact is {original.precision} already; make it from the FP32 one")
    if spec.folder is not None and original.interface.noise is not None:
        raise UsageError(f"--calibrate {spec.folder}: this generator takes latents, not pictures; give a number")


def _attempt(task: _Task, spec: ExportSpec) -> _Attempt:
    """Convert and prove; where the gate is missed, calibrate INT8 with more latents, then take layers back to FP32.

    While the engine that INT8 is made for misses the gate, the others are not tried. It may compute the graph wrongly
    and never pass: then all engines are, and the best attempt counts.
    """
    proofs: list[Callable[[], _Attempt]] = []
    keep: frozenset[str] = frozenset()
    losses: Losses | None = None
    best: _Attempt | None = None
    more = task.precision == "int8" and task.original.interface.noise is not None and spec.count is None
    conversion = Conversion(task.original, task.precision, spec, task.calibrated)
    for attempt in range(ROUNDS):
        phases.report(f"converting to {task.precision}" + (f", attempt {attempt + 1}" if attempt else ""))
        model, notes = conversion.graph(keep)
        proofs.append(partial(_proven, task, model, spec, notes))
        result = _proven(task, model, spec, notes, decisive=spec.target or "")
        made = result.made
        best = result if best is None or result.rank > best.rank else best
        if _for_target(made, spec) or not task.changed or attempt == ROUNDS - 1:
            break
        if more:  # Rare values lie outside the range of few latents; more of them cost less than a layer in FP32.
            more = False
            note = f"calibrated with {MORE_LATENTS} latents, as {LATENTS} missed the gate"
            task = replace(
                task,
                calibrated=calibration(task.original, replace(spec, calibrate=MORE_LATENTS)),
                notes=(*task.notes, note),
            )
            conversion = Conversion(task.original, task.precision, spec, task.calibrated)
            continue
        phases.report(f"looking for the layers that lose most in {task.precision}")
        if losses is None:
            others = partial(calibration, task.original, spec, "foresight")
            losses = losses_of(task.precision, task.original, conversion, spec, task.calibrated, others)
        way = conversion.way
        wider = losses.kept(model, keep, _missed_outputs(made.parity))
        if wider == keep and conversion.way == way:
            break
        keep = wider
    assert best is not None
    if task.precision == "int8" and not _for_target(best.made, spec):
        best = max((proof() for proof in proofs), key=lambda attempt: attempt.rank)
    return best if losses is None else replace(best, lost=losses.worst)


def _proven(task: _Task, model: ModelProto, spec: ExportSpec, notes: tuple[str, ...], decisive: str = "") -> _Attempt:
    """An attempt and its proof; where the decisive engine misses the gate, in that alone."""
    made = _prove(task, model, spec, notes, decisive)
    return _Attempt(made, parity.missed(made.parity, task.required))


def _missed_outputs(proofs: Sequence[Parity]) -> dict[int, float]:
    """The lowest PSNR, dB, of the outputs that missed their gates in an engine, by their indices; the result's is 0."""
    missed: dict[int, float] = {}
    for proof in proofs:
        outputs = [fidelity.misses_result(proof), *(not extra.passed for extra in proof.extras)]
        levels = [proof.psnr, *(extra.psnr for extra in proof.extras)]
        for index, (misses, level) in enumerate(zip(outputs, levels, strict=True)):
            if misses and level is not None:
                missed[index] = min(level, missed.get(index, level))
    return missed


def _for_target(made: VerifiedArtifact, spec: ExportSpec) -> bool:
    """Whether no layer need be taken back: all engines passed, or of INT8 those that it is for.

    INT8 for an engine that is not here needs one that computes it right: others may err because of the processor.
    """
    needed = {*spec.engines, spec.target}
    runs = spec.target in {proof.engine_name for proof in made.parity}
    is_for_another = made.manifest.precision == "int8" and spec.target is not None and not runs
    if is_for_another and not needed & made.manifest.failed.keys() and made.manifest.proven:
        return True
    return not any(proof.engine_name in needed or not runs for proof in made.manifest.failed.values())


def _targets(
    original: SourceModel,
    spec: ExportSpec,
    calibrated: Sequence[Sequence[NDArray[np.generic]]],
) -> list[tuple[ExportSpec, tuple[str, ...]]]:
    """The graph variants of INT8 to try, that of the engine that runs this very model fastest first, and notes."""
    targets = quantize.runnable_targets()
    if len(targets) < 2:
        return [(replace(spec, engine=targets[0] if targets else "openvino"), ())]
    phases.report("choosing the engine to make INT8 for")
    batch = original.interface.inputs[0].shape[0]
    item = [array[: batch if isinstance(batch, int) else 1] for array in calibrated[0]]
    feeds = {port.name: array for port, array in zip(original.interface.inputs, item, strict=True)}
    runs: dict[Target, engines.Engine] = {}
    for target in targets:
        model = quantize.as_fast_as_int8(original.model, item, target)
        with contextlib.suppress(EngineError):  # An engine that does not run the model is not a candidate.
            runs[target] = engines.start(model.SerializeToString(), "int8", target, "cpu", None)
    medians = _medians(runs, feeds)
    order = sorted(targets, key=lambda target: medians.get(target, math.inf))
    if medians.get(targets[0], math.inf) <= CLEARLY * medians.get(order[0], 0.0):  # As fast: always the same one.
        order = targets
    shown = ", ".join(f"{target} {medians[target] * 1e3:.2f} ms" for target in targets if target in medians)
    fastest = order[0] if order[0] == min(targets, key=lambda target: medians.get(target, math.inf)) else ""
    why = "the fastest here" if fastest else "about as fast here as the other"
    first = f"made for {order[0]}, {why} ({shown}); --for chooses"
    second = f"made for {order[1]}: what was made for {order[0]}, {why} ({shown}), missed the gate"
    return [(replace(spec, engine=order[0]), (first,)), (replace(spec, engine=order[1]), (second,))]


def _medians(runs: Mapping[Target, engines.Engine], feeds: Mapping[str, NDArray[np.generic]]) -> dict[Target, float]:
    """Median seconds of one call in each engine, called in turn; they are closed."""
    times: dict[Target, list[float]] = {target: [] for target in runs}
    for index in range(TIMED):
        for target, engine in list(runs.items())[:: 1 if index % 2 else -1]:
            begin = time.perf_counter()
            engine.run(feeds)
            times[target].append(time.perf_counter() - begin)
        fastest = sorted(min(taken) for taken in times.values())
        spent = sum(map(sum, times.values()))
        if index + 1 >= FEW and (spent > TIMED_SECONDS or fastest[-1] > DECIDED * fastest[0]):
            break
    for engine in runs.values():
        engine.close()
    return {target: float(np.median(taken[-(-len(taken) // 4) :])) for target, taken in times.items()}


def _unchanged(original: SourceModel, spec: ExportSpec, cases: Sequence[parity.Case]) -> VerifiedArtifact:
    """Return the source artifact with its recorded proofs, because nothing changes."""
    failed = parity.missed(original.parity, spec.engines)
    if failed:
        raise GanEdgeError(parity.explain(original.parity, original.precision))
    manifest = Manifest(
        original.interface,
        original.precision,
        original.norm_mode,
        original.source,
        original.parity,
        made_for=original.made_for,
        remainder=original.remainder,
    )
    data = write_artifact(original.model.SerializeToString(), manifest)
    return VerifiedArtifact(data, manifest, cases, (*original.notes, *_left_out(manifest, {})), recorded=True)


def _doubtful_range(original: SourceModel, spec: ExportSpec, cases: Sequence[parity.Case]) -> tuple[str, ...]:
    """What to say where a foreign generator's pictures are plainly not of the range that was declared.

    That is where they leave the upper half never, as values of 0 to 1 in -1 to 1 do, or the range by half of it.
    """
    declared = original.interface.output
    if original.source.data or declared.role != "image" or declared.range is None or not cases:
        return ()
    port = uint8_io.bytes_interface(original.interface).output if spec.io == "uint8" else declared
    assert port.range is not None
    low, span = port.range[0], port.range[1] - port.range[0]
    least = min((float(case.reference.min()) - low) / span for case in cases)
    most = max((float(case.reference.max()) - low) / span for case in cases)
    if -0.5 <= least < 0.5 and most <= 1.5:
        return ()
    low, high = declared.range
    values = " to ".join(f"{low + share * (high - low):.2f}" for share in (least, most))
    return (f"its values lie in {values}, and black and white are {low:g} and {high:g}: is that --range right?",)


def _prove(
    task: _Task, model: ModelProto, spec: ExportSpec, notes: tuple[str, ...], decisive: str = ""
) -> VerifiedArtifact:
    """Compare a graph with the source in every engine, or until the decisive one misses the gate, and describe it."""
    original, precision, interface = task.original, task.precision, task.original.interface
    if spec.io == "uint8":
        model, interface = uint8_io.to_bytes(model, interface)
    gate = spec.gate or fidelity.gate_of(precision, interface)
    made_for = (spec.target or "") if precision == "int8" and task.changed else ""
    remainder = "" if spec.remaining == "fp32" else spec.remaining
    manifest = Manifest(
        interface,
        precision,
        original.norm_mode,
        original.source,
        made_for=made_for,
        remainder=remainder if task.changed else original.remainder,
    )
    data = model.SerializeToString()
    prove = partial(parity.prove, data, manifest, task.cases, required=task.required, running=task.running)
    proofs, refusals = prove(gate=gate, decisive=decisive) if task.cases else ((), {})
    if precision == "fp32" and spec.gate is None and not all(proof.passed for proof in proofs):
        wider = _rounding_gate(task, gate)
        if wider != gate:
            proofs, refusals = prove(gate=wider)
            notes += (f"this generator rounds much in FP32: the gate is {wider.text}, from its own distance to FP64",)
    if str(gate) == "none":
        proofs = tuple(replace(proof, passed=True) for proof in proofs)
    manifest = replace(
        manifest, parity=proofs, unproven="" if proofs else f"no engine that computes {precision} is installed"
    )
    if task.running is not None:
        task.running.manifest = manifest
    notes = (*task.notes, *notes, *_left_out(manifest, refusals))
    return VerifiedArtifact(write_artifact(data, manifest), manifest, task.cases, notes)


def _rounding_gate(task: _Task, gate: fidelity.Gate) -> fidelity.Gate:
    """The gate of FP32 for a generator that rounds much: how far eager FP32 itself is from FP64, at its worst output.

    Engines add in other orders than PyTorch. Where a normalisation amplifies that, right ones were up to 18 dB and 6.5
    times the largest error of eager away from FP64; planted faults were farther (benchmarks/LOG.md).
    """
    interface = task.original.interface
    if task.original.exact is None or interface.output.dtype != "float32":
        return gate
    distances: list[list[fidelity.Difference]] = []
    phases.report("computing the generator in FP64")
    for case in task.cases:
        try:
            exact = task.original.exact([array[:EXACT_ITEMS] for array in case.inputs])
        except Exception:  # noqa: BLE001 - a network that makes FP32 tensors of its own may raise anything
            return gate
        first = case.first(EXACT_ITEMS)
        references = (first.reference, *first.extras)
        same = all(a.shape == b.shape for a, b in zip(exact, references, strict=True))
        if not same or not all(np.isfinite(array).all() for array in exact):
            return gate
        triples = zip(references, exact, interface.outputs, strict=True)
        distances.append([fidelity.difference(*triple) for triple in triples])
    worst = [fidelity.worst(each) for each in zip(*distances, strict=True)]
    if any(own.psnr is not None and own.psnr < LEAST_EXACT for own in worst):
        return gate  # Eager FP32 would be too inaccurate as a reference.
    share = max(own.max_abs / own.span for own in worst)
    levels = [own.psnr for own in worst if own.psnr is not None]
    if not levels:
        return gate
    assert gate.max_abs is not None
    return fidelity.Gate(
        max_abs=float(f"{max(gate.max_abs, ROUNDINGS * share):.2g}"),
        psnr=float(f"{min(LEAST_ROUNDING, min(levels) - ROUNDING_DB):.1f}"),
    )


def _left_out(manifest: Manifest, refusals: Mapping[str, str]) -> list[str]:
    """One line for each engine that `auto` will not choose."""
    lines = [f"{name} cannot run it, and auto will not choose it: {why}" for name, why in refusals.items()]
    for name, proof in manifest.failed.items():
        lines.append(
            f"{name} gives other pictures, and auto will not choose it: {fidelity.miss(proof)}; "
            f"--engines {name} makes that an error"
        )
    return lines
