"""The proof: an artifact beside the eager FP32 generator, on the same real inputs. No torch here.

cases = [Case(inputs, original.reference(inputs)) for inputs in real_cases(interface)]
proofs, refusals = prove(model, manifest, cases, fidelity.gate_of("fp32", interface))
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganedge.export import phases
from ganedge.runtime import engines
from ganedge.runtime.errors import EngineError
from ganedge.runtime.fidelity import Difference, Gate, difference, gates_of, miss, span_of, worst
from ganedge.runtime.manifest import Interface, Manifest, OutputParity, Parity, Port, Precision
from ganedge.runtime.tuning import Watched

BATCHES = (1, 5, 16)
"""Batch sizes that a proof goes through, again and again until the inputs are used up."""
PICTURE_BATCHES = (1, 3)
"""The same where a picture goes in: they are larger, and memory goes with the batch."""


@dataclass(frozen=True)
class Case:
    """Inputs of one shape, and what the generator makes of them."""

    inputs: Sequence[NDArray[np.generic]]
    """One array per input, batch first."""
    reference: NDArray[np.generic]
    """What the FP32 generator gives for them."""
    extras: Sequence[NDArray[np.generic]] = ()
    """Its outputs beside the result, in the interface's order."""

    def first(self, count: int) -> Case:
        """The first items of it."""
        inputs = [array[:count] for array in self.inputs]
        return Case(inputs, self.reference[:count], [array[:count] for array in self.extras])


class Running:
    """The engines of the last proof, which stay open so that timing need not start them again.

    Attributes:
        engines: Those that ran it, by name; they compute on the CPU.
        manifest: Of the artifact that was proven.
    """

    def __init__(self) -> None:
        self.engines: dict[str, Watched] = {}
        self.manifest: Manifest | None = None

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Close them."""
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()
        self.manifest = None


def prove(
    model: bytes,
    manifest: Manifest,
    cases: Sequence[Case],
    gate: Gate,
    required: Collection[str] = (),
    running: Running | None = None,
    decisive: str = "",
) -> tuple[tuple[Parity, ...], dict[str, str]]:
    """Run a model in every engine that is installed and compare it with the reference.

    Args:
        model: A serialised ONNX model.
        manifest: Its description.
        cases: Inputs, and what the FP32 generator returns for them; the worst decides.
        gate: What to reach.
        required: Engines that have to run it; the others may refuse it as long as one runs it.
        running: Takes the engines that ran it, open; they are closed by default.
        decisive: An engine to begin with; where it fails, the others are not tried.

    Returns:
        One proof per engine that runs it, passed or not, none where no engine for this precision is installed; and by
        engine why it does not run it.

    Raises:
        EngineError: a required engine does not run it, or none does.
    """
    if running is not None:
        running.clear()
    proofs: dict[str, Parity] = {}
    refusals: dict[str, EngineError] = {}
    names = list(filter(engines.installed, engines.readers(manifest.precision)))
    for name in sorted(names, key=lambda name: name != decisive):
        outcome = _prove_in(model, manifest, cases, gate, name, running)
        if isinstance(outcome, EngineError):
            refusals[name] = outcome
            continue
        proofs[name] = outcome
        if name == decisive and not outcome.passed:
            break
    for name, refusal in refusals.items():
        if name in required or not proofs:
            raise refusal
    return tuple(proofs[name] for name in names if name in proofs), {
        name: str(refusal) for name, refusal in refusals.items()
    }


def missed(proofs: Sequence[Parity], required: Collection[str] = ()) -> list[Parity]:
    """The failed proofs that forbid an artifact: those of required engines, or all where no engine passed."""
    failed = [proof for proof in proofs if not proof.passed]
    none_passed = len(failed) == len(proofs)
    return [proof for proof in failed if none_passed or proof.engine_name in required]


def explain(proofs: Sequence[Parity], precision: Precision, lost: str = "", what: str = "artifact") -> str:
    """The line for an artifact that is not written: which engines failed and by how much, which passed, what to do.

    Args:
        proofs: All proofs of it.
        precision: What it computes in.
        lost: The layers that lose most, where that is known.
        what: What was to be written.
    """
    passed = ", ".join(proof.engine_name for proof in proofs if proof.passed)
    others = f"; {passed} passed" if passed else ""
    lost = f"; most is lost in {lost}" if lost else ""
    failed = [proof for proof in proofs if not proof.passed]
    misses = "; ".join(f"{proof.engine} is {miss(proof)}" for proof in failed)
    return (
        f"not exported, the {what} gives other pictures than the generator: {misses}{others}{lost}. "
        f"Next: {_remedy(failed, precision, passed)}"
    )


def _remedy(failed: Sequence[Parity], precision: Precision, passed: str) -> str:
    """What can be done about an artifact that missed its gate."""
    ways = [f"leave out what requires the others, and auto uses {passed}"] if passed else []
    if precision == "int8":
        ways += [
            "calibrate with more inputs (--calibrate 500, or a folder of pictures)",
            "--for another engine",
            "--fp16",
        ]
    elif precision != "fp32":
        ways.append("export in FP32")
    extras = [extra for proof in failed for extra in proof.extras if not extra.passed]
    if extras:
        ways.append("keep fewer outputs")
    outputs: list[Parity | OutputParity] = [*failed, *extras]
    levels = [output.psnr for output in outputs if output.psnr is not None and not output.nonfinite]
    if levels and min(levels) > 1:
        ways.append(f"accept it with --tolerance psnr={int(min(levels))}")
    return ", or ".join(ways) or "check the generator's weights"


def _prove_in(
    model: bytes, manifest: Manifest, cases: Sequence[Case], gate: Gate, name: str, running: Running | None
) -> Parity | EngineError:
    """The proof in one engine of the processor, or why that engine does not run the model."""
    try:
        engine = Watched(engines.start(model, manifest.precision, name, "cpu", None))
    except EngineError as error:
        return error
    opened = Running() if running is None else running
    opened.engines[name] = engine
    try:
        return prove_in(engine, manifest, cases, gate)
    except EngineError as error:
        opened.engines.pop(name).close()
        return error
    finally:
        if running is None:
            opened.clear()


def prove_in(
    engine: engines.Engine, manifest: Manifest, cases: Sequence[Case], gate: Gate, batches: Sequence[int] | None = None
) -> Parity:
    """Compare what a started engine gives with what it should give, in batches of these sizes or of every proof's."""
    interface = manifest.interface
    plans = [_batches(interface, len(case.reference), batches) for case in cases]
    every: list[list[NDArray[np.generic]]] = []
    total, done = sum(len(plan) for plan in plans), 0
    for case, plan in zip(cases, plans, strict=True):
        every.append(_run_in_batches(engine, interface, case, plan, done, total))
        done += len(plan)
    outputs = [arrays[0] for arrays in every]
    gates = gates_of(gate, interface)
    distance = _distance(interface.output, outputs, [case.reference for case in cases])
    extras = tuple(
        _output_parity(port, [arrays[index] for arrays in every], [case.extras[index - 1] for case in cases], limit)
        for index, (port, limit) in enumerate(zip(interface.extras, gates[1:], strict=True), 1)
    )
    items = [_worst_item(output, case, plan) for output, case, plan in zip(outputs, cases, plans, strict=True)]
    batch, case = max(zip(items, cases, strict=True), key=lambda pair: pair[0][0])
    port = interface.inputs[0]
    sizes = [_size(port, case) for case in cases] if port.role == "image" else []
    return Parity(
        engine=str(engine.info),
        precision=engine.info.precision,
        samples=sum(len(case.reference) for case in cases),
        batches=tuple(sorted({size for plan in plans for size in plan})),
        max_abs=distance.max_abs,
        mean_abs=distance.mean_abs,
        psnr=distance.psnr,
        ssim=distance.ssim,
        nonfinite=distance.nonfinite,
        tolerance=str(gate),
        passed=gate.holds(distance) and all(extra.passed for extra in extras),
        span=distance.span,
        sizes=tuple(dict.fromkeys(sizes)),
        worst=_shape_text(port, case, batch[1]),
        extras=extras,
    )


def _distance(
    port: Port, outputs: Sequence[NDArray[np.generic]], references: Sequence[NDArray[np.generic]]
) -> Difference:
    """How far an output is off in the worst of all cases."""
    span = span_of(port, *references)
    pairs = zip(outputs, references, strict=True)
    return worst([difference(output, reference, port, span) for output, reference in pairs])


def _output_parity(
    port: Port, outputs: Sequence[NDArray[np.generic]], references: Sequence[NDArray[np.generic]], gate: Gate
) -> OutputParity:
    """The figures of an extra output."""
    distance = _distance(port, outputs, references)
    return OutputParity(**vars(distance), output=port.name, tolerance=str(gate), passed=gate.holds(distance))


def _batches(interface: Interface, count: int, batches: Sequence[int] | None) -> list[int]:
    """How many of so many inputs go into each call; a fixed batch stays what it is."""
    fixed = interface.inputs[0].shape[0]
    usual = batches or (BATCHES if interface.noise else PICTURE_BATCHES)
    tried = (fixed,) if isinstance(fixed, int) else usual
    plan: list[int] = []
    while sum(plan) < count:
        plan.append(min(tried[len(plan) % len(tried)], count - sum(plan)))
    return plan


def _run_in_batches(
    engine: engines.Engine, interface: Interface, case: Case, plan: Sequence[int], done: int, total: int
) -> list[NDArray[np.generic]]:
    """Every input of a case through an engine, in calls of so many; `done` of all `total` calls were made before.

    Returns:
        One array per output of the interface.
    """
    parts, begin = [], 0
    for index, size in enumerate(plan):
        phases.report(f"comparing in {engine.info.name}", done + index, total)
        feeds = {
            port.name: array[begin : begin + size] for port, array in zip(interface.inputs, case.inputs, strict=True)
        }
        parts.append(engine.run(feeds)[: len(interface.outputs)])
        begin += size
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _worst_item(output: NDArray[np.generic], case: Case, plan: Sequence[int]) -> tuple[float, int]:
    """The mean square error of the worst item of a case, and the batch that it was computed in."""
    error = output.astype(np.float64) - case.reference.astype(np.float64)
    squares = np.nan_to_num(error**2, nan=np.inf).reshape(len(error), -1).mean(1)
    index = int(squares.argmax())
    return float(squares[index]), plan[int(np.searchsorted(np.cumsum(plan), index, side="right"))]


def _size(port: Port, case: Case) -> tuple[int, int]:
    """Height and width of the pictures of a case."""
    height, width = case.inputs[0].shape[2:] if port.layout == "NCHW" else case.inputs[0].shape[1:3]
    return height, width


def _shape_text(port: Port, case: Case, batch: int) -> str:
    """A batch and, of pictures, their size, for people."""
    if port.role != "image":
        return f"a batch of {batch}"
    height, width = _size(port, case)
    return f"a batch of {batch} at {height}x{width}"
